"""What a run made of its GPUs: bytes, FLOPs, pipeline bubbles. Formulas: ``docs/metrics.md``."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from servecast.compiler.attention import Attention, DeltaAttention, LatentAttention
from servecast.compiler.hardware import Sku
from servecast.compiler.ir import Collective, Experts, TokenOperator
from servecast.compiler.sharded import Rows, ShardedProgram
from servecast.estimator.tables import RuntimeTables
from servecast.simulator.engine.records import Floats, Records
from servecast.simulator.metrics.flops import flops_model

_MANY = 1 << 12  # rows, a multiple of every format's block of numbers with a scale in common


def moved_bytes(sharded: ShardedProgram, records: Records) -> Floats:
    """Bytes that all ranks of an engine read and write in each step, shape [steps].

    Every operator's weights and activations at the step's rows, experts as far as routing touches them, and
    the decodes' caches. What prefill attention reads is left out: it is bound by FLOPs.
    """
    steps = records.steps
    decodes, cached = steps["decodes"].astype(float), steps["cached"].astype(float)
    total = np.zeros(len(steps))
    degrees = sharded.parallelism
    ranks = degrees.gpus // (degrees.pp * degrees.dp)
    runs = [run for stage in sharded.stages for run in stage.runs]
    for times, call in [(run.count * ranks, call) for run in runs for call in run.calls]:
        match call.op:
            case Collective():
                continue
            case Attention() | LatentAttention() as op:
                window = op.window if isinstance(op, Attention) else None
                seen = cached if window is None else np.minimum(cached, decodes * window)
                total += times * op.kv_bytes_per_token * seen
            case DeltaAttention() as op:
                total += times * op.moved_bytes(1) * decodes
            case op:
                rows = steps["sequences" if call.rows is Rows.LAST_TOKENS else "tokens"]
                total += times * _moved_bytes(op, np.ceil(rows * call.row_factor))
    return total


def step_flops(sharded: ShardedProgram, records: Records) -> Floats:
    """FLOPs of all ranks of an engine in each step, shape [steps], but those of prefill attention."""
    model, steps = flops_model(sharded), records.steps
    decodes, cached = steps["decodes"].astype(float), steps["cached"].astype(float)
    total = steps["tokens"] * model.per_token + steps["sequences"] * model.per_output
    for window, cost in model.per_pair:
        seen = cached + decodes
        total = total + cost * (seen if window is None else np.minimum(seen, decodes * window))
    return np.asarray(total / sharded.parallelism.dp)


def mbu(sharded: ShardedProgram, sku: Sku, records: Records, duration_s: float) -> float:
    """Model bandwidth utilisation: bytes moved over what all GPUs could move in the run."""
    could = sku.bandwidth_bytes_per_s * gpus_of(sharded) * records.replicas
    return float(moved_bytes(sharded, records).sum()) / (could * duration_s)


def computed_s(tables: RuntimeTables, records: Records) -> float:
    """Seconds of all stages' batches, by the formula of `RuntimeTables`; sending and the host are none."""
    return sum(part_seconds(tables, records).values())


def part_seconds(tables: RuntimeTables, records: Records) -> dict[str, float]:
    """The terms of that formula over all steps and stages, by name; ``mixed`` is what prefill and decodes in
    one launch take more."""
    steps = records.steps
    tokens, decodes = steps["tokens"], steps["decodes"]
    sequences = np.minimum(steps["sequences"], tables.sequence_s.shape[1] - 1)
    some = decodes > 0
    return {
        "tokens": float(tables.token_s.sum(axis=0)[tokens].sum()),
        "sequences": float(tables.sequence_s.sum(axis=0)[sequences].sum()),
        "prefill": float(steps["prefill_s"].sum())
        + float(tables.prefill_base_s.sum()) * int((tokens > decodes).sum()),
        "decode": float(by_cache(tables, tables.decode_s.sum(axis=0), steps[some]).sum()),
        "mixed": _mixed_s(tables, steps[some & (tokens > decodes)]),
    }


def _mixed_s(tables: RuntimeTables, steps: NDArray[np.void]) -> float:
    points = tables.mixed_chunk_tokens
    if not len(points) or not len(steps):
        return 0.0
    extra = np.stack([by_cache(tables, table, steps) for table in tables.mixed_s.sum(axis=0)])
    at = np.interp(steps["tokens"] - steps["decodes"], points, np.arange(len(points)))
    low = np.minimum(at.astype(int), max(len(points) - 2, 0))
    row = np.arange(len(steps))
    left, right = extra[low, row], extra[np.minimum(low + 1, len(points) - 1), row]
    return float((left + (right - left) * (at - low)).sum())


def by_cache(tables: RuntimeTables, table: Floats, steps: NDArray[np.void]) -> Floats:
    """Rows of a table by decodes, linear in their cached tokens, beyond the last point, too."""
    at = steps["cached"] / tables.kv_step_tokens
    low = np.minimum(at.astype(int), table.shape[1] - 2)
    left, right = table[steps["decodes"], low], table[steps["decodes"], low + 1]
    return np.asarray(left + (right - left) * (at - low))


def bubbles(records: Records, busy_s: float, stages_s: float) -> float:
    """Share of the stages' time that they idle although their replica has a batch in flight.

    ``busy_s``: with a batch in flight, mean over the replicas; ``stages_s``: `computed_s`.
    """
    return max(0.0, 1.0 - stages_s / (busy_s * records.replicas * records.stages))


def gpus_of(sharded: ShardedProgram) -> int:
    """Of one engine: a replica of several with experts in common is several in the records."""
    return sharded.parallelism.gpus // sharded.parallelism.dp


def _moved_bytes(op: TokenOperator, rows: Floats) -> Floats:
    """At each step's rows: linear in them but for experts, which are asked for each number once."""
    if isinstance(op, Experts):
        distinct, where = np.unique(rows, return_inverse=True)
        return np.array([float(op.moved_bytes(int(n))) for n in distinct])[where]
    still = op.moved_bytes(0)
    return still + rows * ((op.moved_bytes(_MANY) - still) / _MANY)
