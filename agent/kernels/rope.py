"""Rotary position embedding of q and k heads, in the half-split layout (Su et al. 2021; GPT-NeoX order)."""

from __future__ import annotations

import torch

from servecast.agent.kernels.buffers import TORCH_DTYPES, Buffers
from servecast.agent.kernels.fuse import fused
from servecast.agent.kernels.kernel import TOLERANCE, Kernel, Prepared, Shape, floats

BASE = 10_000.0
POSITIONS = 32_768  # of the table that a launch looks its rows up in


def prepare(shape: Shape, buffers: Buffers) -> Prepared:
    """x [rows, heads, head_dim], of which the first ``rotary_dim`` numbers of each head turn."""
    dtype = TORCH_DTYPES[shape.dtype]
    rows, heads, half = shape["rows"], shape["heads"], shape["rotary_dim"] // 2
    x = buffers.normal(rows, heads, shape["head_dim"], dtype=dtype)
    positions = buffers.integers(rows, below=POSITIONS)
    buffers.reserve(4 * rows * heads * half * dtype.itemsize)
    name = ("rope", shape.dtype, half)
    table = buffers.kept(name, POSITIONS * 2 * half * 4, lambda: cos_sin(half, x.device).to(dtype))
    rotate = fused(rotated, x.device)
    return Prepared(
        launches=(lambda: rotate(x, table, positions, half),),
        reference=lambda: rotated(x.double(), table.double(), positions, half),
        tolerance=TOLERANCE[dtype],
    )


def cos_sin(half: int, device: torch.device) -> torch.Tensor:
    """Of the angle of each position and pair, [POSITIONS, 2 * half]: cosines, then sines."""
    frequencies = BASE ** (-torch.arange(half, device=device) / half)
    angles = torch.arange(POSITIONS, device=device)[:, None] * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


def rotated(
    x: torch.Tensor, table: torch.Tensor, positions: torch.Tensor, half: int
) -> torch.Tensor:
    turns = table[positions]
    cos, sin = turns[:, None, :half], turns[:, None, half:]
    first, second = x[..., :half], x[..., half : 2 * half]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


KERNEL = Kernel(("rows", "heads", "head_dim", "rotary_dim"), prepare, floats)
