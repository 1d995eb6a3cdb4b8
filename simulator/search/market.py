"""What GPUs cost and how many there are: prices, stock, and whether one rents them by the node."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from servecast.compiler.errors import UserError
from servecast.compiler.hardware import Sku
from servecast.compiler.suggest import did_you_mean


@dataclass(frozen=True, slots=True)
class Market:
    """``max_gpus`` of any SKU, ``stock`` of one; ``whole_nodes``: a part of a node is paid as all of it."""

    max_gpus: int
    stock: Mapping[str, int] = field(default_factory=dict)
    whole_nodes: bool = False

    def gpus_there_are(self, sku: Sku) -> int:
        return min(self.max_gpus, self.stock.get(sku.name, self.max_gpus))

    def gpus_paid(self, sku: Sku, replicas: int, gpus: int) -> int:
        """GPUs to rent for ``replicas`` of ``gpus`` each; none is cut by a node's edge."""
        if not self.whole_nodes:
            return replicas * gpus
        if gpus >= sku.gpus_per_node:
            nodes = replicas * -(-gpus // sku.gpus_per_node)
        else:
            nodes = -(-replicas // (sku.gpus_per_node // gpus))
        return nodes * sku.gpus_per_node

    def most_replicas(self, sku: Sku, gpus: int) -> int:
        """The most replicas of ``gpus`` each that there are GPUs for; 0 where there is none."""
        there_are = self.gpus_there_are(sku)
        most = there_are // gpus
        while most and self.gpus_paid(sku, most, gpus) > there_are:
            most -= 1
        return most

    def room(self, prefill: tuple[Sku, int], decode: tuple[Sku, int]) -> tuple[int, ...]:
        """The most decode replicas beside 1, 2, … prefill replicas; a role is (SKU, GPUs of a replica).

        Each role rents GPUs of its own. It ends before there is none left for a decode replica.
        """
        found = []
        for replicas in range(1, self.most_replicas(*prefill) + 1):
            used = self.gpus_paid(prefill[0], replicas, prefill[1])
            left = self.max_gpus - used
            if prefill[0].name == decode[0].name:
                left = min(left, self.gpus_there_are(decode[0]) - used)
            rest = replace(self, max_gpus=max(left, 0))
            found.append(rest.most_replicas(*decode))
        return tuple(most for most in found if most)

    def refusal(self, sku: Sku, gpus: int) -> tuple[str, str] | None:
        """The constraint and the reason why not even one replica of ``gpus`` can be; None: it can."""
        if self.most_replicas(sku, gpus):
            return None
        limit, there_are = self.limit_text(sku), self.gpus_there_are(sku)
        if gpus <= there_are:
            return "whole nodes", f"a node has {sku.gpus_per_node} GPUs, and the limit is {limit}"
        constraint = "the stock" if there_are < self.max_gpus else "the GPU limit"
        return constraint, f"needs {gpus_text(gpus)}, of {limit}"

    def limit_text(self, sku: Sku) -> str:
        """``16 GPUs``, ``8 GPUs in stock``, ``16 GPUs, by nodes of 8``."""
        in_stock = " in stock" if self.gpus_there_are(sku) < self.max_gpus else ""
        by_node = f", by nodes of {sku.gpus_per_node}" if self.whole_nodes else ""
        return f"{gpus_text(self.gpus_there_are(sku))}{in_stock}{by_node}"


def gpus_text(count: int) -> str:
    return "1 GPU" if count == 1 else f"{count} GPUs"


def priced(skus: Mapping[str, Sku], prices: Mapping[str, float]) -> dict[str, Sku]:
    """The GPUs at the prices asked: spot, reserved, whatever an hour of one costs.

    Raises:
        UserError: a price for a GPU that is not declared.
    """
    check_known(prices, skus, "--price")
    return {
        name: replace(sku, usd_per_hour=prices[name], price_source="as asked")
        if name in prices
        else sku
        for name, sku in skus.items()
    }


ON_DEMAND = "on_demand"


def at_prices(skus: Mapping[str, Sku], kind: str, asked: Collection[str]) -> dict[str, Sku]:
    """The GPUs at their prices of a kind; those that are not ``asked`` for may have none of it.

    Raises:
        UserError: no such kind, or a GPU that is asked for gives no price of it.
    """
    kinds = dict.fromkeys([ON_DEMAND, "spot", "reserved"])
    if kind not in kinds:
        raise UserError(
            f"no kind of price {kind!r}{did_you_mean(kind, kinds)}; there are {', '.join(kinds)}"
        )
    if kind == ON_DEMAND:
        return dict(skus)
    found = {}
    for name, sku in skus.items():
        price = next((each for each in sku.prices if each.kind == kind), None)
        if price is not None:
            found[name] = replace(sku, usd_per_hour=price.usd_per_hour, price_source=price.source)
        elif name in asked:
            raise UserError(
                f"{name} gives no {kind} price; say it with --price {name}=USD, or declare the GPU with "
                f"a line such as 'price {kind} {sku.usd_per_hour / 2:.2f} USD/h'"
            )
        else:
            found[name] = sku
    return found


def check_known(names: Mapping[str, object], skus: Mapping[str, Sku], option: str) -> None:
    """
    Raises:
        UserError: a name that no SKU has.
    """
    for name in names:
        if name not in skus:
            hint = did_you_mean(name, skus)
            known = ", ".join(sorted(skus))
            raise UserError(f"{option}: unknown SKU {name!r}{hint}; declared are {known}")
