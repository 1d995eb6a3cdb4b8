"""``y = x @ w``: one GEMM with weights found cold, in every format that the library multiplies.

fp8 and int8 multiply quantised by quantised; engines quantise the activations in a launch before. int4
dequantises weights inside the launch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch.nn import functional

from servecast.agent.kernels.buffers import TORCH_DTYPES, Buffers
from servecast.agent.kernels.kernel import TOLERANCE, Capability, Kernel, Launch, Prepared, Shape

INT4_GROUPS = (32, 64, 128, 256)
INT4_ZERO = 8  # the middle of 0 to 15
FP8_COMPUTE = (8, 9)  # Ada and Hopper have fp8 units
INT8_ROWS = 17  # the least that cuBLAS's int8 GEMM takes; fewer rows are padded


def prepare(shape: Shape, buffers: Buffers) -> Prepared:
    """x [rows, in_features] is warm, w [out_features, in_features] rotates."""
    return FORMATS[shape.dtype](shape, buffers)


def _prepare_float(shape: Shape, buffers: Buffers) -> Prepared:
    dtype = TORCH_DTYPES[shape.dtype]
    x, weights = _operands(shape, buffers, dtype)
    buffers.reserve(shape["rows"] * shape["out_features"] * dtype.itemsize)
    launch = _packed if _packs(x) else _plain
    first = weights[0]  # the others are only kept if they are what is multiplied
    return Prepared(
        launches=tuple(launch(x, w) for w in weights),
        reference=lambda: x.double() @ first.double().t(),
        tolerance=TOLERANCE[dtype],
    )


def _packs(x: torch.Tensor) -> bool:
    """Whether oneDNN has a packed GEMM of this format on this processor."""
    if x.device.type != "cpu" or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    if x.dtype is torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return x.dtype is torch.float32


def _plain(x: torch.Tensor, w: torch.Tensor) -> Launch:
    return partial(functional.linear, x, w)


def _packed(x: torch.Tensor, w: torch.Tensor) -> Launch:
    """oneDNN with the weights reordered once, as vLLM's build for processors runs it (csrc/cpu/dnnl_*)."""
    weight = torch.ops.mkldnn._reorder_linear_weight(w, x.shape[0])
    return partial(torch.ops.mkldnn._linear_pointwise, x, weight, None, "none", [], "")


def _prepare_fp8(shape: Shape, buffers: Buffers) -> Prepared:
    """One scale per tensor; the output is bf16."""
    x, weights = _operands(shape, buffers, torch.float8_e4m3fn)
    one = torch.ones((), device=x.device)
    buffers.reserve(shape["rows"] * shape["out_features"] * 2)

    def launch(w: torch.Tensor) -> torch.Tensor:
        return torch._scaled_mm(x, w.t(), one, one, out_dtype=torch.bfloat16, use_fast_accum=True)

    return Prepared(
        launches=tuple(partial(launch, w) for w in weights),
        reference=lambda: x.double() @ weights[0].double().t(),
        tolerance=TOLERANCE[torch.float8_e4m3fn],
    )


def _prepare_int8(shape: Shape, buffers: Buffers) -> Prepared:
    """The output is the int32 sums, before their scales."""
    x, weights = _operands(shape, buffers, torch.int8, least_rows=INT8_ROWS)
    buffers.reserve(x.shape[0] * shape["out_features"] * 4)
    return Prepared(
        launches=tuple(partial(torch._int_mm, x, w.t()) for w in weights),
        reference=lambda: x.double() @ weights[0].double().t(),
        tolerance=0.0,
    )


def _prepare_int4(shape: Shape, buffers: Buffers) -> Prepared:
    """bf16 rows times int4 weights with a bf16 scale and zero per group (PyTorch's packed layout)."""
    group = int(shape.dtype.removeprefix("int4_g"))
    rows, inner, outer = shape["rows"], shape["in_features"], shape["out_features"]
    x = buffers.normal(rows, inner, dtype=torch.bfloat16)
    codes = buffers.integers(outer, inner, below=16, dtype=torch.int32)
    scales = buffers.normal(inner // group, outer, 1, dtype=torch.bfloat16)
    scales_and_zeros = torch.cat((scales, torch.zeros_like(scales)), dim=-1)
    copies = buffers.copies(inner * outer // 2)
    buffers.reserve(copies * inner * outer // 2 + rows * outer * 2)
    multiply, pack = _int4_library(x.device)
    packed = [pack(codes) for _ in range(copies)]

    def reference() -> torch.Tensor:
        spread = scales[..., 0].double().t().repeat_interleave(group, dim=1)
        return x.double() @ ((codes.double() - INT4_ZERO) * spread).t()

    return Prepared(
        launches=tuple(partial(multiply, x, w, group, scales_and_zeros) for w in packed),
        reference=reference,
        tolerance=TOLERANCE[torch.bfloat16],
    )


def _int4_library(
    device: torch.device,
) -> tuple[Callable[..., torch.Tensor], Callable[[torch.Tensor], torch.Tensor]]:
    """The library's multiply and pack; a GPU packs two codes of a row into each byte first."""
    if device.type == "cpu":
        return (
            torch._weight_int4pack_mm_for_cpu,
            lambda codes: torch._convert_weight_to_int4pack_for_cpu(codes, 2),
        )
    return (
        torch._weight_int4pack_mm,
        lambda codes: torch._convert_weight_to_int4pack(
            (codes[:, ::2] << 4 | codes[:, 1::2]).to(torch.uint8), 8
        ),
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
    "fp8": _prepare_fp8,
    "int8": _prepare_int8,
    **{f"int4_g{group}": _prepare_int4 for group in INT4_GROUPS},
}


def formats(capability: Capability) -> tuple[str, ...]:
    fp8 = capability.compute >= FP8_COMPUTE
    return tuple(name for name in FORMATS if name != "fp8" or fp8)


KERNEL = Kernel(("rows", "in_features", "out_features"), prepare, formats)
