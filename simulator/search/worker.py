"""What one process of a search does: the capacities of configurations, and how they vary by sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import ceil

from servecast.estimator.tables import RuntimeTables
from servecast.simulator.engine.routing import Engine, Fleet
from servecast.simulator.metrics.attained import Run, attained_share
from servecast.simulator.search.bisection import Known, find_capacity
from servecast.simulator.search.bounds import max_rate_per_s
from servecast.simulator.search.capacity import (
    Capacity,
    Hopeless,
    Judge,
    carries,
    replicas_needed,
)
from servecast.simulator.search.found import Beaten, Carried, Found, TooFewGpus
from servecast.simulator.search.likely import full_replica
from servecast.simulator.search.serving import (
    Serving,
    seconds_by_source,
    summary,
    utilisations,
)
from servecast.simulator.search.task import NO_STAKE, Demand, Setting, Shape, Stake
from servecast.simulator.traffic.arrivals import bootstrap
from servecast.simulator.traffic.workload import Workload

BOUND_SLACK = 2.0
"""A trace that ends goes beyond the bound of a steady load by what its queue and batches still hold then: by
a tenth or two for the 10,000 requests that are searched with at least."""

USED = 0.77
"""Of what a replica that is always full serves: few need more replicas than at so much of it."""


class Worker:
    """One process's engine and workloads."""

    def __init__(self, demand: Demand) -> None:
        self.engine = Engine()
        self.demand = demand
        self.searched = self.judge(demand.searched)
        self.trace = self.judge(demand.trace)
        self._resampled: dict[int, Judge] = {}
        self._rehearsals: dict[int, Judge] = {}

    def find_all(
        self, tables: RuntimeTables, settings: Sequence[Setting], shape: Shape
    ) -> list[Found]:
        """Each search starts where the likely rate and those before it say: the last one with as many
        places, or the last."""
        found: list[Found] = []
        share, shares = 1.0, dict[int, float]()
        one: Known | None = None
        whole: Known | None = None
        for setting in settings:
            upper = self._upper(tables, setting, shape)
            replica = shape.fleet(tables, setting, 1)
            likely = self.searched.likely_per_s(replica)
            guess = shares.get(setting.limits.max_num_seqs, share) * likely
            capacity = find_capacity(self.searched, replica, upper, guess, one)
            if isinstance(capacity, Hopeless):
                found.append(capacity)
                continue
            share = shares[setting.limits.max_num_seqs] = capacity.rate_per_s / likely
            one = Known(replica, capacity)
            deployed = self._deployed(one, upper, shape, whole)
            if isinstance(deployed, TooFewGpus):
                found.append(deployed)
                continue
            whole = deployed
            found.append(self._carried(one, whole, shape))
        return found

    def race(
        self, tables: RuntimeTables, settings: Sequence[Setting], shape: Shape, stake: Stake
    ) -> list[Found]:
        """As ``find_all``, but a configuration that cannot reach the stake is only shown to be beaten."""
        found: list[Found] = []
        for setting in settings:
            by = self._beaten_by(tables, setting, shape, stake)
            found.append(Beaten(by) if by else self.find_all(tables, [setting], shape)[0])
        return found

    def rehearse(self, tables: RuntimeTables, setting: Setting, shape: Shape, parts: int) -> float:
        """Requests per dollar of one replica on the first of so many parts of the workload."""
        if parts not in self._rehearsals:
            size = max(2, len(self.demand.searched) // parts)
            self._rehearsals[parts] = self.judge(self.demand.searched.first(size))
        fleet, upper = shape.fleet(tables, setting, 1), self._upper(tables, setting, shape)
        found = find_capacity(self._rehearsals[parts], fleet, upper)
        return 0.0 if isinstance(found, Hopeless) else found.rate_per_s / shape.usd_per_hour[0]

    def _beaten_by(
        self, tables: RuntimeTables, setting: Setting, shape: Shape, stake: Stake
    ) -> str | None:
        """What shows that the stake is out of reach; every test is one that the whole search would fail."""
        if stake == NO_STAKE:
            return None
        upper = self._upper(tables, setting, shape)
        dollars = shape.usd_per_hour
        reach = max(BOUND_SLACK * (n + 1) * upper / dollars[n] for n in range(shape.most))
        if reach < stake.qps_per_usd_hour:
            return "its upper bound"
        affordable = sum(cost <= stake.cost for cost in shape.costs)
        if not affordable:
            return "its cost"
        replica = shape.fleet(tables, setting, 1)
        full = full_replica(self.demand.searched, tables, setting.limits)
        likely = ceil(self.demand.trace.rate_per_s / (USED * full.rate_per_s * shape.dp))
        if self._falls_short(replica, min(likely + 1, affordable), shape, stake):
            return "a run at the rate it would need"
        replicas = self._replicas(self.trace, replica, likely, shape.dp, affordable)
        if replicas is None:
            return "the replicas it needs" if affordable < shape.most else None
        if self._falls_short(replica, replicas, shape, stake):
            return "a run at the rate it would need"
        return None

    def _falls_short(self, replica: Fleet, replicas: int, shape: Shape, stake: Stake) -> bool:
        """So many replicas break a target at the rate that the stake asks of them.

        One replica more than are likely to be needed is a cheap first test: they share bursts better, so
        what is too much for them is too much for fewer. Its run is soon given up, while that which
        tells how many are needed is long.
        """
        rate_per_s = stake.qps_per_usd_hour * shape.usd_per_hour[replicas - 1]
        fleet = replace(replica, replicas=replicas * shape.dp)
        return rate_per_s > 0 and bool(self.searched.broken(fleet, rate_per_s))

    def _upper(self, tables: RuntimeTables, setting: Setting, shape: Shape) -> float:
        return shape.dp * max_rate_per_s(self.demand.searched, tables, setting.limits)

    def capacities(
        self, serving: Serving, rate_per_s: float, seeds: Sequence[int]
    ) -> tuple[float, ...]:
        """A deployment's capacity under one resample of the trace for each seed; 0 where it has none."""
        found = (
            find_capacity(self._sample(seed), serving, 2 * rate_per_s, rate_per_s) for seed in seeds
        )
        return tuple(each.rate_per_s if isinstance(each, Capacity) else 0.0 for each in found)

    def replicas_for(
        self, trace: Workload, replica: Fleet, estimate: int, shape: Shape
    ) -> int | None:
        """The fewest replicas that keep the targets under a trace; None: there are too few GPUs."""
        return self._replicas(self.judge(trace), replica, estimate, shape.dp, shape.most)

    def judge(self, workload: Workload) -> Judge:
        return Judge(workload, self.demand.slos, self.engine, self.demand.attainment)

    def _sample(self, seed: int) -> Judge:
        """Equal seeds give every configuration the same requests: what differs is the configuration."""
        if seed not in self._resampled:
            sample = bootstrap(self.demand.trace, len(self.demand.searched), seed)
            self._resampled[seed] = self.judge(sample)
        return self._resampled[seed]

    def _carried(self, one: Known, whole: Known, shape: Shape) -> Carried:
        capacity, fleet = whole.capacity, whole.fleet
        records = self.searched.records(fleet, capacity.rate_per_s)
        metrics = summary(records)
        carried = Carried(
            one.capacity.rate_per_s,
            fleet.replicas // shape.dp,
            capacity.rate_per_s,
            metrics,
            seconds_by_source(fleet, records),
            capacity.breaks,
            utilisation=utilisations(records, metrics, shape)[0],
            goodput_per_s=self.goodput_per_s(capacity.rate_per_s, records),
        )
        if not self.demand.energy:
            return carried
        at_rate = self.trace.records(fleet)
        used = utilisations(at_rate, summary(at_rate), shape)[0]
        return replace(carried, utilisation_at_trace_rate=used)

    def goodput_per_s(self, rate_per_s: float, run: Run) -> float | None:
        if self.demand.attainment is None:
            return None
        return rate_per_s * attained_share(run, self.demand.slos, self.demand.searched)

    def _replicas(
        self, trace: Judge, replica: Fleet, estimate: int, dp: int, most: int
    ) -> int | None:
        def holds(replicas: int) -> bool:
            return carries(trace, self.searched, replace(replica, replicas=replicas * dp))

        return replicas_needed(holds, estimate, most)

    def _deployed(
        self, one: Known, upper: float, shape: Shape, known: Known | None
    ) -> Known | TooFewGpus:
        """All the replicas that the trace needs, and their capacity; ``upper`` bounds the rate of one."""
        one_per_s = one.capacity.rate_per_s
        estimate = ceil(self.demand.trace.rate_per_s / one_per_s)
        replicas = self._replicas(self.trace, one.fleet, estimate, shape.dp, shape.most)
        if replicas is None:
            return TooFewGpus(shape.most, one_per_s)
        fleet = replace(one.fleet, replicas=replicas * shape.dp)
        if replicas == 1:  # searched already
            return Known(fleet, one.capacity)
        bound, guess = replicas * upper, replicas * one_per_s
        capacity = find_capacity(self.searched, fleet, bound, guess, known)
        if isinstance(capacity, Hopeless):
            return TooFewGpus(replicas, one_per_s)
        return Known(fleet, capacity)
