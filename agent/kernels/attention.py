"""Grouped-query attention through PyTorch's SDPA over each sequence's contiguous, cold cache.

A window cuts the cache to the keys that any query of the chunk sees, so that no work is done on the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch.nn import functional
from torch.nn.attention.bias import causal_lower_right

from servecast.agent.kernels.buffers import TORCH_DTYPES, Buffers
from servecast.agent.kernels.kernel import TOLERANCE, Kernel, Prepared, Shape, own_cache

SHAPE = ("heads", "kv_heads", "head_dim", "window")
# What a unit of a quantised cache is worth: buffers draw int8 as normal numbers times 32.
CACHE_SCALES = {torch.int8: 1 / 32}
Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def prepare_prefill(shape: Shape, buffers: Buffers) -> Prepared:
    """``batch`` sequences, each ``chunk`` new tokens after ``context`` cached ones."""
    return _prepare(shape, buffers, shape["chunk"], shape["context"] + shape["chunk"])


def prepare_decode(shape: Shape, buffers: Buffers) -> Prepared:
    """``batch`` sequences, each one query over ``context`` cached tokens."""
    return _prepare(shape, buffers, 1, shape["context"])


def _prepare(shape: Shape, buffers: Buffers, chunk: int, keys: int) -> Prepared:
    dtype, kv_dtype = TORCH_DTYPES[shape.dtype], TORCH_DTYPES[shape.kv_dtype]
    window = shape["window"]
    seen = seen_keys(keys, chunk, window)
    batch, heads = shape["batch"], shape["heads"]
    cache = (batch, shape["kv_heads"], seen, shape["head_dim"])
    q = buffers.normal(batch, heads, chunk, shape["head_dim"], dtype=dtype)
    numbers = 2 * batch * shape["kv_heads"] * seen * shape["head_dim"]
    caches = [
        tuple(buffers.normal(*cache, dtype=kv_dtype) for _ in range(2))
        for _ in range(buffers.copies(numbers * kv_dtype.itemsize))
    ]
    buffers.reserve(q.nbytes + (numbers * dtype.itemsize if kv_dtype is not dtype else 0))
    attend = attention(chunk, seen, window, buffers)

    def launch(queries: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return attend(queries, widened(k, queries.dtype), widened(v, queries.dtype))

    return Prepared(
        launches=tuple(partial(launch, q, *cache) for cache in caches),
        reference=lambda: launch(q.double(), *caches[0]),
        tolerance=TOLERANCE[dtype],
    )


def widened(cache: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A quantised cache's numbers; the cache itself where it has the dtype already."""
    if cache.dtype is dtype:
        return cache
    wide = cache.to(dtype)
    return wide.mul_(CACHE_SCALES[cache.dtype]) if cache.dtype in CACHE_SCALES else wide


def seen_keys(keys: int, chunk: int, window: int) -> int:
    """How many of the last keys any of ``chunk`` queries at their end sees; a window of 0 is none."""
    return min(keys, window + chunk - 1) if window else keys


def attention(
    chunk: int, keys: int, window: int, buffers: Buffers, scale: float | None = None
) -> Attend:
    """Causal attention of ``chunk`` queries that end where the ``keys`` end."""
    mask = None
    if window and chunk > 1:
        buffers.reserve(chunk * keys)
        mask = _window_mask(chunk, keys, window, buffers.device)
    elif chunk > 1 and chunk < keys:
        mask = causal_lower_right(chunk, keys)
    square = chunk > 1 and mask is None

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=square, scale=scale, enable_gqa=True
        )

    return attend


def _window_mask(chunk: int, keys: int, window: int, device: torch.device) -> torch.Tensor:
    """[chunk, keys]: the query at key position p sees the keys in (p - window, p]."""
    query = torch.arange(keys - chunk, keys, device=device)[:, None]
    key = torch.arange(keys, device=device)
    return (key <= query) & (key > query - window)


_READS_NONE = "PyTorch's attention reads no cache of it"
LACKS = {
    "fp8": f"{_READS_NONE}; FlashInfer does, on GPUs from Ada on, and dequantised widens it first",
    "int8": f"{_READS_NONE}; dequantised widens it first",
}
PREFILL = Kernel((*SHAPE, "batch", "context", "chunk"), prepare_prefill, own_cache, LACKS)
DECODE = Kernel((*SHAPE, "batch", "context"), prepare_decode, own_cache, LACKS)
