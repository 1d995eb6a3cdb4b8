"""What a workload looks like in a dozen numbers, as reports print it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from servecast.simulator.traffic.shape import (
    ArrivalCounts,
    Histogram,
    PrefixSummary,
    arrival_counts,
    length_histogram,
    prefix_summary,
    rank_correlation,
)
from servecast.simulator.traffic.workload import Floats, Ints, Workload

REQUESTS_PER_WINDOW = 10
"""Windows are this many mean gaps long, so that the dispersion of a rescaled trace stays the same."""

MIN_WINDOWS = 10
"""Fewer counts say nothing of their variance."""


@dataclass(frozen=True, slots=True)
class LengthSummary:
    """Tokens per request."""

    mean: float
    p50: float
    p90: float
    p99: float
    max: int
    total: int


@dataclass(frozen=True, slots=True)
class WorkloadSummary:
    """A workload's traffic; None where it has too few requests to say.

    ``gap_cv`` is the coefficient of variation of the gaps between arrivals, ``dispersion`` the
    variance of the number of arrivals in windows of ``dispersion_window_s`` over its mean: both
    are 1 for Poisson arrivals and more for bursts, the second also for slow ones.
    ``prompt_per_output`` is the ratio of all prompt tokens to all output tokens (P:D).
    ``length_correlation`` is Spearman's, of prompt and output lengths.
    ``rejected`` counts the rows of the file that became no request, by reason.
    """

    name: str
    path: str | None
    format: str | None
    num_requests: int
    num_rejected: int
    rejected: dict[str, int]
    span_s: float
    rate_per_s: float | None
    gap_cv: float | None
    dispersion: float | None
    dispersion_window_s: float | None
    prompt_tokens: LengthSummary
    output_tokens: LengthSummary
    prompt_per_output: float
    prompt_per_output_p50: float
    length_correlation: float | None
    prefix: PrefixSummary | None
    arrivals: ArrivalCounts | None
    prompt_histogram: Histogram
    output_histogram: Histogram


def describe(workload: Workload) -> WorkloadSummary:
    """The summary; ``dataclasses.asdict`` of it is JSON."""
    origin = workload.origin
    rejected = () if origin is None else origin.rejected
    rate_per_s = workload.rate_per_s if workload.span_s > 0 else None
    window_s = REQUESTS_PER_WINDOW / rate_per_s if rate_per_s else None
    dispersion = None if window_s is None else _dispersion(workload.arrival_s, window_s)
    return WorkloadSummary(
        name=workload.name,
        path=None if origin is None else origin.path,
        format=None if origin is None else origin.format,
        num_requests=len(workload),
        num_rejected=len(rejected),
        rejected=dict(sorted(Counter(row.reason for row in rejected).items())),
        span_s=workload.span_s,
        rate_per_s=rate_per_s,
        gap_cv=_gap_cv(workload.arrival_s),
        dispersion=dispersion,
        dispersion_window_s=None if dispersion is None else window_s,
        prompt_tokens=_lengths(workload.prompt_tokens),
        output_tokens=_lengths(workload.output_tokens),
        prompt_per_output=float(workload.prompt_tokens.sum() / workload.output_tokens.sum()),
        prompt_per_output_p50=float(np.median(workload.prompt_tokens / workload.output_tokens)),
        length_correlation=rank_correlation(workload.prompt_tokens, workload.output_tokens),
        prefix=prefix_summary(workload),
        arrivals=arrival_counts(workload),
        prompt_histogram=length_histogram(workload.prompt_tokens),
        output_histogram=length_histogram(workload.output_tokens),
    )


def _lengths(tokens: Ints) -> LengthSummary:
    p50, p90, p99 = (float(value) for value in np.percentile(tokens, (50, 90, 99)))
    return LengthSummary(
        mean=float(tokens.mean()),
        p50=p50,
        p90=p90,
        p99=p99,
        max=int(tokens.max()),
        total=int(tokens.sum()),
    )


def _gap_cv(arrival_s: Floats) -> float | None:
    gaps_s = np.diff(arrival_s)
    if len(gaps_s) < 2 or gaps_s.sum() == 0:
        return None
    return float(gaps_s.std() / gaps_s.mean())


def _dispersion(arrival_s: Floats, window_s: float) -> float | None:
    """Index of dispersion for counts (Cox and Lewis 1966); a last, partial window is left out."""
    since_s = arrival_s - arrival_s[0]
    num_windows = int(since_s[-1] / window_s)
    if num_windows < MIN_WINDOWS:
        return None
    window = (since_s / window_s).astype(np.int64)
    counts = np.bincount(window, minlength=num_windows)[:num_windows]
    return float(counts.var() / counts.mean())
