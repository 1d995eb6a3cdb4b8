"""Work that comes, waits and is done at an even rate (Kleinrock, Queueing Systems II, 1976, ch. 2).

A replica that is always full does so much work a second; a request waits for the work that is there when
it comes, less what a full replica has under way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from servecast.simulator.engine.dispatch import STATIC
from servecast.simulator.engine.routers import parse_router
from servecast.simulator.engine.routing import Fleet
from servecast.simulator.traffic.workload import Floats, Workload

POINTS = 1000
"""Requests looked at, of all queues; of more every other, every third, …"""
LEAST, MOST = 2.0**-8, 2.0**6
"""Of the rate at which every replica is full: there the search for a likely one ends."""
NEAR = 1.003
"""So near a rate is found; a step of the grid is 1.01."""
NEVER = 1e30


@dataclass(frozen=True, slots=True)
class FluidQueue:
    """Queues of work, one for each replica where the router does not look at them.

    ``before`` [queues, points] is the work that came before each ``stride``-th request, in means of the
    requests' work; ``arrival`` [queues, points] what a queue at its full rate does in the time until then,
    where requests come at that rate; ``held`` is the work that a full one has under way.
    """

    before: Floats
    arrival: Floats
    held: float
    per_s: float
    stride: int

    @classmethod
    def of(
        cls, work: Floats, workload: Workload, fleet: Fleet, one: tuple[float, float]
    ) -> FluidQueue:
        """``work`` [requests]; ``one`` replica has so many means of it under way, and does so many
        a second."""
        held, per_s = one
        static = parse_router(fleet.router).router.rule == STATIC
        queues = fleet.replicas if static else 1
        joined = fleet.replicas // queues  # replicas that share one
        came = (workload.arrival_s - workload.arrival_s[0]) * workload.rate_per_s / queues
        before, arrival = in_turn(work / work.mean(), queues, 0.0), in_turn(came, queues, NEVER)
        before = np.cumsum(before, axis=1) - before
        stride = -(-len(workload) // POINTS)
        before, arrival = (np.ascontiguousarray(x[:, ::stride]) for x in (before, arrival))
        return cls(before, arrival, held * joined, per_s * joined, stride)

    @property
    def queues(self) -> int:
        return len(self.before)

    def late(self, rate_per_s: float, limit_s: float) -> NDArray[np.bool_]:
        """[queues, points] who waits for longer, where a queue gets so many requests per second."""
        level = self.before - self.arrival * (self.per_s / rate_per_s)
        there = level - np.minimum.accumulate(level, axis=1)
        return np.asarray(there > self.held + limit_s * self.per_s)

    def count_late(self, rate_per_s: float, limit_s: float) -> int:
        return self.stride * int(np.count_nonzero(self.late(rate_per_s, limit_s)))

    def highest_rate(self, limit_s: float, most: int, near_per_s: float | None = None) -> float:
        """Of a queue, at which no more than ``most`` requests wait for longer."""
        if limit_s == np.inf:
            return MOST * self.per_s
        begin = self.per_s if near_per_s is None else near_per_s
        return begin * _edge(lambda x: self.count_late(x * begin, limit_s) <= most, LEAST, MOST)

    def speed(self, late: Callable[[FluidQueue], int], most: int, between: float) -> float:
        """How many times as fast it must be for no more than ``most`` to be ``late``, up to ``between``."""
        slowest = _edge(lambda x: late(self.times(1 / x)) <= most, 1 / between, between)
        return 1 / slowest

    def times(self, speed: float) -> FluidQueue:
        return replace(self, per_s=self.per_s * speed)


def _edge(holds: Callable[[float], bool], least: float, most: float) -> float:
    """Up to where something holds, looked for from 1 on."""
    low, high = 1.0, 1.0
    if not holds(1.0):
        while low > least and not holds(low := low / 2):
            high = low
    else:
        while high < most and holds(high := high * 2):
            low = high
    while high > low * NEAR:
        middle = (low * high) ** 0.5
        if holds(middle):
            low = middle
        else:
            high = middle
    return low


def in_turn(values: Floats, queues: int, beyond: float) -> Floats:
    """[queues, requests] of which each queue gets one in turn; ``beyond`` fills the last row up."""
    filled = np.full(-(-len(values) // queues) * queues, beyond)
    filled[: len(values)] = values
    return np.asarray(filled.reshape(-1, queues).T)
