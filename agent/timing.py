"""How a launch is timed: a fixed number of launches per sample, chosen once, then kept. Owns no device."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from servecast.agent.stopping import Moments, StopReason, StopRule

SURELY = 50.0  # a trial so many floors long needs no second look
MAX_LAUNCHES = 4096  # per sample, so that a cancelled call ends soon and a CUDA graph stays small

T = TypeVar("T")
Elapsed = Callable[[int], float]
"""Runs so many launches and returns the time that they took together, in microseconds."""


@dataclass(slots=True)
class Rotation(Generic[T]):
    """Hands out items in turn and goes on where it left off, so that short samples still find cold copies."""

    items: Sequence[T]
    _turn: int = 0

    def take(self, count: int) -> list[T]:
        size, begin = len(self.items), self._turn
        self._turn = (begin + count) % size
        return [self.items[(begin + i) % size] for i in range(count)]


@dataclass(slots=True)
class Sampling:
    """The runtimes of one launch in a case as they grow, and why they ended (None: somebody stopped them)."""

    launches: int
    samples_us: list[float]
    reason: StopReason | None = None


def launches_per_sample(elapsed_us: Elapsed, floor_us: float, step: int) -> int:
    """Launches that make a sample at least ``floor_us`` long, a multiple of ``step``.

    Grows until a trial is long enough twice: the first launches of a shape are slow, because libraries
    choose and compile then. The trials are the warm-up.
    """
    launches = step
    while True:
        elapsed = elapsed_us(launches)
        if elapsed >= SURELY * floor_us:
            return launches
        elapsed = min(elapsed, elapsed_us(launches))
        if elapsed >= floor_us or launches * 2 > MAX_LAUNCHES:
            return launches
        scale = floor_us / max(elapsed, floor_us / 64)
        wanted = min(MAX_LAUNCHES, max(2 * launches, math.ceil(launches * scale)))
        launches = wanted - wanted % step


def take_samples(
    elapsed_us: Elapsed, rule: StopRule, stopped: Callable[[], bool], into: Sampling
) -> Iterator[float]:
    """Yields each sample and keeps it in ``into``; ends at the rule's verdict, or where ``stopped`` says.

    The time limit counts the samples' own time, so that who reads the stream, and how fast, changes nothing.
    """
    moments = Moments()
    total_us = 0.0
    while into.reason is None and not stopped():
        elapsed = elapsed_us(into.launches)
        total_us += elapsed
        runtime_us = elapsed / into.launches
        moments.add(runtime_us)
        into.samples_us.append(runtime_us)
        into.reason = rule.verdict(moments, total_us / 1e6)
        yield runtime_us
