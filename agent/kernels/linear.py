"""``y = x @ w``: one GEMM with weights found cold, in every format that the library multiplies.

int8 multiplies quantised by quantised; engines quantise the activations in a launch before. `scaled.py` has
the scaled formats, `weight_only.py` those of the weights alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch.nn import functional

from servecast.agent.kernels.buffers import TORCH_DTYPES, Buffers
from servecast.agent.kernels.kernel import (
    TOLERANCE,
    Capability,
    Formats,
    Kernel,
    Launch,
    Prepared,
    Shape,
    without_cache,
)
from servecast.agent.kernels.quantised import INT4_GROUPS
from servecast.agent.kernels.scaled import prepare_fp8, prepare_fp8_block, prepare_nvfp4
from servecast.agent.kernels.weight_only import prepare_int4

INT8_ROWS = 17  # the least that cuBLAS's int8 GEMM takes; fewer rows are padded


def prepare(shape: Shape, buffers: Buffers) -> Prepared:
    """x [rows, in_features] is warm, w [out_features, in_features] rotates."""
    return FORMATS[shape.dtype](shape, buffers)


def _prepare_float(shape: Shape, buffers: Buffers) -> Prepared:
    dtype = TORCH_DTYPES[shape.dtype]
    rows, inner, outer = shape["rows"], shape["in_features"], shape["out_features"]
    x = buffers.normal(rows, inner, dtype=dtype)
    buffers.reserve(rows * outer * dtype.itemsize)
    copies = buffers.copies(inner * outer * dtype.itemsize)
    if not packs(x):
        weights = [buffers.normal(outer, inner, dtype=dtype) for _ in range(copies)]
        return Prepared(
            launches=tuple(plain(x, w) for w in weights),
            reference=lambda: x.double() @ weights[0].double().t(),
            tolerance=TOLERANCE[dtype],
        )
    name = ("linear", shape.dtype, inner, outer)
    size = copies * inner * outer * dtype.itemsize
    made = buffers.kept(name, size, lambda: _packed(shape, buffers, copies))
    return Prepared(
        launches=tuple(packed(x, w) for w in made),
        reference=lambda: x.double() @ made[0].to_dense().double().t(),
        tolerance=TOLERANCE[dtype],
    )


def _packed(shape: Shape, buffers: Buffers, copies: int) -> list[torch.Tensor]:
    """Weights as oneDNN multiplies them; what they were packed from goes to the next case."""
    size, dtype = (shape["out_features"], shape["in_features"]), TORCH_DTYPES[shape.dtype]
    drawn = (buffers.normal(*size, dtype=dtype) for _ in range(copies))
    return [torch.ops.mkldnn._reorder_linear_weight(w) for w in drawn]


def packs(x: torch.Tensor) -> bool:
    """Whether oneDNN has a packed GEMM of this format on this processor."""
    if x.device.type != "cpu" or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    if x.dtype is torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return x.dtype is torch.float32


def plain(x: torch.Tensor, w: torch.Tensor) -> Launch:
    return partial(functional.linear, x, w)


def packed(x: torch.Tensor, w: torch.Tensor) -> Launch:
    """oneDNN with the weights reordered once, as vLLM's build for processors runs it (csrc/cpu/dnnl_*)."""
    return partial(torch.ops.mkldnn._linear_pointwise, x, w, None, "none", [], "")


def _prepare_int8(shape: Shape, buffers: Buffers) -> Prepared:
    """The output is the int32 sums, before their scales."""
    x, weights = _operands(shape, buffers, torch.int8, least_rows=INT8_ROWS)
    buffers.reserve(x.shape[0] * shape["out_features"] * 4)
    return Prepared(
        launches=tuple(partial(torch._int_mm, x, w.t()) for w in weights),
        reference=lambda: x.double() @ weights[0].double().t(),
        tolerance=0.0,
    )


def _operands(
    shape: Shape, buffers: Buffers, dtype: torch.dtype, least_rows: int = 1
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    rows, inner, outer = shape["rows"], shape["in_features"], shape["out_features"]
    x = buffers.normal(max(rows, least_rows), inner, dtype=dtype)
    copies = buffers.copies(inner * outer * dtype.itemsize)
    return x, [buffers.normal(outer, inner, dtype=dtype) for _ in range(copies)]


FORMATS: dict[str, Callable[[Shape, Buffers], Prepared]] = {
    "bf16": _prepare_float,
    "fp16": _prepare_float,
    "fp32": _prepare_float,
    "fp8": prepare_fp8,
    "fp8_block": prepare_fp8_block,
    "nvfp4": prepare_nvfp4,
    "int8": _prepare_int8,
    **{f"int4_g{group}": prepare_int4 for group in INT4_GROUPS},
}
# The first compute capability with the format's units; a processor would only emulate them.
UNITS = {"fp8": (8, 9), "fp8_block": (9, 0), "nvfp4": (10, 0)}
LACKS = {
    **{
        name: f"its units are in GPUs of compute {a}.{b} and later"
        for name, (a, b) in UNITS.items()
    },
    "mxfp4": "PyTorch multiplies it on no NVIDIA GPU; dequantised widens it first",
}


def formats(capability: Capability) -> Formats:
    return without_cache(*(f for f in FORMATS if capability.compute >= UNITS.get(f, (0, 0))))


KERNEL = Kernel(("rows", "in_features", "out_features"), prepare, formats, LACKS)
