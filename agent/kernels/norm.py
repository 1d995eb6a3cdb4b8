"""RMS and layer norms of warm rows, alone or with the residual addition before them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

from servecast.agent.kernels.buffers import TORCH_DTYPES, Buffers
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
    x = buffers.normal(rows, width, dtype=dtype)
    weight, bias = (buffers.normal(width, dtype=dtype) for _ in range(2))
    buffers.reserve(2 * rows * width * dtype.itemsize)
    if not shape["residual"]:
        alone = fused(norm, x.device)
        return Prepared(
            launches=(lambda: alone(x, weight, bias),),
            reference=lambda: norm(x.double(), weight.double(), bias.double()),
            tolerance=TOLERANCE[dtype],
        )
    residual = buffers.normal(rows, width, dtype=dtype)
    added = fused(after_add, x.device)
    return Prepared(
        launches=(lambda: added(x, residual, weight, bias)[0],),
        reference=lambda: norm(x.double() + residual.double(), weight.double(), bias.double()),
        tolerance=TOLERANCE[dtype],
    )


RMS_NORM = Kernel(DIMS, prepare_rms, floats)
LAYER_NORM = Kernel(DIMS, prepare_layer, floats)
