"""Whether a deployment keeps its targets at a rate, and what is known of one that does up to some rate.

Every probe replays the same requests in the same pattern at another rate, so two rates (and two
configurations) differ by their load alone. A probe that has already broken a target is given up, which
changes no answer: the count of late requests only grows. `bisection.py` looks for the rate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf, isnan

from servecast.compiler.service import Slo
from servecast.simulator.engine.records import LateTargets, Records
from servecast.simulator.engine.routing import Engine, Fleet
from servecast.simulator.metrics.attained import Run, attained_share, bound
from servecast.simulator.metrics.metrics import allowed_late
from servecast.simulator.search.bracket import TOLERANCE
from servecast.simulator.search.foretold import foretold
from servecast.simulator.search.headroom import likely_headroom
from servecast.simulator.search.likely import Likely, likely_rate_per_s
from servecast.simulator.search.serving import Serving, run, value
from servecast.simulator.search.twins import Peak
from servecast.simulator.traffic.workload import Ints, Workload

QUEUE_DELAY = Slo("queue_delay", 99, 5.0)
"""Always asked: beyond it the queue grows and every percentile depends on the trace's length."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A target and the value that broke it."""

    slo: Slo
    value_s: float


@dataclass(frozen=True, slots=True, eq=False)
class Capacity:
    """``rate_per_s`` keeps every target; ``breaks`` do not hold just above it.

    ``peak`` is of the runs that show both; None where it was not looked at.
    """

    rate_per_s: float
    breaks: tuple[Slo, ...]
    probes: int
    peak: Peak | None


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


def violations(records: Run, slos: Sequence[Slo], workload: Workload) -> tuple[Violation, ...]:
    """The targets that a finished run breaks; NaN (nothing to judge) breaks none."""
    judged = (
        Violation(slo, value(records, slo.metric, slo.percentile, bound(slo, slos, workload)))
        for slo in slos
    )
    return tuple(v for v in judged if not isnan(v.value_s) and v.value_s > v.slo.limit_s)


def _countable(slos: Sequence[Slo]) -> tuple[Slo, ...]:
    """Those that bind all requests alike: the engine counts who is late, not of which class."""
    apart = {slo.metric for slo in slos if slo.priority is not None}
    return tuple(slo for slo in slos if slo.metric not in apart)


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
        countable = _countable(self._slos)
        counted = {s.metric: s for s in reversed(countable) if s.percentile is not None}
        self._counted = {m: s for m, s in counted.items() if m != "tpot"}
        self._judged = tuple(s for s in self._slos if s not in self._counted.values())
        between_tokens = any(slo.metric == "tbt" for slo in self._judged)
        self._late = replace(late_targets(workload, countable), steps_kept=between_tokens)
        self._engine = engine
        self._expected: tuple[Fleet, Likely] | None = None
        self.last: Run | None = None
        """What `broken` has seen, perhaps without its steps; valid until the engine's next run."""

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
        broken = tuple(v.slo for v in violations(records, judged, self.workload))
        if self._attainment is not None and not broken:
            share = attained_share(records, self._asked, self.workload)
            return () if share >= self._attainment else self._asked
        return broken

    def likely_per_s(self, serving: Serving) -> float:
        """Where the capacity may be, by the tables and the arrivals."""
        if isinstance(serving, Fleet):
            return self._likely(serving).rate_per_s
        return likely_rate_per_s(self.workload, serving, self._late)

    def room(self, serving: Serving, rate_per_s: float) -> float:
        """By what factor the rate of the last probe may seem to change; infinite where it does not say.

        1 or less where it was given up.
        """
        last = self.last
        assert last is not None
        told = inf
        if isinstance(serving, Fleet) and isinstance(last, Records):
            told = foretold(last, rate_per_s, self._likely(serving), self._late)
        if last.broken_metric is not None:
            return told
        alone = likely_headroom(last, self._late)
        return max(alone, told) if told < inf else alone

    def _likely(self, fleet: Fleet) -> Likely:
        if self._expected is None or self._expected[0] is not fleet:
            self._expected = fleet, Likely.of(self.workload, fleet, self._late)
        return self._expected[1]

    def records(self, serving: Serving, rate_per_s: float | None = None) -> Run:
        """The whole run; valid until the engine's next one."""
        return self._run(serving, rate_per_s, None)

    def violations(self, serving: Serving, rate_per_s: float) -> tuple[Violation, ...]:
        return violations(self.records(serving, rate_per_s), self._slos, self.workload)

    def _run(self, serving: Serving, rate_per_s: float | None, late: LateTargets | None) -> Run:
        workload = self.workload if rate_per_s is None else self.workload.at_rate(rate_per_s)
        return run(self._engine, workload, serving, late, self.loaded_tokens)


def carries(trace: Judge, searched: Judge, serving: Serving) -> bool:
    """Whether a deployment keeps the targets under a trace, and at its rate those of ``searched``, too.

    A trace too short to fill a queue is carried at rates beyond any capacity. One step of the grid is added
    to its rate, for a capacity is rounded down to one.
    """
    if trace.broken(serving) != ():
        return False
    if len(trace.workload) >= len(searched.workload):
        return True
    return searched.broken(serving, trace.workload.rate_per_s * (1 + TOLERANCE)) == ()


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
