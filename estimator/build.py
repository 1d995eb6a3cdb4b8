"""Builds the runtime tables of one (model, GPU, parallelism) from predictions of its kernels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from servecast.compiler.hardware import Sku
from servecast.compiler.sharded import ShardedProgram
from servecast.estimator.attention_times import decode_surface, floor_s, kind_of, prefill_times
from servecast.estimator.engine_profile import EngineProfile
from servecast.estimator.measurement import Floats
from servecast.estimator.mixed_times import chunk_points, mixed_times
from servecast.estimator.predictor import Codes, Predictor
from servecast.estimator.skewed_times import slowdown
from servecast.estimator.tables import RuntimeTables, TableBounds
from servecast.estimator.token_times import (
    Launch,
    Sum,
    launches_of,
    send_times,
    sequence_times,
    shared_times,
    spread_of,
    token_times,
    total_of,
)


@dataclass(frozen=True, slots=True, eq=False)
class _StageTimes:
    token: Sum
    sequence: Sum
    prefill: Sum
    prefill_base_s: float
    decode: Sum
    send: Sum


def build_tables(
    sharded: ShardedProgram,
    sku: Sku,
    bounds: TableBounds,
    predictor: Predictor,
    engine: EngineProfile,
) -> RuntimeTables:
    """Every time that a simulation within ``bounds`` can ask for."""
    sends = predictor
    if sharded.parallelism.gpus > sku.gpus_per_node:
        sends = replace(predictor, sku=replace(sku, link_bytes_per_s=sku.network_bytes_per_s))
    apart = engine.overlap > 0
    launches = [launches_of(stage, predictor, by_layer=apart) for stage in sharded.stages]
    stages = [_stage_times(counts, bounds, (predictor, sends), engine) for counts in launches]
    prefill_shares, decode_shares = _attention_shares(launches, predictor, bounds)
    mixed_points = chunk_points(sum(launches, Counter()), predictor)
    steps = total_of([each for s in stages for each in (s.token, s.send)])
    sequences = total_of([s.sequence for s in stages])
    prefill, decode = total_of([s.prefill for s in stages]), total_of([s.decode for s in stages])
    tables = RuntimeTables(
        token_s=np.stack([s.token.seconds for s in stages]),
        sequence_s=np.stack([s.sequence.seconds for s in stages]),
        prefill_s=np.stack([s.prefill.seconds for s in stages]),
        prefill_base_s=np.array([s.prefill_base_s for s in stages]),
        decode_s=np.stack([s.decode.seconds for s in stages]),
        send_s=np.stack([s.send.seconds for s in stages]),
        host_step_s=engine.host_step_s,
        context_step_tokens=bounds.context_step,
        chunk_step_tokens=bounds.chunk_step,
        kv_step_tokens=bounds.kv_step,
        token_shares=_shares(steps.by_source).T,
        sequence_shares=_shares(sequences.by_source).T,
        prefill_shares=prefill_shares,
        decode_shares=decode_shares,
        token_spread=spread_of(steps),
        sequence_spread=spread_of(sequences),
        prefill_spread=spread_of(prefill),
        decode_spread=spread_of(decode),
        prefill_source=_main_source(prefill),
        decode_source=_main_source(decode),
        mixed_s=np.stack([mixed_times(c, predictor, bounds, mixed_points) for c in launches]),
        mixed_chunk_tokens=mixed_points,
        shared_s=np.stack([shared_times(c, predictor, bounds, engine) for c in launches]),
        graph_tokens=max(engine.capture_sizes, default=0),
    )
    return tables.scaled(engine.matrix_factor, engine.attention_factor)


def _stage_times(
    launches: Counter[Launch],
    bounds: TableBounds,
    predictors: tuple[Predictor, Predictor],
    engine: EngineProfile,
) -> _StageTimes:
    """``predictors``: of everything, and of sends between stages."""
    predictor, sends = predictors
    prefill, base_s = _prefill_times(launches, predictor, bounds)
    return _StageTimes(
        token=token_times(launches, predictor, bounds.max_batched_tokens, engine),
        sequence=sequence_times(launches, predictor, bounds.max_num_seqs, engine),
        prefill=prefill,
        prefill_base_s=base_s,
        decode=decode_times(launches, predictor, bounds),
        send=send_times(launches, sends, bounds.max_batched_tokens),
    )


def _axis(step: int, bound: int) -> Floats:
    """Points from 0 by ``step`` that cover ``bound``, at least two."""
    return np.arange(max(2, -(-bound // step) + 1), dtype=np.float64) * step


def _prefill_times(
    launches: Counter[Launch], predictor: Predictor, bounds: TableBounds
) -> tuple[Sum, float]:
    """[context points, chunk points], and what a step with any chunk takes besides."""
    context, chunk = np.meshgrid(
        _axis(bounds.context_step, bounds.max_context_tokens),
        _axis(bounds.chunk_step, bounds.max_batched_tokens),
        indexing="ij",
    )
    total, base_s = Sum.over(*chunk.shape), 0.0
    for launch, count in launches.items():
        if launch.shape.kernel.endswith("_prefill"):
            curve = prefill_times(predictor, launch.shape)
            seconds, source = curve.chunk_s(context, chunk)
            one = np.ones_like(chunk)
            floor = floor_s(predictor, launch.shape, batch=one, context=context, chunk=chunk)
            seconds = np.where(chunk > 0, np.maximum(seconds, floor), 0.0)
            kind = kind_of(launch.shape)
            total.add_kernel(predictor, kind, (count * seconds, source))
            base_s += count * curve.base_s
    return total, base_s


def decode_times(launches: Counter[Launch], predictor: Predictor, bounds: TableBounds) -> Sum:
    """[decodes, cache points]"""
    batch, cached = np.meshgrid(
        np.arange(bounds.max_num_seqs + 1, dtype=np.float64),
        _axis(bounds.kv_step, bounds.kv_capacity_tokens),
        indexing="ij",
    )
    context = np.minimum(cached / np.maximum(batch, 1), bounds.max_context_tokens)
    total = Sum.over(*batch.shape)
    for launch, count in launches.items():
        if launch.shape.kernel.endswith("_decode"):
            seconds, source = decode_surface(predictor, launch.shape).at(batch, context)
            floor = floor_s(predictor, launch.shape, batch=batch, context=context)
            skew = slowdown(predictor, launch.shape, (batch, context), bounds.drawn)
            seconds = np.where(batch > 0, np.maximum(seconds * skew, floor), 0.0)
            total.add_kernel(predictor, kind_of(launch.shape), (count * seconds, source))
    return total


def _attention_shares(
    launches: Sequence[Counter[Launch]], predictor: Predictor, bounds: TableBounds
) -> tuple[Floats, Floats]:
    """Of prefill and of decode, [context points, sources]: a whole prompt of that length, and decodes at
    that context, over powers of two of the batch.
    """
    context = _axis(bounds.context_step, bounds.max_context_tokens)
    batch = 2.0 ** np.arange(bounds.max_num_seqs.bit_length())[:, None] + 0 * context
    prefill, decode = Sum.over(len(context)), Sum.over(*batch.shape)
    for launch, count in [pair for stage in launches for pair in stage.items()]:
        if launch.shape.kernel.endswith("_prefill"):
            curve = prefill_times(predictor, launch.shape)
            seconds, source = curve.chunk_s(0 * context, context)
            prefill.add(count * (seconds + curve.base_s), source)
        elif launch.shape.kernel.endswith("_decode"):
            seconds, source = decode_surface(predictor, launch.shape).at(batch, context + 0 * batch)
            decode.add(count * seconds, source)
    return _shares(prefill.by_source).T, _shares(decode.by_source.sum(axis=1)).T


def _main_source(total: Sum) -> Codes:
    """Of each cell, where most of its time comes from."""
    return np.asarray(np.argmax(total.by_source, axis=0), dtype=np.int8)


def _shares(by_source: Floats) -> Floats:
    """Shares of time [sources, …]; zero where there is no time."""
    total = by_source.sum(axis=0)
    return np.asarray(by_source / np.where(total > 0, total, 1.0), dtype=np.float64)
