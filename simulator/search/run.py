"""Runs a search over worker processes: tables for each placement, capacities of its candidates."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context

from servecast.estimator.tables import RuntimeTables
from servecast.simulator.deployment import EngineLimits
from servecast.simulator.routing import Fleet
from servecast.simulator.search.space import Candidate, Placement
from servecast.simulator.search.worker import Carried, Demand, Found, Worker


@dataclass(frozen=True, slots=True)
class Outcome:
    placement: Placement
    candidate: Candidate
    found: Found


TablesFor = Callable[[Placement], RuntimeTables]
Group = tuple[Candidate, ...]


def _groups(placement: Placement) -> list[Group]:
    """Candidates of one token budget, each near the next in capacity: the unit of work."""
    budgets = sorted({c.limits.max_batched_tokens for c in placement.candidates})
    return [
        tuple(c for c in placement.candidates if c.limits.max_batched_tokens == budget)
        for budget in budgets
    ]


class Workers:
    """``jobs`` processes that share nothing but the demand; one job runs here.

    No result depends on ``jobs`` or on the order in which results come.
    """

    def __init__(self, demand: Demand, jobs: int) -> None:
        self._pool: Executor = _Here()
        if jobs > 1:
            self._pool = _Processes(jobs, get_context("spawn"), _start, (demand,))
        else:
            _start(demand)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and isinstance(self._pool, _Processes):
            self._pool.kill()
        self._pool.shutdown(cancel_futures=True)

    def search(self, placements: Sequence[Placement], tables_for: TablesFor) -> Iterator[Outcome]:
        """Outcomes as they come. Tables are built here while the workers search the earlier ones."""
        pending: dict[Future[list[Found]], tuple[Placement, Group]] = {}
        for placement in placements:
            tables = tables_for(placement)
            gpus = placement.parallelism.gpus
            for group in _groups(placement):
                limits = [candidate.limits for candidate in group]
                pending[self._pool.submit(_find_all, tables, limits, gpus)] = (placement, group)
                yield from _outcomes(pending, [f for f in pending if f.done()])
        for future in as_completed(list(pending)):
            yield from _outcomes(pending, [future])

    def resampled(
        self, outcomes: Sequence[Outcome], tables_for: TablesFor, seeds: Sequence[int]
    ) -> list[tuple[float, ...]]:
        """For each outcome that carries the trace, its capacity under one resample for each seed."""
        futures = []
        for outcome in outcomes:
            carried = outcome.found
            assert isinstance(carried, Carried)
            fleet = Fleet(tables_for(outcome.placement), outcome.candidate.limits, carried.replicas)
            futures.append(self._pool.submit(_capacities, fleet, carried.rate_per_s, seeds))
        return [future.result() for future in futures]


def _outcomes(
    pending: dict[Future[list[Found]], tuple[Placement, Group]], done: Sequence[Future[list[Found]]]
) -> Iterator[Outcome]:
    for future in done:
        placement, group = pending.pop(future)
        for candidate, each in zip(group, future.result(), strict=True):
            yield Outcome(placement, candidate, each)


class _Here(Executor):
    """Runs a task when it is submitted."""

    def submit(self, fn, /, *args, **kwargs):  # type: ignore[no-untyped-def]  # as Executor's
        future = Future()  # type: ignore[var-annotated]
        future.set_result(fn(*args, **kwargs))
        return future


class _Processes(ProcessPoolExecutor):
    """Starts its processes with SIGINT blocked, which they inherit: Ctrl-C is this one's to handle.

    The pool starts a process in any ``submit`` that finds none idle. An interrupt that comes
    meanwhile waits here until it is unblocked.
    """

    def submit(self, fn, /, *args, **kwargs):  # type: ignore[no-untyped-def]  # as Executor's
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return super().submit(fn, *args, **kwargs)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

    def kill(self) -> None:
        """Ends the processes in the middle of what they do, as 3.14's ``kill_workers`` would."""
        for process in (self._processes or {}).values():
            process.kill()


_worker: list[Worker] = []  # one per process


def _start(demand: Demand) -> None:
    _worker[:] = [Worker(demand)]


def _find_all(tables: RuntimeTables, limits: Sequence[EngineLimits], gpus: int) -> list[Found]:
    return _worker[0].find_all(tables, limits, gpus)


def _capacities(fleet: Fleet, rate_per_s: float, seeds: Sequence[int]) -> tuple[float, ...]:
    return _worker[0].capacities(fleet, rate_per_s, seeds)
