"""What passes between two launches of a kernel in a step: here, on a processor, a matrix product.

A step comes back to a kernel after the products of a layer. By then its code, its temporary tensors and
their pages have left the caches, which others may share. A loop of one kernel alone keeps them, and is up
to twice as fast as the same kernel in a step.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

import torch
from torch.nn import functional

from servecast.agent.kernels.kernel import Shape

INNER, OUTER = 1024, 4096  # 8 MiB of bf16: the largest weights of a layer of a small model
MAX_ROWS = 256
MATRICES = 8  # take turns, so that they are read from memory as a model's are


@dataclass(slots=True)
class Interlude:
    """Multiplies ``rows`` by the next matrix."""

    rows: int
    _turn: int = 0
    _x: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self._x = torch.ones(min(self.rows, MAX_ROWS), INNER, dtype=torch.bfloat16)

    def __call__(self) -> None:
        self._turn = (self._turn + 1) % MATRICES
        functional.linear(self._x, _matrices()[self._turn])


@cache
def _matrices() -> list[torch.Tensor]:
    """Made by the first who wants them, for all cases of the process."""
    return [torch.randn(OUTER, INNER).to(torch.bfloat16) for _ in range(MATRICES)]


def rows_of(shape: Shape) -> int:
    """Tokens of a case: those of its step, as far as the case tells."""
    dims = shape.dims
    return dims["rows"] if "rows" in dims else dims.get("batch", 1) * dims.get("chunk", 1)
