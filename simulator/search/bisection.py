"""The highest rate at which a deployment keeps its targets.

Rates are those of a grid that hangs on the deployment's upper bound, so that every search for its capacity
ends at the same one, whatever it began with. Each probe that holds says about how far there is to go; what is
known of a twin, which differs in limits that held nobody back, is known before the first probe.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor, inf

from servecast.compiler.service import Slo
from servecast.simulator.engine.routing import Fleet
from servecast.simulator.search.bracket import HIGHEST, IDLE, TOLERANCE, Bracket, places
from servecast.simulator.search.capacity import Capacity, Hopeless, Judge
from servecast.simulator.search.serving import Serving
from servecast.simulator.search.twins import Peak, are_twins

FINE = 16
"""Parts of a step of the grid: some 0.06 % each."""
SAME = 1e-6
"""Of a place: two rates so near are one, rounded."""


@dataclass(frozen=True, slots=True)
class Known:
    """Another fleet and its capacity under the same workload and targets."""

    fleet: Fleet
    capacity: Capacity


def find_capacity(
    judge: Judge,
    serving: Serving,
    upper_rate_per_s: float,
    guess_per_s: float | None = None,
    known: Known | None = None,
) -> Capacity | Hopeless:
    """The capacity on the grid of ``upper_rate_per_s``.

    None guesses by the tables. The upper rate is no limit: a trace too short to fill the queue may go
    beyond.
    """
    guess = judge.likely_per_s(serving) if guess_per_s is None else guess_per_s
    at = min(max(round(places(guess / upper_rate_per_s)), IDLE), HIGHEST)
    bracket, peak = Bracket(), None
    breaks: tuple[Slo, ...] = ()
    twin = known.capacity.peak if known else None
    if known and twin and are_twins(known.fleet, serving, twin, judge.workload):
        bracket = _between(known.capacity, upper_rate_per_s)
        breaks, peak = known.capacity.breaks, twin
        at = bracket.next_place()
    return _Search(judge, serving, upper_rate_per_s, bracket, breaks, peak).run(at)


@dataclass(slots=True)
class _Search:
    judge: Judge
    serving: Serving
    upper_rate_per_s: float
    bracket: Bracket
    breaks: tuple[Slo, ...]
    known_peak: Peak | None  # of a twin, at the places that the bracket begins with
    probes: int = 0
    low_peak: Peak | None = None
    high_peak: Peak | None = None

    def __post_init__(self) -> None:
        self.low_peak = self.high_peak = self.known_peak

    def run(self, at: int) -> Capacity | Hopeless:
        bracket = self.bracket
        while not bracket.closed:
            hopeless = self._probe(at)
            if hopeless is not None:
                return hopeless
            if bracket.low == HIGHEST:
                break
            at = bracket.next_place()
        assert bracket.low is not None
        rate_per_s = grid_rate(self.upper_rate_per_s, bracket.low)
        peak = self.low_peak and self.high_peak and self.low_peak.most(self.high_peak)
        return Capacity(rate_per_s, self.breaks, self.probes, peak)

    def _probe(self, at: int) -> Hopeless | None:
        judge, bracket = self.judge, self.bracket
        rate_per_s = grid_rate(self.upper_rate_per_s, at)
        broken = judge.broken(self.serving, rate_per_s)
        self.probes += 1
        if isinstance(broken, int):
            return Hopeless((), broken)
        assert judge.last is not None
        room = places(judge.room(self.serving, rate_per_s))
        if broken:
            bracket.breaks(at, inf if judge.last.broken_metric is None else abs(room))
            self.breaks = broken
            self.high_peak = Peak.of(judge.last)
        else:
            bracket.holds(at, room)
            self.low_peak = Peak.of(judge.last)
        if bracket.high != IDLE:
            return None
        idle_per_s = grid_rate(self.upper_rate_per_s, IDLE)
        return Hopeless(judge.violations(self.serving, idle_per_s), 0)


def refined_per_s(judge: Judge, serving: Serving, found: Capacity) -> float:
    """A capacity between its place of the grid and the next, to compare it under the same requests.

    By itself it says no more than the grid: the noise of the requests is larger than a step.
    """
    low, high = 0, FINE
    while high - low > 1:
        middle = (low + high) // 2
        if judge.broken(serving, found.rate_per_s * (1 + TOLERANCE) ** (middle / FINE)):
            high = middle
        else:
            low = middle
    return float(found.rate_per_s * (1 + TOLERANCE) ** (low / FINE))


def _between(twin: Capacity, upper_rate_per_s: float) -> Bracket:
    """What a twin's grid says of another one: at most one place is left between."""
    low = places(twin.rate_per_s / upper_rate_per_s)
    return Bracket(low=floor(low + SAME), high=ceil(low + 1 - SAME))


def grid_rate(upper_rate_per_s: float, place: int) -> float:
    return float(upper_rate_per_s * (1 + TOLERANCE) ** place)
