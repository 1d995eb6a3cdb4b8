"""GEMMs of bf16 rows with weights in int4 or int8, which the launch itself dequantises."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from servecast.agent.kernels.buffers import Buffers
from servecast.agent.kernels.kernel import (
    TOLERANCE,
    Capability,
    Formats,
    Kernel,
    Prepared,
    Shape,
    without_cache,
)
from servecast.agent.kernels.quantised import INT4_ZERO


def prepare_int4(shape: Shape, buffers: Buffers) -> Prepared:
    """int4 weights with a bf16 scale and zero per group (PyTorch's packed layout)."""
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


def prepare_int8(shape: Shape, buffers: Buffers) -> Prepared:
    """int8 weights with a bf16 scale per output."""
    rows, inner, outer = shape["rows"], shape["in_features"], shape["out_features"]
    x = buffers.normal(rows, inner, dtype=torch.bfloat16)
    copies = buffers.copies(inner * outer)
    weights = [buffers.normal(outer, inner, dtype=torch.int8) for _ in range(copies)]
    scales = buffers.normal(outer, dtype=torch.bfloat16)
    buffers.reserve(rows * outer * 2)
    return Prepared(
        launches=tuple(partial(torch._weight_int8pack_mm, x, w, scales) for w in weights),
        reference=lambda: x.double() @ weights[0].double().t() * scales.double(),
        tolerance=TOLERANCE[torch.bfloat16],
    )


def int8(capability: Capability) -> Formats:
    del capability
    return without_cache("int8")


KERNELS = {"linear": Kernel(("rows", "in_features", "out_features"), prepare_int8, int8)}
