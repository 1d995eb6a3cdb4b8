"""Runs a search: tables for each placement, capacities of its candidates, over worker processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from math import ceil
from multiprocessing import get_context

from servecast.compiler.service import Slo
from servecast.estimator.tables import RuntimeTables, StepWork, time_by_source
from servecast.simulator.deployment import EngineLimits
from servecast.simulator.metrics import ReplicaMetrics, summarise
from servecast.simulator.records import Records
from servecast.simulator.routing import Engine, Fleet
from servecast.simulator.search.bounds import max_rate_per_s
from servecast.simulator.search.capacity import (
    Capacity,
    Hopeless,
    Judge,
    find_capacity,
    replicas_needed,
)
from servecast.simulator.search.space import Candidate, Placement
from servecast.simulator.workload import Workload


@dataclass(frozen=True, slots=True)
class Carried:
    """What a configuration carries: one replica, and the deployment of ``replicas`` for the trace as it is.

    Metrics, seconds by source and ``breaks`` are of the deployment at its capacity ``rate_per_s``.
    """

    replica_rate_per_s: float
    replicas: int
    rate_per_s: float
    metrics: ReplicaMetrics
    seconds_by_source: tuple[tuple[str, float], ...]
    breaks: tuple[Slo, ...]


@dataclass(frozen=True, slots=True)
class TooFewGpus:
    """So many replicas are all that the GPUs make, and they do not keep the targets under the trace."""

    replicas: int
    replica_rate_per_s: float


ROUTER = "least_outstanding"  # how a deployment's replicas share the trace

Found = Carried | Hopeless | TooFewGpus
TablesFor = Callable[[Placement], RuntimeTables]


@dataclass(frozen=True, slots=True)
class Outcome:
    placement: Placement
    candidate: Candidate
    found: Found


@dataclass(frozen=True, slots=True)
class Demand:
    """The trace to carry, the workload to find capacities with, the targets, the GPUs there are."""

    trace: Workload
    searched: Workload
    slos: tuple[Slo, ...]
    max_gpus: int


def search(
    placements: Sequence[Placement], tables_for: TablesFor, demand: Demand, jobs: int
) -> Iterator[Outcome]:
    """Yields outcomes as they come; their order says nothing, their content does not depend on ``jobs``.

    Tables are built here, one placement after the other, while the workers search the earlier ones.
    """
    if jobs == 1:
        worker = _Worker(demand)
        for placement in placements:
            tables = tables_for(placement)
            for group in _groups(placement):
                yield from _outcomes(
                    placement,
                    group,
                    worker.find_all(tables, _limits(group), placement.parallelism.gpus),
                )
        return
    context = get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _start_worker, (demand,)) as pool:
        pending: dict[Future[list[Found]], tuple[Placement, Group]] = {}
        for placement in placements:
            tables = tables_for(placement)
            for group in _groups(placement):
                pending[
                    pool.submit(_find_all, tables, _limits(group), placement.parallelism.gpus)
                ] = (placement, group)
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
    """One process's engine and workloads."""

    def __init__(self, demand: Demand) -> None:
        engine = Engine()
        self._demand = demand
        self._searched = Judge(demand.searched, demand.slos, engine)
        self._trace = Judge(demand.trace, demand.slos, engine)

    def find_all(
        self, tables: RuntimeTables, limits: Sequence[EngineLimits], gpus: int
    ) -> list[Found]:
        """Each configuration starts from the capacity of the one before it. ``gpus``: of a replica."""
        found: list[Found] = []
        guess_per_s: float | None = None
        for each in limits:
            upper = max_rate_per_s(self._demand.searched, tables, each)
            fleet = Fleet(tables, each)
            capacity = find_capacity(self._searched, fleet, upper, guess_per_s)
            if isinstance(capacity, Hopeless):
                found.append(capacity)
                continue
            guess_per_s = capacity.rate_per_s
            found.append(self._carried(fleet, capacity, self._demand.max_gpus // gpus))
        return found

    def _carried(self, replica: Fleet, capacity: Capacity, most: int) -> Carried | TooFewGpus:
        estimate = ceil(self._demand.trace.rate_per_s / capacity.rate_per_s)
        routed = replace(replica, router=ROUTER)
        replicas = replicas_needed(self._trace, routed, estimate, most)
        if replicas is None:
            return TooFewGpus(most, capacity.rate_per_s)
        whole = self._deployed(replace(routed, replicas=replicas), capacity)
        if isinstance(whole, Hopeless):
            return TooFewGpus(replicas, capacity.rate_per_s)
        seconds = time_by_source(replica.tables, step_work(whole.records))
        return Carried(
            capacity.rate_per_s,
            replicas,
            whole.rate_per_s,
            summarise(whole.records),
            tuple(seconds.items()),
            whole.breaks,
        )

    def _deployed(self, fleet: Fleet, capacity: Capacity) -> Capacity | Hopeless:
        """The capacity of all replicas together, given that of one."""
        if fleet.replicas == 1:
            records = self._searched.records(fleet, capacity.rate_per_s)
            return replace(capacity, records=records)
        guess_per_s = fleet.replicas * capacity.rate_per_s
        return find_capacity(self._searched, fleet, 2 * guess_per_s, guess_per_s)


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


def _start_worker(demand: Demand) -> None:
    _worker.append(_Worker(demand))


def _find_all(tables: RuntimeTables, limits: Sequence[EngineLimits], gpus: int) -> list[Found]:
    return _worker[0].find_all(tables, limits, gpus)
