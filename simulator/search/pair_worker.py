"""What one process of a search does for prefill and decode apart: each pool alone, then both together.

Nothing flows back from the decode pool, so the prefill pool alone decides TTFT and the queue: its size is
found without the other, that of the decode pool with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, inf, isinf

import numpy as np

from servecast.estimator.tables import RuntimeTables
from servecast.simulator.engine.disaggregation import Disaggregated, DisaggregatedRun, KvLink
from servecast.simulator.engine.routing import Fleet
from servecast.simulator.metrics.disaggregated import pool_metrics
from servecast.simulator.metrics.metrics import ReplicaMetrics
from servecast.simulator.search.bisection import find_capacity
from servecast.simulator.search.bounds import max_rate_per_s
from servecast.simulator.search.capacity import (
    Capacity,
    Hopeless,
    Judge,
    carries,
    replicas_needed,
)
from servecast.simulator.search.found import Beaten, Found, PairCarried, Pool, TooFewGpus
from servecast.simulator.search.serving import seconds_by_source, summary, utilisations
from servecast.simulator.search.task import NO_STAKE, Setting, Shape, Stake
from servecast.simulator.search.whatif import Circumstance, capacity_if
from servecast.simulator.search.worker import BOUND_SLACK, Worker
from servecast.simulator.traffic.workload import Workload

METRICS = {"prefill": ("ttft",), "decode": ("tbt", "tpot")}
"""What a role's pool decides alone; an ``e2e`` target is judged with both."""


BALANCED = 0.95
"""Of the best ratio of replicas: more of them for the rest is a deployment that nobody asked for."""


@dataclass(frozen=True, slots=True)
class Alone:
    """The best limits of a role's pool on one placement, and what one replica carries of the role's work."""

    candidate: int
    setting: Setting
    rate_per_s: float
    upper_per_s: float


Counts = tuple[int, int]  # prefill, decode replicas


@dataclass(frozen=True, slots=True)
class Role:
    shape: Shape
    alone: Alone


@dataclass(frozen=True, slots=True)
class PairTask:
    """Both roles, and how many decode replicas there is ``room`` for beside 1, 2, … prefill replicas.

    ``balanced``: as many of each as give most requests per dollar by the pools' own capacities, no fewer
    than the trace needs; else the fewest.
    """

    prefill: Role
    decode: Role
    link: KvLink
    room: tuple[int, ...]
    balanced: bool

    def usd_per_hour(self, counts: Counts) -> float:
        shapes = zip((self.prefill.shape, self.decode.shape), counts, strict=True)
        return sum(shape.usd_per_hour[count - 1] for shape, count in shapes)

    def cost(self, counts: Counts) -> float:
        shapes = zip((self.prefill.shape, self.decode.shape), counts, strict=True)
        return sum(shape.costs[count - 1] for shape, count in shapes)

    def likely_per_s(self, counts: Counts) -> float:
        """What the pools carry by their own capacities."""
        alone = zip((self.prefill.alone, self.decode.alone), counts, strict=True)
        return min(count * role.rate_per_s for role, count in alone)

    def upper_per_s(self, counts: Counts) -> float:
        alone = zip((self.prefill.alone, self.decode.alone), counts, strict=True)
        return min(count * role.upper_per_s for role, count in alone)

    def at_least(self, fewest: Counts) -> list[Counts]:
        """All numbers of replicas from these on that there are GPUs for."""
        return [
            (prefill, decode)
            for prefill in range(fewest[0], len(self.room) + 1)
            for decode in range(fewest[1], self.room[prefill - 1] + 1)
        ]

    def balanced_from(self, fewest: Counts) -> Counts:
        """The fewest replicas from these on that are all but the best in requests per dollar."""

        def worth(counts: Counts) -> float:
            return self.likely_per_s(counts) / self.usd_per_hour(counts)

        every = self.at_least(fewest)
        enough = BALANCED * max(map(worth, every))
        return min((each for each in every if worth(each) >= enough), key=sum)


@dataclass(frozen=True, slots=True)
class Sides:
    """A task with the tables of its roles."""

    task: PairTask
    prefill: RuntimeTables
    decode: RuntimeTables

    def prefill_fleet(self, replicas: int) -> Fleet:
        role = self.task.prefill
        return role.shape.fleet(self.prefill, role.alone.setting, replicas)

    def serving(self, counts: Counts) -> Disaggregated:
        role = self.task.decode
        decode = role.shape.fleet(self.decode, role.alone.setting, counts[1])
        return Disaggregated(self.prefill_fleet(counts[0]), decode, self.task.link)


def best_alone(
    worker: Worker, role: str, tables: RuntimeTables, settings: Sequence[Setting], shape: Shape
) -> Alone | Hopeless:
    """The limits with which one replica carries most of the role's work; why none can, if none does."""
    judge, share = role_judge(worker, role, worker.demand.searched)
    best: Alone | None = None
    hopeless: list[Hopeless] = []
    guess_per_s: float | None = None
    for index, setting in enumerate(settings):
        if judge is None:
            return Alone(index, setting, inf, inf)
        upper = shape.dp * max_rate_per_s(_computed(judge), tables, setting.limits)
        found = find_capacity(judge, shape.fleet(tables, setting, 1), upper, guess_per_s)
        if isinstance(found, Hopeless):
            hopeless.append(found)
            continue
        guess_per_s = found.rate_per_s
        if best is None or found.rate_per_s / share > best.rate_per_s:
            best = Alone(index, setting, found.rate_per_s / share, upper / share)
    return best or min(hopeless, key=lambda miss: miss.distance)


def role_judge(worker: Worker, role: str, workload: Workload) -> tuple[Judge | None, float]:
    """Of a pool alone, and the share of all requests that it serves; None: it has nothing to do."""
    slos = tuple(slo for slo in worker.demand.slos if slo.metric in METRICS[role])
    attainment = worker.demand.attainment
    if role == "prefill":
        work = replace(workload, output_tokens=np.ones(len(workload), np.int64), prefix=None)
        return Judge(work, slos, worker.engine, attainment), 1.0
    sent = np.flatnonzero(workload.output_tokens > 1)
    if len(sent) < 2:  # one arrival has no rate
        return None, 1.0
    taken = workload.take(sent, workload.arrival_s[sent])
    loaded = taken.prompt_tokens
    work = replace(
        taken, prompt_tokens=loaded + 1, output_tokens=taken.output_tokens - 1, prefix=None
    )
    judge = Judge(work, slos, worker.engine, attainment, loaded)
    return judge, work.rate_per_s / workload.rate_per_s


def _computed(judge: Judge) -> Workload:
    """The workload without the tokens that need no prefill."""
    if judge.loaded_tokens is None:
        return judge.workload
    left = judge.workload.prompt_tokens - judge.loaded_tokens
    return replace(judge.workload, prompt_tokens=left)


def _too_few(task: PairTask) -> TooFewGpus:
    """With the numbers of both roles that carry most by what one replica of each carries alone."""
    prefill_per_s, decode_per_s = task.prefill.alone.rate_per_s, task.decode.alone.rate_per_s
    most_per_s, replicas = max(
        (min(prefill * prefill_per_s, decode * decode_per_s), prefill + decode)
        for prefill, decode in enumerate(task.room, 1)
    )
    return TooFewGpus(replicas, most_per_s / replicas)


def find_pair(
    worker: Worker, prefill: RuntimeTables, decode: RuntimeTables, task: PairTask, stake: Stake
) -> Found:
    """What the two roles carry together; only that they are beaten, where they cannot reach the stake."""
    sides = Sides(task, prefill, decode)
    if stake != NO_STAKE and _reach(task) < stake.qps_per_usd_hour:
        return Beaten("its upper bound")
    if task.cost((1, 1)) > stake.cost:
        return Beaten("its cost")
    fewest = counts_for(worker, sides, worker.demand.trace)
    if fewest is None:
        return _too_few(task)
    if task.cost(fewest) > stake.cost:
        return Beaten("the replicas it needs")
    counts = task.balanced_from(fewest) if task.balanced else fewest
    pair = sides.serving(counts)
    needed_per_s = stake.qps_per_usd_hour * task.usd_per_hour(counts)
    if needed_per_s > 0 and worker.searched.broken(pair, needed_per_s):
        return Beaten("a run at the rate it would need")
    upper, guess = task.upper_per_s(counts), task.likely_per_s(counts)
    capacity = find_capacity(worker.searched, pair, upper, guess)
    if isinstance(capacity, Hopeless):
        return capacity
    return _carried(worker, sides, counts, capacity)


def _reach(task: PairTask) -> float:
    """Requests per dollar that no number of replicas exceeds."""
    return max(
        BOUND_SLACK * task.upper_per_s(counts) / task.usd_per_hour(counts)
        for counts in task.at_least((1, 1))
    )


def counts_for(worker: Worker, sides: Sides, trace: Workload) -> Counts | None:
    """The fewest prefill replicas that keep TTFT, and the fewest decode replicas beside them.

    None: there are too few GPUs. A target on the whole of a request is met by more prefill replicas, too,
    where decode replicas alone do not.
    """
    task = sides.task
    alone, _ = role_judge(worker, "prefill", trace)
    long, _ = role_judge(worker, "prefill", worker.demand.searched)
    both = worker.judge(trace)
    assert alone is not None
    assert long is not None
    estimate = ceil(trace.rate_per_s / task.prefill.alone.rate_per_s)
    prefill = replicas_needed(
        lambda n: carries(alone, long, sides.prefill_fleet(n)), estimate, len(task.room)
    )
    rate_per_s = task.decode.alone.rate_per_s
    estimate = 1 if isinf(rate_per_s) else ceil(trace.rate_per_s / rate_per_s)
    whole = worker.demand.attainment or any(slo.metric == "e2e" for slo in worker.demand.slos)
    if prefill is None:
        return None
    for beside in range(prefill, len(task.room) + 1 if whole else prefill + 1):

        def holds(decode: int, beside: int = beside) -> bool:
            return carries(both, worker.searched, sides.serving((beside, decode)))

        decode = replicas_needed(holds, estimate, task.room[beside - 1])
        if decode is not None:
            return beside, decode
    return None


def pair_if(
    worker: Worker, prefill: RuntimeTables, decode: RuntimeTables, task: PairTask, factor: float
) -> float:
    """Requests per dollar of the fewest replicas that carry the trace at another rate; 0: too few GPUs."""
    sides, trace = Sides(task, prefill, decode), worker.demand.trace
    busier = trace.at_rate(factor * trace.rate_per_s)
    counts = counts_for(worker, sides, busier)
    if counts is None:
        return 0.0
    counts = task.balanced_from(counts) if task.balanced else counts
    rate_per_s = capacity_if(worker, sides.serving(counts), busier.rate_per_s, Circumstance())
    return rate_per_s / task.usd_per_hour(counts)


def _carried(worker: Worker, sides: Sides, counts: Counts, capacity: Capacity) -> PairCarried:
    task, serving = sides.task, sides.serving(counts)
    run = worker.searched.records(serving, capacity.rate_per_s)
    assert isinstance(run, DisaggregatedRun)
    metrics = summary(run)
    shapes = task.prefill.shape, task.decode.shape
    prefill, decode = _pools(task, counts, pool_metrics(run, metrics.duration_s))
    used = utilisations(run, metrics, *shapes)
    found = PairCarried(
        replace(prefill, utilisation=used[0]),
        replace(decode, utilisation=used[1]),
        rate_per_s=capacity.rate_per_s,
        metrics=metrics,
        seconds_by_source=seconds_by_source(serving, run),
        breaks=capacity.breaks,
        goodput_per_s=worker.goodput_per_s(capacity.rate_per_s, run),
    )
    if not worker.demand.energy:
        return found
    at_rate = worker.trace.records(serving)
    assert isinstance(at_rate, DisaggregatedRun)
    used = utilisations(at_rate, summary(at_rate), *shapes)
    return replace(
        found,
        prefill=replace(found.prefill, utilisation_at_trace_rate=used[0]),
        decode=replace(found.decode, utilisation_at_trace_rate=used[1]),
    )


def _pools(
    task: PairTask, counts: Counts, metrics: tuple[ReplicaMetrics, ReplicaMetrics | None]
) -> tuple[Pool, Pool]:
    """A decode pool that nothing was sent to has the figures of none: those of the prefill pool, idle."""
    prefill, decode = metrics
    idle = replace(
        prefill, busy=0.0, mean_batch=0.0, kv_use_mean=0.0, kv_use_peak=0.0, preemptions=0
    )
    return (
        Pool(task.prefill.alone.candidate, counts[0], task.prefill.alone.rate_per_s, prefill),
        Pool(task.decode.alone.candidate, counts[1], task.decode.alone.rate_per_s, decode or idle),
    )
