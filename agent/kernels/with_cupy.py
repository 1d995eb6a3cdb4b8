"""Element-wise, row and memory kernels in CUDA C through CuPy: one launch each, whatever Inductor would fuse.

PyTorch allocates and draws the tensors; CuPy gets their addresses and launches on PyTorch's stream, so that a
CUDA graph records the launch like any other.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from importlib.resources import files
from typing import Any

import cupy
import numpy as np
import torch
from torch.nn import functional

from servecast.agent.kernels import activation, kv_write, norm, rope
from servecast.agent.kernels.buffers import TORCH_DTYPES, Buffers
from servecast.agent.kernels.kernel import (
    TOLERANCE,
    Capability,
    Formats,
    Kernel,
    Prepared,
    Shape,
    floats,
)

THREADS = 256
MAX_BLOCKS = 65_535
C_TYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float"}
NAMES = ("add", "activation", "gated", "rms_norm", "rope", "embedding", "kv_write")
KINDS = {"relu": 0, "silu": 1, "swiglu": 1, "gelu": 2, "geglu": 2}  # as in cupy_kernels.cu


@cache  # compiled once a process
def _module() -> Any:
    source = files("servecast.agent.kernels").joinpath("cupy_kernels.cu").read_text("utf-8")
    names = [f"{name}<{c_type}>" for name in NAMES for c_type in C_TYPES.values()]
    return cupy.RawModule(code=source, options=("-std=c++17",), name_expressions=names)


def _launch(name: str, dtype: str, blocks: int, out: torch.Tensor, *arguments: Any) -> torch.Tensor:
    """Tensors go by their address; gives ``out``, which is one of them."""
    kernel = _module().get_function(f"{name}<{C_TYPES[dtype]}>")
    plain = tuple(a.data_ptr() if isinstance(a, torch.Tensor) else a for a in arguments)
    with cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream):
        kernel((blocks,), (THREADS,), plain)
    return out


def _blocks(elements: int) -> int:
    return min(MAX_BLOCKS, -(-elements // THREADS))


def prepare_add(shape: Shape, buffers: Buffers) -> Prepared:
    dtype = TORCH_DTYPES[shape.dtype]
    x, y = (buffers.normal(shape["rows"], shape["width"], dtype=dtype) for _ in range(2))
    out = buffers.empty(*x.shape, dtype=dtype)
    blocks, count = _blocks(x.numel()), x.numel()
    launch = partial(_launch, "add", shape.dtype, blocks, out, x, y, out, count)
    return Prepared((launch,), lambda: x.double() + y.double(), TOLERANCE[dtype])


def prepare_activation(name: str, shape: Shape, buffers: Buffers) -> Prepared:
    dtype, rows, width = TORCH_DTYPES[shape.dtype], shape["rows"], shape["width"]
    gated = name in activation.GATED
    x = buffers.normal(rows, width * (2 if gated else 1), dtype=dtype)
    out = buffers.empty(rows, width, dtype=dtype)
    sizes = (rows, width) if gated else (rows * width,)
    kernel, blocks = "gated" if gated else "activation", _blocks(rows * width)
    return Prepared(
        launches=(partial(_launch, kernel, shape.dtype, blocks, out, x, out, *sizes, KINDS[name]),),
        reference=lambda: activation.FUNCTIONS[name](x.double()),
        tolerance=TOLERANCE[dtype],
    )


def prepare_rms(shape: Shape, buffers: Buffers) -> Prepared:
    """The sum with the residual stays in its place, and grows until rounding swallows what is added.

    That is at x times 2^8 in bf16, 2^11 in fp16 and 2^24 in fp32: always a number.
    """
    dtype, width = TORCH_DTYPES[shape.dtype], shape["width"]
    rows = shape["rows"] * shape["per_row"]
    x, residual = (buffers.normal(rows, width, dtype=dtype) for _ in range(2))
    weight, out = buffers.normal(width, dtype=dtype), buffers.empty(rows, width, dtype=dtype)
    added = residual if shape["residual"] else 0
    total = x.double() + residual.double() if shape["residual"] else x.double()
    wanted = functional.rms_norm(total, (width,), weight.double(), norm.EPSILON)
    epsilon = np.float32(norm.EPSILON)
    return Prepared(
        launches=(
            partial(
                _launch, "rms_norm", shape.dtype, rows, out, x, added, weight, out, width, epsilon
            ),
        ),
        reference=lambda: wanted,
        tolerance=TOLERANCE[dtype],
    )


def prepare_rope(shape: Shape, buffers: Buffers) -> Prepared:
    dtype, half = TORCH_DTYPES[shape.dtype], shape["rotary_dim"] // 2
    rows, heads, head_dim = shape["rows"], shape["heads"], shape["head_dim"]
    x = buffers.normal(rows, heads, head_dim, dtype=dtype)
    positions = buffers.integers(rows, below=rope.POSITIONS)
    table = rope.cos_sin(half, x.device).to(dtype)
    out = buffers.empty(rows, heads, 2 * half, dtype=dtype)
    blocks, sizes = _blocks(rows * heads * half), (rows, heads, head_dim, half)
    return Prepared(
        launches=(
            partial(_launch, "rope", shape.dtype, blocks, out, x, table, positions, out, *sizes),
        ),
        reference=lambda: rope.rotated(x.double(), table.double(), positions, half),
        tolerance=TOLERANCE[dtype],
    )


def prepare_embedding(shape: Shape, buffers: Buffers) -> Prepared:
    dtype, rows, width = TORCH_DTYPES[shape.dtype], shape["rows"], shape["width"]
    table, out = (buffers.normal(n, width, dtype=dtype) for n in (shape["vocab"], rows))
    copies = buffers.copies(rows * width * dtype.itemsize)
    ids = [buffers.integers(rows, below=shape["vocab"]) for _ in range(copies)]
    look_up = partial(_launch, "embedding", shape.dtype, _blocks(rows * width), out, table)
    return Prepared(
        launches=tuple(partial(look_up, some, out, rows, width) for some in ids),
        reference=lambda: table[ids[0]].double(),
        tolerance=0.0,
    )


def prepare_kv_write(shape: Shape, buffers: Buffers) -> Prepared:
    """Of rows in the cache's own format; quantising ones are PyTorch's."""
    dtype, rows, width = TORCH_DTYPES[shape.kv_dtype], shape["rows"], shape["width"]
    new = buffers.normal(rows, width, dtype=dtype)
    cached, slots = kv_write.scattered(rows, width, dtype, buffers)
    write = partial(_launch, "kv_write", shape.kv_dtype, _blocks(rows * width), cached, new)
    return Prepared(
        launches=tuple(partial(write, some, cached, rows, width) for some in slots),
        reference=lambda: cached.double().index_copy_(0, slots[0], new.double()),
        tolerance=0.0,
    )


def own_format(capability: Capability) -> Formats:
    del capability
    return (("bf16", "bf16"),)


def _activation(name: str) -> Callable[[Shape, Buffers], Prepared]:
    return partial(prepare_activation, name)


KERNELS: dict[str, Kernel] = {
    "add": Kernel(("rows", "width"), prepare_add, floats),
    "embedding": Kernel(("rows", "vocab", "width"), prepare_embedding, floats),
    "kv_write": Kernel(("rows", "width"), prepare_kv_write, own_format),
    "rms_norm": Kernel(norm.DIMS, prepare_rms, floats),
    "rope": Kernel(rope.KERNEL.dims, prepare_rope, floats),
    **{name: Kernel(("rows", "width"), _activation(name), floats) for name in KINDS},
}
