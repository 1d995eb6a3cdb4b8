"""What a coarser plan of measurements costs: public H100 timings, thinned as the plan is, at rows left out.

    python benchmarks/plan_accuracy.py

Rows of the public tables stand in for an agent's. Along one axis some are kept, as if an agent had measured
them, and those between are predicted by the estimator's own interpolation. The plan has prefills, messages
and contexts an octave apart. Of the last two the tables have nothing in between: every other octave is left
out there, which shows what the plan costs at most. The shapes are llama-3.1-8b's at TP 1, 2, 4 and 8.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from servecast.compiler.catalog import shipped_skus
from servecast.compiler.kernels import KernelShape
from servecast.estimator.attention_times import decode_surface, prefill_curve
from servecast.estimator.importers.silicon import SiliconQuery, import_silicon
from servecast.estimator.measurement import Floats
from servecast.estimator.models import num_sms_of
from servecast.estimator.physics import KernelKind
from servecast.estimator.predictor import Predictor, Samples, samples_of

SKU = "h100-sxm"
DEGREES = (1, 2, 4, 8)
HEADS, KV_HEADS, HEAD_DIM = 32, 8, 128
SHORTEST, MAX_NUM_SEQS = 16, 256
LARGEST = {"context": 32768, "chunk": 8192, "payload_bytes": 4096 * 8192}


@dataclass(frozen=True, slots=True)
class Table:
    """The public rows of one kernel, one variant."""

    kind: KernelKind
    samples: Samples

    def of(self, **fixed: int) -> Samples:
        same = [self.samples.dims[name] == value for name, value in fixed.items()]
        return self.samples.rows(np.logical_and.reduce(same))


def tables() -> dict[str, Table]:
    wanted = {"attention_decode": "bf16", "attention_prefill": "bf16", "all_reduce": ""}
    found: dict[str, Table] = {}
    for batch in import_silicon(SiliconQuery(SKU, "vllm")):
        if batch.dtype != "bf16" or wanted.get(batch.kernel) != batch.kv_dtype:
            continue
        if batch.kernel not in found:
            local = np.ones(batch.num_rows, dtype=np.bool_)
            kind = KernelKind(batch.kernel, batch.dtype, batch.kv_dtype)
            found[batch.kernel] = Table(
                kind, samples_of(batch.dims, batch.times_s["mean_s"], local)
            )
    return found


def predictor(table: Table, kept: Samples) -> Predictor:
    return Predictor(
        shipped_skus()[SKU], num_sms_of(SKU), (table.kind,), samples={table.kind: kept}
    )


def octave(size: int) -> float:
    """Decodes are measured one short of an octave."""
    return math.log2(size + 1) if (size + 1) & size == 0 else math.log2(max(size, 1))


def thinned(rows: Samples, axis: str, keep: Callable[[float], bool]) -> tuple[Samples, Samples]:
    """Those to keep and those to foretell, between the smallest and the largest that is kept."""
    sizes = rows.dims[axis]
    kept = np.array([keep(octave(int(size))) for size in sizes])
    most, least = sizes[kept].max(), sizes[kept].min()
    held = ~kept & (sizes < most) & (sizes > least)
    return rows.rows(kept), rows.rows(held)


def decode_errors(table: Table, keep: Callable[[float], bool]) -> Iterator[Floats]:
    for degree in DEGREES:
        fixed = {"heads": HEADS // degree, "kv_heads": KV_HEADS // degree}
        fixed |= {"head_dim": HEAD_DIM, "window": 0}
        rows = table.of(**fixed)
        context = rows.dims["context"]
        within = (context >= SHORTEST - 1) & (context < LARGEST["context"])
        rows = rows.rows(within & (rows.dims["batch"] <= MAX_NUM_SEQS))
        kept, held = thinned(rows, "context", keep)
        shape = KernelShape("attention_decode", "bf16", "bf16", tuple(sorted(fixed.items())))
        surface = decode_surface(predictor(table, kept), shape)
        points = (held.dims[name].astype(np.float64) for name in ("batch", "context"))
        yield surface.at(*points)[0] / held.seconds - 1


def prefill_errors(table: Table, keep: Callable[[float], bool]) -> Iterator[Floats]:
    for degree in DEGREES:
        fixed = {"heads": HEADS // degree, "kv_heads": KV_HEADS // degree}
        fixed |= {"head_dim": HEAD_DIM, "window": 0}
        rows = table.of(**fixed, batch=1, context=0)
        rows = rows.rows(rows.dims["chunk"] <= LARGEST["chunk"])
        kept, held = thinned(rows, "chunk", keep)
        shape = KernelShape("attention_prefill", "bf16", "bf16", tuple(sorted(fixed.items())))
        curve = prefill_curve(predictor(table, kept), shape)
        chunk = held.dims["chunk"].astype(np.float64)
        told = curve.base_s + curve.chunk_s(np.zeros(len(chunk)), chunk)[0]
        yield told / held.seconds - 1


def all_reduce_errors(table: Table, keep: Callable[[float], bool]) -> Iterator[Floats]:
    for degree in DEGREES[1:]:
        rows = table.of(degree=degree)
        rows = rows.rows(rows.dims["payload_bytes"] <= LARGEST["payload_bytes"])
        kept, held = thinned(rows, "payload_bytes", keep)
        told = predictor(table, kept).predict(table.kind, held.dims).seconds
        yield told / held.seconds - 1


def even(at: float) -> bool:
    return at % 2 == 0


def whole(at: float) -> bool:
    return at == int(at)


def main() -> None:
    found = tables()
    lines = (
        ("decode, every other octave left out", decode_errors, "attention_decode", even),
        ("prefill, chunks an octave apart", prefill_errors, "attention_prefill", whole),
        ("all-reduce, every other octave left out", all_reduce_errors, "all_reduce", even),
    )
    print(f"{'':<41}{'rows':>6}{'median':>9}{'p90':>8}{'mean':>8}")
    for name, errors, kernel, keep in lines:
        off = np.concatenate(list(errors(found[kernel], keep)))
        size = np.abs(off)
        told = (np.median(size), np.quantile(size, 0.9), off.mean())
        print(f"{name:<41}{len(off):>6}" + "".join(f"{value:>8.1%}" for value in told))


if __name__ == "__main__":
    main()
