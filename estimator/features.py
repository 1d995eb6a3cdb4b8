"""What a learner sees of a kernel case, named, with units, in one place.

Column 0 is FLOPs and the last is bytes, which the roofline under every learner reads. Trees do not
mind monotone changes of a column, so counts stand as they are.
"""

from __future__ import annotations

import numpy as np

from servecast.estimator.measurement import Floats
from servecast.estimator.physics import Dims, KernelKind, work_of

# Output tiles of cuBLAS and CUTLASS tensor-core kernels (rows x columns); a launch runs whole tiles.
GEMM_TILES = ((64, 64), (64, 128), (128, 128), (128, 256))
ALIGNMENTS = (2, 8, 64, 128)  # in rows: 8 bf16 numbers are one 16-byte load
BLOCK_TOKENS = 128  # keys and queries that one flash-attention block handles


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
    return columns | {
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


def _expert_columns(d: Dims, num_sms: int) -> dict[str, Floats]:
    columns = {name: d[name].astype(np.float64) for name in d}
    columns["rows_per_expert"] = columns["rows"] * columns["top_k"] / columns["total_experts"]
    columns["matrix"] = columns["hidden"] * columns["intermediate"]
    tiles = columns["experts"] * np.ceil(columns["rows_per_expert"] / 64)
    columns["tiles"] = tiles * np.ceil(columns["intermediate"] / 64)
    columns["wave_use"] = columns["tiles"] / num_sms / np.ceil(columns["tiles"] / num_sms)
    return columns


def feature_columns(kind: KernelKind, dims: Dims, num_sms: int) -> dict[str, Floats]:
    """Named columns [cases], FLOPs first and bytes last."""
    work = work_of(kind, dims)
    if kind.kernel == "linear":
        middle = _gemm_columns(dims, num_sms)
    elif kind.kernel.startswith(("attention", "latent")):
        middle = _attention_columns(dims, num_sms)
    elif kind.kernel == "experts":
        middle = _expert_columns(dims, num_sms)
    else:
        middle = {name: column.astype(np.float64) for name, column in dims.items()}
    intensity = work.flops / np.maximum(work.num_bytes, 1)
    return {"flops": work.flops, **middle, "intensity": intensity, "bytes": work.num_bytes}


def feature_matrix(kind: KernelKind, dims: Dims, num_sms: int) -> Floats:
    """[cases, features]"""
    return np.stack(list(feature_columns(kind, dims, num_sms).values()), axis=1)
