"""Reads what `estimators.py` printed, one file or several, and prints a table of median / p95 errors.

    python benchmarks/estimators.py --sku h100-sxm --borrow > h100.json
    python benchmarks/estimator_table.py h100.json …            what runs are answered with, a GPU a column
    python benchmarks/estimator_table.py --beside h100.json …   and what that is compared with

Of several seeds the mean of each's. A star marks what misses the goal of its split, which the first column
has.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean

ANSWERS = ("served", "borrowing", "borrowing apart")
BESIDE = ("raw forest", "linear interpolation", "roofline")
GOALS = {
    ("linear", "unseen shapes"): (2.5, 10),
    ("linear", "rows >= 8192"): (4, 15),
    ("linear", "300 rows, unseen shapes"): (4.5, 16),
    ("attention_prefill", "unseen shapes"): (2, 10),
    ("attention_decode", "unseen shapes"): (1.5, 7),
    ("experts", "unseen token counts"): (2.5, 12),
    ("all_reduce", "a size left out"): (3, 12),
}
Row = dict[str, str | float]
Split = tuple[str, str, str, str]
"""Source, kernel, format and what was held out."""
Errors = dict[tuple[str, str], tuple[float, float]]
"""Median and 95th percentile by GPU and contender."""


def by_split(rows: Sequence[Row]) -> dict[Split, Errors]:
    seeds: dict[Split, dict[tuple[str, str], list[Row]]] = {}
    for row in rows:
        source, kernel, dtype, split, sku, contender = (
            str(row[name]) for name in ("source", "kernel", "dtype", "split", "sku", "contender")
        )
        group = seeds.setdefault((source, kernel, dtype, split), {})
        group.setdefault((sku, contender), []).append(row)
    return {
        split: {
            who: (fmean(float(r["median"]) for r in each), fmean(float(r["p95"]) for r in each))
            for who, each in group.items()
        }
        for split, group in sorted(seeds.items(), key=lambda item: (item[0][1:], item[0][0]))
    }


def answers(found: dict[Split, Errors], skus: Sequence[str]) -> Iterator[str]:
    yield f"| held out | {' | '.join(skus)} |\n| --- |{' ---: |' * len(skus)}"
    for split, errors in found.items():
        for who in ANSWERS:
            cells = [cell(split, errors.get((sku, who))) for sku in skus]
            if any(cells):
                alone = ", alone" if (skus[0], "borrowing") in errors else ""
                how = alone if who == "served" else f", {who}"
                yield f"| {name_of(split, how)} | {' | '.join(cells)} |"


def beside(found: dict[Split, Errors], skus: Sequence[str]) -> Iterator[str]:
    yield f"| held out | GPU | served | {' | '.join(BESIDE)} |\n| --- | --- |{' ---: |' * 4}"
    for split, errors in found.items():
        for sku in skus:
            if (sku, "served") in errors:
                cells = [cell(split, errors[sku, "served"])]
                cells += [cell(None, errors.get((sku, who))) for who in BESIDE]
                yield f"| {name_of(split)} | {sku} | {' | '.join(cells)} |"


def name_of(split: Split, how: str = "") -> str:
    source, kernel, dtype, held_out = split
    goal = GOALS.get((kernel, held_out))
    wanted = "" if goal is None else f" (goal {goal[0]:g} / {goal[1]:g})"
    of = "" if source == "silicon" else f" of {source}"
    return f"{kernel} {dtype}{of}, {held_out}{how}{wanted}"


def cell(split: Split | None, errors: tuple[float, float] | None) -> str:
    """With a star where a goal is missed; nothing is asked of what is shown for comparison."""
    if errors is None:
        return ""
    median, p95 = errors
    goal = None if split is None else GOALS.get((split[1], split[3]))
    misses = goal is not None and (round(median, 2) > goal[0] or round(p95, 1) > goal[1])
    return f"{median:.2f} / {p95:.1f}{' *' if misses else ''}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--beside", action="store_true", help="what served times are compared with")
    options = parser.parse_args()
    rows = [row for file in options.files for row in json.loads(file.read_text())["rows"]]
    skus = list(dict.fromkeys(str(row["sku"]) for row in rows))
    for line in (beside if options.beside else answers)(by_split(rows), skus):
        print(line)


if __name__ == "__main__":
    main()
