"""A step's new keys and values scattered into the paged cache, block by block, in the cache's format."""

from __future__ import annotations

from functools import partial

import torch

from servecast.agent.kernels.buffers import TORCH_DTYPES, Buffers
from servecast.agent.kernels.kernel import Capability, Formats, Kernel, Prepared, Shape

BLOCK_TOKENS = 16  # vLLM's default
INT8_SCALE = 24.0  # of rows for such a cache: nearly all of its range, and none beyond
SPARE_BLOCKS = 4  # times as many as are written, so that the blocks lie scattered


def prepare(shape: Shape, buffers: Buffers) -> Prepared:
    """New rows [rows, width] are warm; the cache [blocks, block tokens, width] they go to is cold."""
    dtype = TORCH_DTYPES[shape.kv_dtype]
    scale = INT8_SCALE if dtype is torch.int8 else 1.0
    new = buffers.normal(
        shape["rows"], shape["width"], dtype=TORCH_DTYPES[shape.dtype], scale=scale
    )
    cache, slots = scattered(shape["rows"], shape["width"], dtype, buffers)
    return Prepared(
        launches=tuple(partial(_write, cache, some, new) for some in slots),
        reference=lambda: _write(cache.double(), slots[0], new.to(dtype).double()),
        tolerance=0.0,
    )


def scattered(
    rows: int, width: int, dtype: torch.dtype, buffers: Buffers
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The cache by slots, and several places in it for ``rows`` new tokens."""
    blocks = SPARE_BLOCKS * -(-rows // BLOCK_TOKENS)
    cache = buffers.normal(blocks * BLOCK_TOKENS, width, dtype=dtype)
    copies = min(buffers.copies(rows * width * dtype.itemsize), SPARE_BLOCKS)
    return cache, [_slots(buffers, blocks, rows) for _ in range(copies)]


def _slots(buffers: Buffers, blocks: int, rows: int) -> torch.Tensor:
    """Slots of ``rows`` tokens that follow each other in blocks of random places."""
    starts = buffers.permutation(blocks)[: -(-rows // BLOCK_TOKENS)] * BLOCK_TOKENS
    within = torch.arange(BLOCK_TOKENS, device=starts.device)
    return (starts[:, None] + within).flatten()[:rows]


def _write(cache: torch.Tensor, slots: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    bits = {1: torch.uint8, 2: torch.int16}.get(cache.dtype.itemsize)
    if bits is None:
        return cache.index_copy_(0, slots, new.to(cache.dtype))
    cache.view(bits).index_copy_(0, slots, new.to(cache.dtype).view(bits))  # fp8 has no scatter
    return cache


def formats(capability: Capability) -> Formats:
    del capability
    return tuple(("bf16", kv) for kv in ("bf16", "fp16", "fp32", "fp8", "int8"))


KERNEL = Kernel(("rows", "width"), prepare, formats)
