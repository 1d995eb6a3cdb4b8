"""A workload's shape, for pictures: counts over time, length histograms, what prompts share."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np

from servecast.simulator.traffic.prefix_hits import prefix_hits
from servecast.simulator.traffic.workload import Floats, Ints, Workload

MAX_WINDOWS = 120
MAX_BINS = 40
BINS_PER_DECADE = 10


@dataclass(frozen=True, slots=True)
class ArrivalCounts:
    """Requests in each of equal windows over the span."""

    window_s: float
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Histogram:
    """Requests by tokens: bin ``i`` holds from ``edges[i]`` to below ``edges[i + 1]``, the last both."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PrefixSummary:
    """What prompts share: ``token_share`` of all prompt tokens would come from a cache without limit."""

    block_tokens: int
    distinct_blocks: int
    token_share: float
    request_share: float


def arrival_counts(workload: Workload) -> ArrivalCounts | None:
    """At most MAX_WINDOWS windows; None where all requests arrive at one instant."""
    if workload.span_s == 0:
        return None
    windows = min(MAX_WINDOWS, len(workload))
    since_s = workload.arrival_s - workload.arrival_s[0]
    window = np.minimum((since_s * (windows / workload.span_s)).astype(np.int64), windows - 1)
    counts = np.bincount(window, minlength=windows)
    return ArrivalCounts(workload.span_s / windows, tuple(counts.tolist()))


def length_histogram(tokens: Ints) -> Histogram:
    """At most MAX_BINS bins, even on a logarithmic axis."""
    low, high = float(tokens.min()), float(tokens.max())
    if low == high:
        return Histogram((low, high), (len(tokens),))
    decades = np.log10(high / low)
    bins = int(np.clip(np.ceil(decades * BINS_PER_DECADE), 1, MAX_BINS))
    edges = np.geomspace(low, high, bins + 1)
    edges[0], edges[-1] = low, high
    counts, _ = np.histogram(tokens, edges)
    return Histogram(tuple(edges.tolist()), tuple(counts.tolist()))


def prefix_summary(workload: Workload) -> PrefixSummary | None:
    """None where the workload does not say which prompts share a prefix."""
    if workload.prefix is None:
        return None
    hits = prefix_hits(workload)
    return PrefixSummary(
        block_tokens=workload.prefix.block_tokens,
        distinct_blocks=len(np.unique(workload.prefix.ids)),
        token_share=float(hits.sum() / workload.prompt_tokens.sum()),
        request_share=float((hits > 0).mean()),
    )


def rank_correlation(left: Ints, right: Ints) -> float | None:
    """Spearman's, from -1 to 1; None where one of the two does not vary."""
    first, second = (ranks - ranks.mean() for ranks in (_ranks(left), _ranks(right)))
    spread = float(first @ first) * float(second @ second)
    return float(first @ second) / sqrt(spread) if spread > 0 else None


def _ranks(values: Ints) -> Floats:
    """Equal values share the mean of their ranks."""
    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(sizes) - (sizes - 1) / 2
    return np.asarray(mean_rank, dtype=np.float64).take(group)
