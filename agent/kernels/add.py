"""The addition of two warm rows."""

from __future__ import annotations

from servecast.agent.kernels.buffers import TORCH_DTYPES, Buffers
from servecast.agent.kernels.kernel import TOLERANCE, Kernel, Prepared, Shape, floats


def prepare(shape: Shape, buffers: Buffers) -> Prepared:
    """Two tensors [rows, width]."""
    dtype = TORCH_DTYPES[shape.dtype]
    x, y = (buffers.normal(shape["rows"], shape["width"], dtype=dtype) for _ in range(2))
    buffers.reserve(x.nbytes)
    return Prepared((lambda: x + y,), lambda: x.double() + y.double(), TOLERANCE[dtype])


KERNEL = Kernel(("rows", "width"), prepare, floats)
