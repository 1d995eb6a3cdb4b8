"""Has the engine compiled while tables are built, by one process, for all others to load."""

from __future__ import annotations

import numpy as np

from servecast.estimator.tables import SOURCES, RuntimeTables
from servecast.simulator.engine.deployment import EngineLimits
from servecast.simulator.engine.routing import Fleet
from servecast.simulator.search.worker import Worker
from servecast.simulator.traffic.workload import Workload


def warm_up(worker: Worker) -> None:
    """Two requests of one token on a GPU that takes no time: what is compiled is the same for all."""
    ones = np.ones(2, np.int64)
    workload = Workload("warm-up", np.array([0.0, 1.0]), ones, ones)
    worker.engine.run(workload, Fleet(_no_time(), EngineLimits(1, 1, 1)))


def _no_time() -> RuntimeTables:
    shares = np.zeros((2, len(SOURCES)))
    return RuntimeTables(
        token_s=np.zeros((1, 2)),
        sequence_s=np.zeros((1, 2)),
        prefill_s=np.zeros((1, 2, 2)),
        prefill_base_s=np.zeros(1),
        decode_s=np.zeros((1, 2, 2)),
        send_s=np.zeros((1, 2)),
        host_step_s=0.0,
        context_step_tokens=1,
        chunk_step_tokens=1,
        kv_step_tokens=1,
        token_shares=shares,
        sequence_shares=shares,
        prefill_shares=shares,
        decode_shares=shares,
    )
