"""What can be timed: a kernel's axes and formats, and the launches that one case comes to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from servecast.agent.kernels.buffers import Buffers

Launch = Callable[[], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Capability:
    """What decides which formats a device runs; ``compute`` is CUDA's (major, minor), (0, 0) on a CPU."""

    backend: str
    compute: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class Shape:
    """A case as a kernel reads it."""

    dtype: str
    kv_dtype: str
    dims: dict[str, int]

    def __getitem__(self, name: str) -> int:
        return self.dims[name]


@dataclass(frozen=True, slots=True)
class Prepared:
    """``launches`` do the same work on rotating copies of what a real step finds cold.

    ``reference`` computes in float64 what ``launches[0]`` returns; it must be called before the launch,
    which may work in place. ``tolerance`` is relative to the reference's largest magnitude.
    """

    launches: tuple[Launch, ...]
    reference: Callable[[], torch.Tensor]
    tolerance: float


Formats = tuple[tuple[str, str], ...]
"""Pairs of a dtype and a kv_dtype, which is empty where no cache is touched."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """``dims`` are all axes, swept ones included; ``formats`` says what a device runs.

    ``lacks`` says why a device may not run a format: what would have to be there.
    """

    dims: tuple[str, ...]
    prepare: Callable[[Shape, Buffers], Prepared]
    formats: Callable[[Capability], Formats]
    lacks: Mapping[str, str] = field(default_factory=dict)


TOLERANCE = {
    torch.float32: 1e-5,
    torch.bfloat16: 2e-2,  # 8 bits of mantissa, and an output rounded once
    torch.float16: 4e-3,
    torch.float8_e4m3fn: 7e-2,
}


FLOATS = ("bf16", "fp16", "fp32")


def floats(capability: Capability) -> Formats:
    """Formats of element-wise kernels: any device has these."""
    del capability
    return without_cache(*FLOATS)


def without_cache(*dtypes: str) -> Formats:
    return tuple((dtype, "") for dtype in dtypes)


def own_cache(capability: Capability) -> Formats:
    """Of attention that reads a cache in the format of its queries."""
    del capability
    return tuple((dtype, dtype) for dtype in FLOATS)


def relative_error(found: torch.Tensor, reference: torch.Tensor) -> float:
    """Largest difference over the reference's largest magnitude."""
    scale = reference.abs().max().clamp(min=1e-30)
    return float(((found.double() - reference).abs().max() / scale).item())
