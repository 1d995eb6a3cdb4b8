"""Fixed work that tells how fast the machine is at this moment: matrix products of cold weights.

They are a small engine's: weights packed once, few rows, as most steps have. Unpacked weights and more rows
compute more for each byte, and see less of what slows a step: another program in the caches.

As a program it answers each line of standard input with the seconds that one piece of the work took, so that
the same work under the same libraries is timed while the agent measures and while the engine runs.
"""

from __future__ import annotations

import sys
import time

import torch
from torch.nn import functional

MATRICES, OUTER, INNER = 12, 4096, 768  # 72 MiB of bf16, more than a cache keeps
PRODUCTS = ((1, 8), (8, 4), (64, 1))  # rows, and how many of them: 3, 2 and 2 ms
WARM_UPS = 5
PACKS = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class ReferenceWork:
    """Call it for the processor seconds of one piece."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        draw = torch.Generator().manual_seed(0)
        drawn = (torch.randn(OUTER, INNER, generator=draw).bfloat16() for _ in range(MATRICES))
        self._weights = [torch.ops.mkldnn._reorder_linear_weight(w) if PACKS else w for w in drawn]
        self._rows = [torch.randn(n, INNER, generator=draw).bfloat16() for n, _ in PRODUCTS]
        self._turn = 0
        for _ in range(WARM_UPS):
            self()

    def __call__(self) -> float:
        begin_s = time.thread_time()
        with torch.inference_mode():
            for rows, (_, times) in zip(self._rows, PRODUCTS, strict=True):
                for _ in range(times):
                    self._turn = (self._turn + 1) % MATRICES
                    _multiply(rows, self._weights[self._turn])
        return time.thread_time() - begin_s


def _multiply(rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    if not PACKS:
        return functional.linear(rows, weights)
    product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(rows, weights, None, "none", [], "")
    return product


def main() -> None:
    work = ReferenceWork()
    for _ in sys.stdin:
        print(work(), flush=True)


if __name__ == "__main__":
    main()
