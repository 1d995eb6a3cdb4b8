"""Times from FLOPs and bytes: from the datasheet alone, and fitted to measurements as the base of learning.

Both are a launch floor plus the larger of compute and memory time (Williams et al. 2009). The
datasheet's one is what stands in for a kernel that nothing has measured; it is always labelled
analytical.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from servecast.compiler.hardware import Sku
from servecast.compiler.kernels import SEQUENCE_KERNELS
from servecast.estimator.measurement import Floats
from servecast.estimator.physics import (
    COLLECTIVES,
    Dims,
    KernelKind,
    bandwidth,
    compute_peak,
    shortest_s,
    work_of,
)

# Share of the datasheet's rates that a large kernel reaches: between the medians of A100 and H100 in the
# silicon tables, which `benchmarks/estimators.py --efficiency` prints.
COMPUTE_EFFICIENCY = 0.78
ATTENTION_EFFICIENCY = 0.5
MEMORY_EFFICIENCY = 0.75
LINK_EFFICIENCY = 0.7
# The shortest kernels of a replayed CUDA graph: 1 to 4 us in Vidur's H100 profile at one token.
LAUNCH_S = 2e-6
COLLECTIVE_LAUNCH_S = 5e-6  # small all-reduces from a CUDA graph in the same tables
SEND_LAUNCH_S = 10e-6  # p2p_latency of every system of NVIDIA's aiconfigurator
FIRST_AND_LAST = (0, -1)  # where features hold FLOPs and bytes


def analytical_s(sku: Sku, kind: KernelKind, dims: Dims) -> Floats:
    """Datasheet times [cases], never below what physics allows."""
    work = work_of(kind, dims)
    rate = LINK_EFFICIENCY if kind.kernel in COLLECTIVES else MEMORY_EFFICIENCY
    attends = kind.kernel.startswith(SEQUENCE_KERNELS)
    reached = ATTENTION_EFFICIENCY if attends else COMPUTE_EFFICIENCY
    compute = work.flops / (reached * compute_peak(sku, kind.dtype))
    memory = work.num_bytes / (rate * bandwidth(sku, kind.kernel))
    return np.maximum(_launch_s(kind) + np.maximum(compute, memory), shortest_s(sku, kind, dims))


def _launch_s(kind: KernelKind) -> float:
    if kind.kernel == "send":
        return SEND_LAUNCH_S
    return COLLECTIVE_LAUNCH_S if kind.kernel in COLLECTIVES else LAUNCH_S


@dataclass(frozen=True, slots=True)
class FittedRoofline:
    """``launch_s + max(flops * s_per_flop, bytes * s_per_byte)``, and what runs beside that in proportion to
    columns of the features: ``side`` pairs them with seconds per unit (an fp8 GEMM quantises its input).
    ``bound`` are the columns of FLOPs and bytes.
    """

    launch_s: float
    s_per_flop: float
    s_per_byte: float
    side: tuple[tuple[int, float], ...] = ()
    bound: tuple[int, int] = FIRST_AND_LAST

    def predict(self, features: Floats) -> Floats:
        """Seconds [cases] of features [cases, features]."""
        amounts = np.maximum(features, 0)
        flops, moved = (amounts[:, column] for column in self.bound)
        bound = np.maximum(flops * self.s_per_flop, moved * self.s_per_byte)
        beside = sum((amounts[:, column] * rate for column, rate in self.side), start=0.0)
        return np.asarray(self.launch_s + bound + beside, dtype=np.float64)
