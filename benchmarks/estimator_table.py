"""Reads what `estimators.py` printed, one file or several, and prints it as tables of median / p95 errors.

    python benchmarks/estimators.py --sku h100-sxm --borrow > h100.json
    python benchmarks/estimator_table.py h100.json …

Of several seeds the mean of each's. A star marks what misses the goal of its split, in the first column.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import fmean

COLUMNS = (
    "served",
    "borrowing",
    "borrowing apart",
    "raw forest",
    "linear interpolation",
    "roofline",
)
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
Key = tuple[str, ...]


def tables(rows: list[Row]) -> dict[Key, dict[str, Row]]:
    """By source, kernel, format, split and GPU: each contender's row."""
    seeds: dict[tuple[Key, str], list[Row]] = {}
    for row in rows:
        key = tuple(str(row[name]) for name in ("source", "kernel", "dtype", "split", "sku"))
        seeds.setdefault((key, str(row["contender"])), []).append(row)
    found: dict[Key, dict[str, Row]] = {}
    for (key, contender), group in seeds.items():
        means = {name: fmean(float(row[name]) for row in group) for name in ("median", "p95")}
        found.setdefault(key, {})[contender] = {**group[0], **means}
    return found


def line(key: Key, contenders: dict[str, Row]) -> str:
    source, kernel, dtype, split, sku = key
    goal = GOALS.get((kernel, split))
    cells = []
    for name in COLUMNS:
        row = contenders.get(name)
        cells.append("" if row is None else f"{row['median']:.2f} / {row['p95']:.1f}")
    served = contenders["served"]
    best = contenders.get("borrowing", served)
    misses = goal is not None and (float(best["median"]) > goal[0] or float(best["p95"]) > goal[1])
    named = f"{sku}{'' if source == 'silicon' else f' ({source})'}{' *' if misses else ''}"
    wanted = "" if goal is None else f" (goal {goal[0]:g} / {goal[1]:g})"
    return " | ".join((f"{kernel} {dtype}, {split}{wanted}", named, *cells))


def main() -> None:
    rows = [row for name in sys.argv[1:] for row in json.loads(Path(name).read_text())["rows"]]
    print("| held out | GPU |", " | ".join(COLUMNS), "|")
    print("| --- | --- |", "---: |" * len(COLUMNS))
    for key, contenders in sorted(tables(rows).items(), key=lambda item: item[0][1:]):
        print("|", line(key, contenders), "|")


if __name__ == "__main__":
    main()
