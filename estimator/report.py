"""`servecast fit`: models of everything a store has of a GPU, and how they do on shapes held out."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from servecast.compiler.errors import DataMissingError
from servecast.compiler.hardware import Sku
from servecast.estimator.learners.choice import DEFAULT, MIN_SHAPES, Choice, choose
from servecast.estimator.learners.evaluate import CONTENDERS, score_of, scores, served
from servecast.estimator.learners.splits import Mask, unseen_shapes
from servecast.estimator.models import MIN_SAMPLES, fitted, num_sms_of
from servecast.estimator.physics import COLLECTIVES, WORK, KernelKind
from servecast.estimator.predictor import Samples
from servecast.estimator.sources import chosen_samples, fitting_of
from servecast.estimator.store import Store

Row = dict[str, object]
NOTHING_S = 1e-20  # of one operation or byte: a hundred times the rate of any GPU takes longer


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


def fit_all(store: Store, sku: str, source: str, datasheet: Sku | None = None) -> list[Row]:
    """Fits and keeps a model of every kernel; collectives are looked up instead."""
    rows: list[Row] = []
    for kind, samples in kinds_in(store, sku, source):
        if kind.kernel not in COLLECTIVES:
            started = time.process_time()
            model = fitted(store, fitting_of(store, sku, kind, samples, datasheet))
            rows.append(
                _named(kind)
                | {
                    "rows": len(samples.seconds),
                    "learner": model.learner,
                    "launch_us": model.roofline.launch_s * 1e6,
                    "TFLOP/s": _rate(model.roofline.s_per_flop, 1e12),
                    "GB/s": _rate(model.roofline.s_per_byte, 1e9),
                    "cpu_s": time.process_time() - started,
                }
            )
    return rows


def _rate(s_per_unit: float, unit: float) -> float | None:
    """``unit``s per second; none where a learner has no roofline, or one that such work costs nothing of."""
    return 1 / s_per_unit / unit if s_per_unit > NOTHING_S else None


def _named(kind: KernelKind) -> Row:
    return {"kernel": kind.kernel, "dtype": kind.dtype, "kv_dtype": kind.kv_dtype}


def report_rows(
    store: Store, sku: str, source: str, seed: int, datasheet: Sku | None = None
) -> list[Row]:
    """Median and 95th percentile of the absolute percentage error, on shapes held out by ``seed``: of what
    runs are answered with, where there is a datasheet, and of each contender. ``chosen`` is the learner
    that did best in cross-validation on the other shapes, by the mean errors that stand last; of fewer than
    ``MIN_SHAPES`` those say nothing, and of one shape nothing can be held out.
    """
    rows: list[Row] = []
    for kind, samples in kinds_in(store, sku, source):
        test = unseen_shapes(kind, samples, seed)
        if not np.count_nonzero(~test):
            rows.append(_report_row(kind, ~test, DEFAULT, {}, "a single shape: none to hold out"))
            continue
        split, sms = (~test, test), num_sms_of(sku)
        looked_up = kind.kernel in COLLECTIVES
        choice = Choice() if looked_up else choose(kind, samples.rows(~test), sms)
        found = [] if looked_up else scores(kind, samples, sms, split)
        if datasheet is not None:
            seconds = served(kind, samples, datasheet, split, choice.best)
            found.append(score_of("served", seconds, samples.seconds[test]))
        errors = {x.contender: f"{x.median:.1f} / {x.p95:.0f} %" for x in found}
        validated = ", ".join(f"{n} {100 * e:.1f} %" for n, e in choice.errors)
        chosen = "look-up" if looked_up else choice.best
        told = validated or ("" if looked_up else f"fewer than {MIN_SHAPES} shapes: the usual one")
        rows.append(_report_row(kind, test, chosen, errors, told))
    return rows


def _report_row(
    kind: KernelKind, test: Mask, chosen: str, errors: dict[str, str], validated: str
) -> Row:
    names = ("served", *(contender.name for contender in CONTENDERS))
    return {
        **_named(kind),
        "train": int(np.count_nonzero(~test)),
        "test": int(np.count_nonzero(test)),
        "chosen": chosen,
        **{name: errors.get(name, "") for name in names},
        "cross-validated": validated,
    }
