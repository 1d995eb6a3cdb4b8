"""What a store holds that an estimator must not, or should not, believe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from servecast.compiler.errors import DataMissingError
from servecast.compiler.hardware import Sku
from servecast.compiler.suggest import did_you_mean
from servecast.estimator.physics import WORK, KernelKind
from servecast.estimator.predictor import case_keys
from servecast.estimator.quarantine import too_fast
from servecast.estimator.store import Store
from servecast.estimator.stored import KernelData

CONTRADICTION = 1.5  # two times of one case, of one source and variant, further apart than this


@dataclass(frozen=True, slots=True)
class Finding:
    """So many rows and what is the matter with them. ``kept_back`` ones are not read by estimators."""

    sku: str
    kernel: str
    dtype: str
    kv_dtype: str
    source: str
    rows: int
    kept_back: bool
    what: str


def examine(store: Store, skus: Mapping[str, Sku]) -> list[Finding]:
    """Rows in quarantine by their reason, then sound rows that contradict physics or one another."""
    lines = store.contents()
    found = [
        Finding(x.sku, x.kernel, x.dtype, x.kv_dtype, x.source, x.rows, True, x.quarantine)
        for x in lines
        if x.quarantine
    ]
    for sku, kernel, dtype, kv_dtype, source in dict.fromkeys(
        (x.sku, x.kernel, x.dtype, x.kv_dtype, x.source) for x in lines if not x.quarantine
    ):
        kind = KernelKind(kernel, dtype, kv_dtype)
        data = store.kernel_data(sku, kernel, (dtype, kv_dtype), [source])
        for rows, what in _complaints(kind, data, skus.get(sku)):
            found.append(Finding(sku, kernel, dtype, kv_dtype, source, rows, False, what))
    return found


def refuse_nothing(store: Store, sku: str, kernel: str) -> None:
    """
    Raises:
        DataMissingError: always; it says which GPU or kernel was perhaps meant.
    """
    lines = store.contents()
    of_sku = {line.kernel for line in lines if line.sku == sku}
    if of_sku:
        hint, known = did_you_mean(kernel, of_sku), ", ".join(sorted(of_sku))
        raise DataMissingError(
            f"{store.path}: no rows of {kernel!r}{hint} on {sku}; it has {known}"
        )
    skus = {line.sku for line in lines}
    hint, known = did_you_mean(sku, skus), ", ".join(sorted(skus)) or "no rows at all"
    raise DataMissingError(f"{store.path}: no rows of GPU {sku!r}{hint}; it has {known}")


def _complaints(kind: KernelKind, data: KernelData, sku: Sku | None) -> Iterator[tuple[int, str]]:
    broken = 0
    if sku is not None and kind.kernel in WORK and data.num_rows:
        broken = int(np.count_nonzero(too_fast(sku, kind, data.dims, data.seconds)))
    if broken:
        yield broken, "shorter than the datasheet's peaks allow; predictions are raised to them"
    if contradicted := _contradictions(data):
        yield contradicted, f"cases measured more than once, over {CONTRADICTION} times apart"


def _contradictions(data: KernelData) -> int:
    if not data.num_rows:
        return 0
    case = np.unique(case_keys(data.dims), return_inverse=True)[1].reshape(-1)
    variant = np.unique(data.variant, return_inverse=True)[1].reshape(-1)
    both = case.astype(np.int64) * (int(variant.max()) + 1) + variant
    _, group = np.unique(both, return_inverse=True)
    low, high = np.full(group.max() + 1, np.inf), np.zeros(group.max() + 1)
    np.minimum.at(low, group.reshape(-1), data.seconds)
    np.maximum.at(high, group.reshape(-1), data.seconds)
    return int(np.count_nonzero(high > CONTRADICTION * low))
