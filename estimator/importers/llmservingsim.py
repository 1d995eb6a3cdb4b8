"""Reads LLMServingSim's layer-wise vLLM profiles: ``<gpu>/<model…>/<dtype>/tp<k>/*.csv``, in microseconds.

A row of ``attention.csv`` is one step's attention: a prefill chunk after history, a batch of decodes, or both
at once; of the mixed ones those without history are taken. ``moe.csv`` times experts by how many were hit:
between two rows lie as many as uniform routing is expected to hit. An expert-parallel rank's share is a row,
too: so many of its experts hit, by so many tokens, and memory's time for the rows of others' experts.
``qk_norm`` takes as long as one pass over the queries: it stands for that.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from servecast.compiler.catalog import shipped_skus
from servecast.compiler.errors import DataMissingError
from servecast.compiler.hardware import Sku
from servecast.compiler.kernels import KernelCase
from servecast.estimator.importers.agreement import Agreement, Timed, refuse_mixed_units
from servecast.estimator.importers.csv_lines import lines_of
from servecast.estimator.importers.vidur import Skipped
from servecast.estimator.measurement import Measurement, Origin, Timing
from servecast.estimator.physics import bytes_per_element

LICENCE = "MIT"
S_PER_US = 1e-6
OF = "a profile of LLMServingSim"
RANKS = re.compile(r"tp[1-9]\d*")
SKUS = {"RTX4090": "rtx-4090", "RTXPRO6000": "rtx-pro-6000", "H100": "h100-sxm"}


@dataclass(frozen=True, slots=True)
class Shape:
    """What the files leave to the model's own configuration (config.json on Hugging Face)."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    experts: int = 0
    top_k: int = 0


MODELS = {
    "meta-llama/Llama-3.1-8B": Shape(4096, 32, 8, 128, 14336, 128256),
    "Qwen/Qwen3-32B": Shape(5120, 64, 8, 128, 25600, 151936),
    "Qwen/Qwen3-30B-A3B-Instruct-2507": Shape(2048, 32, 4, 128, 768, 151936, 128, 8),
}


EP_DEGREES = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    model: Shape
    tp: int
    dtype: str
    sku: Sku | None


def import_llmservingsim(folder: Path, skipped: Skipped) -> list[Measurement]:
    """Everything in ``folder``. Rows not taken are counted in ``skipped``.

    Raises:
        DataMissingError: there is no profile, or one holds a bad cell; it is named by row and column.
    """
    paths = [p for p in sorted(folder.glob("*/**/tp*/*.csv")) if p.name in READERS]
    if not paths:
        raise DataMissingError(
            f"{folder}: no <gpu>/<model>/<dtype>/tp<k>/*.csv of LLMServingSim in it"
        )
    return [row for path in paths for row in _read(path, folder, skipped)]


def _read(path: Path, folder: Path, skipped: Skipped) -> Iterator[Measurement]:
    relative = path.relative_to(folder)
    gpu, *name, dtype, tp = relative.parts[:-1]
    model = MODELS.get("/".join(name))
    if model is None:
        known = ", ".join(MODELS)
        raise DataMissingError(f"{path}: unknown model {'/'.join(name)!r}; known are {known}")
    if not RANKS.fullmatch(tp) or any(
        size % int(tp[2:]) for size in (model.heads, model.intermediate)
    ):
        raise DataMissingError(f"{path}: no such tensor parallelism of {'/'.join(name)} as {tp!r}")
    origin = Origin("llmservingsim", "llmservingsim", "", relative.as_posix(), LICENCE)
    sku = SKUS.get(gpu, gpu.lower())
    file = _File(path, model, int(tp[2:]), dtype, shipped_skus().get(sku))
    found = list(READERS[path.name](file, skipped))
    refuse_mixed_units(found)
    for row in found:
        yield Measurement(row.case, sku, origin, Timing(row.seconds), method="eager")


@dataclass(frozen=True, slots=True)
class _Row:
    """One line: its ``layer`` (empty without such a column) and the numbers of the columns asked for."""

    layer: str
    values: dict[str, int]
    seconds: float
    where: str

    def of(self, case: KernelCase) -> Timed:
        return Timed(case, self.seconds, self.where)


def _rows(file: _File, *columns: str, least: int = 1) -> Iterator[_Row]:
    """Every line; counts below ``least`` are refused."""
    agreement = Agreement()
    for line in lines_of(file.path, OF):
        sizes = {column: line.whole(column, least) for column in columns}
        seconds = line.positive_time("time_us", "us") * S_PER_US
        layer, where = line.row.get("layer") or "", line.where("time_us")
        agreement.check((layer, *sizes.values()), seconds, line.number, where)
        yield _Row(layer, sizes, seconds, where)


def _case(file: _File, kernel: str, dims: Mapping[str, int]) -> KernelCase:
    """Attention reads a cache in the file's own format; sampling works on fp32 logits."""
    dtype = "fp32" if kernel == "sample" else file.dtype
    kv_dtype = file.dtype if kernel.startswith("attention") else ""
    return KernelCase(kernel, dtype, kv_dtype, tuple(sorted(dims.items())))


Cases = Iterator[Timed]


def _dense(file: _File, skipped: Skipped) -> Cases:
    m, tp = file.model, file.tp
    heads, kv_heads = m.heads // tp, max(1, m.kv_heads // tp)
    q, kv, inner = heads * m.head_dim, kv_heads * m.head_dim, m.intermediate // tp
    norm = ("rms_norm", {"width": m.hidden, "per_row": 1, "residual": 1})
    rope = {"heads": heads + kv_heads, "head_dim": m.head_dim, "rotary_dim": m.head_dim}
    layers: dict[str, tuple[str, dict[str, int]]] = {
        "embedding": ("embedding", {"vocab": -(-m.vocab // tp), "width": m.hidden}),
        "layernorm": norm,
        "final_layernorm": norm,
        "qkv_proj": ("linear", {"in_features": m.hidden, "out_features": q + 2 * kv}),
        "rotary_emb": ("rope", rope),
        "qk_norm": ("rms_norm", {"width": m.head_dim, "per_row": heads, "residual": 0}),
        "o_proj": ("linear", {"in_features": q, "out_features": m.hidden}),
        "gate_up_proj": ("linear", {"in_features": m.hidden, "out_features": 2 * inner}),
        "act_fn": ("swiglu", {"width": inner}),
        "down_proj": ("linear", {"in_features": inner, "out_features": m.hidden}),
    }
    yield from _layers(file, layers, "tokens", skipped)


def _per_sequence(file: _File, skipped: Skipped) -> Cases:
    vocab = -(-file.model.vocab // file.tp)
    layers = {
        "lm_head": ("linear", {"in_features": file.model.hidden, "out_features": vocab}),
        "sampler": ("sample", {"vocab": file.model.vocab}),
    }
    yield from _layers(file, layers, "sequences", skipped)


def _layers(
    file: _File, layers: Mapping[str, tuple[str, dict[str, int]]], axis: str, skipped: Skipped
) -> Cases:
    for row in _rows(file, axis):
        if row.layer not in layers:
            skipped.reasons[f"{file.path.name}: {row.layer}"] += 1
            continue
        kernel, dims = layers[row.layer]
        yield row.of(_case(file, kernel, {**dims, "rows": row.values[axis]}))


def _attention(file: _File, skipped: Skipped) -> Cases:
    m, tp = file.model, file.tp
    kv_heads = max(1, m.kv_heads // tp)
    shape = {"heads": m.heads // tp, "kv_heads": kv_heads, "head_dim": m.head_dim, "window": 0}
    for row in _rows(file, "prefill_chunk", "kv_prefill", "n_decode", "kv_decode", least=0):
        chunk, history, decodes, cached = row.values.values()
        if not chunk and not decodes:
            raise DataMissingError(f"{row.where}: a step without a chunk and without decodes")
        if chunk and decodes and history:
            skipped.reasons[f"{file.path.name}: decodes beside a prefill with history"] += 1
        elif chunk and decodes:
            swept = {"batch": decodes, "context": cached, "chunk": chunk}
            yield row.of(_case(file, "attention_mixed", {**shape, **swept}))
        elif chunk:
            swept = {"batch": 1, "context": history, "chunk": chunk}
            yield row.of(_case(file, "attention_prefill", {**shape, **swept}))
        else:
            swept = {"batch": decodes, "context": cached}
            yield row.of(_case(file, "attention_decode", {**shape, **swept}))


def _moe(file: _File, skipped: Skipped) -> Cases:
    m = file.model
    by_tokens: dict[int, list[_Row]] = {}
    for row in _rows(file, "tokens", "activated_experts"):
        by_tokens.setdefault(row.values["tokens"], []).append(row)
    taken = set()
    for tokens, times in by_tokens.items():
        for ep in EP_DEGREES if file.sku else (1,):
            local, rows = m.experts // ep, tokens * ep
            expected = local * (1 - (1 - m.top_k / m.experts) ** rows)
            fits = [row for row in times if row.values["activated_experts"] <= local]
            if not fits:
                continue
            seconds, around = _at_experts(fits, expected)
            seconds += _others_rows_s(file, rows * m.top_k * (1 - 1 / ep))
            taken |= {row.where for row in around}
            dims = {"hidden": m.hidden, "intermediate": m.intermediate // file.tp, "top_k": m.top_k}
            experts = {"experts": local, "total_experts": m.experts, "rows": rows}
            yield Timed(_case(file, "experts", {**dims, **experts}), seconds, around[0].where)
    left = sum(map(len, by_tokens.values())) - len(taken)
    skipped.reasons[f"{file.path.name}: routing far from uniform"] += left


def _others_rows_s(file: _File, rows: float) -> float:
    """A rank has the rows of other ranks' experts in its own buffers: both matrices' outputs are zeroed, the
    activation reads and writes them, the sum over experts reads them.

    SOURCE: vLLM, vllm/model_executor/layers/fused_moe/experts/triton_moe.py (``TritonExperts.apply``) and
    fused_moe.py (``write_zeros_to_output``).
    """
    if file.sku is None:
        return 0.0
    inner = file.model.intermediate // file.tp
    moved = rows * bytes_per_element(file.dtype) * (5 * inner + 2 * file.model.hidden)
    return float(moved / file.sku.bandwidth_bytes_per_s)


def _at_experts(times: Sequence[_Row], hit: float) -> tuple[float, Sequence[_Row]]:
    """Seconds where so many experts are hit, between the two rows around, and these; the nearest outside."""
    rows = sorted(times, key=lambda row: row.values["activated_experts"])
    counts = [row.values["activated_experts"] for row in rows]
    above = min(bisect_left(counts, hit), len(rows) - 1)
    if above == 0 or hit >= counts[-1]:
        return rows[above].seconds, [rows[above]]
    low, high = rows[above - 1 : above + 1]
    share = (hit - counts[above - 1]) / (counts[above] - counts[above - 1])
    return low.seconds + share * (high.seconds - low.seconds), [low, high]


READERS: dict[str, Callable[[_File, Skipped], Cases]] = {
    "dense.csv": _dense,
    "per_sequence.csv": _per_sequence,
    "attention.csv": _attention,
    "moe.csv": _moe,
}
