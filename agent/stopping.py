"""When to stop sampling a runtime, and what to say of the samples. Pure: fed with numbers, sees no device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import NormalDist, fmean, median, quantiles, stdev

Z_95 = NormalDist().inv_cdf(0.975)
DRIFT_ERRORS = 3.0  # halves whose medians differ by 3 standard errors did not see one speed
DRIFT_FLOOR = 0.02  # below 2 % a drift is within the repeat noise of GEMMs on one GPU
TAIL_SHIFT = 0.05  # a mean 5 % away from the median is the outliers' number, not the kernel's


class StopReason(StrEnum):
    CONVERGED = "converged"
    MAX_SAMPLES = "max_samples"
    MAX_TIME = "max_time"


class Flag(StrEnum):
    """What a reader of the statistics must know; none means trustworthy."""

    DRIFTING = "drifting"
    HEAVY_TAILED = "heavy_tailed"
    NOT_CONVERGED = "not_converged"
    THROTTLED = "throttled"


UNSTABLE = frozenset({Flag.DRIFTING, Flag.HEAVY_TAILED})
"""Not one speed with noise around it; another moment may show one. A wide interval is no such thing."""


@dataclass(frozen=True, slots=True)
class StopRule:
    """Stop once the 95 % confidence interval of the mean is within ``relative_ci`` of it, or at a limit."""

    relative_ci: float = 0.01
    min_samples: int = 10
    max_samples: int = 1000
    max_case_s: float = 0.25

    def __post_init__(self) -> None:
        if not 0 < self.relative_ci < 1:
            raise ValueError(f"relative_ci must be between 0 and 1, not {self.relative_ci}")
        if not 2 <= self.min_samples <= self.max_samples:
            raise ValueError(
                f"min_samples must be between 2 and max_samples, not {self.min_samples} of {self.max_samples}"
            )
        if not self.max_case_s > 0:
            raise ValueError(f"max_case_s must be positive, not {self.max_case_s}")

    def verdict(self, moments: Moments, elapsed_s: float) -> StopReason | None:
        """Why to stop now, or None to go on. The minimum of samples is taken even past the time limit."""
        if moments.n < self.min_samples:
            return None
        if moments.relative_half_width() <= self.relative_ci:
            return StopReason.CONVERGED
        if moments.n >= self.max_samples:
            return StopReason.MAX_SAMPLES
        if elapsed_s >= self.max_case_s:
            return StopReason.MAX_TIME
        return None


@dataclass(slots=True)
class Moments:
    """Running mean and variance (Welford 1962), so that each verdict costs the same."""

    n: int = 0
    mean: float = 0.0
    _squares: float = 0.0

    def add(self, value: float) -> None:
        self.n += 1
        delta = value - self.mean
        self.mean += delta / self.n
        self._squares += delta * (value - self.mean)

    def relative_half_width(self) -> float:
        """Half width of the mean's 95 % confidence interval over the mean; infinite below two samples."""
        if self.n < 2 or self.mean <= 0:
            return math.inf
        std = math.sqrt(self._squares / (self.n - 1))
        return t_975(self.n - 1) * std / math.sqrt(self.n) / self.mean


def t_975(degrees: int) -> float:
    """Student's t at 97.5 %, (Abramowitz and Stegun 26.7.5); within 0.2 % from 5 degrees on."""
    z = Z_95
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / degrees + second / degrees**2 + third / degrees**3


@dataclass(frozen=True, slots=True)
class Statistics:
    """Runtime of one launch in microseconds over ``n`` samples; ``std_us`` is the sample deviation."""

    n: int
    mean_us: float
    std_us: float
    min_us: float
    median_us: float
    p90_us: float


def summarise(samples_us: Sequence[float]) -> Statistics:
    """Statistics of at least two samples."""
    return Statistics(
        n=len(samples_us),
        mean_us=fmean(samples_us),
        std_us=stdev(samples_us),
        min_us=min(samples_us),
        median_us=median(samples_us),
        p90_us=quantiles(samples_us, n=10, method="inclusive")[-1],
    )


def judge(samples_us: Sequence[float], reason: StopReason) -> tuple[Flag, ...]:
    """What is wrong with samples in the order taken; nothing is ever dropped from them."""
    flags = []
    if reason is not StopReason.CONVERGED:
        flags.append(Flag.NOT_CONVERGED)
    if _drifts(samples_us):
        flags.append(Flag.DRIFTING)
    middle = median(samples_us)
    if abs(fmean(samples_us) - middle) > TAIL_SHIFT * middle:
        flags.append(Flag.HEAVY_TAILED)
    return tuple(sorted(flags))


def _drifts(samples_us: Sequence[float]) -> bool:
    """Whether the halves disagree by more than their noise; medians, so that one outlier is no drift."""
    half = len(samples_us) // 2
    if half < 4:
        return False
    first, second = samples_us[:half], samples_us[half:]
    gap = abs(median(first) - median(second))
    spread = math.hypot(stdev(first), stdev(second)) / math.sqrt(half)
    return gap > max(DRIFT_ERRORS * spread, DRIFT_FLOOR * median(samples_us))
