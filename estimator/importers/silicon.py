"""Reads the kernel timings that the aiconfigurator-core package carries (© NVIDIA, Apache-2.0).

Only its parquet files are read; its code is never imported. Layout:
``systems/data/<system>/<family>/<backend>/<version>/<table>.parquet``, latencies in ms, one mean a row.
What is dropped or kept back is said in each rule's reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from servecast.compiler.errors import DataMissingError
from servecast.estimator.measurement import Ints, MeasurementBatch, Origin
from servecast.estimator.store import read_parquet

PACKAGE = "aiconfigurator_core"
LICENCE = "Apache-2.0"
S_PER_MS = 1e-3
BYTES_PER_ELEMENT = 2  # the collectives' message sizes count two-byte elements

SYSTEMS = {
    "a100-sxm-80gb": "a100_sxm",
    "h100-sxm": "h100_sxm",
    "h200-sxm": "h200_sxm",
    "b200-sxm": "b200_sxm",
    "b300-sxm": "b300_sxm",
    "gb200": "gb200",
    "gb300": "gb300",
    "l40s": "l40s",
    "rtx-pro-6000": "rtx_pro_6000_server",
}
FORMAT_NAMES = {
    "bfloat16": "bf16",
    "half": "bf16",  # two-byte collectives move and add alike
    "fp8": "fp8",
    "fp8_block": "fp8_block",
    "nvfp4": "nvfp4",
    "int8": "int8",
    "w4a16_mxfp4": "mxfp4",
    "int4_wo": "int4_g128",
}
EAGER_FP8_BLOCK = "timed without a CUDA graph: a floor of CPU launches (withdrawn by its publisher)"
SLOW_FP8_EXPERTS = "the modelopt kernel, 2.5 to 4 times slower than what fp8 checkpoints run"

Table = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class SiliconQuery:
    """``version`` None takes the newest of each table."""

    sku: str
    backend: str = "vllm"
    version: str | None = None


def data_root() -> Path | None:
    """Where the installed package keeps its data, or None where it is not installed."""
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]) / "systems" / "data"


def package_version() -> str:
    return installed_version("aiconfigurator-core")


def import_silicon(query: SiliconQuery, root: Path | None = None) -> Iterator[MeasurementBatch]:
    """Batches of every table of one SKU and backend.

    Raises:
        DataMissingError: the package is not installed, or it does not have the SKU or the backend.
    """
    where = root or data_root()
    if where is None:
        raise DataMissingError(
            "aiconfigurator-core is not installed: pip install 'servecast[silicon]'"
        )
    system = SYSTEMS.get(query.sku)
    if system is None or not (where / system).is_dir():
        raise DataMissingError(
            f"aiconfigurator-core has no data for {query.sku!r}; it has {', '.join(SYSTEMS)}"
        )
    for family, table, reader in READERS:
        folder = where / system / family / _backend_of(query, table)
        path = _table_path(folder, table, query.version)
        if path is not None:
            yield from reader(query.sku, path, _origin(path, where))


def _backend_of(query: SiliconQuery, table: str) -> str:
    """A100's vLLM GEMM table has 21 token counts, SGLang's has all 74 of the same cuBLAS kernels."""
    if table == "nccl_perf":
        return "nccl"
    if query.sku == "a100-sxm-80gb" and table == "gemm_perf" and query.backend == "vllm":
        return "sglang"
    return query.backend


def _version_key(folder: Path) -> tuple[int, ...]:
    return tuple(int(digits) for digits in re.findall(r"\d+", folder.name))


def _table_path(folder: Path, table: str, version: str | None) -> Path | None:
    """The newest version that has the table, or the one asked for."""
    found = sorted(folder.glob(f"*/{table}.parquet"), key=lambda p: _version_key(p.parent))
    if version is not None:
        found = [path for path in found if path.parent.name == version]
    return found[-1] if found else None


def _origin(path: Path, root: Path) -> Origin:
    return Origin(
        "silicon", "aiconfigurator-core", package_version(), str(path.relative_to(root)), LICENCE
    )


def _read(path: Path, columns: tuple[str, ...], **equal: object) -> Table:
    return read_parquet(path, columns, equal)


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
    table = _read(path, ("gemm_dtype", "m", "n", "k", "latency"))
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


def _attention(
    kernel: str, swept: Callable[[Table], dict[str, Ints]]
) -> Callable[[str, Path, Origin], Iterator[MeasurementBatch]]:
    """The measured times include the write of the step's own keys and values into the cache."""

    def read(sku: str, path: Path, origin: Origin) -> Iterator[MeasurementBatch]:
        sizes = ("batch_size", "isl", "step", "num_heads", "num_key_value_heads", "head_dim")
        names = (*sizes, "attn_dtype", "kv_cache_dtype", "window_size", "latency")
        table = _read(path, names)
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
    """Only the launches from a CUDA graph, which is how decode steps run."""
    columns = ("op_name", "num_gpus", "message_size", "latency")
    yield from _collectives(
        sku, origin, "custom", _read(path, columns, kernel_source="vLLM_custom_graph")
    )


def _nccl(sku: str, path: Path, origin: Origin) -> Iterator[MeasurementBatch]:
    columns = ("op_name", "num_gpus", "message_size", "latency")
    yield from _collectives(sku, origin, "nccl", _read(path, columns, nccl_dtype="half"))


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
    """``variant`` is the routing: balanced or a power law of expert popularity."""
    sizes = ("num_tokens", "hidden_size", "inter_size", "topk", "num_experts")
    degrees = ("moe_tp_size", "moe_ep_size")
    names = ("moe_dtype", "distribution", "kernel_source")
    table = _read(path, (*names, *sizes, *degrees, "latency"))
    for (dtype, routing, kernel), rows in _groups(table, *names):
        part = {name: _ints(table[name][rows]) for name in (*sizes, *degrees)}
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
            quarantine=SLOW_FP8_EXPERTS if "modeloptfp8moe_flashinfer_cutlass" in kernel else None,
        )


READERS: tuple[tuple[str, str, Callable[[str, Path, Origin], Iterator[MeasurementBatch]]], ...] = (
    ("gemm", "gemm_perf", _gemm),
    (
        "attention",
        "context_attention_perf",
        _attention(
            "attention_prefill",
            lambda t: {"context": _ints(t["step"]), "chunk": _ints(t["isl"])},
        ),
    ),
    (
        "attention",
        "generation_attention_perf",
        _attention("attention_decode", lambda t: {"context": _ints(t["step"])}),
    ),
    ("comm", "custom_allreduce_perf", _custom_all_reduce),
    ("comm", "nccl_perf", _nccl),
    ("moe", "moe_perf", _moe),
)
