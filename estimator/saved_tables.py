"""Runtime tables as bytes, without pickle, in single precision: a ten-millionth of a time."""

from __future__ import annotations

import io
from dataclasses import fields
from typing import Any

import numpy as np

from servecast.estimator.tables import RuntimeTables

SCALARS = (
    "host_step_s",
    "context_step_tokens",
    "chunk_step_tokens",
    "kv_step_tokens",
    "graph_tokens",
)
CODES = ("prefill_source", "decode_source")
ARRAYS = tuple(f.name for f in fields(RuntimeTables) if f.name not in (*SCALARS, *CODES))


def to_bytes(tables: RuntimeTables) -> bytes:
    body = io.BytesIO()
    arrays = {name: getattr(tables, name).astype(_precision(name)) for name in ARRAYS}
    scalars = {name: np.array(getattr(tables, name)) for name in SCALARS}
    codes = {name: getattr(tables, name) for name in CODES}
    np.savez(body, allow_pickle=False, **arrays, **codes, **scalars)
    return body.getvalue()


def _precision(name: str) -> type[np.floating[Any]]:
    """Three digits do for what a time may be off by."""
    return np.float16 if name.endswith("_spread") else np.float32


def from_bytes(body: bytes) -> RuntimeTables:
    with np.load(io.BytesIO(body), allow_pickle=False) as saved:
        wide: dict[str, Any] = {name: saved[name].astype(np.float64) for name in ARRAYS}
        return RuntimeTables(
            **wide,
            prefill_source=saved["prefill_source"],
            decode_source=saved["decode_source"],
            host_step_s=float(saved["host_step_s"]),
            context_step_tokens=int(saved["context_step_tokens"]),
            chunk_step_tokens=int(saved["chunk_step_tokens"]),
            kv_step_tokens=int(saved["kv_step_tokens"]),
            graph_tokens=int(saved["graph_tokens"]),
        )
