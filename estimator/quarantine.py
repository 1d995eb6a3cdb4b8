"""Rules that keep measured rows from estimators, each with its reason.

Such rows stay in the store and are counted. Defects of whole tables (timed without a CUDA graph, an
unrepresentative kernel) are named where the table is imported; here are the rules that look at times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from servecast.compiler.hardware import Sku
from servecast.estimator.measurement import Floats, MeasurementBatch
from servecast.estimator.physics import COLLECTIVES, Dims, KernelKind, shortest_s, work_of

# Clocks and datasheets round: only what is shorter by more than this share is impossible.
TOLERANCE = 0.02
IMPOSSIBLE = "shorter than the datasheet's peaks allow"
CACHED = "shorter than a launch and one cold read of the keys and values: they were still in L2"
POOR_PCIE = "a collective below 5 GB/s of bus bandwidth: that machine's PCIe, not the GPU's"
POOR_BUS_BYTES_PER_S = 5e9
LARGE_MESSAGE_BYTES = 1 << 24  # launches do not matter there
DISTURBED = "slower than the next smaller and the next larger sizes, which it could be padded to"
SWEPT = {"linear": "rows", "attention_decode": "context"} | dict.fromkeys(
    COLLECTIVES, "payload_bytes"
)
PADDED = 3  # so many larger sizes, and two smaller ones, must all be faster
DISTURBANCE = 1.25  # repeats of one GEMM differ by 2 to 4 %, and a tile begun by less than this


def too_fast(sku: Sku, kind: KernelKind, dims: Dims, seconds: Floats) -> NDArray[np.bool_]:
    """Which cases [cases] took less than the datasheet's peaks allow."""
    return np.asarray(seconds < (1 - TOLERANCE) * shortest_s(sku, kind, dims), dtype=np.bool_)


def _impossible(sku: Sku, kind: KernelKind, batch: MeasurementBatch) -> NDArray[np.bool_]:
    return too_fast(sku, kind, batch.dims, seconds_of(batch))


def _cached(sku: Sku, kind: KernelKind, batch: MeasurementBatch) -> NDArray[np.bool_]:
    """In service every layer's cache is read once a step, after gigabytes of weights: never from L2."""
    seconds = seconds_of(batch)
    if kind.kernel != "attention_decode":
        return np.zeros(len(seconds), dtype=np.bool_)
    cold = work_of(kind, batch.dims).num_bytes / sku.bandwidth_bytes_per_s
    return np.asarray(seconds < (1 - TOLERANCE) * (seconds.min() + cold), dtype=np.bool_)


def _poor_pcie(sku: Sku, kind: KernelKind, batch: MeasurementBatch) -> NDArray[np.bool_]:
    seconds = seconds_of(batch)
    if kind.kernel not in COLLECTIVES or sku.link_kind != "pcie":
        return np.zeros(len(seconds), dtype=np.bool_)
    rate = work_of(kind, batch.dims).num_bytes / seconds
    slow = (rate < POOR_BUS_BYTES_PER_S) & (batch.dims["payload_bytes"] >= LARGE_MESSAGE_BYTES)
    return np.isin(batch.dims["degree"], batch.dims["degree"][slow])


def _disturbed(sku: Sku, kind: KernelKind, batch: MeasurementBatch) -> NDArray[np.bool_]:
    """Of matrices measured at many row counts, of collectives at many message sizes and of decodes at many
    contexts, what took longer than every neighbour: no choice of kernel explains that, for the larger does
    the smaller one as well.
    """
    seconds = seconds_of(batch)
    found = np.zeros(len(seconds), dtype=np.bool_)
    swept = SWEPT.get(kind.kernel)
    if swept is None or len(seconds) <= PADDED:
        return found
    fixed = np.stack([batch.dims[name] for name in sorted(batch.dims) if name != swept])
    shape = np.unique(fixed, axis=1, return_inverse=True)[1].reshape(-1)
    order = np.lexsort((batch.dims[swept], shape))
    slowest = np.zeros(len(seconds))
    for offset in range(-2, PADDED + 1):
        near = np.clip(np.arange(len(order)) + offset, 0, len(order) - 1)
        same = (shape[order[near]] == shape[order]) & (near == np.arange(len(order)) + offset)
        if offset > 0:
            slowest[~same] = np.inf  # too few larger ones to tell
        elif offset == 0:
            same[:] = False
        slowest = np.where(same, np.maximum(slowest, seconds[order[near]]), slowest)
    found[order] = seconds[order] > DISTURBANCE * slowest
    return found


Rule = Callable[[Sku, KernelKind, MeasurementBatch], NDArray[np.bool_]]
RULES: tuple[tuple[str, Rule], ...] = (
    (IMPOSSIBLE, _impossible),
    (CACHED, _cached),
    (POOR_PCIE, _poor_pcie),
    (DISTURBED, _disturbed),
)


def screened(batch: MeasurementBatch, skus: Mapping[str, Sku]) -> Iterator[MeasurementBatch]:
    """The same rows, those that break a rule apart under its reason. Without a datasheet, no rule."""
    sku = skus.get(batch.sku)
    if sku is None or batch.quarantine is not None or not batch.num_rows:
        yield batch
        return
    kind = KernelKind(batch.kernel, batch.dtype, batch.kv_dtype)
    left = np.ones(batch.num_rows, dtype=np.bool_)
    for reason, rule in RULES:
        broken = left & rule(sku, kind, batch)
        left &= ~broken
        yield replace(rows_of(batch, broken), quarantine=reason)
    yield rows_of(batch, left)


def seconds_of(batch: MeasurementBatch) -> Floats:
    """The median where known, else the mean, as estimators read them."""
    median, mean = batch.times_s.get("median_s"), batch.times_s["mean_s"]
    return mean if median is None else np.where(np.isnan(median), mean, median)


def rows_of(batch: MeasurementBatch, rows: NDArray[np.bool_]) -> MeasurementBatch:
    counts = batch.num_samples
    return replace(
        batch,
        dims={name: column[rows] for name, column in batch.dims.items()},
        times_s={name: column[rows] for name, column in batch.times_s.items()},
        num_samples=None if counts is None else counts[rows],
    )
