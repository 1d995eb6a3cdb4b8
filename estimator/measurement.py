"""One measured kernel time with where it comes from: what agents send and importers make."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from servecast.compiler.kernels import KernelCase

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Origin:
    """Who measured: ``source`` is agent, silicon, vidur, llmservingsim, …; the rest names the package."""

    source: str
    package: str = ""
    version: str = ""
    file: str = ""
    licence: str = ""


@dataclass(frozen=True, slots=True)
class Timing:
    """Sufficient statistics of one case's samples, seconds per launch; None is not known.

    Raises:
        ValueError: the mean is not positive and finite.
    """

    mean_s: float
    num_samples: int | None = None
    std_s: float | None = None
    min_s: float | None = None
    median_s: float | None = None
    p90_s: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.mean_s < float("inf"):
            raise ValueError(f"mean_s must be positive and finite, got {self.mean_s}")


STATISTICS = tuple(f.name for f in fields(Timing) if f.name != "num_samples")


@dataclass(frozen=True, slots=True)
class Measurement:
    """``timing`` is None where the ``outcome`` is not ``measured`` (out_of_memory is a result too).

    ``method`` says how it was timed (cuda-graph, eager, cpu, …), ``variant`` which kernel of several (an
    expert routing, an all-reduce algorithm), ``flags`` what was amiss (throttled, unstable, …);
    ``node`` (its fingerprint) and ``conditions`` (clocks, stop reason, …) are JSON text.
    """

    case: KernelCase
    sku: str
    origin: Origin
    timing: Timing | None
    outcome: str = "measured"
    method: str = ""
    variant: str = ""
    flags: tuple[str, ...] = ()
    node: str = ""
    conditions: str = ""
    measured_at_ns: int | None = None  # UTC, since 1970


@dataclass(frozen=True, slots=True, eq=False)
class MeasurementBatch:
    """Many measurements of one kernel, formats, SKU and origin, as columns of equal length.

    ``dims`` [rows] per dimension of compiler/kernels.py; ``times_s`` [rows] per statistic, named as the
    fields of ``Timing`` and NaN where not known. ``quarantine`` says why no estimator may read the rows.
    """

    kernel: str
    dtype: str
    kv_dtype: str
    sku: str
    origin: Origin
    dims: dict[str, Ints]
    times_s: dict[str, Floats]
    num_samples: Ints | None = None
    outcome: str = "measured"
    method: str = ""
    variant: str = ""
    flags: tuple[str, ...] = ()
    node: str = ""
    conditions: str = ""
    measured_at_ns: int | None = None
    quarantine: str | None = None

    @property
    def num_rows(self) -> int:
        return len(self.times_s["mean_s"])


def batches_of(rows: Iterable[Measurement]) -> list[MeasurementBatch]:
    """``rows`` with equal constants and dimensions gathered into columns, in order of first sight."""
    groups: dict[tuple[object, ...], list[Measurement]] = {}
    for row in rows:
        case = row.case
        formats = (case.kernel, case.dtype, case.kv_dtype, tuple(name for name, _ in case.dims))
        constants = (row.sku, row.origin, row.outcome, row.method, row.variant, row.flags)
        told = (row.node, row.conditions, row.measured_at_ns)
        groups.setdefault((*formats, *constants, *told), []).append(row)
    return [_batch_of(group) for group in groups.values()]


def _batch_of(group: list[Measurement]) -> MeasurementBatch:
    first = group[0]
    counts = [row.timing.num_samples if row.timing else 0 for row in group]
    return MeasurementBatch(
        kernel=first.case.kernel,
        dtype=first.case.dtype,
        kv_dtype=first.case.kv_dtype,
        sku=first.sku,
        origin=first.origin,
        dims={
            name: np.array([row.case.dims[i][1] for row in group], dtype=np.int64)
            for i, (name, _) in enumerate(first.case.dims)
        },
        times_s={
            name: np.array(
                [np.nan if row.timing is None else getattr(row.timing, name) for row in group],
                dtype=np.float64,
            )
            for name in STATISTICS
        },
        num_samples=None if None in counts else np.array(counts, dtype=np.int64),
        outcome=first.outcome,
        method=first.method,
        variant=first.variant,
        flags=first.flags,
        node=first.node,
        conditions=first.conditions,
        measured_at_ns=first.measured_at_ns,
    )


def measurement_from(record: Mapping[str, Any], dimensions: Sequence[str]) -> Measurement:
    """The measurement in one row of the store, by the store's column names."""
    dims = tuple(sorted((d, int(record[d])) for d in dimensions if record[d] is not None))
    timed = record["mean_s"] is not None
    return Measurement(
        case=KernelCase(record["kernel"], record["dtype"], record["kv_dtype"], dims),
        sku=record["sku"],
        origin=Origin(**{f.name: record[f.name] for f in fields(Origin)}),
        timing=Timing(**{f.name: record[f.name] for f in fields(Timing)}) if timed else None,
        outcome=record["outcome"],
        method=record["method"],
        variant=record["variant"],
        flags=tuple(record["flags"].split(",")) if record["flags"] else (),
        node=record["node"],
        conditions=record["conditions"],
        measured_at_ns=record["measured_at_ns"],
    )
