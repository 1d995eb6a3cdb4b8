"""Cases that wait for a GPU, and those that somebody has: threads take, give back and finish."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from servecast.agent.stopping import UNSTABLE, Flag
from servecast.compiler.kernels import KernelCase

THROTTLED_RETRIES, UNSTABLE_RETRIES = 2, 1  # of a case whose runtimes are not to be trusted
MAX_LOSSES = 5  # of agents on one case, before the case is held to be what kills them


def retries_for(flags: Sequence[Flag]) -> int:
    """How often a case is measured again at most, by what was amiss with it."""
    if Flag.THROTTLED in flags:
        return THROTTLED_RETRIES
    return UNSTABLE_RETRIES if UNSTABLE.intersection(flags) else 0


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

    def wants_again(self, case: KernelCase, flags: Sequence[Flag]) -> bool:
        """Whether a case that came back with ``flags`` has tries left."""
        with self._lock:
            return self._retries[case] < retries_for(flags)

    def finish(self, case: KernelCase, *, again: bool = False) -> None:
        """One that is to be measured again goes to the end of the line."""
        with self._lock:
            self._taken -= 1
            if again:
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
