"""`RuntimeTables`' formula for the specification's batches, added up in the order of its text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from servecast.estimator.tables import Floats, RuntimeTables


@dataclass(frozen=True, slots=True)
class Work:
    """What a batch asks of a stage: chunks are (context, tokens); ``rows`` have a token chosen for them."""

    tokens: int
    rows: int
    chunks: tuple[tuple[int, int], ...]
    decodes: int
    cached: int  # KV tokens of the decodes


def linear(row: Floats, at: float) -> float:
    i = min(int(at), len(row) - 2)
    return float(row[i] + (row[i + 1] - row[i]) * (at - i))


def bilinear(table: Floats, x: float, y: float) -> float:
    i = min(int(x), len(table) - 2)
    below, above = linear(table[i], y), linear(table[i + 1], y)
    return below + (above - below) * (x - i)


def at_count(row: Floats, count: int) -> float:
    """The point; beyond the last, the last two are extended."""
    return float(row[count]) if count < len(row) else linear(row, count)


def stage_s(t: RuntimeTables, stage: int, work: Work) -> float:
    """Seconds of the batch in one pipeline stage."""
    time_s = at_count(t.token_s[stage], work.tokens) + at_count(t.sequence_s[stage], work.rows)
    if work.chunks:
        time_s += float(t.prefill_base_s[stage]) + chunks_s(t, stage, work)
    if work.decodes:
        per_kv = 1.0 / t.kv_step_tokens
        time_s += linear(t.decode_s[stage, work.decodes], work.cached * per_kv)
        if work.chunks and len(t.mixed_chunk_tokens):
            time_s += mixed_s(t, stage, work)
    return time_s


def common_end_s(t: RuntimeTables, steps: Sequence[tuple[float, int]]) -> float:
    """When ranks end that wait for each other, of (end alone, tokens) of each: the experts that they share
    have the mean of their tokens, all else has the slowest rank's. Rows travel around a ring, rank by rank
    where these have different numbers of them (vLLM's ``all_gatherv`` and ``reduce_scatterv``): the busiest
    link carries all but the fewest, as if each rank had as many as the mean of the others. Ranks that all
    replay a captured graph replay the largest's (vLLM, vllm/v1/worker/dp_utils.py,
    ``_post_process_dp_padding``).
    """
    experts, exchange = t.shared_s[0]
    if not len(experts):
        return max(end_s for end_s, _ in steps)
    apart_s = max(
        end_s - at_count(experts, tokens) - at_count(exchange, tokens) for end_s, tokens in steps
    )
    counts = [tokens for _, tokens in steps]
    if max(counts) <= t.graph_tokens:
        counts = [max(counts)] * len(counts)
    others = (sum(counts) - min(counts)) / (len(counts) - 1)
    return apart_s + linear(experts, sum(counts) / len(counts)) + linear(exchange, others)


def chunks_s(t: RuntimeTables, stage: int, work: Work) -> float:
    """Attention of the prefill chunks."""
    x, y = 1.0 / t.context_step_tokens, 1.0 / t.chunk_step_tokens
    attention_s = 0.0
    for context, chunk in work.chunks:
        attention_s += bilinear(t.prefill_s[stage], context * x, chunk * y)
    return attention_s


def mixed_s(t: RuntimeTables, stage: int, work: Work) -> float:
    """Between the measured numbers of prefill tokens around; the nearest outside of them."""
    chunk_tokens, x = sum(chunk for _, chunk in work.chunks), work.cached * (1.0 / t.kv_step_tokens)
    points = t.mixed_chunk_tokens
    above = min(int(np.searchsorted(points, chunk_tokens)), len(points) - 1)
    below = max(above - 1, 0)
    left, right = (linear(t.mixed_s[stage, i, work.decodes], x) for i in (below, above))
    if below == above:
        return right
    share = float((chunk_tokens - points[below]) / (points[above] - points[below]))
    return left + (right - left) * min(share, 1.0)


def whole_s(t: RuntimeTables, work: Work) -> float:
    """Of all stages."""
    return sum(stage_s(t, stage, work) for stage in range(t.num_stages))
