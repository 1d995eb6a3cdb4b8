"""Attention through the flash-attn package (version 2) over a paged cache."""

from __future__ import annotations

from functools import partial

import torch
from flash_attn import flash_attn_with_kvcache  # type: ignore[import-not-found,unused-ignore]

from servecast.agent.kernels.buffers import Buffers
from servecast.agent.kernels.kernel import Capability, Formats
from servecast.agent.kernels.paged import Bind, Cache, Paged, paged_kernels

BLOCK_TOKENS = 256  # the package takes multiples of it only


def attend(paged: Paged, buffers: Buffers) -> Bind:
    del buffers
    batch = len(paged.lengths)
    q = paged.q.view(batch, paged.chunk, *paged.q.shape[1:])
    lengths = torch.tensor(paged.lengths, dtype=torch.int32, device=q.device)
    left = paged.window - 1 if paged.window else -1
    return lambda cache: partial(_launch, q, lengths, paged.tables, (left, 0), cache)


def _launch(
    q: torch.Tensor,
    lengths: torch.Tensor,
    tables: torch.Tensor,
    window: tuple[int, int],
    cache: Cache,
) -> torch.Tensor:
    found: torch.Tensor = flash_attn_with_kvcache(
        q, *cache, cache_seqlens=lengths, block_table=tables, causal=True, window_size=window
    )
    return found.flatten(0, 1)


def formats(capability: Capability) -> Formats:
    """The package's kernels begin at Ampere."""
    return (("bf16", "bf16"), ("fp16", "fp16")) if capability.compute >= (8, 0) else ()


KERNELS = paged_kernels(attend, BLOCK_TOKENS, formats)
