"""Rows of an embedding table, found cold: each launch looks up other rows."""

from __future__ import annotations

from functools import partial

from torch.nn import functional

from servecast.agent.kernels.buffers import TORCH_DTYPES, Buffers
from servecast.agent.kernels.kernel import Kernel, Prepared, Shape, floats


def prepare(shape: Shape, buffers: Buffers) -> Prepared:
    """Table [vocab, width], ids [rows]."""
    dtype = TORCH_DTYPES[shape.dtype]
    rows, width = shape["rows"], shape["width"]
    table = buffers.normal(shape["vocab"], width, dtype=dtype)
    copies = buffers.copies(rows * width * dtype.itemsize)
    ids = [buffers.integers(rows, below=shape["vocab"]) for _ in range(copies)]
    buffers.reserve(rows * width * dtype.itemsize)
    return Prepared(
        launches=tuple(partial(functional.embedding, some, table) for some in ids),
        reference=lambda: table[ids[0]].double(),
        tolerance=0.0,
    )


KERNEL = Kernel(("rows", "vocab", "width"), prepare, floats)
