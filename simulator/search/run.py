"""Runs a search over a pool: tables for each placement, capacities of its candidates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass

from servecast.estimator.tables import RuntimeTables
from servecast.simulator.routing import Fleet
from servecast.simulator.search.pool import Pool
from servecast.simulator.search.space import Candidate, Placement
from servecast.simulator.search.worker import Found, Shape, Worker

IN_FLIGHT = 2
"""Groups a process has at hand: one in work and one waiting. More would only hold tables in memory."""


@dataclass(frozen=True, slots=True)
class Outcome:
    placement: Placement
    candidate: Candidate
    found: Found


TablesFor = Callable[[Placement], RuntimeTables]
ShapeOf = Callable[[Placement], Shape]
Group = tuple[Candidate, ...]
Pending = dict[Future[list[Found]], tuple[Placement, Group]]


def groups_of(placement: Placement) -> list[Group]:
    """Candidates of one token budget, each near the next in capacity: the unit of work."""
    budgets = sorted({c.limits.max_batched_tokens for c in placement.candidates})
    return [
        tuple(c for c in placement.candidates if c.limits.max_batched_tokens == budget)
        for budget in budgets
    ]


def search(
    placements: Sequence[Placement], tables_for: TablesFor, pool: Pool, shape_of: ShapeOf
) -> Iterator[Outcome]:
    """Outcomes as they come; neither they nor what is held at once depends on the pool's size otherwise.

    Tables are built here while the pool searches the earlier ones.
    """
    pending: Pending = {}
    for placement in placements:
        shared = pool.share(tables_for(placement))
        for group in groups_of(placement):
            settings = [candidate.setting for candidate in group]
            task = pool.submit(Worker.find_all, shared, settings, shape_of(placement))
            pending[task] = (placement, group)
            yield from _outcomes(pending, IN_FLIGHT * pool.slots)
    yield from _outcomes(pending, 1)


def resampled(
    fleets: Sequence[Fleet], rates_per_s: Sequence[float], pool: Pool, seeds: Sequence[int]
) -> list[tuple[float, ...]]:
    """For each deployment and its capacity, that under one resample of the trace for each seed."""
    tasks = [
        pool.submit(Worker.capacities, fleet, rate, seeds)
        for fleet, rate in zip(fleets, rates_per_s, strict=True)
    ]
    return [task.result() for task in tasks]


def _outcomes(pending: Pending, most: int) -> Iterator[Outcome]:
    """Those that are done, after waiting until fewer than ``most`` groups are pending."""
    while pending:
        done, _ = wait(pending, None if len(pending) >= most else 0, FIRST_COMPLETED)
        if not done:
            return
        for future in done:
            placement, group = pending.pop(future)
            for candidate, each in zip(group, future.result(), strict=True):
                yield Outcome(placement, candidate, each)
