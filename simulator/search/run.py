"""Runs a search over a pool: tables for each placement, capacities of its candidates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import TypeVar

from servecast.estimator.tables import RuntimeTables
from servecast.simulator.search.found import Found
from servecast.simulator.search.outcome import AnyOutcome, Outcome, ShapeOf, TablesFor
from servecast.simulator.search.pool import Pool
from servecast.simulator.search.space import Candidate, Placement
from servecast.simulator.search.task import NO_STAKE, Stake
from servecast.simulator.search.worker import Worker

IN_FLIGHT = 2
"""Groups a process has at hand: one in work and one waiting. More would only hold tables in memory."""

KEPT = 32
"""Tables that a race holds, of a few MB each, so that most are loaded once."""
Group = tuple[Candidate, ...]
Heeded = TypeVar("Heeded", bound=AnyOutcome)
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
    for placement in placements:
        shared = pool.share(tables_for(placement))
        for group in groups_of(placement):
            settings = [candidate.setting for candidate in group]
            doing = group_label(placement, group)
            task = pool.submit(Worker.find_all, shared, settings, shape_of(placement), doing=doing)
            pending[task] = (placement, group)
            yield from _outcomes(pending, IN_FLIGHT * pool.slots)
    yield from _outcomes(pending, 1)


@dataclass(slots=True)
class Race:
    """The best configuration alone: those that promise most first, each against the best so far.

    A configuration is dropped by a bound, or by one run that is given up at the first request too many, so
    the answer is that of `search`. ``stake_of`` gives what an outcome sets for the others, if it may lead.
    """

    tables_for: TablesFor
    pool: Pool
    shape_of: ShapeOf
    promise: Callable[[RuntimeTables, Placement, Candidate], float]
    stake_of: Callable[[AnyOutcome], Stake | None]
    stake: Stake = NO_STAKE

    def run(self, placements: Sequence[Placement]) -> Iterator[Outcome]:
        pending: Pending = {}
        for placement, kept in self._most_promising_first(placements):
            shared = self.pool.share(self.tables_for(placement) if kept is None else kept)
            shape = self.shape_of(placement)
            for group in self._units(placement):
                settings = [candidate.setting for candidate in group]
                task = self.pool.submit(
                    Worker.race,
                    shared,
                    settings,
                    shape,
                    self.stake,
                    doing=group_label(placement, group),
                )
                pending[task] = (placement, group)
                yield from map(self.heed, _outcomes(pending, IN_FLIGHT * self.pool.slots))
        yield from map(self.heed, _outcomes(pending, 1))

    def heed(self, outcome: Heeded) -> Heeded:
        """Raise the stake to that of an outcome, where it is higher."""
        new = self.stake_of(outcome)
        if new is not None:
            value = max(self.stake.qps_per_usd_hour, new.qps_per_usd_hour)
            self.stake = Stake(value, min(self.stake.cost, new.cost))
        return outcome

    def _most_promising_first(
        self, placements: Sequence[Placement]
    ) -> Iterator[tuple[Placement, RuntimeTables | None]]:
        """With their tables, of the first that were looked at: no more than KEPT are held."""
        kept: dict[int, RuntimeTables] = {}
        promises = []
        for index, placement in enumerate(placements):
            tables = self.tables_for(placement)
            if len(kept) < KEPT:
                kept[index] = tables
            best = max(self.promise(tables, placement, each) for each in placement.candidates)
            promises.append((-best, index))
        for _, index in sorted(promises):
            yield placements[index], kept.pop(index, None)

    def _units(self, placement: Placement) -> Iterator[Group]:
        """The first ones alone: until there is a stake, each takes a whole search."""
        for group in groups_of(placement):
            while group and self.stake == NO_STAKE:
                yield group[:1]
                group = group[1:]
            if group:
                yield group


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
