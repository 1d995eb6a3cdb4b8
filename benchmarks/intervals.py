"""What intervals that a configuration takes from others of its kind are worth, and what they save.

One question is answered twice, as always and with every configuration drawn (``--draw-all``). Prints how
many of the own draws of those that were not drawn fall into the interval that was taken for theirs.

    python benchmarks/intervals.py
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

from servecast.compiler.service import Service
from servecast.simulator.commands.search_job import JobOptions, run_job

SPEC = Path(__file__).resolve().parents[1] / "spec"
SKUS = ("h100-sxm", "a100-sxm-80gb", "l40s")

Row = dict[str, Any]


def answer(folder: Path, *, draw_all: bool) -> tuple[list[Row], float]:
    """The ranking and the CPU seconds of the search, by one process."""
    asked = JobOptions(
        SPEC / "llama.llm",
        SPEC / "traces" / "chat.csv",
        Service("", skus=SKUS, tp=(1, 2, 4)),
        store=folder / "profiles.duckdb",
        jobs=1,
        quiet=True,
        draw_all=draw_all,
    )
    started = time.process_time()
    return run_job(asked)["ranked"], time.process_time() - started


def name(row: Row) -> tuple[Any, ...]:
    keys = ("sku", "tp", "pp", "max_num_seqs", "max_batched_tokens")
    return tuple(row[key] for key in keys)


def share_within(intervals: dict[tuple[Any, ...], list[float]], rows: list[Row]) -> float:
    """Of the draws of the rows that have an interval there."""
    inside = [
        intervals[name(row)][0] <= qps <= intervals[name(row)][1]
        for row in rows
        if name(row) in intervals
        for qps in row["qps_draws"]
    ]
    return sum(inside) / len(inside)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        answer(Path(folder), draw_all=False)  # fills the store
        some, some_s = answer(Path(folder), draw_all=False)
        every, every_s = answer(Path(folder), draw_all=True)
    taken = {name(row): row["qps_interval"] for row in some if row["qps_draws"] is None}
    own = {name(row): row["qps_interval"] for row in every if name(row) in taken}
    figures = {
        "configurations": len(some),
        "drawn": len(some) - len(taken),
        "draws_within_taken": share_within(taken, every),
        "draws_within_own": share_within(own, every),
        "cpu_s": some_s,
        "cpu_s_all_drawn": every_s,
    }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
