"""Attention over a paged cache as engines keep it: blocks in random places, lengths that may differ.

A library says how it attends; the tensors, the lengths and what must come out are the same for all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch

from servecast.agent.kernels.attention import LACKS, SHAPE, attention, seen_keys, widened
from servecast.agent.kernels.buffers import TORCH_DTYPES, Buffers
from servecast.agent.kernels.kernel import (
    TOLERANCE,
    Capability,
    Formats,
    Kernel,
    Launch,
    Prepared,
    Shape,
    own_cache,
)
from servecast.agent.kernels.skew import skewed_lengths

BLOCK_TOKENS = 16  # vLLM's default on GPUs


@dataclass(frozen=True, slots=True)
class Paged:
    """A batch whose sequence ``i`` has ``chunk`` queries at the end of ``lengths[i]`` cached tokens.

    q [batch * chunk, heads, head_dim]; tables [batch, blocks of the longest] int32, whose entries past a
    sequence's end are 0.
    """

    shape: Shape
    q: torch.Tensor
    tables: torch.Tensor
    lengths: tuple[int, ...]
    chunk: int
    block_tokens: int

    @property
    def window(self) -> int:
        return self.shape["window"]


Cache = tuple[torch.Tensor, torch.Tensor]
"""Keys and values, each [blocks, block tokens, kv_heads, head_dim]."""
Bind = Callable[[Cache], Launch]
"""Makes the launch over one cache, which it may copy into a layout of its own."""
Library = Callable[[Paged, Buffers], Bind]
"""Plans a batch. Its launches give [batch * chunk, heads, head_dim]."""


def prepare_paged(
    library: Library,
    lengths_of: Callable[[int, int], list[int]],
    block_tokens: int,
    shape: Shape,
    buffers: Buffers,
) -> Prepared:
    """``lengths_of`` a batch and its mean context; a ``chunk`` in the shape is added to every length."""
    chunk = shape.dims.get("chunk", 0)
    dtype, kv_dtype = TORCH_DTYPES[shape.dtype], TORCH_DTYPES[shape.kv_dtype]
    lengths = tuple(n + chunk for n in lengths_of(shape["batch"], shape["context"]))
    blocks = [-(-length // block_tokens) for length in lengths]
    size = (sum(blocks), block_tokens, shape["kv_heads"], shape["head_dim"])
    q = buffers.normal(len(lengths) * max(1, chunk), shape["heads"], shape["head_dim"], dtype=dtype)
    seen = sum(seen_keys(length, max(1, chunk), shape["window"]) for length in lengths)
    one_cache = 2 * seen * shape["kv_heads"] * shape["head_dim"] * kv_dtype.itemsize
    buffers.reserve(q.nbytes)
    paged = Paged(shape, q, _tables(blocks, buffers), lengths, max(1, chunk), block_tokens)
    bind = library(paged, buffers)
    first = _cache(size, kv_dtype, buffers)
    others = range(1, buffers.copies(one_cache))
    return Prepared(
        launches=(bind(first), *(bind(_cache(size, kv_dtype, buffers)) for _ in others)),
        reference=lambda: _reference(paged, first, buffers),
        tolerance=max(TOLERANCE[dtype], TOLERANCE.get(kv_dtype, 0.0)),
    )


def _cache(size: tuple[int, ...], dtype: torch.dtype, buffers: Buffers) -> Cache:
    keys, values = (buffers.normal(*size, dtype=dtype) for _ in range(2))
    return keys, values


def _tables(blocks: list[int], buffers: Buffers) -> torch.Tensor:
    places = buffers.permutation(sum(blocks)).int()
    tables = places.new_zeros(len(blocks), max(blocks))
    for row, own in zip(tables, torch.split(places, blocks), strict=True):
        row[: len(own)] = own
    return tables


def gathered(
    paged: Paged, attend: Callable[[Paged, int, Cache], torch.Tensor], cache: Cache
) -> torch.Tensor:
    """Sequence by sequence: its blocks gathered, and attended to."""
    parts = [attend(paged, number, cache) for number in range(len(paged.lengths))]
    return torch.cat(parts)


def attend_alone(buffers: Buffers, paged: Paged, number: int, cache: Cache) -> torch.Tensor:
    """One sequence's [chunk, heads, head_dim] through SDPA, with the blocks that its window shows."""
    length, chunk = paged.lengths[number], paged.chunk
    seen = seen_keys(length, chunk, paged.window)
    first = (length - seen) // paged.block_tokens
    blocks = paged.tables[number, first : -(-length // paged.block_tokens)]
    skip = length - seen - first * paged.block_tokens
    k, v = (part[blocks].flatten(0, 1)[skip : skip + seen].transpose(0, 1)[None] for part in cache)
    q = paged.q[number * chunk : (number + 1) * chunk].transpose(0, 1)[None]
    k, v = (widened(part, q.dtype) for part in (k, v))
    return attention(chunk, seen, paged.window, buffers)(q, k, v)[0].transpose(0, 1)


def _reference(paged: Paged, cache: Cache, buffers: Buffers) -> torch.Tensor:
    return gathered(replace(paged, q=paged.q.double()), partial(attend_alone, buffers), cache)


def even_lengths(batch: int, context: int) -> list[int]:
    return [context] * batch


def _through_sdpa(paged: Paged, buffers: Buffers) -> Bind:
    return lambda cache: partial(gathered, paged, partial(attend_alone, buffers), cache)


def on_processors(capability: Capability) -> Formats:
    """A GPU would wait for the host at every sequence, as no engine on one does."""
    return own_cache(capability) if capability.backend == "cpu" else ()


DIMS = (*SHAPE, "batch", "context")
SKEWED_DECODE = Kernel(
    DIMS, partial(prepare_paged, _through_sdpa, skewed_lengths, BLOCK_TOKENS), on_processors, LACKS
)


def paged_kernels(
    library: Library, block_tokens: int, formats: Callable[[Capability], Formats]
) -> dict[str, Kernel]:
    """A library's attention: prefill, decode, and decode of lengths that differ."""
    even = partial(prepare_paged, library, even_lengths, block_tokens)
    skewed = partial(prepare_paged, library, skewed_lengths, block_tokens)
    return {
        "attention_prefill": Kernel((*DIMS, "chunk"), even, formats),
        "attention_decode": Kernel(DIMS, even, formats),
        "attention_decode_skewed": Kernel(DIMS, skewed, formats),
    }
