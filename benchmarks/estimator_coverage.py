"""How often held-out measurements lie inside the predicted intervals: prints one JSON object.

    python benchmarks/estimator_coverage.py [--sku h100-sxm …] [--kernel linear …] [--seeds 0 1] > a.json
    python benchmarks/estimator_coverage.py --folders [--seeds 0 1] > b.json
    python benchmarks/estimator_coverage.py --join a.json b.json …

Intervals are calibrated on some shapes and looked at on others: a fifth of the shapes of the silicon
tables, and with ``--folders`` all shapes of one model after another in the profiles of LLMServingSim and
Vidur, learnt from the other models on that GPU. The learner is the shipped choice where there is one.
``rows`` has each table's shares of rows. ``--join`` prints of several such files the classes: the rows of a
kernel and format over GPUs, seeds and models, each share with its standard error. Rows of one shape err
alike, on all GPUs: shapes are drawn, not rows (the error of a ratio over clusters, Cochran 1977). A star
marks what is off by more than two points, two what is so by more than two standard errors besides.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from estimator_data import Table, folder_rows, kinds_of, silicon_tables, tables_of

from servecast.estimator.kept_choices import kept_choice
from servecast.estimator.learners.calibrate import calibrate
from servecast.estimator.learners.choice import choose, fit_best
from servecast.estimator.learners.features import feature_matrix
from servecast.estimator.learners.splits import SWEPT, Mask, shapes_of, unseen_shapes
from servecast.estimator.learners.uncertainty import LEVELS, coverage
from servecast.estimator.measurement import Floats, Measurement
from servecast.estimator.models import num_sms_of
from servecast.estimator.physics import COLLECTIVES, KernelKind
from servecast.estimator.predictor import Samples

HOW_RUN = re.compile(r"tp\d+|bf16|fp16|fp8.*")  # folders below a model's
SKUS = ("h100-sxm", "h200-sxm", "a100-sxm-80gb", "b200-sxm", "l40s")
MOST_OFF = 2.0  # points of a hundred
Row = dict[str, Any]


def covered(table: Table, known: Samples, wanted: Samples, seed: int) -> Row:
    kind, sms = table.kind, num_sms_of(table.sku)
    kept = kept_choice(kind, table.samples, sms)
    learner = kept.learner if kept else choose(kind, known, sms, seed).best
    calibration = calibrate(kind, known, sms, learner, seed)
    model = fit_best(kind, known, sms, learner)
    predicted = model.predict(feature_matrix(kind, wanted.dims, sms))
    outside = (~known.inside(wanted.dims)).astype(np.int64)
    by_shape = {}
    for shape in np.unique(shapes_of(wanted)):
        rows = shapes_of(wanted) == shape
        found = coverage(calibration, predicted[rows], wanted.seconds[rows], outside[rows])
        count = int(rows.sum())
        by_shape[shape_name(wanted, rows)] = [count, *(round(count * x) for x in found.values())]
    counts, *inside = np.array(list(by_shape.values())).T
    shares = {
        named(level): round(float(hits.sum() / counts.sum()), 4)
        for level, hits in zip(LEVELS, inside, strict=True)
    }
    sizes = {"rows": len(wanted.seconds), "shapes": len(by_shape)}
    return {**table.named, "learner": learner, **sizes, **shares, "by_shape": by_shape}


def shape_name(samples: Samples, rows: Mask) -> str:
    return " ".join(str(d[rows][0]) for n, d in sorted(samples.dims.items()) if n not in SWEPT)


def named(level: float) -> str:
    return f"covered_{round(100 * level)}"


def together(rows: Sequence[Row]) -> list[tuple[tuple[str, str], list[Row]]]:
    """Every kernel's and format's rows over all tables, and of models' each source's, too."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        formats = " ".join((row["kernel"], row["dtype"], row["kv_dtype"])).strip()
        over = "shapes" if row["held_out"] == "shapes" else "models"
        found.setdefault((over, formats), []).append(row)
        if over == "models":
            found.setdefault((f"models of {row['source']}", formats), []).append(row)
    return sorted(found.items())


def line(key: tuple[str, str], group: Sequence[Row]) -> str:
    by_shape: dict[str, list[int]] = {}
    for row in group:
        for shape, counts in row["by_shape"].items():
            before = by_shape.get(shape, [0] * len(counts))
            by_shape[shape] = [a + b for a, b in zip(before, counts, strict=True)]
    counts, *inside = np.array(list(by_shape.values()), dtype=np.float64).T
    cells = [cell(level, counts, hits) for level, hits in zip(LEVELS, inside, strict=True)]
    told = (len(group), len(by_shape), int(counts.sum()))
    return "| " + " | ".join((*key, *map(str, told), *cells)) + " |"


def cell(level: float, counts: Floats, hits: Floats) -> str:
    share, shapes = hits.sum() / counts.sum(), len(counts)
    off = ((hits - share * counts) ** 2).sum() * shapes / max(shapes - 1, 1)
    error = 100 * float(np.sqrt(off)) / counts.sum()
    far = abs(100 * (share - level))
    star = "" if far <= MOST_OFF else " *" if far <= 2 * error else " **"
    return f"{100 * share:.1f} ± {error:.1f}{star}"


def print_joined(files: Sequence[Path]) -> None:
    rows = [row for file in files for row in json.loads(file.read_text(encoding="utf-8"))["rows"]]
    print("| held out | class | tables | shapes | rows |", *(f"{x:.0%} |" for x in LEVELS))
    print("| --- | --- |", "---: |" * (3 + len(LEVELS)))
    for key, group in together(rows):
        print(line(key, group))


def of_shapes(sku: str, seed: int, kinds: Sequence[KernelKind]) -> Iterator[Row]:
    for table in silicon_tables(sku, kinds):
        if table.kind.kernel not in COLLECTIVES:
            test = unseen_shapes(table.kind, table.samples, seed)
            known, wanted = table.samples.rows(~test), table.samples.rows(test)
            yield {**covered(table, known, wanted, seed), "held_out": "shapes", "seed": seed}


def of_models(source: str, seed: int, kernels: Sequence[str]) -> Iterator[Row]:
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
    parser.add_argument("--join", nargs="+", type=Path, help="files that this printed before")
    options = parser.parse_args()
    if options.join:
        print_joined(options.join)
        return
    started = time.process_time()
    skus = options.sku or ([] if options.folders else SKUS)
    kinds = kinds_of(options.kernel)
    rows = [row for sku in skus for seed in options.seeds for row in of_shapes(sku, seed, kinds)]
    if options.folders:
        for source in ("llmservingsim", "vidur"):
            for seed in options.seeds:
                rows += of_models(source, seed, options.kernel)
    cpu_s = round(time.process_time() - started, 1)
    print(json.dumps({"rows": rows, "cpu_s": cpu_s}, indent=1))


if __name__ == "__main__":
    main()
