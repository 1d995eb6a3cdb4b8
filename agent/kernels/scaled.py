"""GEMMs of quantised rows with quantised weights and their scales, through PyTorch's scaled GEMM.

The scales are ones: their values change no time, and their layouts differ from unit to unit. Engines quantise
the activations in a launch before.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch.nn import functional

from servecast.agent.kernels.buffers import Buffers
from servecast.agent.kernels.kernel import TOLERANCE, Prepared, Shape
from servecast.agent.kernels.quantised import BLOCK, NVFP4_GROUP, from_e2m1

SCALES_TO_4 = 4  # the scales of the squares along a column are padded to a multiple of it
SWIZZLED_ROWS, SWIZZLED_COLUMNS = 128, 4  # nvfp4's scales come in tiles of so many
Multiply = Callable[[torch.Tensor], torch.Tensor]


def prepare_fp8(shape: Shape, buffers: Buffers) -> Prepared:
    """One scale per tensor; the output is bf16."""
    x, weights = _operands(shape, buffers, shape["in_features"])
    one = torch.ones((), device=x.device)

    def launch(w: torch.Tensor) -> torch.Tensor:
        return torch._scaled_mm(x, w.t(), one, one, out_dtype=torch.bfloat16, use_fast_accum=True)

    return _prepared(x, weights, launch)


def prepare_fp8_block(shape: Shape, buffers: Buffers) -> Prepared:
    """A scale per 128 numbers of a row, and per square of 128 of the weights (DeepSeek-V3, section 3.3)."""
    x, weights = _operands(shape, buffers, shape["in_features"])
    blocks, squares = -(-shape["in_features"] // BLOCK), -(-shape["out_features"] // BLOCK)
    padded = -(-blocks // SCALES_TO_4) * SCALES_TO_4
    of_rows = torch.ones(blocks, shape["rows"], device=x.device).t()  # row after row in memory
    of_squares = torch.ones(squares, padded, device=x.device).t()
    kind = functional.ScalingType

    def launch(w: torch.Tensor) -> torch.Tensor:
        return functional.scaled_mm(
            x, w.t(), of_rows, kind.BlockWise1x128, of_squares, kind.BlockWise128x128
        )

    return _prepared(x, weights, launch)


def prepare_nvfp4(shape: Shape, buffers: Buffers) -> Prepared:
    """Two e2m1 numbers in a byte, a scale per 16 of a row, one more per tensor."""
    x, weights = _operands(shape, buffers, shape["in_features"] // 2, torch.uint8)
    of_x, of_w = (_nvfp4_scales(shape, name, x.device) for name in ("rows", "out_features"))
    one = torch.ones((), device=x.device)
    kind, order = functional.ScalingType, functional.SwizzleType
    recipe, swizzle = (
        [kind.BlockWise1x16, kind.TensorWise],
        [order.SWIZZLE_32_4_4, order.NO_SWIZZLE],
    )
    packed = torch.float4_e2m1fn_x2

    def launch(w: torch.Tensor) -> torch.Tensor:
        return functional.scaled_mm(
            x.view(packed), w.view(packed).t(), [of_x, one], recipe, [of_w, one], recipe,
            swizzle_a=swizzle, swizzle_b=swizzle,
        )  # fmt: skip

    return Prepared(
        launches=tuple(partial(launch, w) for w in weights),
        reference=lambda: from_e2m1(x) @ from_e2m1(weights[0]).t(),
        tolerance=TOLERANCE[torch.bfloat16],
    )


def _nvfp4_scales(shape: Shape, name: str, device: torch.device) -> torch.Tensor:
    rows = -(-shape[name] // SWIZZLED_ROWS) * SWIZZLED_ROWS
    groups = -(-shape["in_features"] // NVFP4_GROUP // SWIZZLED_COLUMNS) * SWIZZLED_COLUMNS
    return torch.ones(rows * groups, device=device).to(torch.float8_e4m3fn)


def _operands(
    shape: Shape, buffers: Buffers, inner: int, dtype: torch.dtype = torch.float8_e4m3fn
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """x [rows, inner], weights [out_features, inner]; room for the bf16 output is counted."""
    rows, outer = shape["rows"], shape["out_features"]
    buffers.reserve(rows * outer * 2)

    def random(count: int) -> torch.Tensor:
        if dtype is torch.uint8:
            return buffers.integers(count, inner, below=256, dtype=dtype)
        return buffers.normal(count, inner, dtype=dtype)

    return random(rows), [random(outer) for _ in range(buffers.copies(inner * outer))]


def _prepared(x: torch.Tensor, weights: list[torch.Tensor], launch: Multiply) -> Prepared:
    return Prepared(
        launches=tuple(partial(launch, w) for w in weights),
        reference=lambda: x.double() @ weights[0].double().t(),
        tolerance=TOLERANCE[torch.float8_e4m3fn],
    )
