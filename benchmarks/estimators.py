"""How well held-out measurements are predicted, beside other ways: prints one JSON object.

    python benchmarks/estimators.py [--sku h100-sxm …] [--seeds 0 1] [--quick | --coverage | --efficiency]

Splits hold out whole shapes (a model never seen), whole token counts (a batch never seen), the largest
steps (a batch larger than any seen), or all but 300 rows (a GPU measured for a few minutes). Errors are
absolute percentages, median and 95th percentile.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict

import numpy as np

from servecast.compiler.catalog import shipped_skus
from servecast.estimator.calibrate import calibrate
from servecast.estimator.choice import choose, fit_best
from servecast.estimator.evaluate import (
    CONTENDERS,
    Contender,
    scores,
    served_score,
)
from servecast.estimator.features import feature_matrix
from servecast.estimator.importers.silicon import SiliconQuery, import_silicon
from servecast.estimator.measurement import Floats
from servecast.estimator.models import num_sms_of
from servecast.estimator.physics import COLLECTIVES, KernelKind, bandwidth, compute_peak, work_of
from servecast.estimator.predictor import Samples
from servecast.estimator.quarantine import screened
from servecast.estimator.sources import chosen_samples
from servecast.estimator.splits import Mask, unseen_shapes
from servecast.estimator.store import Store
from servecast.estimator.uncertainty import coverage

SKUS = ("h100-sxm", "h200-sxm", "a100-sxm-80gb", "b200-sxm", "l40s")
KINDS = (
    KernelKind("linear", "bf16"),
    KernelKind("linear", "fp8"),
    KernelKind("attention_prefill", "bf16", "bf16"),
    KernelKind("attention_decode", "bf16", "bf16"),
    KernelKind("experts", "bf16"),
    KernelKind("all_reduce", "bf16"),
)
FEW_ROWS = 300
LARGE_STEP = 8192
LARGE_FLOPS = 1e11
LARGE_BYTES = 1e8
FAST = ("roofline",)


def splits(kind: KernelKind, samples: Samples, seed: int) -> Iterator[tuple[str, Mask, Mask]]:
    """Name, rows to learn from, rows to be tested on."""
    test = unseen_shapes(kind, samples, seed)
    yield "unseen shapes", ~test, test
    if kind.kernel == "experts":
        rows = np.unique(samples.dims["rows"])
        held = np.random.default_rng(seed).permutation(rows[1:-1])[: len(rows) // 5]
        test_rows = np.isin(samples.dims["rows"], held)
        yield "unseen token counts", ~test_rows, test_rows
    if kind.kernel == "linear":
        large = samples.dims["rows"] >= LARGE_STEP
        yield f"rows >= {LARGE_STEP}", ~large, large
        few = np.zeros_like(test)
        chosen = np.random.default_rng(seed).choice(np.flatnonzero(~test), FEW_ROWS, replace=False)
        few[chosen] = True
        yield f"{FEW_ROWS} rows, unseen shapes", few, test


def measured(sku: str) -> Iterator[tuple[KernelKind, Samples]]:
    """The sound rows of each kernel."""
    skus = shipped_skus()
    with Store.open(":memory:") as store:
        batches = import_silicon(SiliconQuery(sku))
        store.add_batches(part for batch in batches for part in screened(batch, skus))
        for kind in KINDS:
            formats = (kind.dtype, kind.kv_dtype)
            data = store.kernel_data(sku, kind.kernel, formats, ["silicon"])
            if not data.num_rows:
                continue
            yield kind, chosen_samples(data)


def lines(sku: str, seeds: list[int], contenders: list[Contender]) -> Iterator[dict[str, object]]:
    datasheet = shipped_skus()[sku]
    for kind, samples in measured(sku):
        for seed in seeds:
            for name, train, test in splits(kind, samples, seed):
                said = {"sku": sku, "kernel": kind.kernel, "dtype": kind.dtype}
                split = (train, test)
                found = [served_score(kind, samples, datasheet, split)]
                found += scores(kind, samples, num_sms_of(sku), split, contenders)
                for score in found:
                    yield {**said, "split": name, "seed": seed, **asdict(score)}


def coverages(sku: str, seeds: list[int]) -> Iterator[dict[str, object]]:
    """The share of held-out measurements inside intervals calibrated on other shapes."""
    for kind, samples in measured(sku):
        if kind.kernel in COLLECTIVES:
            continue
        for seed in seeds:
            test = unseen_shapes(kind, samples, seed)
            known, wanted = samples.rows(~test), samples.rows(test)
            sms = num_sms_of(sku)
            learner = choose(kind, known, sms, seed).best
            calibration = calibrate(kind, known, sms, learner, seed)
            model = fit_best(kind, known, sms, learner)
            predicted = model.predict(feature_matrix(kind, wanted.dims, sms))
            found = coverage(calibration, predicted, wanted.seconds)
            said = {"sku": sku, "kernel": kind.kernel, "dtype": kind.dtype, "seed": seed}
            yield {**said, **{f"covered_{round(100 * x)}": round(y, 3) for x, y in found.items()}}


def efficiencies(sku: str) -> Iterator[dict[str, object]]:
    """What share of the datasheet's rates large kernels reach, and what small ones take, at the median."""
    datasheet = shipped_skus()[sku]
    for kind, samples in measured(sku):
        work = work_of(kind, samples.dims)
        compute = work.flops / samples.seconds / compute_peak(datasheet, kind.dtype)
        memory = work.num_bytes / samples.seconds / bandwidth(datasheet, kind.kernel)
        yield {
            "sku": sku,
            "kernel": kind.kernel,
            "dtype": kind.dtype,
            "compute": _median(compute[work.flops > LARGE_FLOPS]),
            "memory_or_link": _median(memory[(memory > compute) & (work.num_bytes > LARGE_BYTES)]),
            "smallest_us": round(1e6 * float(np.quantile(samples.seconds, 0.01)), 1),
        }


def _median(values: Floats) -> float | None:
    return round(float(np.median(values)), 2) if len(values) else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sku", nargs="+", default=SKUS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--quick", action="store_true", help="only what is served and the roofline")
    parser.add_argument("--coverage", action="store_true", help="of the intervals, not the errors")
    parser.add_argument("--efficiency", action="store_true", help="shares of the peaks reached")
    options = parser.parse_args()
    contenders = [c for c in CONTENDERS if not options.quick or c.name in FAST]
    started = time.process_time()
    if options.efficiency:
        table = [row for sku in options.sku for row in efficiencies(sku)]
    elif options.coverage:
        table = [row for sku in options.sku for row in coverages(sku, options.seeds)]
    else:
        table = [row for sku in options.sku for row in lines(sku, options.seeds, contenders)]
    print(json.dumps({"rows": table, "cpu_s": round(time.process_time() - started, 1)}, indent=1))


if __name__ == "__main__":
    main()
