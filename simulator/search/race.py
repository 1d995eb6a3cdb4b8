"""The best configuration alone, several times faster than all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from servecast.estimator.tables import RuntimeTables
from servecast.simulator.search.found import Beaten
from servecast.simulator.search.outcome import AnyOutcome, Outcome, ShapeOf, TablesFor
from servecast.simulator.search.pool import Pool
from servecast.simulator.search.rows import may_be_grounded
from servecast.simulator.search.run import IN_FLIGHT, Group, Pending, group_label, outcomes
from servecast.simulator.search.space import Candidate, Placement
from servecast.simulator.search.task import NO_STAKE, Stake
from servecast.simulator.search.worker import Worker

KEPT = 32
"""Placements of which a race holds the tables, of a few MB each, so that most are loaded once."""
ENTRANTS, PARTS = 4, (8, 4)
"""So many configurations are tried on an eighth of the trace, the better half of them on a quarter."""
UNMEASURED = "one that measurements bear"
Heeded = TypeVar("Heeded", bound=AnyOutcome)


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """A configuration with what it promises, and its tables if they are kept."""

    promise: float
    placement: Placement
    candidate: Candidate
    tables: RuntimeTables | None
    grounded: bool  # it may be, by its tables


@dataclass(slots=True)
class Race:
    """Each configuration against the best so far, which is one of those that promise most.

    ``promise`` screens them by their tables; the first few are halved by their capacities on growing parts of
    the trace, and who is left is searched first. That decides the order alone: a configuration is dropped by
    a bound, or by one run that is given up at the first request too many, so the answer is that of `search`.
    ``stake_of`` gives what an outcome sets for the others, if it may lead: one that measurements bear. Those
    of which no run could be wait until all others are done; behind one that leads they are dropped.
    """

    tables_for: TablesFor
    pool: Pool
    shape_of: ShapeOf
    promise: Callable[[RuntimeTables, Placement, Candidate], float]
    stake_of: Callable[[AnyOutcome], Stake | None]
    stake: Stake = NO_STAKE

    def run(self, placements: Sequence[Placement]) -> Iterator[Outcome]:
        entries = self._entries(placements)
        yield from self._round([entry for entry in entries if entry.grounded])
        rest = [entry for entry in entries if not entry.grounded]
        if self.stake == NO_STAKE:
            yield from self._round(rest)
        else:
            yield from (Outcome(e.placement, e.candidate, Beaten(UNMEASURED)) for e in rest)

    def _round(self, entries: list[Entry]) -> Iterator[Outcome]:
        pending: Pending = {}
        if self.stake == NO_STAKE and len(entries) > 1:
            leader = self._leader(entries)
            self._submit(leader.placement, (leader.candidate,), leader.tables, pending)
            yield from map(self.heed, outcomes(pending, 1))
            entries.remove(leader)
        for entry, group in _grouped(entries):
            self._submit(entry.placement, group, entry.tables, pending)
            yield from map(self.heed, outcomes(pending, self._in_flight))
        yield from map(self.heed, outcomes(pending, 1))

    @property
    def _in_flight(self) -> int:
        """One at a time until there is a stake: without one each takes a whole search."""
        return 1 if self.stake == NO_STAKE else IN_FLIGHT * self.pool.slots

    def _submit(
        self, placement: Placement, group: Group, kept: RuntimeTables | None, pending: Pending
    ) -> None:
        shared = self.pool.share(self.tables_for(placement) if kept is None else kept)
        settings = [candidate.setting for candidate in group]
        shape, doing = self.shape_of(placement), group_label(placement, group)
        task = self.pool.submit(Worker.race, shared, settings, shape, self.stake, doing=doing)
        pending[task] = (placement, group)

    def _entries(self, placements: Sequence[Placement]) -> list[Entry]:
        """The most promising first, with the tables of the first KEPT placements that were looked at."""
        entries = []
        for index, placement in enumerate(placements):
            tables = self.tables_for(placement)
            kept = tables if index < KEPT else None
            grounded = may_be_grounded(tables)
            for each in placement.candidates:
                promise = self.promise(tables, placement, each)
                entries.append(Entry(promise, placement, each, kept, grounded))
        return sorted(entries, key=lambda entry: -entry.promise)

    def _leader(self, entries: Sequence[Entry]) -> Entry:
        """Successive halving over the length of the trace."""
        left = [entry for entry in entries[:ENTRANTS] if entry.tables is not None] or [entries[0]]
        for parts in PARTS:
            if len(left) == 1:
                break
            tasks = [
                self.pool.submit(
                    Worker.rehearse,
                    self.pool.share(entry.tables),
                    entry.candidate.setting,
                    self.shape_of(entry.placement),
                    parts,
                    doing=f"{entry.placement.label}: 1/{parts} of the trace",
                )
                for entry in left
            ]
            worth = {index: -task.result() for index, task in enumerate(tasks)}
            best = sorted(worth, key=worth.__getitem__)[: -(-len(left) // 2)]
            left = [left[index] for index in best]
        return left[0]

    def heed(self, outcome: Heeded) -> Heeded:
        """Raise the stake to that of an outcome, where it is higher."""
        new = self.stake_of(outcome)
        if new is not None:
            value = max(self.stake.qps_per_usd_hour, new.qps_per_usd_hour)
            self.stake = Stake(value, min(self.stake.cost, new.cost))
        return outcome


def _grouped(entries: Sequence[Entry]) -> Iterator[tuple[Entry, Group]]:
    """Candidates of one placement and token budget together, in the order of the best of each."""
    groups: dict[tuple[int, int], list[Entry]] = {}
    for entry in entries:
        key = (id(entry.placement), entry.candidate.limits.max_batched_tokens)
        groups.setdefault(key, []).append(entry)
    for group in groups.values():
        yield group[0], tuple(entry.candidate for entry in group)
