"""How sure a ranking is: capacities under resamples of the trace and draws of the operator times' errors.

Draws are common: one seed gives every configuration the same requests, and one GPU's kernels the same errors.
The trace is resampled in blocks (`simulator/traffic/arrivals.py`); the errors are those of the estimators and
of the datasheet (`estimator/load.py`, ``drawn_tables``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import atan, ceil, cos, exp, inf, log, pi, sin, sqrt
from statistics import fmean, stdev

DRAWS = 6
STUDENT_T = {0.8: 1.476, 0.9: 2.015, 0.95: 2.571, 0.99: 4.032}
"""Two-sided quantiles at DRAWS - 1 degrees of freedom."""
ONE_SIDED_T = {0.8: 0.920, 0.9: 1.476, 0.95: 2.015, 0.99: 3.365}
"""The same from below alone: a capacity may be as high as it likes."""
DEFAULT_CONFIDENCE = 0.9
CONTENDER = 0.85
"""Configurations below this share of the best one's figure are behind beyond doubt."""
MAX_CONTENDERS = 12
MAX_TIMES_THE_TRACE = 100
"""Beyond so many times the trace more of it is no answer: the two are as good as equal."""


@dataclass(frozen=True, slots=True)
class Draws:
    """A configuration's capacities: ``sampled`` by the trace alone, ``both`` by errors, too."""

    found: float
    sampled: tuple[float, ...]
    both: tuple[float, ...]
    usd_per_hour: float


@dataclass(frozen=True, slots=True)
class Confidence:
    """``interval`` holds the capacity under like traffic, as sure as asked; ``tied``: not told from the best.

    ``trace_share`` of the interval's variance is the traffic's, the rest that of operator times. ``apart``:
    what would tell a tied one from the best.
    """

    interval: tuple[float, float]
    tied: bool
    trace_share: float | None
    apart: Apart | None = None


@dataclass(frozen=True, slots=True)
class Apart:
    """``by`` more trace (so many ``times`` as long), profiling, or draws; neither: as good as equal."""

    by: str
    times: int | None = None


def confidences(draws: Sequence[Draws], confidence: float = DEFAULT_CONFIDENCE) -> list[Confidence]:
    """The best first. A configuration is tied when the interval of its mean log ratio of requests per dollar
    to the best one's, draw by draw, does not exclude a draw.
    """
    reach = STUDENT_T[confidence]
    best = draws[0]
    found = []
    for index, mine in enumerate(draws):
        tied = index == 0 or not is_behind(mine, best, reach)
        apart = _apart(mine, best, reach) if tied and index else None
        found.append(Confidence(_interval(mine, reach), tied, _trace_share(mine), apart))
    return found


@dataclass(frozen=True, slots=True)
class Spread:
    """What draws of some configurations say of others like them that nobody drew: the widest interval as
    factors on the capacity, and how far behind the best one is told from it, as a logarithm."""

    low: float
    high: float
    behind: float

    def interval(self, capacity: float) -> tuple[float, float]:
        return capacity * self.low, capacity * self.high


def spread(alike: Sequence[Draws], best: Draws, confidence: float = DEFAULT_CONFIDENCE) -> Spread:
    """Of all that are ``alike``, the most of each."""
    reach = STUDENT_T[confidence]
    intervals = [(each.found, *_interval(each, reach)) for each in alike]
    return Spread(
        low=min(low / found for found, low, _ in intervals),
        high=max(high / found for found, _, high in intervals),
        behind=max(_told_from(each, best, reach) for each in alike),
    )


def _told_from(mine: Draws, best: Draws, reach: float) -> float:
    ratios = _log_ratios(mine.both, best.both, mine, best)
    if len(ratios) < len(best.both):
        return inf
    return reach * stdev(ratios) / sqrt(len(ratios))


def carried_with(draws: Draws, rate_per_s: float) -> float:
    """How surely one more draw of a capacity is no lower than a rate.

    Student's t at DRAWS - 1 = 5 degrees of freedom in closed form (Abramowitz and Stegun, 26.7.3). Where a
    draw had no capacity, the share of the draws that carry it.
    """
    if min(draws.both) <= 0:
        every = (draws.found, *draws.both)
        return sum(value >= rate_per_s for value in every) / len(every)
    width, room = _width(draws), log(draws.found / rate_per_s)
    if width == 0:
        return float(room >= 0)
    angle = atan(room / width / sqrt(DRAWS - 1))
    return 0.5 + (angle + sin(angle) * cos(angle) * (1 + 2 / 3 * cos(angle) ** 2)) / pi


def margin(draws: Draws, confidence: float) -> float:
    """By what factor a capacity exceeds a rate that it carries as surely; infinite where none is so sure."""
    return exp(ONE_SIDED_T[confidence] * _width(draws)) if min(draws.both) > 0 else inf


def _width(draws: Draws) -> float:
    """Standard deviation of the logarithm of one draw over another, which has twice the variance of one."""
    return stdev([log(value) for value in draws.both]) * sqrt(2)


def _interval(draws: Draws, reach: float) -> tuple[float, float]:
    """Where one more draw falls, given ``found``, a draw itself, and the spread of the others.

    From 0 where a draw had no capacity.
    """
    if min(draws.both) <= 0:
        return 0.0, max(draws.found, *draws.both)
    width = reach * _width(draws)
    return draws.found * exp(-width), draws.found * exp(width)


def is_behind(mine: Draws, best: Draws, reach: float) -> bool:
    ratios = _log_ratios(mine.both, best.both, mine, best)
    if len(ratios) < len(best.both):
        return min(mine.both) <= 0 < min(best.both)
    return fmean(ratios) + _told_from(mine, best, reach) < 0


def _log_ratios(
    values: Sequence[float], others: Sequence[float], mine: Draws, best: Draws
) -> list[float]:
    """Of requests per dollar, where both have any."""
    price = log(best.usd_per_hour / mine.usd_per_hour)
    return [log(a / b) + price for a, b in zip(values, others, strict=True) if a > 0 and b > 0]


def _trace_share(draws: Draws) -> float | None:
    if min(*draws.both, *draws.sampled) <= 0:
        return None
    both = stdev([log(value) for value in draws.both]) ** 2
    sampled = stdev([log(value) for value in draws.sampled]) ** 2
    return min(1.0, sampled / both) if both else None


def _apart(mine: Draws, best: Draws, reach: float) -> Apart:
    """Whichever of the two spreads is the larger in the ratio of the two configurations."""
    both = _log_ratios(mine.both, best.both, mine, best)
    sampled = _log_ratios(mine.sampled, best.sampled, mine, best)
    if len(both) < len(best.both) or len(sampled) < len(best.sampled):
        return Apart("more trace")
    of_trace, gap = stdev(sampled), abs(fmean(sampled))
    if stdev(both) ** 2 > 2 * of_trace**2:
        return Apart("profiling")
    if gap == 0 or (reach * of_trace / gap) ** 2 / len(sampled) > MAX_TIMES_THE_TRACE:
        return Apart("neither")
    return Apart("more trace", max(2, ceil((reach * of_trace / gap) ** 2 / len(sampled))))
