"""How well held-out measurements are predicted, beside other ways: prints one JSON object.

    python benchmarks/estimators.py [--sku h100-sxm …] [--folders] [--seeds 0 1]
        [--kernel linear …] [--split unseen] [--borrow] [--quick]

Splits hold out whole shapes (a model never seen), whole token counts (a batch never seen), the largest
steps (a batch larger than any seen), all but 300 rows (a GPU measured for a few minutes), or one message
size after another. Errors are absolute percentages, median and 95th percentile. ``--folders`` adds the
profiles of Vidur and LLMServingSim in the shared data, and alone leaves the GPUs out.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence

import numpy as np
from estimator_data import (
    FEW_ROWS,
    LARGE_STEP,
    Table,
    folder_rows,
    kinds_of,
    linear_tables,
    shape_names,
    silicon_tables,
    splits,
    tables_of,
)

from servecast.compiler.catalog import shipped_skus
from servecast.estimator.learners.choice import Donors, fit_best
from servecast.estimator.learners.evaluate import (
    CONTENDERS,
    Contender,
    percentage_errors,
    predicted_by,
    served,
)
from servecast.estimator.learners.splits import Mask
from servecast.estimator.measurement import Floats
from servecast.estimator.models import num_sms_of
from servecast.estimator.noise import about_neighbours
from servecast.estimator.physics import COLLECTIVES, bandwidth, compute_peak, work_of

SKUS = ("h100-sxm", "h200-sxm", "a100-sxm-80gb", "b200-sxm", "l40s")
OTHER_ENGINE = "trtllm"
SAME_CHIP = ("h100-sxm", "h200-sxm")
LARGE_FLOPS = 1e11
LARGE_BYTES = 1e8
FAST = ("roofline",)
BESIDE = (
    "raw forest",
    "linear interpolation",
    *FAST,
)  # other tools' ways; `servecast fit` has ours
Errors = dict[tuple[str, str], list[Floats]]


def lent(table: Table, others: Sequence[Table], test: Mask) -> dict[str, Donors]:
    """What other GPUs' models know of a kernel, none having seen a held-out shape: of all, and without the
    one of the same chip.
    """
    held_out = np.unique(shape_names(table.samples)[test])
    known = {}
    for other in others:
        if other.kind == table.kind and other.sku != table.sku:
            rows = other.samples.rows(~np.isin(shape_names(other.samples), held_out))
            model = fit_best(table.kind, rows, num_sms_of(other.sku), "blend")
            known[other.sku] = model.forest
    apart = {sku: x for sku, x in known.items() if {sku, table.sku} != set(SAME_CHIP)}
    found = {"borrowing": tuple(known.values())}
    return found if len(apart) == len(known) else found | {"borrowing apart": tuple(apart.values())}


def lines(
    table: Table, others: Sequence[Table], seed: int, how: tuple[Sequence[Contender], str]
) -> Iterator[dict[str, object]]:
    """One line for each split whose name begins as said in ``how`` and each contender, and for what a run is
    answered with.
    """
    contenders, wanted = how
    errors: Errors = {}
    counts: dict[str, list[tuple[int, int]]] = {}
    datasheet = shipped_skus()[table.sku]
    raw_only = table.kind.kernel in COLLECTIVES  # nothing is learnt of them
    for name, train, test in splits(table, seed):
        if not name.startswith(wanted):
            continue
        measured = table.samples.seconds[test]
        found = {"served": served(table.kind, table.samples, datasheet, (train, test))}
        if len(table.samples.seconds[train]) == FEW_ROWS:
            for who, donors in lent(table, others, test).items():
                found[who] = served(
                    table.kind, table.samples, datasheet, (train, test), None, donors
                )
        for contender in contenders:
            if contender.raw or not raw_only:
                sms = num_sms_of(table.sku)
                found[contender.name] = predicted_by(
                    contender, table.kind, table.samples, sms, (train, test)
                )
        for who, seconds in found.items():
            errors.setdefault((name, who), []).append(percentage_errors(seconds, measured))
        counts.setdefault(name, []).append((np.count_nonzero(train), np.count_nonzero(test)))
    for (name, who), parts in errors.items():
        median, p95 = np.quantile(np.concatenate(parts), (0.5, 0.95))
        train_rows, test_rows = counts[name][0][0], sum(test for _, test in counts[name])
        yield {
            **table.named,
            **{"split": name, "seed": seed, "contender": who},
            **{"median": round(float(median), 2), "p95": round(float(p95), 1)},
            **{"train_rows": int(train_rows), "test_rows": int(test_rows)},
        }


def efficiencies(table: Table) -> dict[str, object]:
    """What share of the datasheet's rates large kernels reach, and what small ones take, at the median."""
    datasheet, kind, samples = shipped_skus()[table.sku], table.kind, table.samples
    work = work_of(kind, samples.dims)
    compute = work.flops / samples.seconds / compute_peak(datasheet, kind.dtype)
    memory = work.num_bytes / samples.seconds / bandwidth(datasheet, kind.kernel)
    return {
        **table.named,
        "compute": _median(compute[work.flops > LARGE_FLOPS]),
        "memory_or_link": _median(memory[(memory > compute) & (work.num_bytes > LARGE_BYTES)]),
        "smallest_us": round(1e6 * float(np.quantile(samples.seconds, 0.01)), 1),
    }


def scatter(table: Table) -> dict[str, object]:
    """How far measured rows lie off the line between their close neighbours, in per cent: noise, for such
    rows are the same work or nearly.
    """
    dims, seconds = table.samples.dims, table.samples.seconds
    off = 100 * np.abs(about_neighbours(dims, seconds))
    if not len(off):
        return {**table.named, "rows": 0}
    median, p95 = (round(float(x), 1) for x in np.quantile(off, (0.5, 0.95)))
    return {**table.named, "rows": len(off), "median": median, "p95": p95}


def reruns(sku: str) -> Iterator[dict[str, object]]:
    """How far GEMMs in the operands' format lie from themselves in another engine's table of the GPU, which
    timed the same library's kernels on another machine, their median ratio aside: in per cent, in the
    deviations of one measurement.
    """
    kinds = [kind for kind in kinds_of(["linear"]) if kind.dtype == "bf16"]
    mine, other = (
        table for backend in ("vllm", OTHER_ENGINE) for table in silicon_tables(sku, kinds, backend)
    )
    row, same = other.samples.find(mine.samples.dims)
    ratio = np.log(mine.samples.seconds[same] / other.samples.seconds[row[same]])
    rows = mine.samples.dims["rows"][same]
    for name, chosen in (("all", rows > 0), (f"rows >= {LARGE_STEP}", rows >= LARGE_STEP)):
        apart = 100 * np.abs(ratio[chosen] - np.median(ratio[chosen])) / np.sqrt(2)
        median, p95 = (round(float(x), 1) for x in np.quantile(apart, (0.5, 0.95)))
        named = mine.named | {"beside": other.source, "split": name}
        yield {**named, "rows": len(apart), "median": median, "p95": p95}


def _median(values: Floats) -> float | None:
    return round(float(np.median(values)), 2) if len(values) else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sku", nargs="+", help=f"default: {', '.join(SKUS)}")
    parser.add_argument("--folders", action="store_true", help="the shared folders' profiles")
    parser.add_argument("--kernel", nargs="+", default=[], help="default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--split", default="", help="those whose name begins so")
    parser.add_argument("--borrow", action="store_true", help="few rows start from other GPUs'")
    parser.add_argument("--quick", action="store_true", help="only what is served and the roofline")
    parser.add_argument(
        "--noise", action="store_true", help="how far rows lie off their neighbours"
    )
    parser.add_argument(
        "--reruns", action="store_true", help="how far GEMMs lie from another engine's timings"
    )
    parser.add_argument("--efficiency", action="store_true", help="shares of the peaks reached")
    options = parser.parse_args()
    named = FAST if options.quick else BESIDE
    contenders = [c for c in CONTENDERS if c.name in named]
    started = time.process_time()
    skus = options.sku or ([] if options.folders else SKUS)
    if options.reruns:
        print(json.dumps({"rows": [row for sku in skus for row in reruns(sku)]}, indent=1))
        return
    tables = [table for sku in skus for table in silicon_tables(sku, kinds_of(options.kernel))]
    if options.folders:
        found = [t for source in ("vidur", "llmservingsim") for t in tables_of(folder_rows(source))]
        tables += [t for t in found if not options.kernel or t.kind.kernel in options.kernel]
    if options.efficiency or options.noise:
        rows = [(efficiencies if options.efficiency else scatter)(table) for table in tables]
    else:
        others = [t for sku in SKUS for t in linear_tables(sku)] if options.borrow else []
        rows = [
            x
            for t in tables
            for seed in options.seeds
            for x in lines(t, others, seed, (contenders, options.split))
        ]
    print(json.dumps({"rows": rows, "cpu_s": round(time.process_time() - started, 1)}, indent=1))


if __name__ == "__main__":
    main()
