"""How sure a ranking is: capacities under resamples of the trace, with the same resamples for all.

Covers the sampling of the workload (block bootstrap, `simulator/arrivals.py`), not the error of the
operator times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log, sqrt
from statistics import fmean, stdev

RESAMPLES = 6
T_90 = 2.015
"""Student's t for a two-sided 90 % interval at RESAMPLES - 1 degrees of freedom."""
CONTENDER = 0.85
"""Configurations below this share of the best one's requests per dollar are behind beyond doubt."""
MAX_CONTENDERS = 12


@dataclass(frozen=True, slots=True)
class Confidence:
    """``interval`` holds the capacity of a like workload in 9 of 10; ``tied``: not told from the best."""

    interval: tuple[float, float]
    tied: bool


def confidences(
    found: Sequence[float], resampled: Sequence[Sequence[float]], usd_per_hour: Sequence[float]
) -> list[Confidence]:
    """From the capacities found, those [configurations, RESAMPLES] and prices, the best first.

    A configuration is tied when the 90 % interval of its mean log ratio of requests per dollar to the
    best, resample by resample, does not exclude a draw.
    """
    per_dollar = [
        [value / price for value in each]
        for each, price in zip(resampled, usd_per_hour, strict=True)
    ]
    best = per_dollar[0]
    return [
        Confidence(_interval(point, capacities), index == 0 or not _behind(mine, best))
        for index, (point, capacities, mine) in enumerate(
            zip(found, resampled, per_dollar, strict=True)
        )
    ]


def _interval(point: float, resampled: Sequence[float]) -> tuple[float, float]:
    """Where one more draw falls, given ``point``, a draw itself, and the spread of the resamples.

    On the log scale the difference of two draws has twice the variance of one. From 0 where a
    resample had no capacity.
    """
    if min(resampled) <= 0:
        return 0.0, max(point, *resampled)
    reach = T_90 * stdev([log(value) for value in resampled]) * sqrt(2)
    return point * exp(-reach), point * exp(reach)


def _behind(values: Sequence[float], best: Sequence[float]) -> bool:
    pairs = [(a, b) for a, b in zip(values, best, strict=True) if a > 0 and b > 0]
    if len(pairs) < len(best):
        return min(values) <= 0 < min(best)
    ratios = [log(a / b) for a, b in pairs]
    return fmean(ratios) + T_90 * stdev(ratios) / sqrt(len(ratios)) < 0
