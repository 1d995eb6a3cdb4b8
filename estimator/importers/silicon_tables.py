"""The tables of the aiconfigurator-core package as batches of measurements, each reader one table.

What is kept from estimators is said in each rule's reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from servecast.estimator.importers.package_tables import Table, read_scales, read_table
from servecast.estimator.measurement import Ints, MeasurementBatch, Origin

S_PER_MS = 1e-3
BYTES_PER_ELEMENT = 2  # the collectives' message sizes count two-byte elements

FORMAT_NAMES = {
    "bfloat16": "bf16",
    "half": "bf16",  # two-byte collectives move and add alike
    "fp8": "fp8",
    "fp8_block": "fp8_block",
    "nvfp4": "nvfp4",
    "int8": "int8",
    "w4a16_mxfp4": "mxfp4",
    "w4a8_mxfp4_mxfp8": "mxfp4",  # the same weights; the GPUs that can round activations to fp8
    "int4_wo": "int4_g128",
}
EAGER_FP8_BLOCK = "timed without a CUDA graph: a floor of CPU launches (withdrawn by its publisher)"
SLOW_FP8_EXPERTS = "the modelopt kernel, 2.5 to 4 times slower than what fp8 checkpoints run"
SLOW_KERNEL = "modeloptfp8moe_flashinfer_cutlass"
SLOWER_EXPERTS = "another kernel of the same engine is faster at this very point"
LATENT_DIMS = {"rank": 512, "rope_dim": 64, "nope_dim": 128, "value_dim": 128}  # DeepSeek-V3's
PARTS_OF_DELTA = 2  # the convolution and the rule
CUSTOM_ALL_REDUCE = {
    "vllm": "vLLM_custom_graph",
    "sglang": "SGLang_CustomAllReduce_graph",
    "trtllm": "TRTLLM",
}
"""Whose all-reduce, as launched from a CUDA graph: that is how decode steps run."""


def _ints(column: NDArray[Any]) -> Ints:
    return column.astype(np.int64)


def _groups(table: Table, *keys: str) -> Iterator[tuple[tuple[str, ...], NDArray[np.bool_]]]:
    """Every combination of values that the ``keys`` columns hold, sorted, and the rows with it."""
    text = np.stack([table[key].astype(str) for key in keys], axis=1)
    values, inverse = np.unique(text, axis=0, return_inverse=True)
    for i, value in enumerate(values):
        yield tuple(str(v) for v in value), inverse.reshape(-1) == i


def _seconds(latency_ms: NDArray[Any]) -> dict[str, NDArray[np.float64]]:
    return {"mean_s": latency_ms.astype(np.float64) * S_PER_MS}


def _gemm(sku: str, path: Path, origin: Origin) -> Iterator[MeasurementBatch]:
    """TensorRT-LLM's fp8 rows time a whole layer that finds its input's scale first; checkpoints with
    static scales, which it serves, skip that. Its own table is taken off.
    """
    table = read_table(path, ("gemm_dtype", "m", "n", "k", "latency"))
    if path.parent.parent.name == "trtllm":
        scaled = table["gemm_dtype"] == "fp8"
        table["latency"] = table["latency"] - np.where(scaled, _scale_ms(path, table), 0.0)
    for (dtype,), rows in _groups(table, "gemm_dtype"):
        eager = dtype == "fp8_block" and "/vllm/0.24." in f"/{path.as_posix()}"
        yield MeasurementBatch(
            kernel="linear",
            dtype=FORMAT_NAMES.get(dtype, dtype),
            kv_dtype="",
            sku=sku,
            origin=origin,
            dims={
                "rows": _ints(table["m"][rows]),
                "in_features": _ints(table["k"][rows]),
                "out_features": _ints(table["n"][rows]),
            },
            times_s=_seconds(table["latency"][rows]),
            method="eager" if eager else "cuda-graph",
            quarantine=EAGER_FP8_BLOCK if eager else None,
        )


def _scale_ms(path: Path, table: Table) -> NDArray[np.float64]:
    """What finding the scale of each row's [m, k] input takes; 0 where nobody timed it."""
    backend = path.parent.parent
    found = sorted(
        backend.parent.parent.glob(f"quantize/{backend.name}/*/computescale_perf.parquet")
    )
    if not found:
        return np.zeros(len(table["m"]))
    timed = read_scales(found[-1])
    sizes = zip(timed["m"].tolist(), timed["k"].tolist(), strict=True)
    known = dict(zip(sizes, timed["latency"].tolist(), strict=True))
    asked = zip(table["m"].tolist(), table["k"].tolist(), strict=True)
    return np.array([known.get(size, 0.0) for size in asked])


def _attention(
    kernel: str, swept: Callable[[Table], dict[str, Ints]]
) -> Callable[[str, Path, Origin], Iterator[MeasurementBatch]]:
    """The measured times include the write of the step's own keys and values into the cache."""

    def read(sku: str, path: Path, origin: Origin) -> Iterator[MeasurementBatch]:
        sizes = ("batch_size", "isl", "step", "num_heads", "num_key_value_heads", "head_dim")
        names = (*sizes, "attn_dtype", "kv_cache_dtype", "window_size", "latency")
        table = read_table(path, names)
        table.setdefault("window_size", np.zeros_like(table["step"]))  # old tables know no windows
        for (dtype, kv_dtype), rows in _groups(table, "attn_dtype", "kv_cache_dtype"):
            part = {name: column[rows] for name, column in table.items()}
            yield MeasurementBatch(
                kernel=kernel,
                dtype=FORMAT_NAMES.get(dtype, dtype),
                kv_dtype=FORMAT_NAMES.get(kv_dtype, kv_dtype),
                sku=sku,
                origin=origin,
                dims={
                    "heads": _ints(part["num_heads"]),
                    "kv_heads": _ints(part["num_key_value_heads"]),
                    "head_dim": _ints(part["head_dim"]),
                    "window": _ints(part["window_size"]),
                    "batch": _ints(part["batch_size"]),
                    **swept(part),
                },
                times_s=_seconds(part["latency"]),
                method="cuda-graph",
            )

    return read


def _custom_all_reduce(sku: str, path: Path, origin: Origin) -> Iterator[MeasurementBatch]:
    columns = ("op_name", "num_gpus", "message_size", "latency")
    backend = path.parent.parent.name
    yield from _collectives(
        sku, origin, "custom", read_table(path, columns, kernel_source=CUSTOM_ALL_REDUCE[backend])
    )


def _nccl(sku: str, path: Path, origin: Origin) -> Iterator[MeasurementBatch]:
    columns = ("op_name", "num_gpus", "message_size", "latency")
    yield from _collectives(sku, origin, "nccl", read_table(path, columns, nccl_dtype="half"))


def _collectives(
    sku: str, origin: Origin, variant: str, table: Table
) -> Iterator[MeasurementBatch]:
    for (name,), rows in _groups(table, "op_name"):
        yield MeasurementBatch(
            kernel="all_to_all" if name == "alltoall" else name,
            dtype="bf16",
            kv_dtype="",
            sku=sku,
            origin=origin,
            dims={
                "degree": _ints(table["num_gpus"][rows]),
                "payload_bytes": _ints(table["message_size"][rows]) * BYTES_PER_ELEMENT,
            },
            times_s=_seconds(table["latency"][rows]),
            method="cuda-graph" if variant == "custom" else "nccl-tests",
            variant=variant,
        )


def _moe(sku: str, path: Path, origin: Origin) -> Iterator[MeasurementBatch]:
    """``variant`` is the routing: balanced or a power law of expert popularity. Of several kernels of one
    engine the fastest counts at each point, as its auto-tuner would have it.
    """
    sizes = ("num_tokens", "hidden_size", "inter_size", "topk", "num_experts")
    degrees = ("moe_tp_size", "moe_ep_size")
    names = ("moe_dtype", "distribution", "kernel_source")
    table = read_table(path, (*names, *sizes, *degrees, "latency"))
    formats = np.array([FORMAT_NAMES.get(str(d), str(d)) for d in table["moe_dtype"]])
    modelopt = np.char.find(table["kernel_source"].astype(str), SLOW_KERNEL) >= 0
    case = np.stack([table[name].astype(str) for name in ("distribution", *sizes, *degrees)])
    slower = ~_fastest(np.concatenate([case, [formats, modelopt.astype(str)]]), table["latency"])
    table["slower"] = slower.astype(str)
    for (dtype, routing, kernel, slow), rows in _groups(table, *names, "slower"):
        part = {name: _ints(table[name][rows]) for name in (*sizes, *degrees)}
        reason = SLOW_FP8_EXPERTS if SLOW_KERNEL in kernel else None
        yield MeasurementBatch(
            kernel="experts",
            dtype=FORMAT_NAMES.get(dtype, dtype),
            kv_dtype="",
            sku=sku,
            origin=origin,
            dims={
                "rows": part["num_tokens"],
                "hidden": part["hidden_size"],
                "intermediate": part["inter_size"] // part["moe_tp_size"],
                "experts": part["num_experts"] // part["moe_ep_size"],
                "total_experts": part["num_experts"],
                "top_k": part["topk"],
            },
            times_s=_seconds(table["latency"][rows]),
            method="cuda-graph",
            variant=routing,
            quarantine=reason or (SLOWER_EXPERTS if slow == "True" else None),
        )


def _fastest(case: NDArray[Any], latency: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether a row is the first fastest of those with its columns of ``case`` [names, rows]."""
    _, number = np.unique(case, axis=1, return_inverse=True)
    order = np.lexsort((latency, number.reshape(-1)))
    first = np.ones(len(order), dtype=np.bool_)
    first[1:] = np.diff(number.reshape(-1)[order]) > 0
    fastest = np.zeros(len(order), dtype=np.bool_)
    fastest[order[first]] = True
    return fastest


def _latent(
    kernel: str, swept: Callable[[Table], dict[str, Ints]]
) -> Callable[[str, Path, Origin], Iterator[MeasurementBatch]]:
    """DeepSeek's attention kernel alone: its projections are GEMMs of their own."""

    def read(sku: str, path: Path, origin: Origin) -> Iterator[MeasurementBatch]:
        names = ("batch_size", "isl", "step", "num_heads", "mla_dtype", "kv_cache_dtype", "latency")
        table = read_table(path, names)
        for (dtype, kv_dtype), rows in _groups(table, "mla_dtype", "kv_cache_dtype"):
            part = {name: column[rows] for name, column in table.items()}
            fixed = {name: np.full(rows.sum(), size) for name, size in LATENT_DIMS.items()}
            yield MeasurementBatch(
                kernel=kernel,
                dtype=FORMAT_NAMES.get(dtype, dtype),
                kv_dtype=FORMAT_NAMES.get(kv_dtype, kv_dtype),
                sku=sku,
                origin=origin,
                dims={
                    **fixed,
                    "heads": _ints(part["num_heads"]),
                    "batch": _ints(part["batch_size"]),
                    **swept(part),
                },
                times_s=_seconds(part["latency"]),
                method="cuda-graph",
            )

    return read


def _delta(sku: str, path: Path, origin: Origin) -> Iterator[MeasurementBatch]:
    """The gated delta rule and the short convolution before it, which are timed one by one, as one."""
    sizes = ("batch_size", "seq_len", "num_v_heads", "num_k_heads", "head_v_dim")
    table = read_table(path, ("phase", "op_name", *sizes, "latency"), op_name="gdn")
    for (phase,), rows in _groups(table, "phase"):
        cases = np.stack([_ints(table[name][rows]) for name in sizes], axis=1)
        cases, case, parts = np.unique(cases, axis=0, return_inverse=True, return_counts=True)
        latency = np.bincount(case.reshape(-1), weights=table["latency"][rows].astype(np.float64))
        whole = parts % PARTS_OF_DELTA == 0  # several models with the same heads were timed
        batch, tokens, heads, key_heads, dim = cases[whole].T
        swept = {"batch": batch} if phase == "generation" else {"batch": batch, "chunk": tokens}
        yield MeasurementBatch(
            kernel="delta_decode" if phase == "generation" else "delta_prefill",
            dtype="bf16",
            kv_dtype="fp32",
            sku=sku,
            origin=origin,
            dims={"heads": heads, "kv_heads": key_heads, "head_dim": dim, **swept},
            times_s=_seconds(latency[whole] * PARTS_OF_DELTA / parts[whole]),
            method="cuda-graph",
        )


def _prompt(table: Table) -> dict[str, Ints]:
    return {"context": _ints(table["step"]), "chunk": _ints(table["isl"])}


def _cached(table: Table) -> dict[str, Ints]:
    return {"context": _ints(table["step"])}


READERS: tuple[tuple[str, str, Callable[[str, Path, Origin], Iterator[MeasurementBatch]]], ...] = (
    ("gemm", "gemm_perf", _gemm),
    ("attention", "context_attention_perf", _attention("attention_prefill", _prompt)),
    ("attention", "generation_attention_perf", _attention("attention_decode", _cached)),
    ("mla", "context_mla_perf", _latent("latent_prefill", _prompt)),
    ("mla", "generation_mla_perf", _latent("latent_decode", _cached)),
    ("comm", "custom_allreduce_perf", _custom_all_reduce),
    ("comm", "nccl_perf", _nccl),
    ("moe", "moe_perf", _moe),
    ("linear_attention", "gdn_perf", _delta),
)
