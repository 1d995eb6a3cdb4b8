"""`servecast fit`: models of everything a store has of a GPU, and how they do on shapes held out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from servecast.compiler.errors import DataMissingError
from servecast.estimator.evaluate import scores
from servecast.estimator.models import MIN_SAMPLES, fitted, num_sms_of
from servecast.estimator.physics import COLLECTIVES, WORK, KernelKind
from servecast.estimator.predictor import Samples
from servecast.estimator.sources import chosen_samples
from servecast.estimator.splits import unseen_shapes
from servecast.estimator.store import Store

Row = dict[str, object]


def kinds_in(store: Store, sku: str, source: str) -> Iterator[tuple[KernelKind, Samples]]:
    """Every kernel with enough sound rows to learn from, sorted.

    Raises:
        DataMissingError: the store has nothing of the SKU from that source.
    """
    lines = [x for x in store.contents() if (x.sku, x.source) == (sku, source)]
    if not lines:
        known = ", ".join(sorted({f"{x.sku} ({x.source})" for x in store.contents()})) or "nothing"
        raise DataMissingError(f"{store.path}: no {source} rows of {sku!r}; it has {known}")
    for kernel, dtype, kv_dtype in dict.fromkeys((x.kernel, x.dtype, x.kv_dtype) for x in lines):
        data = store.kernel_data(sku, kernel, (dtype, kv_dtype), [source])
        if kernel in WORK and data.num_rows >= MIN_SAMPLES:
            yield KernelKind(kernel, dtype, kv_dtype), chosen_samples(data)


def fit_all(store: Store, sku: str, source: str) -> list[Row]:
    """Fits and keeps a model of every kernel; collectives are looked up instead."""
    rows: list[Row] = []
    for kind, samples in kinds_in(store, sku, source):
        if kind.kernel not in COLLECTIVES:
            model = fitted(store, kind, samples, num_sms_of(sku))
            rows.append(
                {
                    "kernel": kind.kernel,
                    "dtype": kind.dtype,
                    "kv_dtype": kind.kv_dtype,
                    "rows": len(samples.seconds),
                    "launch_us": model.roofline.launch_s * 1e6,
                    "TFLOP/s": 1e-12 / model.roofline.s_per_flop,
                    "GB/s": 1e-9 / model.roofline.s_per_byte,
                }
            )
    return rows


def report_rows(store: Store, sku: str, source: str, seed: int) -> list[Row]:
    """Median and 95th percentile of the absolute percentage error, on shapes held out by ``seed``."""
    rows: list[Row] = []
    for kind, samples in kinds_in(store, sku, source):
        test = unseen_shapes(kind, samples, seed)
        if not np.count_nonzero(~test):
            continue
        found = scores(kind, samples, num_sms_of(sku), (~test, test))
        row: Row = {
            "kernel": kind.kernel,
            "dtype": kind.dtype,
            "kv_dtype": kind.kv_dtype,
            "train": found[0].train_rows,
            "test": found[0].test_rows,
        }
        rows.append(row | {s.contender: f"{s.median:.1f} / {s.p95:.0f} %" for s in found})
    return rows
