"""The highest rate at which a deployment keeps its targets: bisection with common random numbers.

Every probe replays the same requests in the same pattern at another rate, so two rates (and two
configurations) differ by their load alone. A probe that has already broken a target is given up, which
changes no answer: the count of late requests only grows. Rates are those of a grid that hangs on the
deployment's upper bound, so that every search for its capacity ends at the same one, whatever it began with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, isnan, log, log1p

from servecast.compiler.service import Slo
from servecast.simulator.engine.disaggregation import Disaggregated
from servecast.simulator.engine.records import LateTargets, Records
from servecast.simulator.engine.routing import Engine
from servecast.simulator.metrics.attained import Run, attained_share
from servecast.simulator.metrics.metrics import allowed_late
from servecast.simulator.search.bounds import likely_rate_per_s
from servecast.simulator.search.serving import Serving, run, value
from servecast.simulator.traffic.workload import Ints, Workload

QUEUE_DELAY = Slo("queue_delay", 99, 5.0)
"""Always asked: beyond it the queue grows and every percentile depends on the trace's length."""
TOLERANCE = 0.01
"""From one rate of the grid to the next; the sampling noise of 10,000 requests is about 0.03."""
IDLE = round(log(1 / 256) / log1p(TOLERANCE))
"""At this place of the grid, a small share of the upper bound, a replica is as good as idle."""
HIGHEST = round(log(64) / log1p(TOLERANCE))
"""Beyond so many times its upper bound a rate says only that the trace is too short."""
LIKELY = 0.77
"""Of `bounds.likely_rate_per_s`: the median capacity over limits and GPUs that were tried."""
NEAR = 4
"""First step from the guess."""


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
    records: Run
    breaks: tuple[Slo, ...]
    probes: int


@dataclass(frozen=True, slots=True)
class Hopeless:
    """The targets are broken even by a replica that is all but idle."""

    violations: tuple[Violation, ...]
    rejected: int

    @property
    def distance(self) -> float:
        """How many times its target the worst figure is; infinite where requests do not fit."""
        return max((v.value_s / v.slo.limit_s for v in self.violations), default=inf)


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


def violations(records: Run, slos: Sequence[Slo]) -> tuple[Violation, ...]:
    """The targets that a finished run breaks; NaN (nothing to judge) breaks none."""
    judged = (Violation(slo, value(records, slo.metric, slo.percentile)) for slo in slos)
    return tuple(v for v in judged if not isnan(v.value_s) and v.value_s > v.slo.limit_s)


class Judge:
    """Replays one workload against its targets, sharing the engine's buffers between runs."""

    def __init__(
        self,
        workload: Workload,
        slos: Sequence[Slo],
        engine: Engine,
        attainment: float | None = None,
        loaded_tokens: Ints | None = None,
    ) -> None:
        """``attainment``: this share of requests keeps every limit, instead of each target's percentile.

        ``loaded_tokens`` [requests] of the prompts need no prefill.
        """
        self.workload = workload
        self._asked = tuple(slos)
        self._attainment = attainment
        self.loaded_tokens = loaded_tokens
        self._slos = (*slos, QUEUE_DELAY) if attainment is None else (QUEUE_DELAY,)
        self._late = late_targets(workload, self._slos)
        counted = {s.metric: s for s in reversed(self._slos) if s.percentile is not None}
        self._counted = {m: s for m, s in counted.items() if m != "tpot"}
        self._judged = tuple(s for s in self._slos if s not in self._counted.values())
        self._engine = engine
        self.last: Run | None = None
        """What `broken` has seen; valid until the engine's next run."""

    def broken(self, serving: Serving, rate_per_s: float | None = None) -> tuple[Slo, ...] | int:
        """The targets that do not hold at a rate (None: the workload's own).

        Of several it may name only the first; a number says how many requests no replica can hold.
        """
        self.last = records = self._run(serving, rate_per_s, self._late)
        if records.rejected.any():
            return int(records.rejected.sum())
        if records.broken_metric is not None:
            return (self._counted[records.broken_metric],)
        judged = self._judged if isinstance(records, Records) else self._slos  # late in part, too
        broken = tuple(v.slo for v in violations(records, judged))
        if self._attainment is not None and not broken:
            attained = attained_share(records, self._asked) >= self._attainment
            return () if attained else self._asked
        return broken

    def records(self, serving: Serving, rate_per_s: float | None = None) -> Run:
        """The whole run; valid until the engine's next one."""
        return self._run(serving, rate_per_s, None)

    def violations(self, serving: Serving, rate_per_s: float) -> tuple[Violation, ...]:
        return violations(self.records(serving, rate_per_s), self._slos)

    def _run(self, serving: Serving, rate_per_s: float | None, late: LateTargets | None) -> Run:
        workload = self.workload if rate_per_s is None else self.workload.at_rate(rate_per_s)
        return run(self._engine, workload, serving, late, self.loaded_tokens)


def find_capacity(
    judge: Judge, serving: Serving, upper_rate_per_s: float, guess_per_s: float | None = None
) -> Capacity | Hopeless:
    """The capacity on the grid of ``upper_rate_per_s``: gallops away from the guess, then bisects.

    None guesses by the tables. The upper rate is no limit: a trace too short to fill the queue may go
    beyond.
    """
    likely = _likely(judge.workload, serving) if guess_per_s is None else guess_per_s
    at = min(max(round(log(likely / upper_rate_per_s) / log1p(TOLERANCE)), IDLE), HIGHEST)
    step = NEAR
    low: int | None = None  # highest place that is known to hold
    high: int | None = None  # lowest that is known to break
    probes = 0
    breaks: tuple[Slo, ...] = ()
    last: Run | None = None  # of the probe at ``low``, while no other came after it
    while low is None or high is None or high - low > 1:
        probes += 1
        broken = judge.broken(serving, grid_rate(upper_rate_per_s, at))
        if isinstance(broken, int):
            return Hopeless((), broken)
        if broken:
            high, breaks, last = at, broken, None
        else:
            low, last = at, judge.last
        if high == IDLE:
            return Hopeless(judge.violations(serving, grid_rate(upper_rate_per_s, IDLE)), 0)
        if low == HIGHEST:
            break
        at, step = _next_place(low, high, step)
    assert low is not None
    rate_per_s = grid_rate(upper_rate_per_s, low)
    if last is not None:
        return Capacity(rate_per_s, last, breaks, probes)
    return Capacity(rate_per_s, judge.records(serving, rate_per_s), breaks, probes + 1)


def _likely(workload: Workload, serving: Serving) -> float:
    """Of one pool; of two, the lesser."""
    if isinstance(serving, Disaggregated):
        return min(_likely(workload, serving.prefill), _likely(workload, serving.decode))
    one = likely_rate_per_s(workload, serving.tables, serving.limits)
    return LIKELY * serving.replicas * one


def grid_rate(upper_rate_per_s: float, place: int) -> float:
    return float(upper_rate_per_s * (1 + TOLERANCE) ** place)


def _next_place(low: int | None, high: int | None, step: int) -> tuple[int, int]:
    """Where to probe, and the step after that: doubled while only one side is known."""
    if high is None:
        assert low is not None
        return min(low + step, HIGHEST), 2 * step
    if low is None:
        return max(high - step, IDLE), 2 * step
    return (low + high) // 2, step


def replicas_needed(holds: Callable[[int], bool], estimate: int, most: int) -> int | None:
    """The fewest replicas that keep every target under the workload as it is; None: more than ``most``.

    Found by simulating them, because replicas that share a burst carry more than one that meets the
    same burst stretched in time. More replicas are taken to be no worse.
    """
    enough, short = most + 1, 0
    count = min(max(estimate, 1), most)
    while enough - short > 1:
        if holds(count):
            enough = count
        else:
            short = count
        count = (enough + short) // 2
    return enough if enough <= most else None
