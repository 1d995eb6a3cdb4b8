"""What a replica's tables alone say of its request rate: a bound and a guess, never an answer."""

from __future__ import annotations

import numpy as np

from servecast.estimator.tables import Floats, RuntimeTables
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


def likely_rate_per_s(workload: Workload, tables: RuntimeTables, limits: EngineLimits) -> float:
    """Requests per second where every step is the mean one of a full replica.

    As many decodes as the batch limit, the cache and the token budget let be, each at the mean context, and
    the prompts that come for each of their tokens. Bursts and latency targets leave less.
    """
    prompt, output = float(workload.prompt_tokens.mean()), float(workload.output_tokens.mean())
    grown = workload.prompt_tokens + workload.output_tokens / 2
    context = float((workload.output_tokens * grown).mean()) / output
    fitting = limits.kv_blocks * limits.block_tokens / context
    a_decode = (prompt + output - 1) / output  # tokens of a step for each of its decodes
    decodes = int(max(1, min(limits.max_num_seqs, fitting, limits.max_batched_tokens / a_decode)))
    tokens = min(int(decodes * a_decode), limits.max_batched_tokens)
    stage_s = tables.token_s[:, tokens] + tables.sequence_s[:, decodes] + tables.prefill_base_s
    stage_s = stage_s + _between(
        tables.decode_s[:, decodes], decodes * context / tables.kv_step_tokens
    )
    chunk = min(prompt, limits.max_batched_tokens) / tables.chunk_step_tokens
    stage_s += _between(tables.prefill_s[:, 0], chunk) * (tokens - decodes) / prompt
    host_s = tables.host_step_s if tables.num_stages == 1 else 0.0  # hidden behind other batches
    return float(decodes / output / (stage_s.max() + host_s))


def _between(points: Floats, at: float) -> Floats:
    """Columns of [stages, points], linear, beyond the last one, too."""
    low = min(int(at), points.shape[1] - 2)
    left, right = points[:, low], points[:, low + 1]
    return np.asarray(left + (right - left) * (at - low))
