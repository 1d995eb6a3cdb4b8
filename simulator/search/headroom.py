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
    rows = records.requests
    if records.replicas > 1:
        rows = rows[np.argsort(records.replica, kind="stable")]
    rows = rows[~np.isnan(rows["first_token_s"])]
    if len(rows) == 0:
        return inf
    arrival_s = np.ascontiguousarray(rows["arrival_s"])
    queued_s = arrival_s - arrival_s[_queue_began(rows, arrival_s)]
    waits = (
        (rows["scheduled_s"] - arrival_s, targets.queue_delay_s, targets.max_late_queue_delay),
        (rows["first_token_s"] - arrival_s, targets.ttft_s, targets.max_late_ttft),
    )
    return min(_factor(wait_s, queued_s, limit_s, most) for wait_s, limit_s, most in waits)


def _queue_began(rows: NDArray[np.void], arrival_s: Floats) -> NDArray[np.int64]:
    """[requests] the last one before each, of its replica, that did not wait."""
    calm = rows["scheduled_s"] - arrival_s < CALM_S
    calm[0] = True
    calm[1:] |= rows["replica"][1:] != rows["replica"][:-1]
    return np.asarray(np.maximum.accumulate(np.where(calm, np.arange(len(rows)), 0)))


def _factor(wait_s: Floats, queued_s: Floats, limit_s: float, most: int) -> float:
    """At a rate of f times the run's, a request comes ``queued_s * (1 - 1 / f)`` sooner."""
    if limit_s == inf or most >= len(wait_s):
        return inf
    sooner = np.full(len(wait_s), inf)
    np.divide(limit_s - wait_s, queued_s, out=sooner, where=queued_s > 0)
    share = float(np.partition(sooner, most)[most])
    return 1 / (1 - share) if share < 1 else inf
