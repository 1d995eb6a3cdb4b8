"""RMS and layer norms of rows, alone or with the residual addition before them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch.nn import functional

from servecast.agent.kernels.buffers import TORCH_DTYPES, Buffers, keeping
from servecast.agent.kernels.fuse import fused
from servecast.agent.kernels.kernel import TOLERANCE, Kernel, Prepared, Shape, floats

Norm = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
NormAfterAdd = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]
]
EPSILON = 1e-6
DIMS = ("rows", "width", "per_row", "residual")


def prepare_rms(shape: Shape, buffers: Buffers) -> Prepared:
    """x [rows * per_row, width]; with a residual ``rms_norm(x + residual)``."""
    return _prepare(shape, buffers, _rms, _rms_after_add)


def prepare_layer(shape: Shape, buffers: Buffers) -> Prepared:
    """x [rows * per_row, width]; with a residual ``layer_norm(x + residual)``."""
    return _prepare(shape, buffers, _layer, _layer_after_add)


def _rms(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    del bias
    return functional.rms_norm(x, x.shape[-1:], weight, EPSILON)


def _layer(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return functional.layer_norm(x, x.shape[-1:], weight, bias, EPSILON)


def _rms_after_add(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum is an output too: the next residual addition reads it."""
    total = x + residual
    return _rms(total, weight, bias), total


def _layer_after_add(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    total = x + residual
    return _layer(total, weight, bias), total


def _prepare(shape: Shape, buffers: Buffers, norm: Norm, after_add: NormAfterAdd) -> Prepared:
    dtype = TORCH_DTYPES[shape.dtype]
    rows, width = shape["rows"] * shape["per_row"], shape["width"]
    weight, bias = (buffers.normal(width, dtype=dtype) for _ in range(2))
    pairs = rows_and_residuals(rows, width, dtype, buffers)
    x, residual = pairs[0]
    if not shape["residual"]:
        alone = fused(norm, buffers.device)
        return Prepared(
            launches=keeping([partial(alone, some, weight, bias) for some, _ in pairs]),
            reference=lambda: norm(x.double(), weight.double(), bias.double()),
            tolerance=TOLERANCE[dtype],
        )
    added = fused(after_add, buffers.device)

    def normed(some: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        return added(some, before, weight, bias)[0]

    return Prepared(
        launches=keeping([partial(normed, *pair) for pair in pairs]),
        reference=lambda: norm(x.double() + residual.double(), weight.double(), bias.double()),
        tolerance=TOLERANCE[dtype],
    )


def rows_and_residuals(
    rows: int, width: int, dtype: torch.dtype, buffers: Buffers
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Copies that take turns; room for the normed rows and the sums is counted."""
    size = rows * width * dtype.itemsize
    copies = buffers.row_copies(4 * size)
    buffers.reserve((2 + 2 * copies) * size)
    return [
        (buffers.normal(rows, width, dtype=dtype), buffers.normal(rows, width, dtype=dtype))
        for _ in range(copies)
    ]


RMS_NORM = Kernel(DIMS, prepare_rms, floats)
LAYER_NORM = Kernel(DIMS, prepare_layer, floats)
