"""How far a run is from the capacity, told by a fluid queue that is as fast as the run shows it to be.

A guess for where to look, never an answer. As a model of the fleet the queue is wrong by some factor; with
that under which it has as many late as the run had by then, what it says of other rates is nearly right.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from servecast.simulator.engine.records import LateTargets, Records
from servecast.simulator.search.fluid_queue import FluidQueue, in_turn
from servecast.simulator.search.likely import Likely
from servecast.simulator.traffic.workload import Floats

SHORT_S = 0.02
"""A wait that tells nothing of a queue."""
SPEED = 4.0
"""A model is not taken to be wrong by more."""


def foretold(found: Records, rate_per_s: float, likely: Likely, targets: LateTargets) -> float:
    """How many times the run's rate the capacity is; infinite where the run does not tell.

    1 or less where the run was given up.
    """
    queue_delay = _Limit(
        found, rate_per_s, found.scheduled_s, targets.queue_delay_s, targets.max_late_queue_delay
    )
    first = _Limit(found, rate_per_s, found.first_token_s, targets.ttft_s, targets.max_late_ttft)
    limits = (("queue_delay", queue_delay), ("ttft", first))
    return min(
        (
            limit.room(likely.shortest(which))
            for which, (metric, limit) in enumerate(limits)
            if found.broken_metric in (None, metric)
        ),
        default=inf,
    )


@dataclass(frozen=True, slots=True)
class _Limit:
    """No more than ``most`` requests may wait until ``came_s`` [requests] for longer than ``limit_s``."""

    found: Records
    rate_per_s: float
    came_s: Floats
    limit_s: float
    most: int

    def room(self, queue: FluidQueue) -> float:
        if self.limit_s == inf or self.most >= len(self.found):
            return inf
        rate_per_s = self.rate_per_s / queue.queues
        if self.found.given_up:
            known, limit_s = self._known(queue), self.limit_s
        else:
            wait_s = self.came_s - self.found.arrival_s
            known, limit_s = None, float(np.partition(wait_s, -self.most - 1)[-self.most - 1])
            if not limit_s > SHORT_S:
                return inf

        def late(queue: FluidQueue) -> int:
            who = queue.late(rate_per_s, limit_s)
            who = who if known is None else who & known
            return queue.stride * int(np.count_nonzero(who))

        queue = queue.times(queue.speed(late, self.most, SPEED))
        room = queue.highest_rate(self.limit_s, self.most, rate_per_s) / rate_per_s
        return min(room, 1.0) if self.found.given_up else max(room, 1.0)

    def _known(self, queue: FluidQueue) -> NDArray[np.bool_]:
        """[queues, points] of whom the run had shown by then whether they are late."""
        came_s = in_turn(self.came_s, queue.queues, np.nan)
        arrival_s = in_turn(self.found.arrival_s, queue.queues, inf)
        until_s = np.fmax.reduce(came_s, axis=1, initial=-inf, keepdims=True) - self.limit_s
        known = ~np.isnan(came_s) | (arrival_s < until_s)
        return np.asarray(known[:, :: queue.stride])
