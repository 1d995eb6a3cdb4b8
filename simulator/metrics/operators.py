"""What each operator of a run was asked for, and how long it took: formulas in ``docs/metrics.md``.

Times are those of the runtime tables, operator by operator, at the sizes of the run's steps. What the tables
have for a part of a step as a whole (prefill attention, launches of prefill and decodes together, collectives
that something hides) is shared out to that part's operators by what each would take alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from servecast.compiler.attention import Attention, DeltaAttention, LatentAttention
from servecast.compiler.hardware import Sku
from servecast.compiler.ir import Collective
from servecast.estimator.operator_times import OperatorTimes, Part
from servecast.estimator.tables import SOURCES, RuntimeTables
from servecast.simulator.engine.records import Floats, Ints, Records
from servecast.simulator.metrics.flops import peak_flops
from servecast.simulator.metrics.metrics import Samples
from servecast.simulator.metrics.usage import by_cache, part_seconds

Row = dict[str, Any]  # JSON
_PERCENTILES = (50, 90, 99, 100)


@dataclass(frozen=True, slots=True, eq=False)
class OperatorUse:
    """One operator over a run, on one rank of each replica, all replicas together.

    ``sizes`` are what its launches were asked for and in how many steps: tokens, sequences, decodes, or
    tokens of its prefill. ``by_source``: seconds [sources]. FLOPs and bytes are NaN of what has none.
    """

    times: OperatorTimes
    sizes: Samples
    by_source: Floats
    flops: float
    moved_bytes: float

    @property
    def seconds(self) -> float:
        return float(self.by_source.sum())

    @property
    def calls(self) -> int:
        return self.sizes.total * self.times.count


def operators(
    each: Sequence[OperatorTimes], tables: RuntimeTables, records: Records
) -> list[OperatorUse] | None:
    """None where a step's checks of drafts are not in its record."""
    if "speculation" in records.modes or not len(records.steps):
        return None
    uses = [_use(times, tables, records) for times in each]
    of = part_seconds(tables, records)
    tokens_s = sum(use.seconds for use in uses if use.times.part is Part.TOKENS)
    apart_s = of["prefill"] + of["decode"]
    together = 1 + of["mixed"] / apart_s if apart_s > 0 else 1.0
    _share_out(uses, Part.COLLECTIVES, max(of["tokens"] - tokens_s, 0.0))
    _share_out(uses, Part.PREFILL, of["prefill"] * together)
    _share_out(uses, Part.DECODE, of["decode"] * together)
    return uses


def _share_out(uses: Sequence[OperatorUse], part: Part, total_s: float) -> None:
    mine = [use for use in uses if use.times.part is part]
    alone_s = sum(use.seconds for use in mine)
    for use in mine:
        use.by_source[:] *= total_s / alone_s if alone_s > 0 else 0.0


def operator_rows(uses: Sequence[OperatorUse], sku: Sku) -> list[Row]:
    """As JSON, the longest first."""
    total_s = sum(use.seconds for use in uses)
    rows = [_row(use, total_s, sku) for use in uses]
    return sorted(rows, key=lambda row: -row["time_s"])


def _row(use: OperatorUse, total_s: float, sku: Sku) -> Row:
    seconds, call, shape = use.seconds, use.times.call, use.times.shape
    shares = use.by_source / seconds if seconds > 0 else 0 * use.by_source
    names = ("p50", "p90", "p99", "max")
    some = use.sizes.total > 0
    sizes = zip(names, (use.sizes.percentile(p) for p in _PERCENTILES), strict=True)
    return {
        "operator": call.name,
        "kernel": shape.kernel,
        "format": shape.dtype,
        "dims": dict(shape.dims),
        "calls": use.calls,
        "size_of": use.times.part.value,
        "sizes": {name: value if some else None for name, value in sizes}
        | {"mean": use.sizes.mean() if some else None},
        "time_s": seconds,
        "share": seconds / total_s if total_s > 0 else None,
        "time_by_source": {s.value: float(v) for s, v in zip(SOURCES, shares, strict=True)},
        "mfu": _of(use.flops, seconds, peak_flops(sku, shape.dtype)),
        "mbu": _of(use.moved_bytes, seconds, sku.bandwidth_bytes_per_s),
    }


def _of(work: float, seconds: float, per_s: float | None) -> float | None:
    if per_s is None or np.isnan(work) or not seconds > 0:
        return None
    return work / (seconds * per_s)


def _use(times: OperatorTimes, tables: RuntimeTables, records: Records) -> OperatorUse:
    steps, part = records.steps, times.part
    if part is Part.PREFILL:
        return _prefill(times, tables, records)
    if part is Part.DECODE:
        return _decode(times, tables, records)
    sizes = steps["sequences" if part is Part.SEQUENCES else "tokens"]
    rows, often = np.unique(sizes, return_counts=True)
    by_source = times.by_source[:, np.minimum(rows, times.by_source.shape[1] - 1)] @ often
    launched = np.ceil(rows * times.call.row_factor).astype(np.int64)
    op = times.call.op
    flops = moved = np.nan
    if not isinstance(op, Collective | Attention | LatentAttention | DeltaAttention):
        flops = times.count * float(_each(op.flops, launched) @ often)
        moved = times.count * float(_each(op.moved_bytes, launched) @ often)
    return OperatorUse(times, _weighted(rows, often), by_source, flops, moved)


def _decode(times: OperatorTimes, tables: RuntimeTables, records: Records) -> OperatorUse:
    steps = records.steps[records.steps["decodes"] > 0]
    by_source = np.array([by_cache(tables, table, steps).sum() for table in times.by_source])
    decodes, cached = steps["decodes"].astype(float), steps["cached"].astype(float)
    op = times.call.op
    if isinstance(op, DeltaAttention):
        work = (op.flops(1) * decodes.sum(), op.moved_bytes(1) * decodes.sum())
    else:
        assert isinstance(op, Attention | LatentAttention)
        window = op.window if isinstance(op, Attention) and op.window else np.inf
        pairs = np.minimum(cached + decodes, decodes * window).sum()
        seen = np.minimum(cached, decodes * window).sum()
        work = (op.flops(0, 1) * pairs, op.kv_bytes_per_token * seen)
    flops, moved = (times.count * float(each) for each in work)
    sizes, often = np.unique(steps["decodes"], return_counts=True)
    return OperatorUse(times, _weighted(sizes, often), by_source, flops, moved)


def _prefill(times: OperatorTimes, tables: RuntimeTables, records: Records) -> OperatorUse:
    """Of prompts that were begun, without what was cached; what was computed again is in the time alone."""
    steps = records.steps[records.steps["tokens"] > records.steps["decodes"]]
    sizes, often = np.unique(steps["tokens"] - steps["decodes"], return_counts=True)
    begun = ~np.isnan(records.scheduled_s)
    hits = records.prefix_hit_tokens
    context = np.zeros(int(begun.sum()), np.int64) if hits is None else hits[begun]
    chunk = records.prompt_tokens[begun] - context
    prompts = np.rint(records.prompt_tokens[begun] / tables.context_step_tokens).astype(np.int64)
    at = np.clip(prompts, 1, times.by_source.shape[1] - 1)
    by_source = times.by_source[:, at].sum(axis=1)
    op = times.call.op
    pairs, many = np.unique(np.stack((context, chunk)), axis=1, return_counts=True)
    if isinstance(op, DeltaAttention):
        work = [_each(f, pairs[1]) @ many for f in (op.flops, op.moved_bytes)]
    else:
        assert isinstance(op, Attention | LatentAttention)
        columns = pairs.T.tolist()
        work = [
            np.array([float(f(*c)) for c in columns]) @ many for f in (op.flops, op.moved_bytes)
        ]
    flops, moved = (times.count * float(each) for each in work)
    return OperatorUse(times, _weighted(sizes, often), by_source, flops, moved)


def _each(of_rows: Callable[[int], int], rows: Ints) -> Floats:
    return np.array([float(of_rows(n)) for n in rows.tolist()])


def _weighted(values: NDArray[np.integer[Any]], often: Ints) -> Samples:
    return Samples(values.astype(np.float64), weights=often)
