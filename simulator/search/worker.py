"""What one process of a search does: the capacities of configurations, and how they vary by sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

from servecast.compiler.service import Slo
from servecast.estimator.tables import RuntimeTables, StepWork, time_by_source
from servecast.simulator.arrivals import bootstrap
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
from servecast.simulator.workload import Workload

ROUTER = "least_outstanding"  # how a deployment's replicas share the trace


@dataclass(frozen=True, slots=True)
class Demand:
    """The trace to carry, the workload to find capacities with, the targets, the GPUs there are."""

    trace: Workload
    searched: Workload
    slos: tuple[Slo, ...]
    max_gpus: int


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


Found = Carried | Hopeless | TooFewGpus


class Worker:
    """One process's engine and workloads."""

    def __init__(self, demand: Demand) -> None:
        self._engine = Engine()
        self._demand = demand
        self._searched = Judge(demand.searched, demand.slos, self._engine)
        self._trace = Judge(demand.trace, demand.slos, self._engine)
        self._resampled: dict[int, Judge] = {}

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

    def capacities(
        self, fleet: Fleet, rate_per_s: float, seeds: Sequence[int]
    ) -> tuple[float, ...]:
        """A deployment's capacity under one resample of the trace for each seed; 0 where it has none."""
        found = (
            find_capacity(
                self._sample(seed), replace(fleet, router=ROUTER), 2 * rate_per_s, rate_per_s
            )
            for seed in seeds
        )
        return tuple(each.rate_per_s if isinstance(each, Capacity) else 0.0 for each in found)

    def _sample(self, seed: int) -> Judge:
        """Equal seeds give every configuration the same requests: what differs is the configuration."""
        if seed not in self._resampled:
            sample = bootstrap(self._demand.trace, len(self._demand.searched), seed)
            self._resampled[seed] = Judge(sample, self._demand.slos, self._engine)
        return self._resampled[seed]

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
