"""What a store answers with: rows of a kernel, and lines of its contents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from servecast.estimator.measurement import Floats, Ints


@dataclass(frozen=True, slots=True, eq=False)
class KernelData:
    """Usable rows of one kernel on one SKU, as columns [rows]."""

    dims: dict[str, Ints]
    seconds: Floats  # the median where known, else the mean
    std_s: Floats  # NaN where not known
    source: NDArray[np.str_]
    variant: NDArray[np.str_]

    @property
    def num_rows(self) -> int:
        return len(self.seconds)


@dataclass(frozen=True, slots=True)
class StoreLine:
    """One line of what a store holds; ``quarantine`` is the reason why no estimator reads these rows."""

    sku: str
    kernel: str
    dtype: str
    kv_dtype: str
    source: str
    version: str
    quarantine: str
    rows: int


@dataclass(frozen=True, slots=True)
class OriginLine:
    """Rows of one file of one source, and how many of them are kept from estimators."""

    source: str
    package: str
    version: str
    file: str
    licence: str
    rows: int
    quarantined: int
