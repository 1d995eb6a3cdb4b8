"""The highest rate at which one replica keeps its targets: bisection with common random numbers.

Every probe replays the same requests in the same pattern at another rate, so two rates (and two
configurations) differ by their load alone. A probe that has already broken a target is given up, which
changes no answer: the count of late requests only grows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf, isnan

from servecast.compiler.service import Slo
from servecast.simulator.metrics import allowed_late, value
from servecast.simulator.records import LateTargets, Records
from servecast.simulator.routing import Engine, Fleet
from servecast.simulator.workload import Workload

QUEUE_DELAY = Slo("queue_delay", 99, 5.0)
"""Always asked: beyond it the queue grows and every percentile depends on the trace's length."""
TOLERANCE = 0.01
"""Relative width of the final bracket; the sampling noise of 10,000 requests is about 0.03."""
IDLE_FACTOR = 1 / 256
"""A replica at this share of its upper bound is as good as idle."""
MAX_FACTOR = 64
"""Beyond so many times its upper bound a rate says only that the trace is too short."""
NEAR = 0.04
"""How far the capacity of a like configuration is trusted to lie around a guess."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A target and the value that broke it."""

    slo: Slo
    value_s: float


@dataclass(frozen=True, slots=True, eq=False)
class Capacity:
    """``rate_per_s`` keeps every target; ``breaks`` do not hold just above it.

    ``records`` are of the run at that rate, valid until the engine's next run.
    """

    rate_per_s: float
    records: Records
    breaks: tuple[Slo, ...]
    probes: int


@dataclass(frozen=True, slots=True)
class Hopeless:
    """The targets are broken even by a replica that is all but idle."""

    violations: tuple[Violation, ...]
    rejected: int


def late_targets(workload: Workload, slos: Sequence[Slo]) -> LateTargets:
    """How many may be late before a probe is hopeless, from the first percentile target of each metric.

    Means, TPOT and further targets of a metric have no count here; they are judged when a probe ends.
    """
    first = {s.metric: s for s in reversed(slos) if s.percentile is not None}
    gaps = int(workload.output_tokens.sum()) - len(workload)

    def limit_s(metric: str) -> float:
        return first[metric].limit_s if metric in first else inf

    def allowed(metric: str, count: int) -> int:
        percentile = first[metric].percentile if metric in first else None
        return count if percentile is None else allowed_late(count, percentile)

    return LateTargets(
        queue_delay_s=limit_s("queue_delay"),
        ttft_s=limit_s("ttft"),
        e2e_s=limit_s("e2e"),
        tbt_s=limit_s("tbt"),
        max_late_queue_delay=allowed("queue_delay", len(workload)),
        max_late_ttft=allowed("ttft", len(workload)),
        max_late_e2e=allowed("e2e", len(workload)),
        max_late_gaps=allowed("tbt", gaps),
    )


def violations(records: Records, slos: Sequence[Slo]) -> tuple[Violation, ...]:
    """The targets that a finished run breaks; NaN (nothing to judge) breaks none."""
    judged = (Violation(slo, value(records, slo.metric, slo.percentile)) for slo in slos)
    return tuple(v for v in judged if not isnan(v.value_s) and v.value_s > v.slo.limit_s)


class Judge:
    """Replays one workload against its targets, sharing the engine's buffers between runs."""

    def __init__(self, workload: Workload, slos: Sequence[Slo], engine: Engine) -> None:
        self.workload = workload
        self._slos = (*slos, QUEUE_DELAY)
        self._late = late_targets(workload, self._slos)
        counted = {s.metric: s for s in reversed(self._slos) if s.percentile is not None}
        self._counted = {m: s for m, s in counted.items() if m != "tpot"}
        self._judged = tuple(s for s in self._slos if s not in self._counted.values())
        self._engine = engine

    def broken(self, fleet: Fleet, rate_per_s: float | None = None) -> tuple[Slo, ...] | int:
        """The targets that do not hold at a rate (None: the workload's own).

        Of several it may name only the first; a number says how many requests no replica can hold.
        """
        records = self._run(fleet, rate_per_s, self._late)
        if records.rejected.any():
            return int(records.rejected.sum())
        if records.broken_metric is not None:
            return (self._counted[records.broken_metric],)
        return tuple(v.slo for v in violations(records, self._judged))

    def records(self, fleet: Fleet, rate_per_s: float | None = None) -> Records:
        """The whole run; valid until the engine's next one."""
        return self._run(fleet, rate_per_s, None)

    def violations(self, fleet: Fleet, rate_per_s: float) -> tuple[Violation, ...]:
        return violations(self.records(fleet, rate_per_s), self._slos)

    def _run(self, fleet: Fleet, rate_per_s: float | None, late: LateTargets | None) -> Records:
        workload = self.workload if rate_per_s is None else self.workload.at_rate(rate_per_s)
        return self._engine.run(workload, fleet, late)


def find_capacity(
    judge: Judge, fleet: Fleet, upper_rate_per_s: float, guess_per_s: float | None = None
) -> Capacity | Hopeless:
    """Bisects between 0 and ``upper_rate_per_s``, first around a guess where there is one.

    The upper rate is only where to start: a trace too short to fill the queue may go beyond.
    """
    low, high, probes = 0.0, inf, 0
    breaks: tuple[Slo, ...] = ()
    first = () if guess_per_s is None else (guess_per_s * (1 + NEAR), guess_per_s * (1 - NEAR))
    queue = [rate for rate in first if rate < upper_rate_per_s]
    while high - low > TOLERANCE * high or high == inf:
        rate = queue.pop(0) if queue else _next_rate(low, high, upper_rate_per_s)
        if rate > upper_rate_per_s * MAX_FACTOR:
            break
        if not low < rate < high:
            continue
        probes += 1
        broken = judge.broken(fleet, rate)
        if isinstance(broken, int):
            return Hopeless((), broken)
        if broken and rate <= upper_rate_per_s * IDLE_FACTOR:
            return Hopeless(judge.violations(fleet, rate), 0)
        if broken:
            high, breaks = rate, broken
        else:
            low = rate
    return Capacity(low, judge.records(fleet, low), breaks, probes + 1)


def _next_rate(low: float, high: float, upper: float) -> float:
    """Doubling while nothing broke, halving while nothing held, then the middle."""
    if high == inf:
        return max(upper, 2 * low)
    if low == 0.0:
        return max(high / 2, upper * IDLE_FACTOR)
    return (low + high) / 2


def replicas_needed(judge: Judge, fleet: Fleet, estimate: int, most: int) -> int | None:
    """The fewest replicas that keep every target under the workload as it is; None: more than ``most``.

    Found by simulating them, because replicas that share a burst carry more than one that meets the
    same burst stretched in time. More replicas are taken to be no worse.
    """
    enough, short = most + 1, 0
    count = min(max(estimate, 1), most)
    while enough - short > 1:
        if judge.broken(replace(fleet, replicas=count)) == ():
            enough = count
        else:
            short = count
        count = (enough + short) // 2
    return enough if enough <= most else None
