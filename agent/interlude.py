"""What passes between two launches of a kernel in a step: here, on a processor, a matrix product.

A step comes back to a kernel after the products of a layer. By then its code and its temporary tensors have
left the caches, which others may share. A loop of one kernel alone keeps them, and is faster than the same
kernel in a step. Norms and other kernels of rows alone have rows that rotate instead: they are colder
already than a step finds them, where the kernel before has just written them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

import torch

from servecast.agent.kernels.kernel import Launch, Shape
from servecast.agent.kernels.linear import packed, packs, plain
from servecast.compiler.kernels import SEQUENCE_KERNELS

INNER, OUTER = 768, 4096  # 6 MiB of bf16: the largest weights of a layer of a small model
MAX_ROWS = 256
MATRICES = 12  # take turns, so that they are read from memory as a model's are
PRODUCTS = ("linear", "experts", "router")


@dataclass(slots=True)
class Interlude:
    """Multiplies ``rows`` by the next matrix."""

    rows: int
    _turn: int = 0
    _products: list[Launch] = field(init=False)

    def __post_init__(self) -> None:
        x = torch.ones(min(self.rows, MAX_ROWS), INNER, dtype=torch.bfloat16)
        launch = packed if packs(x) else plain
        self._products = [launch(x, matrix) for matrix in _matrices(packs(x))]

    def __call__(self) -> None:
        self._turn = (self._turn + 1) % MATRICES
        self._products[self._turn]()


@cache
def _matrices(pack: bool) -> list[torch.Tensor]:
    """Made by the first who wants them, for all cases of the process."""
    drawn = (torch.randn(OUTER, INNER).to(torch.bfloat16) for _ in range(MATRICES))
    return [torch.ops.mkldnn._reorder_linear_weight(w) if pack else w for w in drawn]


def rows_of(kernel: str, shape: Shape) -> int:
    """Tokens of a case that a matrix product goes before, as far as the case tells; else 0."""
    if not kernel.startswith((*PRODUCTS, *SEQUENCE_KERNELS)):
        return 0
    dims = shape.dims
    return dims["rows"] if "rows" in dims else dims.get("batch", 1) * dims.get("chunk", 1)
