"""``y = x @ w``: one GEMM with weights found cold, in every format that the library multiplies."""

from __future__ import annotations

from functools import partial

from torch.nn import functional

from servecast.agent.kernels.buffers import TORCH_DTYPES, Buffers
from servecast.agent.kernels.kernel import TOLERANCE, Capability, Kernel, Prepared, Shape


def prepare(shape: Shape, buffers: Buffers) -> Prepared:
    """x [rows, in_features] is warm, w [out_features, in_features] rotates."""
    dtype = TORCH_DTYPES[shape.dtype]
    rows, inner, outer = shape["rows"], shape["in_features"], shape["out_features"]
    copies = buffers.copies(inner * outer * dtype.itemsize)
    x = buffers.normal(rows, inner, dtype=dtype)
    weights = [buffers.normal(outer, inner, dtype=dtype) for _ in range(copies)]
    buffers.reserve(rows * outer * dtype.itemsize)

    return Prepared(
        launches=tuple(partial(functional.linear, x, w) for w in weights),
        reference=lambda: x.double() @ weights[0].double().t(),
        tolerance=TOLERANCE[dtype],
    )


def formats(capability: Capability) -> tuple[str, ...]:
    del capability
    return ("bf16", "fp16", "fp32")


KERNEL = Kernel(("rows", "in_features", "out_features"), prepare, formats)
