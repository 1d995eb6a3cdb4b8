"""What each class of requests got: those of one priority."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from servecast.compiler.catalog import parse_slo
from servecast.compiler.service import Slo
from servecast.simulator.engine.mode_text import whole
from servecast.simulator.engine.records import Records
from servecast.simulator.metrics.attained import Targets, in_time
from servecast.simulator.metrics.metrics import samples
from servecast.simulator.traffic.workload import Workload

_TOLD = (50, 90, 99)  # percentiles
MOST_CLASSES = 1_000_000


def parse_target(text: str) -> tuple[int | None, Slo]:
    """A target as the command line gives it, and the class it is of: ``class 1: ttft p90 < 2 s``; None: all.

    Raises:
        UserError: no such target, or no such class.
    """
    named, colon, target = text.partition(":")
    words = named.split()
    if not colon or words[:1] != ["class"]:
        return None, parse_slo(text)
    return whole("--slo's class", " ".join(words[1:]), MOST_CLASSES), parse_slo(target)


def slo_of(text: str) -> Slo:
    """A target that knows its class.

    Raises:
        UserError: as ``parse_target``.
    """
    priority, slo = parse_target(text)
    return replace(slo, priority=priority)


def targets_of(texts: tuple[str, ...]) -> Targets:
    """All of a command line.

    Raises:
        UserError: as ``parse_target``.
    """
    parsed = [parse_target(text) for text in texts]
    by_class = tuple((priority, slo) for priority, slo in parsed if priority is not None)
    return Targets(tuple(slo for priority, slo in parsed if priority is None), by_class)


def by_class(
    records: Records, workload: Workload, targets: Targets, duration_s: float
) -> list[dict[str, Any]] | None:
    """A row a priority; None: the trace has none."""
    if workload.priority is None:
        return None
    kept = in_time(records, targets, workload)
    rows = []
    for priority in np.unique(workload.priority).tolist():
        mine = workload.priority == priority
        goodput = _goodput(kept[mine], duration_s, asked=bool(targets.of(priority)))
        rows.append({"priority": priority, **_row(_only(records, mine)), **goodput})
    return rows


def _goodput(kept: NDArray[np.bool_], duration_s: float, *, asked: bool) -> dict[str, float | None]:
    names = ("attained", "goodput_requests_per_s")
    if not asked:
        return dict.fromkeys(names)
    rate_per_s = float(kept.sum()) / duration_s if duration_s > 0 else None
    return dict(zip(names, (float(kept.mean()), rate_per_s), strict=True))


def _only(records: Records, these: NDArray[np.bool_]) -> Records:
    """The same run with these requests; its steps are not theirs alone."""
    return replace(
        records,
        requests=records.requests[these],
        prompt_tokens=records.prompt_tokens[these],
        output_tokens=records.output_tokens[these],
        rejected=records.rejected[these],
        prefix_hit_tokens=None,
    )


def _row(mine: Records) -> dict[str, Any]:
    row: dict[str, Any] = {
        "arrived": len(mine),
        "finished": int(mine.finished.sum()),
        "rejected": int(mine.rejected.sum()),
    }
    for metric in ("ttft", "tpot", "e2e"):
        found = samples(mine, metric)
        told = {f"p{p}": found.percentile(p) if found.total else None for p in _TOLD}
        row[f"{metric}_s"] = told
    return row
