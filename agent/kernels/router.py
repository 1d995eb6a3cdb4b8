"""Scores of the experts for each row, their softmax, and the top k with their weights normalised."""

from __future__ import annotations

from functools import partial

import torch

from servecast.agent.kernels.buffers import TORCH_DTYPES, Buffers
from servecast.agent.kernels.kernel import TOLERANCE, Kernel, Prepared, Shape, floats


def prepare(shape: Shape, buffers: Buffers) -> Prepared:
    """x [rows, hidden] is warm, the gate [experts, hidden] cold; gives weights [rows, top_k]."""
    dtype = TORCH_DTYPES[shape.dtype]
    rows, hidden, experts = shape["rows"], shape["hidden"], shape["experts"]
    copies = buffers.copies(hidden * experts * dtype.itemsize)
    x = buffers.normal(rows, hidden, dtype=dtype)
    gates = [
        buffers.normal(experts, hidden, dtype=dtype, scale=hidden**-0.5) for _ in range(copies)
    ]
    buffers.reserve(rows * experts * (dtype.itemsize + 4))
    top_k = shape["top_k"]
    return Prepared(
        launches=tuple(partial(_route, x, gate, top_k, torch.float32) for gate in gates),
        reference=lambda: _route(x.double(), gates[0].double(), top_k, torch.float64),
        tolerance=2 * TOLERANCE[dtype],  # a softmax of rounded scores
    )


def _route(x: torch.Tensor, gate: torch.Tensor, top_k: int, wide: torch.dtype) -> torch.Tensor:
    scores = torch.softmax((x @ gate.t()).to(wide), dim=-1)
    weights, _ = torch.topk(scores, top_k, dim=-1)
    return weights / weights.sum(dim=-1, keepdim=True)


KERNEL = Kernel(("rows", "hidden", "experts", "top_k"), prepare, floats)
