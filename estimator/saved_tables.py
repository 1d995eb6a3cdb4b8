"""Runtime tables as bytes, without pickle, in single precision: a ten-millionth of a time."""

from __future__ import annotations

import io
from dataclasses import fields

import numpy as np

from servecast.estimator.measurement import Floats
from servecast.estimator.tables import RuntimeTables

SCALARS = ("host_step_s", "context_step_tokens", "chunk_step_tokens", "kv_step_tokens")
ARRAYS = tuple(f.name for f in fields(RuntimeTables) if f.name not in SCALARS)


def to_bytes(tables: RuntimeTables) -> bytes:
    body = io.BytesIO()
    arrays = {name: getattr(tables, name).astype(np.float32) for name in ARRAYS}
    scalars = {name: np.array(getattr(tables, name)) for name in SCALARS}
    np.savez(body, allow_pickle=False, **arrays, **scalars)
    return body.getvalue()


def from_bytes(body: bytes) -> RuntimeTables:
    with np.load(io.BytesIO(body), allow_pickle=False) as saved:
        wide: dict[str, Floats] = {name: saved[name].astype(np.float64) for name in ARRAYS}
        return RuntimeTables(
            **wide,
            host_step_s=float(saved["host_step_s"]),
            context_step_tokens=int(saved["context_step_tokens"]),
            chunk_step_tokens=int(saved["chunk_step_tokens"]),
            kv_step_tokens=int(saved["kv_step_tokens"]),
        )
