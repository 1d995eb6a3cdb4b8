"""When a run is in its steady state, if it ever is: behind the warm-up, before the drain.

The drain begins with the last arrival. The warm-up ends where MSER-5 says: of the requests that each arrival
finds in the system, in means of five arrivals, as many are left out at the beginning as make the standard
error of the rest's mean smallest. If that is more than half of them, there is no steady state: the queue
still grows, or the run is too short.

SOURCE: White, "An effective truncation heuristic for bias reduction in simulation output",
Simulation 69 (6), 1997.
"""

from __future__ import annotations

import numpy as np

from servecast.simulator.engine.records import Floats, Records
from servecast.simulator.metrics.metrics import Window

BATCH = 5
LEAST_BATCHES = 20
"""With fewer means than this (100 arrivals) the rule finds a minimum in noise."""


def steady_state(records: Records) -> Window | None:
    """The window of arrivals and step ends; None: there is no steady state."""
    if records.given_up:
        return None
    arrival_s = records.arrival_s[~records.rejected]
    num_batches = len(arrival_s) // BATCH
    if num_batches < LEAST_BATCHES:
        return None
    found = _in_system(records, arrival_s)[: num_batches * BATCH]
    left_out = _truncation(found.reshape(num_batches, BATCH).mean(axis=1))
    if left_out > num_batches // 2:
        return None
    start_s, end_s = float(arrival_s[left_out * BATCH]), float(arrival_s[-1])
    return Window(start_s, end_s) if start_s < end_s else None


def _in_system(records: Records, arrival_s: Floats) -> Floats:
    """Requests that each arrival finds: those before it that have not finished."""
    finished_s = np.sort(records.finish_s[records.finished])
    return np.arange(float(len(arrival_s))) - np.searchsorted(finished_s, arrival_s, side="right")


def _truncation(means: Floats) -> int:
    """How many leave the smallest standard error of the rest's mean; the last five are never judged alone."""
    rest = np.arange(len(means), 0, -1.0)
    total, squares = (np.cumsum(x[::-1])[::-1] for x in (means, means**2))
    error = (squares - total**2 / rest) / rest**2
    return int(np.argmin(error[:-BATCH]))
