"""Prefill and decode on GPUs of their own: which placements can take the two roles together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from servecast.compiler.hardware import Sku
from servecast.compiler.program import Program
from servecast.simulator.engine.disaggregation import KvLink
from servecast.simulator.search.market import Market, gpus_text
from servecast.simulator.search.space import (
    DECLARED,
    DISAGGREGATED,
    Axes,
    Infeasible,
    Placement,
    Space,
    enumerate_space,
)


@dataclass(frozen=True, slots=True)
class Pairing:
    """A placement for each role, with the limits that its pool may have, of one policy and router.

    ``room`` says how many decode replicas there are GPUs for at most beside 1, 2, … prefill replicas.
    """

    prefill: Placement
    decode: Placement
    link: KvLink
    room: tuple[int, ...]

    @property
    def precision(self) -> str:
        return self.decode.precision

    @property
    def policy(self) -> str:
        return self.decode.candidates[0].policy

    @property
    def router(self) -> str:
        return self.decode.candidates[0].router

    @property
    def label(self) -> str:
        return f"{self.prefill.label} → {self.decode.label}"


@dataclass(frozen=True, slots=True)
class Pairings:
    """``refused`` counts the pairs that cannot serve by the constraint that refuses them.

    ``infeasible`` says of each placement that cannot take a role why, and of pairs that there is no room for.
    """

    kept: tuple[Pairing, ...] = ()
    refused: Mapping[str, int] = field(default_factory=dict)
    infeasible: tuple[Infeasible, ...] = ()

    def __len__(self) -> int:
        return len(self.kept)

    def __add__(self, other: Pairings) -> Pairings:
        refused = Counter(self.refused) + Counter(other.refused)
        return Pairings(self.kept + other.kept, dict(refused), self.infeasible + other.infeasible)


@dataclass(frozen=True, slots=True)
class Offer:
    """What there is to pair: one precision of the model, and GPUs."""

    program: Program
    skus: Mapping[str, Sku]
    market: Market
    sequence_tokens: int | None = None
    precision: str = DECLARED


def pairings(axes: Axes, offer: Offer) -> Pairings:
    """Every prefill placement with every decode placement, for each policy and router."""
    if DISAGGREGATED not in axes.modes:
        return Pairings()
    prefill, decode = (_of_role(axes, role, offer) for role in ("prefill", "decode"))
    each = len(axes.policies) * len(axes.routers)
    per_role = len(tuple(axes.degrees()))
    prefill_all, decode_all = (
        per_role * len(skus) for skus in (axes.prefill_skus, axes.decode_skus)
    )
    refused: Counter[str] = Counter()
    for miss in prefill.infeasible:
        refused[f"{miss.constraint} (prefill)"] += each * decode_all
    for miss in decode.infeasible:
        refused[f"{miss.constraint} (decode)"] += each * (prefill_all - len(prefill.infeasible))
    kept = []
    misses = [*_for_role(prefill, "prefill"), *_for_role(decode, "decode")]
    for one in prefill.placements:
        for other in decode.placements:
            room = offer.market.room(
                (one.sku, one.parallelism.gpus), (other.sku, other.parallelism.gpus)
            )
            if not room:
                miss, whose = _no_room(one, other, offer.market)
                refused[f"{miss.constraint} ({whose})"] += each
                misses.append(miss)
                continue
            link = kv_link(offer.program, one, other)
            kept += [Pairing(p, d, link, room) for p, d in _by_rule(one, other)]
    return Pairings(tuple(kept), dict(refused), tuple(dict.fromkeys(misses)))


def _for_role(space: Space, role: str) -> list[Infeasible]:
    return [replace(miss, reason=f"for {role} apart: {miss.reason}") for miss in space.infeasible]


def _no_room(prefill: Placement, decode: Placement, market: Market) -> tuple[Infeasible, str]:
    """Why, and of which role: one that has no room alone, or both together."""
    for role, placement in (("prefill", prefill), ("decode", decode)):
        if alone := market.refusal(placement.sku, placement.parallelism.gpus):
            constraint, reason = alone
            return placement.refused(constraint, f"for {role} apart: {reason}"), role
    alike = prefill.sku.name == decode.sku.name
    limit = market.limit_text(decode.sku) if alike else gpus_text(market.max_gpus)
    constraint = "the stock" if limit.endswith("in stock") else "the GPU limit"
    reason = f"for decode apart beside {prefill.label} for prefill: more than {limit}"
    return decode.refused(constraint, reason), "both roles"


def role_axes(axes: Axes, role: str) -> Axes:
    """A prefill is in one step or few, so that its token budget limits it, a decode is one token a step.

    So prefill pools try every token budget with the largest batch limit that one has room for, decode
    pools every batch limit with the smallest token budget that has room for all.
    """
    most = max(axes.max_num_seqs)
    if role == "prefill":
        seqs = min(most, min(axes.max_batched_tokens))
        return replace(axes, skus=axes.prefill_skus, max_num_seqs=(seqs,))
    enough = [tokens for tokens in axes.max_batched_tokens if tokens >= most]
    budget = min(enough, default=max(axes.max_batched_tokens))
    return replace(axes, skus=axes.decode_skus, max_batched_tokens=(budget,))


def _of_role(axes: Axes, role: str, offer: Offer) -> Space:
    """Its placements; one whose limits are all refused counts as refused once."""
    asked = role_axes(axes, role)
    space = enumerate_space(
        offer.program, asked, offer.skus, offer.market.max_gpus, offer.sequence_tokens
    ).at(offer.precision)
    placed = {(p.sku.name, p.parallelism) for p in space.placements}
    misses: dict[tuple[object, ...], Infeasible] = {}
    for miss in space.infeasible:
        degrees = (miss.tp, miss.pp, miss.ep, miss.dp)
        there = any(sku == miss.sku and (d.tp, d.pp, d.ep, d.dp) == degrees for sku, d in placed)
        if not there:
            misses.setdefault((miss.sku, *degrees), miss)
    return Space(space.placements, tuple(misses.values()))


def _by_rule(prefill: Placement, decode: Placement) -> Iterator[tuple[Placement, Placement]]:
    """Both roles' candidates of one policy and router."""
    rules = dict.fromkeys((c.policy, c.router) for c in decode.candidates)
    for rule in rules:
        yield _ruled(prefill, rule), _ruled(decode, rule)


def _ruled(placement: Placement, rule: tuple[str, str]) -> Placement:
    mine = tuple(c for c in placement.candidates if (c.policy, c.router) == rule)
    return replace(placement, candidates=mine)


def kv_link(program: Program, prefill: Placement, decode: Placement) -> KvLink:
    """From each prefill replica, whose GPUs send at once over the network between nodes.

    A replica sends no faster than one decode replica receives. vLLM's connectors send when the prefill is
    done (``NixlConnector``), so the cache leaves in one part.
    """
    rates = (role.parallelism.gpus * role.sku.network_bytes_per_s for role in (prefill, decode))
    return KvLink(program.kv_bytes_per_token, min(rates))
