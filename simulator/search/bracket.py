"""The places of a grid of rates that are known to hold and to break, and where to look next."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, log, log1p

TOLERANCE = 0.01
"""From one rate of the grid to the next; the sampling noise of 10,000 requests is about 0.03."""
IDLE = round(log(1 / 256) / log1p(TOLERANCE))
"""At this place of the grid, a small share of the upper bound, a replica is as good as idle."""
HIGHEST = round(log(64) / log1p(TOLERANCE))
"""Beyond so many times its upper bound a rate says only that the trace is too short."""
NEAR = 3
"""First step down from a guess that breaks."""
FAR = 16
"""The longest first step up from one that holds: a probe that breaks is soon given up."""
STRAIGHT, CURVED = 0.1, 4.0
"""Places that a run seems to leave for each that it does, at least and at most."""
CAUTION = 0.25
"""Added to the places that are left: the median of what is missing when a run is just below its capacity."""
PATIENCE = 3
"""Probes that hold before the steps from them have to double."""


def places(factor: float) -> float:
    """A factor on the rate, in steps of the grid."""
    return log(factor) / log1p(TOLERANCE) if factor < inf else inf


@dataclass(slots=True)
class Bracket:
    """``low`` is the highest place that is known to hold, ``high`` the lowest that is known to break.

    ``room`` is how many places on the run at ``low`` seems to leave; ``curvature`` how many times too many.
    """

    low: int | None = None
    high: int | None = None
    room: float = inf
    curvature: float = 1.0
    held: int = 0  # probes
    broke: int = 0  # before any held
    overshot: int = 0  # broke after one had held

    @property
    def closed(self) -> bool:
        return self.low is not None and self.high is not None and self.high - self.low == 1

    @property
    def near(self) -> bool:
        """Whether the place that was probed last may be the lower or the higher one in the end."""
        if self.low is None:
            return self.broke == 1
        if self.high is None:
            return self.room / self.curvature < NEAR
        return self.high - self.low <= NEAR

    def holds(self, at: int, room: float) -> None:
        if self.low is not None and self.room < inf and room < inf:
            seen = (self.room - room) / (at - self.low)
            self.curvature = min(max(seen, STRAIGHT), CURVED)
        self.low, self.room = at, room
        self.held += 1

    def breaks(self, at: int) -> None:
        self.high = at
        self.broke += self.low is None
        self.overshot += self.low is not None

    def next_place(self) -> int:
        """Where to probe. Whatever the runs say, steps from one side double in the end."""
        if self.low is None:
            assert self.high is not None
            return max(self.high - (NEAR << (self.broke - 1)), IDLE)
        least = 1 << max(self.held - PATIENCE, 0)
        aim = max(self.room / self.curvature + CAUTION, least)
        if self.high is None:
            return min(self.low + int(min(aim, FAR << (self.held - 1))), HIGHEST)
        width, back = self.high - self.low, 1 << max(self.overshot - 1, 0)
        if width <= 3 or aim >= width or least + back > width:
            return self.low + width // 2
        return self.low + min(int(aim), width - back)
