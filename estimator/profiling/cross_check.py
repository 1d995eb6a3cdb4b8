"""Whether two nodes of one SKU measure the same: a few cases on every GPU, compared, not stored. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from servecast.agent.stopping import Statistics
from servecast.compiler.kernels import KernelCase

TOLERANCE = 0.05  # repeats of one GEMM on one GPU differ by 2 to 4 %
STANDARD_ERRORS = 3.0


@dataclass(frozen=True, slots=True)
class Check:
    """One case on one GPU of an agent, ``who``."""

    who: str
    sku: str
    case: KernelCase
    statistics: Statistics


@dataclass(frozen=True, slots=True)
class Disagreement:
    """Means of one case on two GPUs of one SKU that differ by more than their noise."""

    sku: str
    case: KernelCase
    slow: str
    slow_us: float
    fast: str
    fast_us: float

    def __str__(self) -> str:
        dims = ", ".join(f"{name} {value}" for name, value in self.case.dims)
        excess = self.slow_us / self.fast_us - 1
        return (
            f"{self.sku}: {self.case.kernel} ({dims}) takes {self.slow_us:.1f} us on {self.slow} and "
            f"{self.fast_us:.1f} us on {self.fast}, {excess:.0%} more"
        )


def cases_to_check(cases: Sequence[KernelCase], count: int) -> list[KernelCase]:
    """``count`` cases of single GPUs, spread over the plan."""
    alone = [case for case in cases if "degree" not in dict(case.dims)]
    if not alone or count <= 0:
        return []
    step = max(1, len(alone) // count)
    return alone[::step][:count]


def disagreements(checks: Iterable[Check]) -> list[Disagreement]:
    """Pairs in the order of their cases; the medians are compared, so that one outlier is no verdict."""
    by_case: dict[tuple[str, KernelCase], list[Check]] = {}
    for check in checks:
        by_case.setdefault((check.sku, check.case), []).append(check)
    return [
        found
        for _, group in sorted(by_case.items())
        for a, b in combinations(sorted(group, key=lambda check: check.who), 2)
        if (found := _compare(a, b)) is not None
    ]


def _compare(a: Check, b: Check) -> Disagreement | None:
    fast, slow = sorted((a, b), key=lambda check: check.statistics.median_us)
    gap = slow.statistics.median_us - fast.statistics.median_us
    noise = math.hypot(*(c.statistics.std_us / math.sqrt(c.statistics.n) for c in (a, b)))
    if gap <= max(TOLERANCE * fast.statistics.median_us, STANDARD_ERRORS * noise):
        return None
    times = (slow.statistics.median_us, fast.statistics.median_us)
    return Disagreement(a.sku, a.case, slow.who, times[0], fast.who, times[1])
