"""Runs a search over a pool: tables for each placement, capacities of its candidates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait

from servecast.simulator.search.found import Found
from servecast.simulator.search.outcome import Outcome, ShapeOf, TablesFor
from servecast.simulator.search.pool import Pool
from servecast.simulator.search.space import Candidate, Placement
from servecast.simulator.search.worker import Worker

IN_FLIGHT = 2
"""Groups a process has at hand: one in work and one waiting. More would only hold tables in memory."""

Group = tuple[Candidate, ...]
Pending = dict[Future[list[Found]], tuple[Placement, Group]]


def groups_of(placement: Placement) -> list[Group]:
    """Candidates of one token budget, each near the next in capacity: the unit of work."""
    budgets = sorted({c.limits.max_batched_tokens for c in placement.candidates})
    return [
        tuple(c for c in placement.candidates if c.limits.max_batched_tokens == budget)
        for budget in budgets
    ]


def group_label(placement: Placement, group: Group) -> str:
    """``h100-sxm tp=2 pp=1: 64-256 seqs, 2,048 tokens``."""
    sequences = [candidate.limits.max_num_seqs for candidate in group]
    low, high = min(sequences), max(sequences)
    span = f"{low}" if low == high else f"{low}-{high}"
    return f"{placement.label}: {span} seqs, {group[0].limits.max_batched_tokens:,} tokens"


def search(
    placements: Sequence[Placement], tables_for: TablesFor, pool: Pool, shape_of: ShapeOf
) -> Iterator[Outcome]:
    """Outcomes as they come; what is held at once does not grow with the number of placements.

    Tables are built here while the pool searches the earlier ones.
    """
    pending: Pending = {}
    left = sum(len(groups_of(placement)) for placement in placements)
    for placement in placements:
        shared = pool.share(tables_for(placement))
        for whole in groups_of(placement):
            for group in _smaller_at_the_end(whole, left, pool.slots):
                settings = [candidate.setting for candidate in group]
                doing, shape = group_label(placement, group), shape_of(placement)
                task = pool.submit(Worker.find_all, shared, settings, shape, doing=doing)
                pending[task] = (placement, group)
                yield from outcomes(pending, IN_FLIGHT * pool.slots)
            left -= 1
    yield from outcomes(pending, 1)


def _smaller_at_the_end(group: Group, left: int, slots: int) -> Iterator[Group]:
    """The last groups by halves, the very last by single candidates: all processes end at about one time."""
    size = len(group)
    if slots > 1 and left <= 2 * slots:
        size = -(-size // 2) if left > slots else 1
    for begin in range(0, len(group), size):
        yield group[begin : begin + size]


def outcomes(pending: Pending, most: int) -> Iterator[Outcome]:
    """Those that are done, after waiting until fewer than ``most`` groups are pending."""
    while pending:
        done, _ = wait(pending, None if len(pending) >= most else 0, FIRST_COMPLETED)
        if not done:
            return
        for future in done:
            placement, group = pending.pop(future)
            for candidate, each in zip(group, future.result(), strict=True):
                yield Outcome(placement, candidate, each)
