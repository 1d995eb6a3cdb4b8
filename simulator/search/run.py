"""Runs a search: tables for each placement, capacities of its candidates, over worker processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context

from servecast.compiler.service import Slo
from servecast.estimator.tables import RuntimeTables, StepWork, time_by_source
from servecast.simulator.deployment import EngineLimits
from servecast.simulator.metrics import ReplicaMetrics, summarise
from servecast.simulator.records import Records
from servecast.simulator.routing import Engine, Fleet
from servecast.simulator.search.bounds import max_rate_per_s
from servecast.simulator.search.capacity import Capacity, CapacitySearch, Hopeless
from servecast.simulator.search.space import Candidate, Placement
from servecast.simulator.workload import Workload


@dataclass(frozen=True, slots=True)
class Carried:
    """What a configuration carries: its capacity, its metrics there, seconds by source, what breaks."""

    rate_per_s: float
    metrics: ReplicaMetrics
    seconds_by_source: tuple[tuple[str, float], ...]
    breaks: tuple[Slo, ...]


Found = Carried | Hopeless
TablesFor = Callable[[Placement], RuntimeTables]


@dataclass(frozen=True, slots=True)
class Outcome:
    placement: Placement
    candidate: Candidate
    found: Found


def search(
    placements: Sequence[Placement],
    tables_for: TablesFor,
    workload: Workload,
    slos: Sequence[Slo],
    jobs: int,
) -> Iterator[Outcome]:
    """Yields outcomes as they come; their order says nothing, their content does not depend on ``jobs``.

    Tables are built here, one placement after the other, while the workers search the earlier ones.
    """
    if jobs == 1:
        worker = _Worker(workload, slos)
        for placement in placements:
            tables = tables_for(placement)
            for group in _groups(placement):
                yield from _outcomes(placement, group, worker.find_all(tables, _limits(group)))
        return
    context = get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _start_worker, (workload, tuple(slos))) as pool:
        pending: dict[Future[list[Found]], tuple[Placement, Group]] = {}
        for placement in placements:
            tables = tables_for(placement)
            for group in _groups(placement):
                pending[pool.submit(_find_all, tables, _limits(group))] = (placement, group)
        for future in as_completed(pending):
            yield from _outcomes(*pending.pop(future), future.result())


Group = tuple[Candidate, ...]


def _groups(placement: Placement) -> list[Group]:
    """Candidates of one token budget, each near the next in capacity: the unit of work."""
    budgets = sorted({c.limits.max_batched_tokens for c in placement.candidates})
    return [
        tuple(c for c in placement.candidates if c.limits.max_batched_tokens == budget)
        for budget in budgets
    ]


def _limits(group: Group) -> list[EngineLimits]:
    return [candidate.limits for candidate in group]


def _outcomes(placement: Placement, group: Group, found: list[Found]) -> Iterator[Outcome]:
    for candidate, each in zip(group, found, strict=True):
        yield Outcome(placement, candidate, each)


class _Worker:
    """One process's engine and workload."""

    def __init__(self, workload: Workload, slos: Sequence[Slo]) -> None:
        self._workload = workload
        self._capacity = CapacitySearch(workload, slos, Engine())

    def find_all(self, tables: RuntimeTables, limits: Sequence[EngineLimits]) -> list[Found]:
        """Each configuration starts from the capacity of the one before it."""
        found: list[Found] = []
        guess_per_s: float | None = None
        for each in limits:
            upper = max_rate_per_s(self._workload, tables, each)
            capacity = self._capacity.find(Fleet(tables, each), upper, guess_per_s)
            if isinstance(capacity, Hopeless):
                found.append(capacity)
                continue
            guess_per_s = capacity.rate_per_s
            found.append(_carried(tables, capacity))
        return found


def _carried(tables: RuntimeTables, capacity: Capacity) -> Carried:
    seconds = time_by_source(tables, step_work(capacity.records))
    metrics = summarise(capacity.records)
    return Carried(capacity.rate_per_s, metrics, tuple(seconds.items()), capacity.breaks)


def step_work(records: Records) -> StepWork:
    """The steps of a run in the estimator's terms."""
    steps = records.steps
    return StepWork(
        tokens=steps["tokens"],
        sequences=steps["sequences"],
        decodes=steps["decodes"],
        cached_tokens=steps["cached"],
        prefill_s=steps["prefill_s"],
        prompt_tokens=records.prompt_tokens,
    )


_worker: list[_Worker] = []  # one per process, set by the pool's initializer


def _start_worker(workload: Workload, slos: tuple[Slo, ...]) -> None:
    _worker.append(_Worker(workload, slos))


def _find_all(tables: RuntimeTables, limits: Sequence[EngineLimits]) -> list[Found]:
    return _worker[0].find_all(tables, limits)
