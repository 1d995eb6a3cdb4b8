"""Attention through PyTorch's FlexAttention over a paged cache: it skips the pages that no query sees.

Windows cost what they show and lengths may differ, on GPUs without another library. Each shape is compiled
anew, which takes seconds, and on a processor needs a C++ compiler.
"""

from __future__ import annotations

import shutil
from functools import cache, partial
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from servecast.agent.kernels.buffers import Buffers
from servecast.agent.kernels.kernel import Capability, Formats, own_cache
from servecast.agent.kernels.paged import Bind, Cache, Paged, paged_kernels

BLOCK_TOKENS = 128  # the square of queries and keys that it skips or attends to
COMPILERS = ("g++", "clang++", "c++")
NO_COMPILER = "FlexAttention on a processor needs a C++ compiler, and none is here"


def attend(paged: Paged, buffers: Buffers) -> Bind:
    """The blocks that each sequence sees are found beforehand, as an engine finds them once a step."""
    buffers.reserve(paged.q.nbytes)
    q = paged.q.view(len(paged.lengths), paged.chunk, *paged.q.shape[1:]).transpose(1, 2)
    mask = block_mask(paged)
    return lambda cache: partial(_launch, q, mask, cache)


def _launch(q: torch.Tensor, mask: BlockMask, cache: Cache) -> torch.Tensor:
    """The pages of all sequences are one batch's keys [1, kv_heads, blocks * block tokens, head_dim]."""
    k, v = (part.flatten(0, 1).transpose(0, 1)[None] for part in cache)
    found: torch.Tensor = _compiled()(q, k, v, block_mask=mask, enable_gqa=True)
    return found.transpose(1, 2).flatten(0, 1)


@cache  # a process compiles a shape once
def _compiled() -> Any:
    return torch.compile(flex_attention, dynamic=False, fullgraph=True)


def block_mask(paged: Paged) -> BlockMask:
    """Which pages each block of queries sees, and in those seen in part which tokens."""
    lengths = torch.tensor(paged.lengths, dtype=torch.int32, device=paged.q.device)
    position = _positions(paged)
    chunk, window = paged.chunk, paged.window or len(position) + 1

    def sees(batch: Any, head: Any, query: Any, key: Any) -> Any:
        del head
        at = lengths[batch] - chunk + query
        return (position[key] <= at) & (position[key] > at - window)

    partly, pages, whole, whole_pages = _seen_pages(paged)
    return BlockMask.from_kv_blocks(
        partly,
        pages,
        whole,
        whole_pages,
        BLOCK_SIZE=BLOCK_TOKENS,
        mask_mod=sees,
        seq_lengths=(chunk, len(position)),
    )


def _positions(paged: Paged) -> torch.Tensor:
    """Where in its own sequence each cached token stands [blocks * block tokens]."""
    blocks = [-(-length // BLOCK_TOKENS) for length in paged.lengths]
    found = torch.zeros(sum(blocks), BLOCK_TOKENS, dtype=torch.int32)
    for table, count in zip(paged.tables.cpu(), blocks, strict=True):
        found[table[:count].long()] = torch.arange(count * BLOCK_TOKENS, dtype=torch.int32).view(
            count, BLOCK_TOKENS
        )
    return found.flatten().to(paged.q.device)


def _seen_pages(paged: Paged) -> list[torch.Tensor]:
    """Numbers and indices of pages seen in part [sequences, 1, query blocks (, pages)], and of whole ones."""
    query_blocks = -(-paged.chunk // BLOCK_TOKENS)
    pages = sum(-(-length // BLOCK_TOKENS) for length in paged.lengths)
    size = (len(paged.lengths), 1, query_blocks)
    told = [torch.zeros(*size, *last, dtype=torch.int32) for last in ((), (pages,)) * 2]
    tables = paged.tables.cpu()
    for number, length in enumerate(paged.lengths):
        for block in range(query_blocks):
            first = length - paged.chunk + block * BLOCK_TOKENS
            last = min(length - 1, first + BLOCK_TOKENS - 1)
            for kind, seen in enumerate(seen_in(first, last, paged.window)):
                told[2 * kind][number, 0, block] = len(seen)
                told[2 * kind + 1][number, 0, block, : len(seen)] = tables[number, seen]
    return [one.to(paged.q.device) for one in told]


def seen_in(first: int, last: int, window: int) -> tuple[list[int], list[int]]:
    """Pages that queries at positions ``first`` to ``last`` see in part, and those that each sees whole."""
    earliest = max(0, first - window + 1) if window else 0
    pages = range(earliest // BLOCK_TOKENS, last // BLOCK_TOKENS + 1)
    whole = [
        page
        for page in pages
        if (page + 1) * BLOCK_TOKENS - 1 <= first
        and (not window or page * BLOCK_TOKENS > last - window)
    ]
    return [page for page in pages if page not in whole], whole


def formats(capability: Capability) -> Formats:
    return own_cache(capability)


if not torch.cuda.is_available() and not any(map(shutil.which, COMPILERS)):
    raise ImportError(NO_COMPILER)

KERNELS = paged_kernels(attend, BLOCK_TOKENS, formats)
