"""What GPUs cost and how many there are: prices, stock, and whether one rents them by the node."""

from __future__ import annotations

from collections.abc import Mapping
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

    def limit_text(self, sku: Sku) -> str:
        """``16 GPUs``, ``8 GPUs in stock``, ``16 GPUs, by nodes of 8``."""
        in_stock = " in stock" if self.gpus_there_are(sku) < self.max_gpus else ""
        by_node = f", by nodes of {sku.gpus_per_node}" if self.whole_nodes else ""
        return f"{self.gpus_there_are(sku)} GPUs{in_stock}{by_node}"


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
