"""Grouped SwiGLU experts: gather the rows of each expert, two grouped GEMMs, scatter back weighted.

Routing is drawn beforehand, over all experts, uniform or skewed; this rank has the first ``experts`` of them,
among them the most popular.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch.nn import functional

from servecast.agent.kernels.buffers import TORCH_DTYPES, Buffers
from servecast.agent.kernels.kernel import TOLERANCE, Kernel, Prepared, Shape, floats
from servecast.agent.kernels.skew import popularity

DIMS = ("rows", "hidden", "intermediate", "experts", "total_experts", "top_k")


@dataclass(frozen=True, slots=True)
class Routing:
    """Pairs of a row and a local expert, sorted by expert; ``rows`` and ``weights`` have one entry each.

    ``ends`` [experts] int32: where each expert's pairs end.
    """

    rows: torch.Tensor
    weights: torch.Tensor
    ends: torch.Tensor


def prepare_uniform(shape: Shape, buffers: Buffers) -> Prepared:
    return _prepare(shape, buffers, route(shape, buffers))


def prepare_skewed(shape: Shape, buffers: Buffers) -> Prepared:
    return _prepare(shape, buffers, popular(shape, buffers))


def _prepare(shape: Shape, buffers: Buffers, routing: Routing) -> Prepared:
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
    buffers.reserve(len(routing.rows) * (hidden * 2 + inner * 3) * dtype.itemsize)
    up, down = weights[0]
    return Prepared(
        launches=tuple(partial(run, x, *pair, routing) for pair in weights),
        reference=lambda: run(x.double(), up.double(), down.double(), routing),
        tolerance=TOLERANCE[dtype],
    )


def popular(shape: Shape, buffers: Buffers) -> Routing:
    """Experts chosen by their popularity."""
    return route(shape, buffers, popularity(shape["total_experts"]))


def route(shape: Shape, buffers: Buffers, shares: list[float] | None = None) -> Routing:
    """``top_k`` distinct experts of ``total_experts`` for each row; those on this rank.

    ``shares`` of the experts' popularity skew the draw (without replacement, by Gumbel's trick).
    """
    buffers.reserve(shape["rows"] * shape["total_experts"] * 8)
    noise = buffers.normal(shape["rows"], shape["total_experts"], dtype=torch.float32)
    if shares is not None:
        uniform = torch.special.ndtr(noise.double()).clamp(1e-12, 1 - 1e-12)
        noise = torch.tensor(shares, device=noise.device).log() - (-uniform.log()).log()
    chosen = noise.topk(shape["top_k"], dim=-1).indices
    row, slot = torch.nonzero(chosen < shape["experts"], as_tuple=True)
    expert = chosen[row, slot]
    order = torch.argsort(expert, stable=True)
    counts = torch.bincount(expert, minlength=shape["experts"])
    weights = torch.full((len(order), 1), 1 / shape["top_k"], device=noise.device)
    return Routing(row[order], weights, counts.cumsum(0).int())


def run(x: torch.Tensor, up: torch.Tensor, down: torch.Tensor, routing: Routing) -> torch.Tensor:
    out = torch.zeros_like(x)
    if len(routing.rows):
        inner = _swiglu(_grouped(x[routing.rows], up, routing.ends))
        parts = _grouped(inner, down, routing.ends) * routing.weights.to(x.dtype)
        out.index_add_(0, routing.rows, parts)
    return out


def _grouped(rows: torch.Tensor, weights: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """Each expert's rows times its [out, in] weights: one launch where PyTorch has it, from 2.10 on."""
    if rows.dtype is not torch.float64 and hasattr(functional, "grouped_mm"):
        return functional.grouped_mm(rows, weights.transpose(1, 2), offs=ends)
    pieces = rows.tensor_split(ends[:-1].cpu().long())
    return torch.cat([functional.linear(*pair) for pair in zip(pieces, weights, strict=True)])


def _swiglu(x: torch.Tensor) -> torch.Tensor:
    gate, value = x.chunk(2, dim=-1)
    return functional.silu(gate) * value


KERNELS = {
    "experts": Kernel(DIMS, prepare_uniform, floats),
    "experts_skewed": Kernel(DIMS, prepare_skewed, floats),
}
