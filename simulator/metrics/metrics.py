"""What a run was like: exact percentiles of its latencies, and how its replicas were used.

Each metric is defined once, in `samples` (requests, gaps) and `ReplicaMetrics` (replicas). A percentile is
the nearest rank: the smallest value that at least that share of the values does not exceed. So "p99 <= limit"
says exactly that at most `allowed_late` values are above it. What is absent is NaN: an empty
distribution has no percentile. Requests that were rejected or did not finish are in no distribution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from servecast.simulator.engine.records import Floats, Records
from servecast.simulator.engine.step_sums import StepSums

# A replica that cannot keep up at a load of 1.05 delays its requests by 5 % of the time that passes.
_STABLE_DELAY_GROWTH = 0.05
# Sign, exponent and 4 (8) bits of the fraction: a bucket of few (many) values is at most 6 % (0.4 %) wide.
_FEW = 100_000
_BUCKET_SHIFT, _FINE_BUCKET_SHIFT = 48, 44
_PART = 1 << 18  # values


@dataclass(frozen=True, slots=True)
class Window:
    """Requests that arrive, and steps that end, from ``start_s`` to before ``end_s``."""

    start_s: float = -math.inf
    end_s: float = math.inf

    def holds(self, time_s: Floats) -> NDArray[np.bool_]:
        return np.asarray((time_s >= self.start_s) & (time_s < self.end_s))


WHOLE_RUN = Window()


class Samples:
    """Values of one metric, none negative, and how often each occurs.

    Percentiles are exact without sorting everything: values are counted by the leading bits of their
    representation, which order as the values do, and only the bucket with the rank is sorted.
    """

    def __init__(
        self, values: Floats, *, weights: NDArray[np.int32 | np.int64] | None = None
    ) -> None:
        self.values, self.weights = values, weights
        shift = _BUCKET_SHIFT if len(values) < _FEW else _FINE_BUCKET_SHIFT
        bits = np.ascontiguousarray(values, np.float64).view(np.int64)
        first = int(bits.min() >> shift) if len(values) else 0
        last = int(bits.max() >> shift) if len(values) else 0
        self._buckets = np.empty(len(values), np.int32)
        counts = np.zeros(last - first + 1)
        for part in _parts(len(values)):
            self._buckets[part] = (bits[part] >> shift) - first
            some = None if weights is None else weights[part]
            counts += np.bincount(self._buckets[part], some, len(counts))  # below 2**53, so exact
        self._upto = counts.cumsum().astype(np.int64)

    @property
    def total(self) -> int:
        return int(self._upto[-1]) if len(self.values) else 0

    def percentile(self, percentile: float) -> float:
        """The nearest-rank percentile, in (0, 100]; NaN without values."""
        if self.total == 0:
            return math.nan
        rank = max(self.total - allowed_late(self.total, percentile), 1)
        bucket = int(np.searchsorted(self._upto, rank))
        inside = np.flatnonzero(self._buckets == bucket)
        order = inside[np.argsort(self.values[inside])]
        weights = np.ones(len(order), np.int64) if self.weights is None else self.weights[order]
        before = int(self._upto[bucket - 1]) if bucket else 0
        return float(self.values[order[np.searchsorted(weights.cumsum(), rank - before)]])

    def mean(self) -> float:
        if self.total == 0:
            return math.nan
        if self.weights is None:
            return float(self.values.sum()) / self.total
        parts = _parts(len(self.values))
        return sum(float((self.values[p] * self.weights[p]).sum()) for p in parts) / self.total

    def above(self, limit: float) -> int:
        """How many exceed it."""
        late = self.values > limit
        return int(late.sum() if self.weights is None else self.weights[late].sum())

    def repeated(self) -> Floats:
        """Every value as often as it occurs, rising."""
        every = self.values if self.weights is None else np.repeat(self.values, self.weights)
        return np.sort(every)


def _parts(count: int) -> list[slice]:
    """Of so many values: what is computed from a part stays in the processor's cache, and is soon gone."""
    return [slice(begin, begin + _PART) for begin in range(0, count, _PART)]


@dataclass(frozen=True, slots=True)
class Distribution:
    p50: float
    p90: float
    p95: float
    p99: float
    mean: float
    max: float


@dataclass(frozen=True, slots=True)
class ReplicaMetrics:
    """A run in numbers; seconds, tokens, shares of 1.

    ``duration_s``: first arrival to last finish. ``output_tokens_per_s``, ``requests_per_s``: of the
    finished, over it. ``mean_batch``: sequences per step; ``mean_tokens``: tokens per step.
    ``kv_use_mean``: used blocks over all blocks, weighted by step time; ``kv_use_peak``: its highest.
    ``busy``: share of ``duration_s`` with a batch in flight, mean over the replicas. ``stable``: the
    queue delay does not grow by more than 5 % of the time that passes (least squares over the arrivals).
    """

    ttft_s: Distribution
    tbt_s: Distribution
    tpot_s: Distribution
    e2e_s: Distribution
    queue_delay_s: Distribution
    num_finished: int
    num_rejected: int
    num_unfinished: int
    duration_s: float
    requests_per_s: float
    output_tokens_per_s: float
    mean_batch: float
    mean_tokens: float
    kv_use_mean: float
    kv_use_peak: float
    busy: float
    preemptions: int
    stable: bool


def allowed_late(count: int, percentile: float) -> int:
    """How many of ``count`` values may exceed a limit that their percentile keeps."""
    return count - math.ceil(count * Fraction(str(percentile)) / 100)


def samples(
    records: Records,
    metric: str,
    window: Window = WHOLE_RUN,
    of: NDArray[np.bool_] | None = None,
) -> Samples:
    """The values of a metric of `compiler.service.METRICS`, of the requests ``of`` [requests]; None: of all.

    queue_delay: first put into a batch - arrival. ttft: first token - arrival. e2e: last token - arrival.
    tpot: (last token - first token) / (output tokens - 1), of requests with two tokens or more.
    tbt: every gap between two tokens of a request, each gap once. normalised_latency: e2e / output tokens.
    """
    if metric == "tbt":
        return _gaps(records, window) if of is None else _gaps_of(records, window, of)
    arrival_s, finish_s = records.arrival_s, records.finish_s
    served = records.finished & window.holds(arrival_s)
    if of is not None:
        served &= of
    if metric == "tpot":
        served &= records.output_tokens > 1
    match metric:
        case "queue_delay":
            values = records.scheduled_s[served] - arrival_s[served]
        case "ttft":
            values = records.first_token_s[served] - arrival_s[served]
        case "e2e":
            values = finish_s[served] - arrival_s[served]
        case "tpot":
            decoding_s = finish_s[served] - records.first_token_s[served]
            values = decoding_s / (records.output_tokens[served] - 1)
        case "normalised_latency":
            values = (finish_s[served] - arrival_s[served]) / records.output_tokens[served]
        case _:
            raise ValueError(f"no metric {metric!r}")
    return Samples(values)


def _gaps(records: Records, window: Window) -> Samples:
    """A step with B decodes is B equal gaps since its lane's last step; a preemption makes one more."""
    if records.sums is not None:
        if window is not WHOLE_RUN:
            raise ValueError("a run in chunks keeps no times of its gaps between tokens")
        values, weights = records.sums.gaps()
        return Samples(values, weights=weights)
    order, _ = records.by_lane()
    end_s, decodes = records.end_s[order], records.decodes[order]
    if not records.lock_step:
        decodes = _following_tokens(records)
    after = np.flatnonzero((decodes > 0) & window.holds(end_s))
    values, weights = end_s[after] - end_s[after - 1], decodes[after]
    if len(records.segments):
        request, first, last, _ = records.token_segments()
        again = np.flatnonzero((request[1:] == request[:-1]) & window.holds(end_s[first[1:]]))
        values = np.concatenate((values, end_s[first[again + 1]] - end_s[last[again]]))
        weights = np.concatenate((weights, np.ones(len(again), np.int64)))
    return Samples(values, weights=weights)


def _gaps_of(records: Records, window: Window, of: NDArray[np.bool_]) -> Samples:
    """Of these requests alone: a run of tokens has a gap for each token after its first."""
    request, first, last, end_s = records.token_segments()
    mine = of[request]
    request, first, last = request[mine], first[mine], last[mine]
    change = np.zeros(len(end_s) + 1, np.int64)
    np.add.at(change, first + 1, 1)
    np.subtract.at(change, last + 1, 1)
    decodes = np.cumsum(change)[:-1]
    after = np.flatnonzero((decodes > 0) & window.holds(end_s))
    again = np.flatnonzero((request[1:] == request[:-1]) & window.holds(end_s[first[1:]]))
    values = np.concatenate(
        (end_s[after] - end_s[after - 1], end_s[first[again + 1]] - end_s[last[again]])
    )
    return Samples(values, weights=np.concatenate((decodes[after], np.ones(len(again), np.int64))))


def _following_tokens(records: Records) -> NDArray[np.int32]:
    """Of each step by lane, the tokens whose request also had one in the step before."""
    _, first, last, _ = records.token_segments()
    change = np.zeros(len(records.steps) + 1, np.int32)
    np.add.at(change, first + 1, 1)
    np.subtract.at(change, last + 1, 1)
    return np.cumsum(change, dtype=np.int32)[:-1]


def value(
    records: Records, metric: str, percentile: float | None, window: Window = WHOLE_RUN
) -> float:
    """One percentile of a metric, or its mean where the percentile is None; NaN without values."""
    found = samples(records, metric, window)
    return found.mean() if percentile is None else found.percentile(percentile)


def distribution(records: Records, metric: str, window: Window = WHOLE_RUN) -> Distribution:
    return distribution_of(samples(records, metric, window))


def distribution_of(found: Samples) -> Distribution:
    p50, p90, p95, p99, highest = (found.percentile(p) for p in (50, 90, 95, 99, 100))
    return Distribution(p50, p90, p95, p99, found.mean(), highest)


def summarise(records: Records, window: Window = WHOLE_RUN) -> ReplicaMetrics:
    """All metrics of a run or of a window of it; of a run in chunks there is no window."""
    arrived = window.holds(records.arrival_s)
    finished = records.finished & arrived
    steps = records.steps if window is WHOLE_RUN else records.steps[window.holds(records.end_s)]
    duration_s = math.nan
    if finished.any():
        duration_s = float(records.finish_s[finished].max() - records.arrival_s[arrived][0])
    use = records.sums or StepSums(records.replicas, records.stages)
    if records.sums is None:
        use.add_use(steps)
    return ReplicaMetrics(
        ttft_s=distribution(records, "ttft", window),
        tbt_s=distribution(records, "tbt", window),
        tpot_s=distribution(records, "tpot", window),
        e2e_s=distribution(records, "e2e", window),
        queue_delay_s=distribution(records, "queue_delay", window),
        num_finished=int(finished.sum()),
        num_rejected=int((records.rejected & arrived).sum()),
        num_unfinished=int((arrived & ~finished & ~records.rejected).sum()),
        duration_s=duration_s,
        requests_per_s=float(finished.sum()) / duration_s,
        output_tokens_per_s=float(records.output_tokens[finished].sum()) / duration_s,
        mean_batch=use.sequences / use.steps if use.steps else math.nan,
        mean_tokens=use.tokens / use.steps if use.steps else math.nan,
        kv_use_mean=use.used_block_s / use.took_s / records.kv_blocks if use.steps else math.nan,
        kv_use_peak=use.peak_blocks / records.kv_blocks if use.steps else math.nan,
        busy=use.busy_s / records.replicas / duration_s,
        preemptions=int(records.preemptions[arrived].sum()),
        stable=_stable(records, finished),
    )


def _stable(records: Records, finished: NDArray[np.bool_]) -> bool:
    if records.given_up:
        return False
    at_s = records.arrival_s[finished]
    if len(at_s) < 2 or at_s[0] == at_s[-1]:
        return True
    delay_s = records.scheduled_s[finished] - at_s
    centred_s = at_s - at_s.mean()
    growth = float((centred_s * delay_s).sum() / (centred_s**2).sum())
    return growth <= _STABLE_DELAY_GROWTH
