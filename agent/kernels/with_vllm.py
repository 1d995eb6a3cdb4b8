"""vLLM's own kernels for processors, where its CPU build is installed beside the agent.

They are what the engine runs (vllm/v1/attention/backends/cpu_attn.py, vllm/model_executor/layers/utils.py):
a profile of them stands in for nothing.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.nn import functional
from vllm import _custom_ops as ops  # type: ignore[import-not-found,unused-ignore]
from vllm import ir

from servecast.agent.kernels import norm, rope
from servecast.agent.kernels.buffers import TORCH_DTYPES, Buffers, keeping
from servecast.agent.kernels.kernel import (
    TOLERANCE,
    Capability,
    Formats,
    Kernel,
    Prepared,
    Shape,
    own_cache,
    without_cache,
)
from servecast.agent.kernels.paged import Bind, Cache, Paged, paged_kernels

BLOCK_TOKENS = 128  # vLLM's default on processors
EPSILON = norm.EPSILON
CACHE_NAMES = {"fp8": "fp8_e4m3"}  # vLLM's, of formats that are not the model's own
PRIMITIVES = 32  # shapes that oneDNN keeps ready, as vLLM asks


def prepare_linear(shape: Shape, buffers: Buffers) -> Prepared:
    """oneDNN with weights that it packs once."""
    dtype = TORCH_DTYPES[shape.dtype]
    rows, inner, outer = shape["rows"], shape["in_features"], shape["out_features"]
    x = buffers.normal(rows, inner, dtype=dtype)
    copies = buffers.copies(inner * outer * dtype.itemsize)
    size = copies * inner * outer * dtype.itemsize
    buffers.reserve(rows * outer * dtype.itemsize)
    name = ("vllm linear", shape.dtype, inner, outer)
    first, handles = buffers.kept(name, 2 * size, lambda: _packed(shape, buffers, copies))
    return Prepared(
        launches=tuple(partial(ops.onednn_mm, handle, x, None) for handle in handles),
        reference=lambda: x.double() @ first.double().t(),
        tolerance=TOLERANCE[dtype],
    )


def _packed(shape: Shape, buffers: Buffers, copies: int) -> tuple[torch.Tensor, list[Any]]:
    """One copy as it is, and oneDNN's handles of all."""
    size, dtype = (shape["out_features"], shape["in_features"]), TORCH_DTYPES[shape.dtype]
    plain = [buffers.normal(*size, dtype=dtype).clone() for _ in range(copies)]
    return plain[0], [ops.create_onednn_mm(w.t(), PRIMITIVES) for w in plain]


def prepare_rms(shape: Shape, buffers: Buffers) -> Prepared:
    """The formula of vLLM's IR, launch by launch: eager processors get no fused kernel of it."""
    dtype = TORCH_DTYPES[shape.dtype]
    rows, width = shape["rows"] * shape["per_row"], shape["width"]
    weight = buffers.normal(width, dtype=dtype)
    pairs = norm.rows_and_residuals(rows, width, dtype, buffers)
    buffers.reserve(4 * rows * width * torch.float32.itemsize)
    x, residual = pairs[0]
    total = x.double() + residual.double() if shape["residual"] else x.double()
    after_add = [partial(_normed, *pair, weight) for pair in pairs]
    alone = [partial(ir.ops.rms_norm, some, weight, EPSILON) for some, _ in pairs]
    return Prepared(
        launches=keeping(after_add if shape["residual"] else alone),
        reference=lambda: functional.rms_norm(total, (width,), weight.double(), EPSILON),
        tolerance=TOLERANCE[dtype],
    )


def _normed(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    normed: torch.Tensor = ir.ops.fused_add_rms_norm(x, residual, weight, EPSILON)[0]
    return normed


def prepare_rope(shape: Shape, buffers: Buffers) -> Prepared:
    """In place, queries and keys in one launch: here all heads but one are queries."""
    dtype, half = TORCH_DTYPES[shape.dtype], shape["rotary_dim"] // 2
    rows, heads, width = shape["rows"], shape["heads"], shape["head_dim"]
    x = buffers.normal(rows, heads, width, dtype=dtype)
    positions = buffers.integers(rows, below=rope.POSITIONS)
    table = rope.cos_sin(half, x.device).to(dtype)
    flat = x.view(rows, heads * width)
    q, k = flat[:, :-width], flat[:, -width:]

    def launch() -> torch.Tensor:
        ops.rotary_embedding(positions, q, k, width, table, True)
        return x[..., : 2 * half]

    return Prepared(
        launches=(launch,),
        reference=lambda: rope.rotated(x.double(), table.double(), positions, half),
        tolerance=TOLERANCE[dtype],
    )


def attend(paged: Paged, buffers: Buffers) -> Bind:
    """The scheduling of the work is the step's, made once for all layers; it is not in the launch."""
    shape, dtype = paged.shape, TORCH_DTYPES[paged.shape.dtype]
    cache_dtype = CACHE_NAMES.get(shape.kv_dtype, "auto")
    lengths = torch.tensor(paged.lengths, dtype=torch.int32)
    starts = torch.arange(len(paged.lengths) + 1, dtype=torch.int32) * paged.chunk
    instructions = _instructions(shape["head_dim"], dtype)
    metadata = ops.cpu_attn_get_scheduler_metadata(
        num_reqs=len(paged.lengths),
        num_heads=shape["heads"],
        num_kv_heads=shape["kv_heads"],
        head_dim=shape["head_dim"],
        seq_lens=lengths,
        dtype=dtype,
        query_start_loc=starts,
        causal=True,
        sliding_window_size=paged.window or -1,
        isa=instructions,
        enable_kv_split=True,
        kv_cache_dtype=cache_dtype,
    )
    asked = {
        "query": paged.q,
        "query_start_loc": starts,
        "seq_lens": lengths,
        "scale": shape["head_dim"] ** -0.5,
        "causal": True,
        "alibi_slopes": None,
        "sliding_window": paged.window or -1,
        "block_table": paged.tables,
        "softcap": 0.0,
        "scheduler_metadata": metadata,
        "s_aux": None,
        "kv_cache_dtype": cache_dtype,
    }
    return lambda cache: partial(_launch, asked, _written(cache, dtype, instructions, buffers))


def _written(cache: Cache, dtype: torch.dtype, instructions: str, buffers: Buffers) -> Cache:
    """The cache as vLLM's own kernel writes it: [blocks, kv_heads, block tokens, head_dim], keys packed.

    It quantises what a layer gives it in ``dtype``.
    """
    blocks, tokens, heads, width = cache[0].shape
    quantised = cache[0].dtype is not dtype
    held = torch.uint8 if quantised else dtype
    whole = buffers.empty(blocks, heads, 2 * tokens, width, dtype=held)
    keys, values = whole.chunk(2, dim=2)
    slots = torch.arange(blocks * tokens)
    given = (part.flatten(0, 1).to(dtype) for part in cache)
    name = CACHE_NAMES["fp8"] if quantised else "auto"
    ops.cpu_attn_reshape_and_cache(*given, keys, values, slots, instructions, kv_cache_dtype=name)
    return keys, values


def _launch(asked: dict[str, Any], cache: Cache) -> torch.Tensor:
    output = torch.empty_like(asked["query"])
    ops.cpu_attention_with_kv_cache(
        key_cache=cache[0], value_cache=cache[1], output=output, **asked
    )
    return output


def _instructions(head_dim: int, dtype: torch.dtype) -> str:
    """As vLLM chooses on x86 (cpu_attn.py, ``_get_attn_isa``)."""
    if head_dim % 32:
        return "vec16"
    return "amx" if torch.cpu._is_amx_tile_supported() and dtype is torch.bfloat16 else "vec"


def formats(capability: Capability) -> Formats:
    """What its CPU build has; on GPUs its attention is FlashAttention or FlashInfer."""
    if capability.backend != "cpu":
        return ()
    fp8 = (("bf16", "fp8"),) if torch.cpu._is_avx512_supported() else ()
    return (*own_cache(capability)[:2], *fp8)


def bf16_formats(capability: Capability) -> Formats:
    return without_cache("bf16") if capability.backend == "cpu" else ()


KERNELS = {
    "linear": Kernel(("rows", "in_features", "out_features"), prepare_linear, bf16_formats),
    "rms_norm": Kernel(norm.DIMS, prepare_rms, bf16_formats),
    "rope": Kernel(rope.KERNEL.dims, prepare_rope, bf16_formats),
    **paged_kernels(attend, BLOCK_TOKENS, formats),
}
