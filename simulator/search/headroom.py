"""How much faster the requests of a run may come before too many are late, told by that run alone.

A guess for where to look, never an answer: perturbation analysis of the arrivals (Ho and Cao, Perturbation
Analysis of Discrete Event Dynamic Systems, 1991). While a replica always has somebody waiting, its requests
are served when they are, however early they come: one that comes sooner waits longer by as much.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, inf, log, log1p

import numpy as np
from numpy.typing import NDArray

from servecast.simulator.engine.disaggregation import DisaggregatedRun
from servecast.simulator.engine.records import Floats, LateTargets
from servecast.simulator.metrics.attained import Run

CALM_S = 0.1
"""Who waits no longer found a replica that kept up: the next queue begins there."""
FORESEEN = 0.4
"""A run tells nothing of rates higher by more than this, a logarithm."""
JOINED, GROWTH = 0.75, 0.0286
"""Of what each queue by itself leaves; and how the rate goes with the wait where nothing else is known. Both
fitted to the runs 1 to 15 % below capacity of llama-2-7b's configurations in `benchmarks/vidur_grid.py`."""


def headroom(found: Run, targets: LateTargets) -> float:
    """The factor on the rate at which more requests than may be wait, or get their first token, too late,
    were the queues of the run to stay apart.

    Infinite where none would, or where the run does not tell.
    """
    return exp(min((waits.room() for waits in _waits(found, targets)), default=inf))


def likely_headroom(found: Run, targets: LateTargets) -> float:
    """The same, as queues join: a guess."""
    return exp(min((waits.likely_room() for waits in _waits(found, targets)), default=inf))


@dataclass(frozen=True, slots=True)
class _Waits:
    """Of each request, and how long its queue was there before; no more than ``most`` may wait for longer."""

    wait_s: Floats
    queued_s: Floats
    limit_s: float
    most: int

    def room(self) -> float:
        """The factor's logarithm: at f times the rate a request comes ``queued_s * (1 - 1 / f)`` sooner."""
        if self.limit_s == inf or self.most >= len(self.wait_s):
            return inf
        sooner = np.full(len(self.wait_s), inf)
        np.divide(self.limit_s - self.wait_s, self.queued_s, out=sooner, where=self.queued_s > 0)
        share = float(np.partition(sooner, self.most)[self.most])
        return -log1p(-share) if share < 1 else inf

    def likely_room(self) -> float:
        """Queues join the more, the shorter they still are beside the limit."""
        if self.limit_s == inf or self.most >= len(self.wait_s):
            return inf
        room = self.room()
        last_s = float(np.partition(self.wait_s, -self.most - 1)[-self.most - 1])
        if room > FORESEEN:
            return GROWTH * log(self.limit_s / max(last_s, CALM_S))
        return JOINED * room * max(last_s, 0.0) / self.limit_s


def _waits(found: Run, targets: LateTargets) -> list[_Waits]:
    """For a place in a batch, and for the first token."""
    records = found.prefill if isinstance(found, DisaggregatedRun) else found
    arrival_s, scheduled_s = records.arrival_s, records.scheduled_s
    first_token_s, replica = records.first_token_s, records.replica
    if records.replicas > 1:
        short = replica.astype(np.uint16)  # sorted by radix, five times faster
        order = np.argsort(short, kind="stable")
        arrival_s, scheduled_s = arrival_s[order], scheduled_s[order]
        first_token_s, replica = first_token_s[order], replica[order]
    wait_s = scheduled_s - arrival_s
    queued_s = arrival_s - arrival_s[_queue_began(wait_s, replica)]
    ends = (
        (scheduled_s, targets.queue_delay_s, targets.max_late_queue_delay),
        (first_token_s, targets.ttft_s, targets.max_late_ttft),
    )
    return [
        _Waits(end_s - arrival_s, queued_s, limit_s, most)
        for end_s, limit_s, most in ends
        if limit_s < inf
    ]


def _queue_began(wait_s: Floats, replica: NDArray[np.int32]) -> NDArray[np.int64]:
    """[requests] the last one before each, of its replica, that did not wait."""
    calm = wait_s < CALM_S
    calm[0] = True
    calm[1:] |= replica[1:] != replica[:-1]
    return np.asarray(np.maximum.accumulate(np.where(calm, np.arange(len(wait_s)), 0)))
