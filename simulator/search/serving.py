"""What serves requests in a search, run and measured: equal replicas, or prefill and decode apart."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from servecast.estimator.tables import StepWork, time_by_source
from servecast.simulator.engine.disaggregation import (
    Disaggregated,
    DisaggregatedRun,
    run_disaggregated,
)
from servecast.simulator.engine.records import LateTargets, Records
from servecast.simulator.engine.routing import Engine, Fleet
from servecast.simulator.metrics.attained import Run
from servecast.simulator.metrics.disaggregated import pool_samples, summarise_pools
from servecast.simulator.metrics.metrics import ReplicaMetrics, Samples, samples, summarise
from servecast.simulator.search.task import Shape
from servecast.simulator.traffic.workload import Ints, Workload

Serving = Fleet | Disaggregated


def run(
    engine: Engine,
    workload: Workload,
    serving: Serving,
    late: LateTargets | None = None,
    loaded_tokens: Ints | None = None,
) -> Run:
    """Every request to its end, or until ``late`` is missed; valid until the engine's next run.

    ``loaded_tokens`` [requests] of the prompts need no prefill.
    """
    if isinstance(serving, Fleet):
        return engine.run(workload, serving, late, loaded_tokens=loaded_tokens)
    return run_disaggregated(engine, workload, serving, late, loaded_tokens)


def values(found: Run, metric: str, of: NDArray[np.bool_] | None = None) -> Samples:
    """Of the requests ``of`` [requests]; None: of all."""
    if isinstance(found, DisaggregatedRun):
        return pool_samples(found, metric, of)
    return samples(found, metric, of=of)


def value(
    found: Run, metric: str, percentile: float | None, of: NDArray[np.bool_] | None = None
) -> float:
    """One percentile of a metric, or its mean where the percentile is None; NaN without values."""
    every = values(found, metric, of)
    return every.mean() if percentile is None else every.percentile(percentile)


def summary(found: Run) -> ReplicaMetrics:
    if isinstance(found, DisaggregatedRun):
        return summarise_pools(found)
    return summarise(found)


def pools(serving: Serving, found: Run) -> list[tuple[Fleet, Records]]:
    """Each pool and what it did; a decode pool that nothing was sent to did nothing."""
    if isinstance(serving, Fleet):
        assert isinstance(found, Records)
        return [(serving, found)]
    assert isinstance(found, DisaggregatedRun)
    both = [(serving.prefill, found.prefill)]
    return both if found.decode is None else [*both, (serving.decode, found.decode)]


def utilisations(found: Run, metrics: ReplicaMetrics, *shapes: Shape) -> list[float | None]:
    """Of each pool's GPUs, of the shapes in turn, over the whole run: `Drawing.utilisation`."""
    both = (found.prefill, found.decode) if isinstance(found, DisaggregatedRun) else (found,)
    return [
        None
        if shape.drawing is None
        else 0.0
        if records is None
        else shape.drawing.utilisation(records, metrics.duration_s)
        for shape, records in zip(shapes, both, strict=True)
    ]


def seconds_by_source(serving: Serving, found: Run) -> tuple[tuple[str, float], ...]:
    """Predicted seconds of all steps by where their times come from."""
    total: Counter[str] = Counter()
    for fleet, records in pools(serving, found):
        total.update(time_by_source(fleet.tables, step_work(records)))
    return tuple(total.items())


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
