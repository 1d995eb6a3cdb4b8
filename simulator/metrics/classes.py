"""What each class of requests got: those of one priority."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from servecast.compiler.service import Slo
from servecast.simulator.engine.records import Records
from servecast.simulator.metrics.attained import attained_share
from servecast.simulator.metrics.metrics import samples
from servecast.simulator.traffic.workload import Workload

_TOLD = (50, 90, 99)  # percentiles


def by_class(
    records: Records, workload: Workload, slos: tuple[Slo, ...]
) -> list[dict[str, Any]] | None:
    """A row a priority; None: the trace has none."""
    if workload.priority is None:
        return None
    return [
        {"priority": int(priority), **_row(_only(records, workload.priority == priority), slos)}
        for priority in np.unique(workload.priority)
    ]


def _only(records: Records, these: np.ndarray) -> Records:
    """The same run with these requests; its steps are not theirs alone."""
    return replace(
        records,
        requests=records.requests[these],
        prompt_tokens=records.prompt_tokens[these],
        output_tokens=records.output_tokens[these],
        rejected=records.rejected[these],
        prefix_hit_tokens=None,
    )


def _row(mine: Records, slos: tuple[Slo, ...]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "arrived": len(mine),
        "finished": int(mine.finished.sum()),
        "rejected": int(mine.rejected.sum()),
        "attained": attained_share(mine, slos) if slos else None,
    }
    for metric in ("ttft", "tpot", "e2e"):
        found = samples(mine, metric)
        told = {f"p{p}": found.percentile(p) if found.total else None for p in _TOLD}
        row[f"{metric}_s"] = told
    return row
