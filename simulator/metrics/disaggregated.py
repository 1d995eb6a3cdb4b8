"""What a run with prefill and decode apart was like, in the figures of one that has them together. Pure."""

from __future__ import annotations

from dataclasses import replace
from math import nan

import numpy as np
from numpy.typing import NDArray

from servecast.simulator.engine.disaggregation import DisaggregatedRun
from servecast.simulator.metrics.metrics import (
    ReplicaMetrics,
    Samples,
    distribution_of,
    samples,
    summarise,
)


def summarise_pools(run: DisaggregatedRun) -> ReplicaMetrics:
    """Latencies over the requests' whole lives; batches and cache are the decode pool's, where it has steps.

    ``busy`` is the mean over the replicas of both pools; preemptions are of both.
    """
    finish_s, rejected = run.finish_s, run.rejected
    finished = np.isfinite(finish_s)
    duration_s = nan
    if finished.any():
        duration_s = float(finish_s[finished].max() - run.prefill.arrival_s[0])
    first, second = pool_metrics(run, duration_s)
    pool = first if second is None else second
    return replace(
        pool,
        ttft_s=distribution_of(pool_samples(run, "ttft")),
        tbt_s=distribution_of(pool_samples(run, "tbt")),
        tpot_s=distribution_of(pool_samples(run, "tpot")),
        e2e_s=distribution_of(pool_samples(run, "e2e")),
        queue_delay_s=distribution_of(pool_samples(run, "queue_delay")),
        num_finished=int(finished.sum()),
        num_rejected=int(rejected.sum()),
        num_unfinished=int((~finished & ~rejected).sum()),
        duration_s=duration_s,
        requests_per_s=float(finished.sum()) / duration_s,
        output_tokens_per_s=float(run.output_tokens[finished].sum()) / duration_s,
        busy=_mean_busy(run, first, second),
        preemptions=first.preemptions + (second.preemptions if second else 0),
        stable=first.stable and (second is None or second.stable),
    )


def pool_metrics(
    run: DisaggregatedRun, duration_s: float
) -> tuple[ReplicaMetrics, ReplicaMetrics | None]:
    """Each pool by itself, prefill first; ``busy`` is the share of the whole run's duration."""
    first = _over(summarise(run.prefill), duration_s)
    return first, None if run.decode is None else _over(summarise(run.decode), duration_s)


def _over(metrics: ReplicaMetrics, duration_s: float) -> ReplicaMetrics:
    return replace(metrics, busy=metrics.busy * metrics.duration_s / duration_s)


def _mean_busy(
    run: DisaggregatedRun, first: ReplicaMetrics, second: ReplicaMetrics | None
) -> float:
    if run.decode is None or second is None:
        return first.busy
    replicas = (run.prefill.replicas, run.decode.replicas)
    return float(np.average((first.busy, second.busy), weights=replicas))


def pool_samples(
    run: DisaggregatedRun, metric: str, of: NDArray[np.bool_] | None = None
) -> Samples:
    """As `metrics.samples`, over the whole life of the requests that finished."""
    finish_s, first_s = run.finish_s, run.prefill.first_token_s
    served = np.isfinite(finish_s)
    if of is not None:
        served &= of
    arrival_s = run.prefill.arrival_s
    match metric:
        case "queue_delay":  # in both pools
            return Samples(run.queue_delay_s[served])
        case "ttft":
            return Samples((first_s - arrival_s)[served])
        case "e2e":
            return Samples((finish_s - arrival_s)[served])
        case "tpot":
            several = served & (run.output_tokens > 1)
            return Samples((finish_s - first_s)[several] / (run.output_tokens[several] - 1))
        case "normalised_latency":
            return Samples((finish_s - arrival_s)[served] / run.output_tokens[served])
        case "tbt":
            return _gaps(run, of)
    raise ValueError(f"no metric {metric!r}")


def _gaps(run: DisaggregatedRun, of: NDArray[np.bool_] | None) -> Samples:
    """The decode fleet's, and from each first token over the link to the second."""
    if run.decode is None:
        return Samples(np.empty(0))
    mine = None if of is None else of[run.decoded]
    later = samples(run.decode, "tbt", of=mine)
    handover_s = run.decode.first_token_s - run.prefill.first_token_s[run.decoded]
    handover_s = handover_s[run.decode.finished if mine is None else run.decode.finished & mine]
    weights = np.ones(len(later.values), np.int64) if later.weights is None else later.weights
    return Samples(
        np.concatenate((later.values, handover_s)),
        weights=np.concatenate((weights, np.ones(len(handover_s), np.int64))),
    )
