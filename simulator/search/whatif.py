"""One deployment under other circumstances: what a process runs for explanations and sensitivities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from servecast.compiler.service import Slo
from servecast.estimator.tables import RuntimeTables, time_by_source
from servecast.simulator.engine.disaggregation import DisaggregatedRun
from servecast.simulator.engine.records import Records
from servecast.simulator.metrics.attained import Run, bound
from servecast.simulator.metrics.metrics import summarise
from servecast.simulator.search.bisection import find_capacity, refined_per_s
from servecast.simulator.search.bracket import TOLERANCE
from servecast.simulator.search.capacity import QUEUE_DELAY, Hopeless, Judge
from servecast.simulator.search.serving import (
    Serving,
    pools,
    run,
    step_work,
    summary,
    value,
)
from servecast.simulator.search.task import Setting, Shape
from servecast.simulator.search.worker import Worker
from servecast.simulator.traffic.arrival_processes import Gamma, with_arrivals
from servecast.simulator.traffic.workload import Ints, Workload

SPREAD = (1 + TOLERANCE) ** 70
"""Of the known capacity, which is on the grid that hangs there: on it a changed one is looked for."""


@dataclass(frozen=True, slots=True)
class Circumstance:
    """What differs from the question: lengths by factors, targets, hits in a prefix cache, burstiness."""

    prompt: float = 1.0
    output: float = 1.0
    slos: tuple[Slo, ...] | None = None
    prefix_hits: float = 0.0  # share of every prompt that needs no prefill
    arrival_cv: float | None = None

    def workload(self, workload: Workload) -> Workload:
        changed = replace(
            workload,
            prompt_tokens=_scaled(workload.prompt_tokens, self.prompt),
            output_tokens=_scaled(workload.output_tokens, self.output),
        )
        if self.arrival_cv is None:
            return changed
        return with_arrivals(changed, changed.rate_per_s, Gamma(self.arrival_cv), 0)

    def loaded_tokens(self, workload: Workload) -> Ints | None:
        if not self.prefix_hits:
            return None
        loaded = (self.prefix_hits * workload.prompt_tokens).astype(np.int64)
        return np.minimum(loaded, workload.prompt_tokens - 1)


@dataclass(frozen=True, slots=True)
class Point:
    """A deployment at one rate: each target's figure, in the order of ``slos`` and then the queue's delay."""

    rate_per_s: float
    values_s: tuple[float, ...]
    ttft_s: float
    tbt_s: float


@dataclass(frozen=True, slots=True)
class Breakdown:
    """Seconds of a run at capacity: of all stages and replicas by part, and of all requests."""

    gpu_s: tuple[tuple[str, float], ...]
    request_s: tuple[tuple[str, float], ...]


def capacity_if(
    worker: Worker, serving: Serving, rate_per_s: float, change: Circumstance, fine: bool = False
) -> float:
    """The capacity of a deployment whose own is ``rate_per_s``, were things so; 0 where it has none.

    ``fine``: to a part of a step of the grid, for small differences.
    """
    demand = worker.demand
    workload = change.workload(demand.searched)
    slos = demand.slos if change.slos is None else change.slos
    loaded = change.loaded_tokens(workload)
    judge = Judge(workload, slos, worker.engine, demand.attainment, loaded)
    found = find_capacity(judge, serving, SPREAD * rate_per_s, rate_per_s)
    if isinstance(found, Hopeless):
        return 0.0
    return refined_per_s(judge, serving, found) if fine else found.rate_per_s


def deployment_if(
    worker: Worker, tables: RuntimeTables, setting: Setting, shape: Shape, factor: float
) -> float:
    """Requests per dollar of the fewest replicas that carry the trace at another rate; 0: too few GPUs."""
    trace = worker.demand.trace
    busier = trace.at_rate(factor * trace.rate_per_s)
    replica = shape.fleet(tables, setting, 1)
    replicas = worker.replicas_for(busier, replica, 1, shape)
    if replicas is None:
        return 0.0
    fleet = shape.fleet(tables, setting, replicas)
    rate_per_s = capacity_if(worker, fleet, busier.rate_per_s, Circumstance())
    return rate_per_s / shape.usd_per_hour[replicas - 1]


def sweep(worker: Worker, serving: Serving, rates_per_s: Sequence[float]) -> list[Point]:
    """The deployment's latencies by rate: what one run each tells of every target."""
    demand = worker.demand
    points = []
    for rate in rates_per_s:
        records = run(worker.engine, demand.searched.at_rate(rate), serving)
        if records.rejected.any():
            return []
        slos = (*demand.slos, QUEUE_DELAY)
        figures = tuple(
            value(records, slo.metric, slo.percentile, bound(slo, slos, demand.searched))
            for slo in slos
        )
        ttft_s, tbt_s = value(records, "ttft", 90), value(records, "tbt", 99)
        points.append(Point(rate, figures, ttft_s, tbt_s))
    return points


def breakdown(
    worker: Worker, serving: Serving, rate_per_s: float, silent: Sequence[RuntimeTables]
) -> Breakdown:
    """Where time goes at a rate. ``silent``: the tables of each pool without communication."""
    found = run(worker.engine, worker.demand.searched.at_rate(rate_per_s), serving)
    duration_s = summary(found).duration_s
    total: Counter[str] = Counter()
    for (fleet, records), quiet in zip(pools(serving, found), silent, strict=False):
        total.update(_gpu_s(records, fleet.tables, quiet, duration_s))
    return Breakdown(tuple(total.items()), _request_s(found))


def _gpu_s(
    records: Records, tables: RuntimeTables, silent: RuntimeTables, duration_s: float
) -> dict[str, float]:
    """A step's linear layers are decode as far as its decodes alone would have taken, the rest prefill."""
    steps = records.steps
    sent_s = float(tables.send_s.sum(axis=0)[steps["tokens"]].sum())
    linear_s = tables.token_s.sum(axis=0)
    quiet_s = silent.token_s.sum(axis=0)
    communication_s = float((linear_s - quiet_s)[steps["tokens"]].sum()) + sent_s
    decode_s = float(quiet_s[steps["decodes"]].sum())
    prefill_s = float(quiet_s[steps["tokens"]].sum()) - decode_s + float(steps["prefill_s"].sum())
    heads_s = float(tables.sequence_s.sum(axis=0)[steps["sequences"]].sum())
    host_s = tables.host_step_s * len(steps)
    all_s = sum(time_by_source(tables, step_work(records)).values())
    kv_s = all_s - host_s - communication_s - decode_s - prefill_s - heads_s
    metrics = summarise(records)
    there_s = duration_s * records.replicas * records.stages
    in_step_s = metrics.busy * metrics.duration_s * records.replicas * records.stages
    idle_s = max(0.0, there_s - in_step_s - host_s * records.stages)
    return {
        "prefill": prefill_s,
        "decode_weights": decode_s + heads_s,
        "decode_kv": max(kv_s, 0.0),
        "communication": communication_s,
        "host": host_s * records.stages,
        "bubbles": max(0.0, in_step_s - (all_s - host_s)),
        "idle": idle_s,
    }


def _request_s(found: Run) -> tuple[tuple[str, float], ...]:
    """Of one that moves between pools, the transfer and the second queue are told from its decode."""
    first = found.prefill if isinstance(found, DisaggregatedRun) else found
    done = ~np.isnan(found.finish_s)
    decode_s = (found.finish_s - first.first_token_s)[done].sum()
    parts = {
        "queue": found.queue_delay_s[done].sum(),
        "prefill": (first.first_token_s - first.scheduled_s)[done].sum(),
        "decode": decode_s,
    }
    if isinstance(found, DisaggregatedRun):
        moved_s = np.nansum(found.transfer_s[done])
        again_s = parts["queue"] - first.queue_delay_s[done].sum()
        parts |= {"transfer": moved_s, "decode": decode_s - moved_s - again_s}
    return tuple((name, float(seconds)) for name, seconds in parts.items())


def _scaled(tokens: Ints, factor: float) -> Ints:
    scaled: Ints = np.maximum(np.rint(tokens * factor), 1).astype(np.int64)
    return scaled
