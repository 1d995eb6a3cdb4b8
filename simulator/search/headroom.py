"""How much faster the requests of a run may come before too many are late, told by that run alone.

A guess for where to look, never an answer: perturbation analysis of the arrivals (Ho and Cao, Perturbation
Analysis of Discrete Event Dynamic Systems, 1991). While a replica always has somebody waiting, its requests
are served when they are, however early they come: one that comes sooner waits longer by as much.
"""

from __future__ import annotations

from math import inf

import numpy as np
from numpy.typing import NDArray

from servecast.simulator.engine.disaggregation import DisaggregatedRun
from servecast.simulator.engine.records import Floats, LateTargets
from servecast.simulator.metrics.attained import Run

CALM_S = 0.1
"""Who waits no longer found a replica that kept up: the next queue begins there."""


def headroom(found: Run, targets: LateTargets) -> float:
    """The factor on the rate at which more requests than may be wait, or get their first token, too late.

    Infinite where none would, or where the run does not tell.
    """
    records = found.prefill if isinstance(found, DisaggregatedRun) else found
    arrival_s, scheduled_s = records.arrival_s, records.scheduled_s
    first_token_s, replica = records.first_token_s, records.replica
    if records.replicas > 1:
        order = np.argsort(replica, kind="stable")
        arrival_s, scheduled_s = arrival_s[order], scheduled_s[order]
        first_token_s, replica = first_token_s[order], replica[order]
    wait_s = scheduled_s - arrival_s
    queued_s = arrival_s - arrival_s[_queue_began(wait_s, replica)]
    queue = _factor(wait_s, queued_s, targets.queue_delay_s, targets.max_late_queue_delay)
    if targets.ttft_s == inf:
        return queue
    ttft_s = first_token_s - arrival_s
    return min(queue, _factor(ttft_s, queued_s, targets.ttft_s, targets.max_late_ttft))


def _queue_began(wait_s: Floats, replica: NDArray[np.int32]) -> NDArray[np.int64]:
    """[requests] the last one before each, of its replica, that did not wait."""
    calm = wait_s < CALM_S
    calm[0] = True
    calm[1:] |= replica[1:] != replica[:-1]
    return np.asarray(np.maximum.accumulate(np.where(calm, np.arange(len(wait_s)), 0)))


def _factor(wait_s: Floats, queued_s: Floats, limit_s: float, most: int) -> float:
    """At a rate of f times the run's, a request comes ``queued_s * (1 - 1 / f)`` sooner."""
    if limit_s == inf or most >= len(wait_s):
        return inf
    sooner = np.full(len(wait_s), inf)
    np.divide(limit_s - wait_s, queued_s, out=sooner, where=queued_s > 0)
    share = float(np.partition(sooner, most)[most])
    return 1 / (1 - share) if share < 1 else inf
