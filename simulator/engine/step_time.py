"""How long a batch takes: `RuntimeTables`' formula on its flattened arrays, added up as written there.

Beyond the last grid point the last two points are extended.
"""

from __future__ import annotations

from servecast.simulator.engine.state import Lane, Simulation


def prefill_s(sim: Simulation, stage: int, context: int, chunk: int) -> float:
    """Attention time of one prefill chunk, bilinear."""
    run, times = sim.run[0], sim.times
    x = context * run.per_context_step
    y = chunk * run.per_chunk_step
    i, j, contexts, chunks = int(x), int(y), run.num_contexts, run.num_chunks
    i = i if i < contexts - 2 else contexts - 2
    j = j if j < chunks - 2 else chunks - 2
    k = run.prefill_at + (stage * contexts + i) * chunks + j
    left, share = times[k], y - j
    below = left + (times[k + 1] - left) * share
    left = times[k + chunks]
    above = left + (times[k + chunks + 1] - left) * share
    return below + (above - below) * (x - i)


def mixed_s(sim: Simulation, stage: int, chunk: int, decodes: int, cached: int) -> float:
    """What prefill and decodes in one launch take besides, bilinear, where somebody measured it."""
    run, times = sim.run[0], sim.times
    above = 0
    while above < run.num_mixed - 1 and times[run.mixed_chunk_at + above] < chunk:
        above += 1
    below = max(above - 1, 0)
    low, high = times[run.mixed_chunk_at + below], times[run.mixed_chunk_at + above]
    share = min((chunk - low) / (high - low), 1.0) if high > low else 1.0
    x = cached * run.per_kv_step
    j = min(int(x), run.num_kv - 2)
    first = run.mixed_at + stage * run.num_mixed * run.num_sequences * run.num_kv
    k = first + (below * run.num_sequences + decodes) * run.num_kv + j
    left = times[k] + (times[k + 1] - times[k]) * (x - j)
    k = first + (above * run.num_sequences + decodes) * run.num_kv + j
    right = times[k] + (times[k + 1] - times[k]) * (x - j)
    return left + (right - left) * share


def linear_s(sim: Simulation, stage: int, tokens: int, sequences: int) -> float:
    """Everything that depends on the numbers of tokens and sequences only."""
    run, times = sim.run[0], sim.times
    first = run.token_at + stage * run.num_tokens
    sequence_s = times[run.sequence_at + stage * run.num_sequences + sequences]
    if tokens < run.num_tokens:
        return times[first + tokens] + sequence_s
    last = run.num_tokens - 1  # without a budget: on, with the upper half's slope
    token_s, half = times[first + last], last // 2
    token_s += (token_s - times[first + half]) / (last - half) * (tokens - last)
    return token_s + sequence_s


def stage_s(sim: Simulation, batch: Lane, stage: int, chunks_s: float) -> float:
    """Time of a lane's batch, whose prefill chunks take so long, in one stage. The attention of its decodes
    is linear in their cached tokens."""
    run, times = sim.run[0], sim.times
    decodes = batch.decodes
    chunk = batch.tokens - decodes
    time_s = linear_s(sim, stage, batch.tokens, batch.sequences)
    if chunk > 0:
        time_s += times[run.prefill_base_at + stage] + chunks_s
    if decodes > 0:
        x = batch.cached * run.per_kv_step
        j = int(x)
        j = j if j < run.num_kv - 2 else run.num_kv - 2
        k = run.decode_at + (stage * run.num_sequences + decodes) * run.num_kv + j
        time_s += times[k] + (times[k + 1] - times[k]) * (x - j)
        if chunk > 0 and run.num_mixed > 0:
            time_s += mixed_s(sim, stage, chunk, decodes, batch.cached)
    return time_s


def send_s(sim: Simulation, stage: int, tokens: int) -> float:
    run = sim.run[0]
    return sim.times[run.send_at + stage * run.num_tokens + tokens]
