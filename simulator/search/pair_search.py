"""Searches prefill and decode apart: each role's pools alone, once a placement, then both together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from math import inf
from typing import Any

from servecast.simulator.search.capacity import Hopeless
from servecast.simulator.search.found import Found
from servecast.simulator.search.outcome import PairOutcome, ShapeOf, TablesFor
from servecast.simulator.search.pair_worker import Alone, PairTask, Role, best_alone, find_pair
from servecast.simulator.search.pairs import Pairing
from servecast.simulator.search.pool import Pool
from servecast.simulator.search.run import IN_FLIGHT
from servecast.simulator.search.space import Placement
from servecast.simulator.search.task import Stake

Key = tuple[str, str, str, str]  # role, placement, policy, router
Pending = dict[Future[Found], Pairing]


@dataclass(slots=True)
class PairSearch:
    """``balanced``: the objective wants requests per dollar. ``stake`` is that of the best so far, none where
    all are searched.

    Tables are held of every placement of either role, once for all policies and routers: of these placements
    there are as many as square root of the pairs.
    """

    tables_for: TablesFor
    pool: Pool
    shape_of: ShapeOf
    balanced: bool
    stake: Callable[[], Stake]
    _shared: dict[tuple[str, str], Any] = field(default_factory=dict)  # by role and placement

    def run(self, pairings: Sequence[Pairing]) -> Iterator[PairOutcome]:
        """Those that promise most first."""
        alone = self._alone(pairings)
        tasks = [(pairing, _task(self, pairing, alone)) for pairing in pairings]
        pending: Pending = {}
        for pairing, task in sorted(tasks, key=lambda both: -_promise(both[1])):
            if isinstance(task, Hopeless):
                yield PairOutcome(pairing, task)
                continue
            tables = [self._shared[key[:2]] for key in _keys(pairing).values()]
            found = self.pool.submit(find_pair, *tables, task, self.stake(), doing=pairing.label)
            pending[found] = pairing
            yield from _outcomes(pending, IN_FLIGHT * self.pool.slots)
        yield from _outcomes(pending, 1)

    def _alone(self, pairings: Sequence[Pairing]) -> dict[Key, Alone | Hopeless]:
        placements: dict[Key, tuple[str, Placement]] = {}
        for pairing in pairings:
            for role, key in _keys(pairing).items():
                placements.setdefault(key, (role, getattr(pairing, role)))
        tasks: dict[Key, Future[Alone | Hopeless]] = {}
        for key, (role, placement) in placements.items():
            if key[:2] not in self._shared:
                self._shared[key[:2]] = self.pool.share(self.tables_for(placement))
            settings = [candidate.setting for candidate in placement.candidates]
            shape, doing = self.shape_of(placement), f"{placement.label}: {role} alone"
            tasks[key] = self.pool.submit(
                best_alone, role, self._shared[key[:2]], settings, shape, doing=doing
            )
        return {key: task.result() for key, task in tasks.items()}


def _task(
    search: PairSearch, pairing: Pairing, alone: dict[Key, Alone | Hopeless]
) -> PairTask | Hopeless:
    """Why it is hopeless, where one of its roles is."""
    keys = _keys(pairing)
    prefill, decode = alone[keys["prefill"]], alone[keys["decode"]]
    if isinstance(prefill, Hopeless):
        return prefill
    if isinstance(decode, Hopeless):
        return decode
    return PairTask(
        Role(search.shape_of(pairing.prefill), prefill),
        Role(search.shape_of(pairing.decode), decode),
        pairing.link,
        pairing.room,
        search.balanced,
    )


def _promise(task: PairTask | Hopeless) -> float:
    """Requests per dollar by the pools' own capacities; the hopeless first, which cost nothing."""
    if isinstance(task, Hopeless):
        return inf
    return max(task.likely_per_s(each) / task.usd_per_hour(each) for each in task.at_least((1, 1)))


def _keys(pairing: Pairing) -> dict[str, Key]:
    rule = (pairing.policy, pairing.router)
    return {
        "prefill": ("prefill", pairing.prefill.label, *rule),
        "decode": ("decode", pairing.decode.label, *rule),
    }


def _outcomes(pending: Pending, most: int) -> Iterator[PairOutcome]:
    """Those that are done, after waiting until fewer than ``most`` are pending."""
    while pending:
        done, _ = wait(pending, None if len(pending) >= most else 0, FIRST_COMPLETED)
        if not done:
            return
        for future in done:
            yield PairOutcome(pending.pop(future), future.result())
