"""Grouped-query attention through PyTorch's SDPA over each sequence's contiguous, cold cache.

A window cuts the cache to the keys that any query of the chunk sees, so that no work is done on the rest.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional
from torch.nn.attention.bias import causal_lower_right

from servecast.agent.kernels.buffers import TORCH_DTYPES, Buffers
from servecast.agent.kernels.kernel import TOLERANCE, Kernel, Prepared, Shape, own_cache

SHAPE = ("heads", "kv_heads", "head_dim", "window")
Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def prepare_prefill(shape: Shape, buffers: Buffers) -> Prepared:
    """``batch`` sequences, each ``chunk`` new tokens after ``context`` cached ones."""
    return _prepare(shape, buffers, shape["chunk"], shape["context"] + shape["chunk"])


def prepare_decode(shape: Shape, buffers: Buffers) -> Prepared:
    """``batch`` sequences, each one query over ``context`` cached tokens."""
    return _prepare(shape, buffers, 1, shape["context"])


def _prepare(shape: Shape, buffers: Buffers, chunk: int, keys: int) -> Prepared:
    dtype = TORCH_DTYPES[shape.dtype]
    window = shape["window"]
    seen = seen_keys(keys, chunk, window)
    batch, heads = shape["batch"], shape["heads"]
    cache = (batch, shape["kv_heads"], seen, shape["head_dim"])
    q = buffers.normal(batch, heads, chunk, shape["head_dim"], dtype=dtype)
    one_cache = 2 * batch * shape["kv_heads"] * seen * shape["head_dim"] * dtype.itemsize
    caches = [
        tuple(buffers.normal(*cache, dtype=dtype) for _ in range(2))
        for _ in range(buffers.copies(one_cache))
    ]
    buffers.reserve(q.nbytes)
    attend = attention(chunk, seen, window, buffers)
    return Prepared(
        launches=tuple(lambda k=k, v=v: attend(q, k, v) for k, v in caches),  # type: ignore[misc]  # defaults bind
        reference=lambda: attend(q.double(), caches[0][0].double(), caches[0][1].double()),
        tolerance=TOLERANCE[dtype],
    )


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


LACKS = {"fp8": "PyTorch's attention reads no cache of it; FlashInfer does, on GPUs from Ada on"}
PREFILL = Kernel((*SHAPE, "batch", "context", "chunk"), prepare_prefill, own_cache, LACKS)
DECODE = Kernel((*SHAPE, "batch", "context"), prepare_decode, own_cache, LACKS)
