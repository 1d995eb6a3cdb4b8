"""Multi-head latent attention in its absorbed form: every head reads one latent and one rotary key per token.

DeepSeek-V2, arXiv 2405.04434, section 2.1. Queries come already multiplied into the latent space.
"""

from __future__ import annotations

import torch

from servecast.agent.kernels.attention import LACKS, attention, widened
from servecast.agent.kernels.buffers import TORCH_DTYPES, Buffers
from servecast.agent.kernels.kernel import TOLERANCE, Kernel, Prepared, Shape, own_cache

SHAPE = ("heads", "rank", "rope_dim", "nope_dim", "value_dim")


def prepare_prefill(shape: Shape, buffers: Buffers) -> Prepared:
    """``batch`` sequences, each ``chunk`` new tokens after ``context`` cached ones."""
    return _prepare(shape, buffers, shape["chunk"], shape["context"] + shape["chunk"])


def prepare_decode(shape: Shape, buffers: Buffers) -> Prepared:
    """``batch`` sequences, each one query over ``context`` cached tokens."""
    return _prepare(shape, buffers, 1, shape["context"])


def _prepare(shape: Shape, buffers: Buffers, chunk: int, keys: int) -> Prepared:
    """q [batch, heads, chunk, rank + rope_dim], cache [batch, 1, keys, rank + rope_dim]."""
    dtype, kv_dtype = TORCH_DTYPES[shape.dtype], TORCH_DTYPES[shape.kv_dtype]
    batch, rank = shape["batch"], shape["rank"]
    width = rank + shape["rope_dim"]
    q = buffers.normal(batch, shape["heads"], chunk, width, dtype=dtype, scale=0.3)
    numbers = batch * keys * width
    copies = buffers.copies(numbers * kv_dtype.itemsize)
    caches = [buffers.normal(batch, 1, keys, width, dtype=kv_dtype) for _ in range(copies)]
    buffers.reserve(q.nbytes + (numbers * dtype.itemsize if kv_dtype is not dtype else 0))
    scale = (shape["nope_dim"] + shape["rope_dim"]) ** -0.5
    attend = attention(chunk, keys, 0, buffers, scale)

    def launch(queries: torch.Tensor, cache: torch.Tensor) -> torch.Tensor:
        wide = widened(cache, queries.dtype)
        return attend(queries, wide, wide[..., :rank])

    return Prepared(
        launches=tuple(lambda cache=cache: launch(q, cache) for cache in caches),  # type: ignore[misc]  # defaults bind
        reference=lambda: launch(q.double(), caches[0]),
        tolerance=TOLERANCE[dtype],
    )


PREFILL = Kernel((*SHAPE, "batch", "context", "chunk"), prepare_prefill, own_cache, LACKS)
DECODE = Kernel((*SHAPE, "batch", "context"), prepare_decode, own_cache, LACKS)
