"""Cases that wait for a GPU, and those that somebody has: threads take, give back and finish."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from servecast.compiler.kernels import KernelCase

MAX_RETRIES = 2  # of a case that came back throttled
MAX_LOSSES = 5  # of agents on one case, before the case is held to be what kills them


@dataclass(slots=True)
class CaseQueue:
    """The cases of one SKU, in the order in which they are to be measured."""

    waiting: deque[KernelCase]
    _taken: int = 0
    _losses: Counter[KernelCase] = field(default_factory=Counter)
    _retries: Counter[KernelCase] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, cases: Iterable[KernelCase]) -> CaseQueue:
        return cls(deque(cases))

    def take(self, runs: Callable[[KernelCase], bool]) -> KernelCase | None:
        """The first waiting case that the taker runs."""
        with self._lock:
            for index, case in enumerate(self.waiting):
                if runs(case):
                    del self.waiting[index]
                    self._taken += 1
                    return case
            return None

    def give_back(self, case: KernelCase) -> bool:
        """Puts a lost agent's case in front again; False where it has cost too many agents.

        Such a case stays with its taker, who finishes it.
        """
        with self._lock:
            self._losses[case] += 1
            if self._losses[case] >= MAX_LOSSES:
                return False
            self._taken -= 1
            self.waiting.appendleft(case)
            return True

    def finish(self, case: KernelCase, *, throttled: bool = False) -> None:
        """A throttled case goes to the end of the line, until it has had its tries."""
        with self._lock:
            self._taken -= 1
            if throttled and self._retries[case] < MAX_RETRIES:
                self._retries[case] += 1
                self.waiting.append(case)

    def left(self) -> list[KernelCase]:
        """Those that wait, in order."""
        with self._lock:
            return list(self.waiting)

    @property
    def taken(self) -> int:
        with self._lock:
            return self._taken
