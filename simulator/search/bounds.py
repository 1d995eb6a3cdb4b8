"""What a replica's tables alone say of its request rate: a bound."""

from __future__ import annotations

import numpy as np

from servecast.estimator.tables import RuntimeTables
from servecast.simulator.engine.deployment import EngineLimits
from servecast.simulator.traffic.workload import Workload


def max_rate_per_s(workload: Workload, tables: RuntimeTables, limits: EngineLimits) -> float:
    """No schedule serves more requests per second than this.

    Every token passes the slowest stage at no less than the best time per token of any step, and
    every output token at no less than the best time per sequence; attention and the host, which only
    add, are left out.
    """
    tokens = np.arange(1, limits.max_batched_tokens + 1)
    sequences = np.arange(1, limits.max_num_seqs + 1)
    per_token = (tables.token_s[:, 1 : len(tokens) + 1] / tokens).min(axis=1)
    per_output = (tables.sequence_s[:, 1 : len(sequences) + 1] / sequences).min(axis=1)
    work_tokens = workload.prompt_tokens + workload.output_tokens - 1
    stage_s = per_token * work_tokens.mean() + per_output * workload.output_tokens.mean()
    return float(1.0 / stage_s.max())
