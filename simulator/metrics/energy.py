"""What GPUs draw, and so what a run costs in energy and carbon: one formula, ``docs/metrics.md``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from servecast.compiler.hardware import Sku
from servecast.compiler.sharded import ShardedProgram
from servecast.simulator.engine.records import Records
from servecast.simulator.metrics.flops import flops_model, peak_flops
from servecast.simulator.metrics.usage import gpus_of, moved_bytes, step_flops

JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True, slots=True)
class Energy:
    """Of all GPUs over the run; ``utilisation`` as `utilisation`."""

    joules: float
    utilisation: float

    def carbon_g(self, g_per_kwh: float) -> float:
        """Grams of CO2 equivalent at a grid's intensity."""
        return self.joules / JOULES_PER_KWH * g_per_kwh


@dataclass(frozen=True, slots=True)
class Drawing:
    """An engine that draws power: one rank of attention with its share of the experts."""

    sharded: ShardedProgram
    sku: Sku

    def utilisation(self, records: Records, duration_s: float) -> float | None:
        """Mean over engines and the run of what a step uses of FLOP/s or of bandwidth, whichever is more.

        None: the GPU's peak is not known.
        """
        peak = peak_flops(self.sku, flops_model(self.sharded).format)
        if peak is None:
            return None
        gpus = gpus_of(self.sharded)
        took_s = records.end_s - records.start_s
        flops_s = step_flops(self.sharded, records) / (peak * gpus)
        bytes_s = moved_bytes(self.sharded, records) / (self.sku.bandwidth_bytes_per_s * gpus)
        used_s = float(np.minimum(np.maximum(flops_s, bytes_s), took_s).sum())
        return used_s / (records.replicas * duration_s)


def power_w(sku: Sku, gpus: int, utilisation: float) -> float:
    """Mean of so many GPUs: idle power always, and the share ``utilisation`` of the way to peak power."""
    return gpus * (sku.power_idle_w + utilisation * (sku.power_peak_w - sku.power_idle_w))


def energy(sharded: ShardedProgram, sku: Sku, records: Records, duration_s: float) -> Energy | None:
    """None where the GPU's peak is not known."""
    used = Drawing(sharded, sku).utilisation(records, duration_s)
    if used is None:
        return None
    gpus = gpus_of(sharded) * records.replicas
    return Energy(power_w(sku, gpus, used) * duration_s, used)
