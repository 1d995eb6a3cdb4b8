"""Runs each kernel of a node once on small tensors and compares it with float64."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import torch

from servecast.agent.backend import Backend
from servecast.agent.kernels.kernel import Shape, relative_error
from servecast.agent.kernels.registry import Offer

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
    library: str = "torch"
    problem: str = ""

    @property
    def passed(self) -> bool:
        return not self.problem and self.error <= self.tolerance

    @property
    def text(self) -> str:
        """A line for people."""
        verdict = "ok" if self.passed else f"WRONG {self.problem.partition(chr(10))[0]}"
        formats = " ".join(filter(None, (self.dtype, self.kv_dtype)))
        name = f"{self.kernel:<26}{self.library:<19}{formats:<12}"
        return f"{name}{self.error:>10.2e}  {verdict}"

    @property
    def row(self) -> dict[str, object]:
        """For JSON, where a number that is not there is null."""
        told = asdict(self) | {"passed": self.passed}
        return told | ({"error": None} if math.isnan(self.error) else {})


def check_kernels(backend: Backend, offered: Sequence[Offer]) -> Iterator[KernelCheck]:
    """Every kernel of the node's first device in every format of every library."""
    backend.enter(0)
    for offer in offered:
        for dtype, kv_dtype in offer.kernel.formats(backend.capability):
            shape = Shape(dtype, kv_dtype, {d: SIZES[d] for d in offer.kernel.dims})
            yield _check(backend, offer, shape)


def _check(backend: Backend, offer: Offer, shape: Shape) -> KernelCheck:
    found = KernelCheck(offer.name, shape.dtype, shape.kv_dtype, float("nan"), 0.0, offer.library)
    try:
        prepared = offer.kernel.prepare(shape, backend.buffers(0))
        reference = prepared.reference()  # before the launch, which may work in place
        with torch.inference_mode():
            error = relative_error(prepared.launches[0](), reference)
    except (RuntimeError, NotImplementedError) as problem:  # a library that refuses
        return replace(found, problem=str(problem))
    return replace(found, error=error, tolerance=prepared.tolerance)
