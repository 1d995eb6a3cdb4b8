"""The paper's figure of fidelity: errors of predicted latencies per recorded workload, with their intervals.

Reads what ``servecast validate --json`` prints, one file a workload. Needs the ``plot`` extra.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from servecast.compiler.errors import UserError
from servecast.simulator.report.files import read_result

Row = Mapping[str, Any]
SHOWN = (("ttft", "p50"), ("ttft", "p90"), ("tpot", "p50"), ("e2e", "p50"), ("e2e", "p90"))
MARKERS = "osD^v"
BAND = 0.1
"""The error that is called good."""
SPREAD = 0.6
"""Share of a workload's place that its marks take."""


def read_validation(path: Path) -> tuple[str, Row]:
    """The workload's name and the object of ``docs/validate.md``.

    Raises:
        UserError: the file is no validation.
    """
    found = read_result(path)
    if not isinstance(found, dict) or not isinstance(found.get("comparison"), list):
        raise UserError(f"{path}: is not what servecast validate --json prints")
    recording = found.get("recording")
    name = recording.get("path") if isinstance(recording, dict) else None
    return Path(name or path).stem, found


def plot_errors(workloads: Sequence[tuple[str, Row]], axes: Axes) -> None:
    """One group of marks a workload: predicted over measured, minus 1, with 90 % intervals.

    Raises:
        UserError: no workload has any of the figures.
    """
    axes.axhspan(-BAND, BAND, facecolor="0.92", linewidth=0, zorder=0)
    axes.axhline(0, color="black", lw=0.6, zorder=1)
    drawn = [_series(workloads, index, axes) for index in range(len(SHOWN))]
    if not any(drawn):
        raise UserError("no recording has a latency whose error could be drawn")
    axes.set_xticks(range(len(workloads)), [name for name, _ in workloads], rotation=20, ha="right")
    axes.tick_params(axis="x", which="minor", length=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set(ylabel="predicted over measured, minus 1", xlim=(-0.5, len(workloads) - 0.5))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, fontsize="x-small")


def _series(workloads: Sequence[tuple[str, Row]], index: int, axes: Axes) -> int:
    """Draws one statistic of all workloads; returns how many had it."""
    metric, statistic = SHOWN[index]
    shift = SPREAD * (index / (len(SHOWN) - 1) - 0.5)
    points = [
        (place + shift, row)
        for place, (_, found) in enumerate(workloads)
        for row in found["comparison"]
        if (row["metric"], row["statistic"]) == (metric, statistic) and row["error"] is not None
    ]
    if points:
        errors = [row["error"] for _, row in points]
        reach = [[_reach(row, end) for _, row in points] for end in ("error_low", "error_high")]
        axes.errorbar(
            [x for x, _ in points],
            errors,
            yerr=reach,
            fmt=MARKERS[index],
            ms=3,
            lw=0.8,
            capsize=1.5,
            label=f"{metric.upper()} {statistic}",
        )
    return len(points)


def _reach(row: Row, end: str) -> float:
    """From the error to an end of its interval; 0 where it has none."""
    bound = row.get(end)
    return 0.0 if bound is None else abs(bound - row["error"])
