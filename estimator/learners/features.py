"""What a learner sees of a kernel case, named, with units, in one place.

Column 0 is FLOPs and the last is bytes, which the roofline under every learner reads, or one of the other
pairs that ``bounds_of`` names; ``side_of`` names columns that cost time beside it. Trees do not mind
monotone changes of a column, so counts stand as they are.
"""

from __future__ import annotations

import numpy as np

from servecast.estimator.learners.flash_decode import decode_columns
from servecast.estimator.learners.routing import routed_load
from servecast.estimator.measurement import Floats
from servecast.estimator.physics import (
    ACTIVATION_BYTES,
    Dims,
    KernelKind,
    bytes_per_element,
    work_of,
)

# Output tiles of cuBLAS and CUTLASS tensor-core kernels (rows x columns); a launch runs whole tiles.
GEMM_TILES = ((64, 64), (64, 128), (128, 128), (128, 256))
ALIGNMENTS = (2, 8, 64, 128)  # in rows: 8 bf16 numbers are one 16-byte load
BLOCK_TOKENS = 128  # keys and queries that one flash-attention block handles
EXPERT_TILE_ROWS = 64  # rows of an expert that one tile of a grouped GEMM handles
WIDE = frozenset({"bf16", "fp16", "fp32"})  # what operators hand on: nothing to quantise
# Of attention's columns those that no longer time goes with less of.
INCREASING = (
    *("flops", "batch", "heads", "kv_heads", "head_dim", "visible", "pairs"),
    *("batch_heads", "batch_kv_heads", "batch_tokens", "head_blocks", "bytes"),
)


def _gemm_columns(d: Dims, num_sms: int) -> dict[str, Floats]:
    rows, k, n = (d[x].astype(np.float64) for x in ("rows", "in_features", "out_features"))
    columns = {"rows": rows, "in_features": k, "out_features": n}
    for tile_rows, tile_columns in GEMM_TILES:
        tiles = np.ceil(rows / tile_rows) * np.ceil(n / tile_columns)
        waves = tiles / num_sms
        name = f"{tile_rows}x{tile_columns}"
        columns[f"tiles_{name}"] = tiles
        columns[f"wave_use_{name}"] = waves / np.ceil(waves)
        columns[f"tile_use_{name}"] = rows * n / (tiles * tile_rows * tile_columns)
        columns[f"tile_flops_{name}"] = tiles * k
    for multiple in ALIGNMENTS:
        columns[f"rows_mod_{multiple}"] = rows % multiple
    columns["output"] = rows * n
    columns["weights"] = k * n
    columns["inputs"] = rows * k
    return columns


def _attention_columns(d: Dims, num_sms: int) -> dict[str, Floats]:
    columns = {name: d[name].astype(np.float64) for name in d}
    chunk = columns.get("chunk", np.ones_like(columns["batch"]))
    kv_heads = columns.get("kv_heads", np.ones_like(columns["batch"]))
    window = columns.get("window", np.zeros_like(columns["batch"]))
    total = columns["context"] + chunk
    visible = np.where(window > 0, np.minimum(window, total), total)
    blocks = columns["batch"] * np.ceil(chunk / BLOCK_TOKENS)
    waves = blocks * columns["heads"] / num_sms
    found = columns | {
        "group": columns["heads"] / kv_heads,
        "batch_heads": columns["batch"] * columns["heads"],
        "batch_kv_heads": columns["batch"] * kv_heads,
        "batch_tokens": columns["batch"] * total,
        "visible": visible,
        "pairs": visible * chunk,
        "head_blocks": blocks * columns["heads"],
        "wave_use": waves / np.ceil(waves),
        "pairs_a_wave": visible * chunk / np.ceil(waves),
        "query_width": columns["heads"] * columns.get("head_dim", np.ones_like(total)),
        "kv_width": kv_heads * columns.get("head_dim", np.ones_like(total)),
    }
    decodes = "chunk" not in d and "kv_heads" in d
    return found | decode_columns(found, num_sms) if decodes else found


def _expert_columns(d: Dims, num_sms: int) -> dict[str, Floats]:
    """Of rows that are spread evenly."""
    columns = {name: d[name].astype(np.float64) for name in d}
    share = columns["top_k"] / columns["total_experts"]
    per_expert = columns["rows"] * share
    touched = np.minimum(per_expert, 1)
    tiles = np.ceil(per_expert / EXPERT_TILE_ROWS) * columns["experts"]
    columns["rows_per_expert"] = per_expert
    columns["touched"] = touched * columns["experts"]
    columns["matrix"] = columns["hidden"] * columns["intermediate"]
    columns["tiles"] = tiles * np.ceil(columns["intermediate"] / EXPERT_TILE_ROWS)
    columns["wave_use"] = columns["tiles"] / num_sms / np.ceil(columns["tiles"] / num_sms)
    columns["inputs"] = columns["rows"] * columns["hidden"]
    columns["gathered"] = per_expert * columns["experts"] * columns["hidden"]
    return columns


def _expert_bounds(kind: KernelKind, d: Dims) -> dict[str, Floats]:
    """FLOPs of whole tiles and bytes of the experts touched, of rows that are spread evenly and as routed."""
    rows: Floats = (d["rows"] * d["top_k"]).astype(np.float64) / d["total_experts"]  # of each
    even: Floats = d["experts"].astype(np.float64) * np.minimum(rows, 1)
    tiles: Floats = even * np.ceil(np.maximum(rows, 1) / EXPERT_TILE_ROWS)
    flops, moved = _expert_work(kind, d, (even, tiles))
    loads = routed_load(d, EXPERT_TILE_ROWS)
    routed_flops, routed_bytes = _expert_work(kind, d, loads)
    routed = {"routed_flops": routed_flops, "routed_bytes": routed_bytes}
    return {"flops": flops, **routed, "bytes": moved}


def _expert_work(kind: KernelKind, d: Dims, loads: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
    """FLOPs and bytes of so many experts touched and of so many tiles of theirs."""
    touched, tiles = loads
    matrices = 3 * d["hidden"].astype(np.float64) * d["intermediate"]  # gate, up and down
    moved = touched * matrices * bytes_per_element(kind.dtype)
    rows = 2 * ACTIVATION_BYTES * d["rows"] * d["hidden"].astype(np.float64)
    return 2 * tiles * EXPERT_TILE_ROWS * matrices, moved + rows


def feature_columns(kind: KernelKind, dims: Dims, num_sms: int) -> dict[str, Floats]:
    """Named columns [cases], FLOPs first and bytes last, in an order that does not depend on that of
    ``dims``: samples and launches name theirs in different ones.
    """
    dims = {name: dims[name] for name in sorted(dims)}
    work = work_of(kind, dims)
    flops, moved = work.flops, work.num_bytes
    if kind.kernel == "linear":
        middle = _gemm_columns(dims, num_sms)
    elif kind.kernel.startswith(("attention", "latent")):
        middle = _attention_columns(dims, num_sms)
    elif kind.kernel == "experts":
        bounds = _expert_bounds(kind, dims)
        flops, moved = bounds.pop("flops"), bounds.pop("bytes")
        middle = _expert_columns(dims, num_sms) | bounds
    else:
        middle = {name: column.astype(np.float64) for name, column in dims.items()}
    intensity = work.flops / np.maximum(work.num_bytes, 1)
    return {"flops": flops, **middle, "intensity": intensity, "bytes": moved}


def feature_matrix(kind: KernelKind, dims: Dims, num_sms: int) -> Floats:
    """[cases, features]"""
    return np.stack(list(feature_columns(kind, dims, num_sms).values()), axis=1)


def quantises(kind: KernelKind) -> bool:
    """Whether a GEMM quantises its input first: one in a narrow format."""
    return kind.kernel == "linear" and kind.dtype not in WIDE


def side_of(kind: KernelKind) -> tuple[str, ...]:
    """What no roofline has: a GEMM's tiles walk along the inputs however few they are and end by writing
    the output, in a narrow format after scaling each row and quantising every number of the input; experts
    gather their rows and add up what comes back.
    """
    if kind.kernel == "linear":
        walk = ("in_features", "output")
        return ("rows", "inputs", *walk) if quantises(kind) else walk
    return ("rows", "inputs", "gathered") if kind.kernel == "experts" else ()


def positions(kind: KernelKind, dims: Dims, names: tuple[str, ...]) -> tuple[int, ...]:
    """Where those of ``names`` that the kernel has stand among its columns."""
    one = {name: np.ones(1, dtype=np.int64) for name in dims}
    columns = list(feature_columns(kind, one, num_sms=1))
    return tuple(columns.index(name) for name in names if name in columns)


def bounds_of(kind: KernelKind, dims: Dims) -> tuple[tuple[int, int], ...]:
    """Columns of FLOPs and of bytes under a roofline: of experts two pairs, for tables differ in routing."""
    names = [("flops", "bytes")]
    if kind.kernel == "experts":
        names.append(("routed_flops", "routed_bytes"))
    pairs = (positions(kind, dims, pair) for pair in names)
    return tuple((flops, moved) for flops, moved in pairs)
