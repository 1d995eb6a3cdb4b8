"""Activations of rows: gated ones read two halves of a row and write one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch.nn import functional

from servecast.agent.kernels.buffers import TORCH_DTYPES, Buffers, keeping
from servecast.agent.kernels.fuse import fused
from servecast.agent.kernels.kernel import TOLERANCE, Kernel, Prepared, Shape, floats

Function = Callable[[torch.Tensor], torch.Tensor]
FUNCTIONS: dict[str, Function] = {
    "swiglu": lambda x: functional.silu(_half(x, 0)) * _half(x, 1),
    "geglu": lambda x: functional.gelu(_half(x, 0), approximate="tanh") * _half(x, 1),
    "gelu": lambda x: functional.gelu(x, approximate="tanh"),
    "relu": functional.relu,
    "silu": functional.silu,
}
GATED = ("swiglu", "geglu")


def _half(x: torch.Tensor, which: int) -> torch.Tensor:
    return x.chunk(2, dim=-1)[which]


def _kernel(name: str) -> Kernel:
    def prepare(shape: Shape, buffers: Buffers) -> Prepared:
        dtype = TORCH_DTYPES[shape.dtype]
        rows, width = shape["rows"], shape["width"]
        wide = width * (2 if name in GATED else 1)
        copies = buffers.row_copies(rows * (wide + width) * dtype.itemsize)
        xs = [buffers.normal(rows, wide, dtype=dtype) for _ in range(copies)]
        buffers.reserve((1 + copies) * rows * width * dtype.itemsize)
        launch = fused(FUNCTIONS[name], buffers.device)
        return Prepared(
            launches=keeping([partial(launch, x) for x in xs]),
            reference=lambda: FUNCTIONS[name](xs[0].double()),
            tolerance=TOLERANCE[dtype],
        )

    return Kernel(("rows", "width"), prepare, floats)


KERNELS = {name: _kernel(name) for name in FUNCTIONS}
