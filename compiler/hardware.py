"""A GPU as its datasheet gives it: what bounds a kernel, what a link carries, what an hour costs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Price:
    """What an hour of a GPU costs where it is not rented on demand: ``spot`` or ``reserved``."""

    kind: str
    usd_per_hour: float
    source: str


@dataclass(frozen=True, slots=True)
class Sku:
    """One GPU model in one kind of node. Rates are per GPU; links count one direction."""

    name: str
    memory_bytes: int
    bandwidth_bytes_per_s: float
    peak_flops_per_s: tuple[tuple[str, float], ...]  # (format name, dense FLOP/s)
    gpus_per_node: int
    link_kind: str  # nvlink or pcie
    link_bytes_per_s: float
    network_bytes_per_s: float  # between nodes
    power_idle_w: float
    power_peak_w: float
    usd_per_hour: float
    price_source: str
    prices: tuple[Price, ...] = ()  # of other kinds than on demand

    def peak(self, format_name: str) -> float | None:
        """Dense FLOP/s at a format, or None where the GPU has no such units."""
        return dict(self.peak_flops_per_s).get(format_name)
