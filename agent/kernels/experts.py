"""Grouped SwiGLU experts: gather the rows of each expert, two GEMMs per expert, scatter back weighted.

Routing is uniform and drawn beforehand, over all experts; this rank has the first ``experts`` of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch.nn import functional

from servecast.agent.kernels.buffers import TORCH_DTYPES, Buffers
from servecast.agent.kernels.kernel import TOLERANCE, Kernel, Prepared, Shape, floats

DIMS = ("rows", "hidden", "intermediate", "experts", "total_experts", "top_k")


@dataclass(frozen=True, slots=True)
class Routing:
    """Pairs of a row and a local expert, sorted by expert; ``rows`` and ``weights`` have one entry each."""

    rows: torch.Tensor
    weights: torch.Tensor
    counts: tuple[int, ...]


def prepare(shape: Shape, buffers: Buffers) -> Prepared:
    """x [rows, hidden] is warm; up [experts, 2 * intermediate, hidden] and down, its like, are cold."""
    dtype = TORCH_DTYPES[shape.dtype]
    rows, hidden, inner = shape["rows"], shape["hidden"], shape["intermediate"]
    experts = shape["experts"]
    copies = buffers.copies(3 * experts * hidden * inner * dtype.itemsize)
    x = buffers.normal(rows, hidden, dtype=dtype)
    weights = [
        (
            buffers.normal(experts, 2 * inner, hidden, dtype=dtype, scale=hidden**-0.5),
            buffers.normal(experts, hidden, inner, dtype=dtype, scale=inner**-0.5),
        )
        for _ in range(copies)
    ]
    routing = route(shape, buffers)
    buffers.reserve(len(routing.rows) * (hidden * 2 + inner * 3) * dtype.itemsize)
    up, down = weights[0]
    return Prepared(
        launches=tuple(partial(_run, x, *pair, routing) for pair in weights),
        reference=lambda: _run(x.double(), up.double(), down.double(), routing),
        tolerance=TOLERANCE[dtype],
    )


def route(shape: Shape, buffers: Buffers) -> Routing:
    """``top_k`` distinct experts of ``total_experts`` for each row, uniformly; those on this rank."""
    buffers.reserve(shape["rows"] * shape["total_experts"] * 4)
    noise = buffers.normal(shape["rows"], shape["total_experts"], dtype=torch.float32)
    chosen = noise.topk(shape["top_k"], dim=-1).indices
    row, slot = torch.nonzero(chosen < shape["experts"], as_tuple=True)
    expert = chosen[row, slot]
    order = torch.argsort(expert, stable=True)
    counts = torch.bincount(expert, minlength=shape["experts"]).tolist()
    weights = torch.full((len(order), 1), 1 / shape["top_k"], device=noise.device)
    return Routing(row[order], weights, tuple(counts))


def _run(x: torch.Tensor, up: torch.Tensor, down: torch.Tensor, routing: Routing) -> torch.Tensor:
    gathered = torch.split(x[routing.rows], list(routing.counts))
    parts = [
        functional.linear(_swiglu(functional.linear(some, up[expert])), down[expert])
        for expert, some in enumerate(gathered)
        if len(some)
    ]
    out = torch.zeros_like(x)
    if parts:
        out.index_add_(0, routing.rows, torch.cat(parts) * routing.weights.to(x.dtype))
    return out


def _swiglu(x: torch.Tensor) -> torch.Tensor:
    gate, value = x.chunk(2, dim=-1)
    return functional.silu(gate) * value


KERNEL = Kernel(DIMS, prepare, floats)
