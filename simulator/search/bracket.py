"""The places of a grid of rates that are known to hold and to break, and where to look next."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf, log, log1p

TOLERANCE = 0.01
"""From one rate of the grid to the next; the sampling noise of 10,000 requests is about 0.03."""
IDLE = round(log(1 / 256) / log1p(TOLERANCE))
"""At this place of the grid, a small share of the upper bound, a replica is as good as idle."""
HIGHEST = round(log(64) / log1p(TOLERANCE))
"""Beyond so many times its upper bound a rate says only that the trace is too short."""
NEAR, FAR = 3, 16
"""First steps down from a place that breaks, where its run says nothing, and at most up from one that holds:
what breaks may be a target that the runs say nothing of."""
EXCESS = 0.75
"""Of the places that a run which was given up says it is beyond the capacity."""
LITTLE = 0.2
"""So few places beyond say nothing: the queue may have been near its limit for long."""
FLAT = 0.7
"""Places that a run says are left for each that there is, at least: told by two runs. Both fitted to
placements 4 and 17 of each model in `benchmarks/vidur_grid.py`."""
PATIENCE = 8
"""Probes that go by what runs say; further ones halve what is left."""


def places(factor: float) -> float:
    """A factor on the rate, in steps of the grid."""
    return log(factor) / log1p(TOLERANCE) if factor < inf else inf


@dataclass(frozen=True, slots=True)
class Said:
    """So many places away the run at an end of the bracket says the capacity is; infinite: it does not say.

    ``for_each`` says for each place that there is, by the end before.
    """

    said: float = inf
    for_each: float = 1.0

    @property
    def places(self) -> float:
        return self.said / self.for_each

    def then(self, said: float, nearer: int) -> Said:
        """Of an end that is so many places nearer; 0: it is the first."""
        if nearer == 0 or not (said < inf and self.said < inf):
            return Said(said, self.for_each)
        return Said(said, max((self.said - said) / nearer, FLAT))


UNSAID = Said()


@dataclass(slots=True)
class Bracket:
    """``low`` is the highest place that is known to hold, ``high`` the lowest that is known to break.

    ``room`` is how many places on the run at ``low`` seems to leave, ``excess`` how many beyond the capacity
    the one at ``high`` seems to be.
    """

    low: int | None = None
    high: int | None = None
    room: Said = UNSAID
    excess: Said = UNSAID
    probes: int = 0
    streak: int = 0  # probes, the last ones, that held or that broke
    held: bool = False  # the last one

    @property
    def closed(self) -> bool:
        return self.low is not None and self.high is not None and self.high - self.low == 1

    def holds(self, at: int, room: float) -> None:
        self.room = self.room.then(room, at - self.low if self.low is not None else 0)
        self.low = at
        self._count(held=True)

    def breaks(self, at: int, excess: float = inf) -> None:
        self.excess = self.excess.then(
            EXCESS * excess, self.high - at if self.high is not None else 0
        )
        self.high = at
        self._count(held=False)

    def _count(self, *, held: bool) -> None:
        self.streak = self.streak + 1 if held == self.held else 1
        self.held = held
        self.probes += 1

    def next_place(self) -> int:
        """Where to probe. Whatever the runs say, steps from one side double in the end."""
        if self.low is None:
            assert self.high is not None
            step = NEAR << (self.streak - 1)
            if LITTLE < self.excess.places < inf:
                step = max(ceil(self.excess.places), 2, 1 << (self.streak - 1))
            return max(self.high - step, IDLE)
        room = self.room.places
        if self.high is None:
            step = int(min(room + 0.5, FAR << (self.streak - 1)))
            return min(self.low + max(step, 1 << max(self.streak - 3, 0)), HIGHEST)
        width = self.high - self.low
        if self.probes > PATIENCE or room == inf:
            return self.low + width // 2
        if room >= width:
            excess = min(self.excess.places, room)
            room = width * room / (room + excess) if excess > 0 else width / 2
        return self.low + min(max(int(room + 0.25), 1), width - 1)
