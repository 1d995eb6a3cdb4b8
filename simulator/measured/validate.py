"""A recorded run against its simulation: predicted and measured, statistic by statistic, with intervals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

import numpy as np

from servecast.compiler.errors import UserError
from servecast.simulator.engine.records import Records
from servecast.simulator.measured.run import MeasuredRun
from servecast.simulator.metrics.metrics import Samples, samples
from servecast.simulator.traffic.arrivals import stream
from servecast.simulator.traffic.workload import Floats, Ints

PERCENTILES = (50.0, 90.0, 95.0, 99.0)
RESAMPLES = 400
INTERVAL = (5.0, 95.0)
"""Of the resampled errors: a 90 % interval."""

MAX_DRAWS = 40_000_000
"""Draws in all, so that a run of a million requests still takes seconds."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One statistic of one metric, in seconds. ``error`` is predicted over measured, minus 1.

    ``error_low`` and ``error_high`` bound 90 % of what other samples of the requests would give (paired
    bootstrap); None for gaps between tokens, which come in too few independent bursts to resample.
    """

    metric: str
    statistic: str
    measured_s: float
    predicted_s: float
    error: float
    error_low: float | None
    error_high: float | None


def compare(run: MeasuredRun, records: Records, seed: int = 0) -> list[Comparison]:
    """Every statistic that was recorded, over the requests that both finished.

    Raises:
        UserError: no request finished in both.
    """
    predicted = predicted_latencies(records)
    rows: list[Comparison] = []
    for metric, measured_s in run.latencies_s.items():
        both = np.isfinite(measured_s) & np.isfinite(predicted[metric])
        if not both.any():
            raise UserError(
                f"{run.workload.name}: no request has a {metric} both measured and predicted"
            )
        draws = _resampled(int(both.sum()), seed, metric)
        rows += _latency_rows(metric, measured_s[both], predicted[metric][both], draws)
    if run.gaps_s is not None and len(run.gaps_s):
        rows += _gap_rows(run.gaps_s, samples(records, "tbt"))
    return rows


def predicted_latencies(records: Records) -> dict[str, Floats]:
    """The simulated latencies by metric, [requests]; NaN where a request has none."""
    decoding_s = records.finish_s - records.first_token_s
    gaps = records.output_tokens - 1
    return {
        "queue_delay": records.scheduled_s - records.arrival_s,
        "ttft": records.first_token_s - records.arrival_s,
        "tpot": np.where(gaps > 0, decoding_s / np.maximum(gaps, 1), np.nan),
        "e2e": records.finish_s - records.arrival_s,
    }


STATISTICS = ("mean", *(f"p{percentile:g}" for percentile in PERCENTILES))


def _statistics(values: Floats) -> list[float]:
    """By ``STATISTICS``; percentiles as `metrics` has them, so that both sides are judged alike."""
    pooled = Samples(values)
    return [pooled.mean(), *(pooled.percentile(percentile) for percentile in PERCENTILES)]


def _resampled(count: int, seed: int, metric: str) -> list[Ints]:
    rng = stream(seed, f"validate {metric}")
    return [
        rng.integers(count, size=count) for _ in range(max(20, min(RESAMPLES, MAX_DRAWS // count)))
    ]


def _latency_rows(
    metric: str, measured_s: Floats, predicted_s: Floats, draws: list[Ints]
) -> Iterator[Comparison]:
    errors = [
        list(map(_error, _statistics(measured_s[draw]), _statistics(predicted_s[draw])))
        for draw in draws
    ]
    low, high = np.percentile(
        errors, INTERVAL, axis=0, method="inverted_cdf"
    )  # errors may be infinite
    points = zip(STATISTICS, _statistics(measured_s), _statistics(predicted_s), strict=True)
    for i, (name, measured, predicted) in enumerate(points):
        error = _error(measured, predicted)
        yield Comparison(metric, name, measured, predicted, error, float(low[i]), float(high[i]))


def _gap_rows(measured_s: Floats, predicted: Samples) -> Iterator[Comparison]:
    simulated = [predicted.mean(), *(predicted.percentile(p) for p in PERCENTILES)]
    for name, one, other in zip(STATISTICS, _statistics(measured_s), simulated, strict=True):
        yield Comparison("tbt", name, one, other, _error(one, other), None, None)


def _error(measured: float, predicted: float) -> float:
    if measured == 0:
        return 0.0 if predicted == 0 else float("inf")
    return predicted / measured - 1


def comparison_json(rows: list[Comparison]) -> list[dict[str, Any]]:
    """Rows as JSON; an infinite error (nothing measured, something predicted) is null."""
    return [
        {
            name: None if isinstance(value, float) and not isfinite(value) else value
            for name, value in asdict(row).items()
        }
        for row in rows
    ]
