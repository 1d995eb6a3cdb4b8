"""How often held-out measurements lie inside the predicted intervals: prints one JSON object.

    python benchmarks/estimator_coverage.py [--sku h100-sxm …] [--kernel linear …] [--folders] [--seeds 0 1]

Intervals are calibrated on some shapes and looked at on others: a fifth of the shapes of the silicon
tables, and with ``--folders`` all shapes of one model after another in the profiles of LLMServingSim and
Vidur, learnt from the other models on that GPU. ``classes`` counts all rows of a kernel and format
together, over GPUs, seeds and models; ``rows`` has each table's own.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
from estimator_data import Table, folder_rows, kinds_of, silicon_tables, tables_of

from servecast.estimator.learners.calibrate import calibrate
from servecast.estimator.learners.choice import choose, fit_best
from servecast.estimator.learners.features import feature_matrix
from servecast.estimator.learners.splits import shapes_of, unseen_shapes
from servecast.estimator.learners.uncertainty import LEVELS, coverage
from servecast.estimator.measurement import Measurement
from servecast.estimator.models import num_sms_of
from servecast.estimator.physics import COLLECTIVES, KernelKind
from servecast.estimator.predictor import Samples

HOW_RUN = re.compile(r"tp\d+|bf16|fp16|fp8.*")  # folders below a model's
SKUS = ("h100-sxm", "a100-sxm-80gb", "b200-sxm", "l40s")


def covered(table: Table, known: Samples, wanted: Samples, seed: int) -> dict[str, object]:
    kind, sms = table.kind, num_sms_of(table.sku)
    learner = choose(kind, known, sms, seed).best
    calibration = calibrate(kind, known, sms, learner, seed)
    model = fit_best(kind, known, sms, learner)
    predicted = model.predict(feature_matrix(kind, wanted.dims, sms))
    outside = (~known.inside(wanted.dims)).astype(np.int64)
    found = coverage(calibration, predicted, wanted.seconds, outside)
    shares = {named(level): round(x, 3) for level, x in found.items()}
    shapes = int(shapes_of(wanted).max()) + 1
    counts = {"rows": len(wanted.seconds), "shapes": shapes}
    return {**table.named, "learner": learner, **counts, **shares}


def named(level: float) -> str:
    return f"covered_{round(100 * level)}"


def together(rows: list[dict[str, Any]]) -> list[dict[str, object]]:
    """Every kernel's and format's share of rows, over all tables."""
    found: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        over = "shapes" if row["held_out"] == "shapes" else "models"
        key: tuple[str, ...] = over, row["source"], row["kernel"], row["dtype"], row["kv_dtype"]
        found.setdefault(key, []).append(row)
    lines: list[dict[str, object]] = []
    for key, group in sorted(found.items()):
        total = sum(row["rows"] for row in group)
        shares = {
            named(level): round(sum(row["rows"] * row[named(level)] for row in group) / total, 3)
            for level in LEVELS
        }
        told = dict(zip(("held_out", "source", "kernel", "dtype", "kv_dtype"), key, strict=True))
        lines.append({**told, "tables": len(group), "rows": total, **shares})
    return lines


def of_shapes(sku: str, seed: int, kinds: Sequence[KernelKind]) -> Iterator[dict[str, object]]:
    for table in silicon_tables(sku, kinds):
        if table.kind.kernel not in COLLECTIVES:
            test = unseen_shapes(table.kind, table.samples, seed)
            known, wanted = table.samples.rows(~test), table.samples.rows(test)
            yield {**covered(table, known, wanted, seed), "held_out": "shapes", "seed": seed}


def of_models(source: str, seed: int, kernels: Sequence[str]) -> Iterator[dict[str, object]]:
    """Each model of each GPU in turn; cases that it shares with another model are no test."""
    rows = folder_rows(source)
    for sku in sorted({row.sku for row in rows}):
        here = [row for row in rows if row.sku == sku]
        for model in sorted({model_of(row) for row in here}):
            others = {t.kind: t for t in tables_of(r for r in here if model_of(r) != model)}
            for table in tables_of(r for r in here if model_of(r) == model):
                known = others.get(table.kind)
                unwanted = kernels and table.kind.kernel not in kernels
                if known is None or unwanted or table.kind.kernel in COLLECTIVES:
                    continue
                _, shared = known.samples.find(table.samples.dims)
                if (~shared).any():
                    found = covered(table, known.samples, table.samples.rows(~shared), seed)
                    yield {**found, "held_out": model, "seed": seed}


def model_of(row: Measurement) -> str:
    """Of the folder that its file lies in, without what only says how the model was cut and stored."""
    parts = PurePath(row.origin.file).parts[:-1]
    return "/".join(part for part in parts if not HOW_RUN.fullmatch(part))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sku", nargs="+", help=f"default: {', '.join(SKUS)}")
    parser.add_argument("--folders", action="store_true", help="models of the shared profiles")
    parser.add_argument("--kernel", nargs="+", default=[], help="default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    options = parser.parse_args()
    started = time.process_time()
    skus = options.sku or ([] if options.folders else SKUS)
    kinds = kinds_of(options.kernel)
    rows = [row for sku in skus for seed in options.seeds for row in of_shapes(sku, seed, kinds)]
    if options.folders:
        for source in ("llmservingsim", "vidur"):
            for seed in options.seeds:
                rows += of_models(source, seed, options.kernel)
    told = {"classes": together(rows), "rows": rows}
    print(json.dumps({**told, "cpu_s": round(time.process_time() - started, 1)}, indent=1))


if __name__ == "__main__":
    main()
