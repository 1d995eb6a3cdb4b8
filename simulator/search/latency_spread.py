"""How far a deployment's latencies at the trace's own rate move from one draw of the traffic to another.

The trace is resampled in blocks (`simulator/traffic/arrivals.py`); the operator times stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from math import exp, isfinite, log, sqrt
from statistics import stdev

from servecast.simulator.engine.routing import Engine
from servecast.simulator.metrics.as_json import METRIC_NAMES, Row, metrics_json
from servecast.simulator.metrics.metrics import ReplicaMetrics
from servecast.simulator.search.confidence import DEFAULT_CONFIDENCE, DRAWS, STUDENT_T
from servecast.simulator.search.serving import Serving, run, summary
from servecast.simulator.traffic.arrivals import bootstrap
from servecast.simulator.traffic.workload import Workload

MAX_REQUESTS = 20_000
"""Of a longer trace shorter resamples are drawn, whose intervals are wider than its own."""


def at_trace_rate(workload: Workload, serving: Serving, seed: int) -> Row:
    """``metrics`` under the trace as it is, and ``intervals`` that hold like traffic's 9 times in 10."""
    engine = Engine()
    found = summary(run(engine, workload, serving))
    draws = [summary(run(engine, drawn, serving)) for drawn in _resamples(workload, seed)]
    return {"metrics": metrics_json(found), "intervals": intervals(found, draws)}


def at_capacity(workload: Workload, serving: Serving, seed: int, rate_per_s: float) -> Row:
    """``intervals`` of the latencies at a rate, that of every resample."""
    engine = Engine()
    found, *draws = (
        summary(run(engine, each.at_rate(rate_per_s), serving))
        for each in (workload, *_resamples(workload, seed))
    )
    return intervals(found, draws)


def _resamples(workload: Workload, seed: int) -> Iterator[Workload]:
    size = min(len(workload), MAX_REQUESTS)
    return (bootstrap(workload, size, seed + 1 + draw) for draw in range(DRAWS))


def intervals(found: ReplicaMetrics, draws: Sequence[ReplicaMetrics]) -> Row:
    """``{metric: {statistic: [low, high]}}``; a statistic that is absent in a draw has none."""
    spread: Row = {}
    for name in METRIC_NAMES:
        points = asdict(getattr(found, name))
        sampled = [asdict(getattr(draw, name)) for draw in draws]
        spread[name] = {
            key: interval(point, [each[key] for each in sampled])
            for key, point in points.items()
            if isfinite(point) and all(isfinite(each[key]) for each in sampled)
        }
    return spread


def interval(point: float, draws: Sequence[float]) -> list[float]:
    """Where one more draw falls; on the log scale, but from the least to the most where one is 0."""
    if min(point, *draws) <= 0:
        return [min(point, *draws), max(point, *draws)]
    # The difference of two draws has twice the variance of one.
    reach = STUDENT_T[DEFAULT_CONFIDENCE] * stdev([log(draw) for draw in draws]) * sqrt(2)
    return [point * exp(-reach), point * exp(reach)]
