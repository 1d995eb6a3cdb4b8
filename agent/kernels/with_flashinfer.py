"""Attention through FlashInfer over a paged cache, also one of fp8 under bf16 queries."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from flashinfer import (  # type: ignore[import-not-found,unused-ignore]
    BatchDecodeWithPagedKVCacheWrapper,
    BatchPrefillWithPagedKVCacheWrapper,
)

from servecast.agent.kernels.buffers import TORCH_DTYPES, Buffers
from servecast.agent.kernels.kernel import Capability, Formats
from servecast.agent.kernels.paged import BLOCK_TOKENS, Bind, Cache, Paged, paged_kernels

WORKSPACE_BYTES = 128 << 20  # FlashInfer's advice
GROUP_FOR_TENSOR_CORES = 4  # query heads of a KV head from which vLLM has decodes use tensor cores


def attend(paged: Paged, buffers: Buffers) -> Bind:
    """Planned once, as an engine plans a step; launches only run."""
    workspace = buffers.empty(WORKSPACE_BYTES, dtype=torch.uint8)
    wrapper = _decode(paged, workspace) if paged.chunk == 1 else _prefill(paged, workspace)
    return lambda cache: partial(_launch, wrapper, paged.q, cache)


def _launch(wrapper: Any, q: torch.Tensor, cache: Cache) -> torch.Tensor:
    found: torch.Tensor = wrapper.run(q, cache)
    return found


def _decode(paged: Paged, workspace: torch.Tensor) -> Any:
    shape = paged.shape
    group = shape["heads"] // shape["kv_heads"]
    wrapper = BatchDecodeWithPagedKVCacheWrapper(
        workspace, "NHD", use_tensor_cores=group >= GROUP_FOR_TENSOR_CORES
    )
    wrapper.plan(
        *_pages(paged), shape["heads"], shape["kv_heads"], shape["head_dim"], paged.block_tokens,
        window_left=_window_left(paged), **_dtypes(paged),
    )  # fmt: skip
    return wrapper


def _prefill(paged: Paged, workspace: torch.Tensor) -> Any:
    shape = paged.shape
    wrapper = BatchPrefillWithPagedKVCacheWrapper(workspace, "NHD")
    starts = torch.arange(len(paged.lengths) + 1, dtype=torch.int32, device=paged.q.device)
    wrapper.plan(
        starts * paged.chunk, *_pages(paged), shape["heads"], shape["kv_heads"], shape["head_dim"],
        paged.block_tokens, causal=True, window_left=_window_left(paged), **_dtypes(paged),
    )  # fmt: skip
    return wrapper


def _pages(paged: Paged) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Where each sequence's pages begin, the pages, and how full each last one is."""
    lengths = torch.tensor(paged.lengths, dtype=torch.int32)
    counts = -(-lengths // paged.block_tokens)
    starts = torch.zeros(len(counts) + 1, dtype=torch.int32)
    starts[1:] = counts.cumsum(0)
    pages = [row[:count] for row, count in zip(paged.tables, counts.tolist(), strict=True)]
    device = paged.q.device
    last = (lengths - 1) % paged.block_tokens + 1
    return starts.to(device), torch.cat(pages), last.to(device)


def _dtypes(paged: Paged) -> dict[str, torch.dtype]:
    shape = paged.shape
    return {
        "q_data_type": TORCH_DTYPES[shape.dtype],
        "kv_data_type": TORCH_DTYPES[shape.kv_dtype],
    }


def _window_left(paged: Paged) -> int:
    return paged.window - 1 if paged.window else -1


def formats(capability: Capability) -> Formats:
    if capability.compute < (8, 0):
        return ()
    plain = (("bf16", "bf16"), ("fp16", "fp16"))
    fp8 = (("bf16", "fp8"), ("fp16", "fp8")) if capability.compute >= (8, 9) else ()
    return (*plain, *fp8)


KERNELS = paged_kernels(attend, BLOCK_TOKENS, formats)
