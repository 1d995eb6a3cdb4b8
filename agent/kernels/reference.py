"""Runs each kernel of a node once on small tensors and compares it with float64."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from servecast.agent.backend import Backend
from servecast.agent.kernels.kernel import Capability, Kernel, Shape, relative_error
from servecast.agent.kernels.registry import KERNELS

# Small, no two equal where a mix-up would hide, and divisible by what libraries ask for (16).
SIZES = {
    "rows": 32,
    "batch": 3,
    "chunk": 48,
    "context": 80,
    "heads": 16,
    "kv_heads": 4,
    "head_dim": 64,
    "rotary_dim": 32,
    "width": 96,
    "per_row": 2,
    "residual": 1,
    "window": 24,
    "in_features": 512,
    "out_features": 256,
    "vocab": 160,
    "hidden": 128,
    "intermediate": 64,
    "experts": 4,
    "total_experts": 8,
    "top_k": 2,
    "rank": 64,
    "rope_dim": 32,
    "nope_dim": 48,
    "value_dim": 48,
}


@dataclass(frozen=True, slots=True)
class KernelCheck:
    """``error`` is relative to the reference's largest magnitude; ``problem`` is empty where all is well."""

    kernel: str
    dtype: str
    kv_dtype: str
    error: float
    tolerance: float
    problem: str = ""

    @property
    def passed(self) -> bool:
        return not self.problem and self.error <= self.tolerance


def check_kernels(backend: Backend) -> Iterator[KernelCheck]:
    """Every kernel of the node's first device in every format."""
    backend.enter(0)
    for name, kernel in sorted(KERNELS.items()):
        for dtype, kv_dtype in formats_of(kernel, backend.capability):
            yield _check(backend, name, Shape(dtype, kv_dtype, {d: SIZES[d] for d in kernel.dims}))


def formats_of(kernel: Kernel, capability: Capability) -> list[tuple[str, str]]:
    """(dtype, kv_dtype) pairs that go together; attention reads a cache of its own format."""
    dtypes = kernel.formats(capability)
    if kernel.kv_formats is None:
        return [(dtype, "") for dtype in dtypes]
    if "heads" in kernel.dims:
        return [(dtype, dtype) for dtype in dtypes]
    return [(dtype, kv) for dtype in dtypes for kv in kernel.kv_formats(capability)]


def _check(backend: Backend, name: str, shape: Shape) -> KernelCheck:
    try:
        prepared = KERNELS[name].prepare(shape, backend.buffers(0))
        reference = prepared.reference()  # before the launch, which may work in place
        with torch.inference_mode():
            found = prepared.launches[0]()
        error = relative_error(found, reference)
    except (RuntimeError, NotImplementedError) as problem:  # a library that refuses
        return KernelCheck(name, shape.dtype, shape.kv_dtype, float("nan"), 0.0, str(problem))
    return KernelCheck(name, shape.dtype, shape.kv_dtype, error, prepared.tolerance)
