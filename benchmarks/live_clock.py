"""The clock of the live comparison: seconds of the machine as it was when it was profiled."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

GAUGE_S = 0.25  # of processor time between two looks at how fast the machine is
GAUGES = 5  # the last ones, whose median counts


@dataclass
class Clock:
    """Seconds of the machine as it was when ``work`` took ``reference_s``, since the clock was made."""

    now_s: Callable[[], float]
    waits: bool
    work: Callable[[], float]
    reference_s: float
    slowness: list[float] = field(default_factory=list)
    _last: deque[float] = field(default_factory=lambda: deque(maxlen=GAUGES))
    _passed_s: float = 0.0
    _since_s: float = field(init=False)
    _gauged_s: float = field(init=False)

    def __post_init__(self) -> None:
        self.slowness += [self.work() / self.reference_s for _ in range(GAUGES)]
        self._last.extend(self.slowness)
        self._since_s, self._gauged_s = self.now_s(), time.thread_time()

    def __call__(self) -> float:
        return self._passed_s + (self.now_s() - self._since_s) / median(self._last)

    def gauge(self) -> None:
        """Looks how fast the machine is, where it is time to; takes no time of the clock."""
        if time.thread_time() - self._gauged_s < GAUGE_S:
            return
        self._passed_s = self()
        self.slowness.append(self.work() / self.reference_s)
        self._last.append(self.slowness[-1])
        self._since_s, self._gauged_s = self.now_s(), time.thread_time()

    def wait_until(self, at_s: float) -> None:
        """Waiting costs processor time nothing: its clock is put forward."""
        left_s = at_s - self()
        if left_s > 0 and self.waits:
            time.sleep(left_s * median(self._last))
        elif left_s > 0:
            self._passed_s += left_s


CLOCKS = {"wall": (time.perf_counter, True), "cpu": (time.thread_time, False)}
