"""A workload as one figure: arrivals over time, and both lengths on a logarithmic axis. Needs ``plot``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.style
import scienceplots  # type: ignore[import-untyped]  # noqa: F401  no stubs; registers the styles
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from servecast.compiler.errors import UserError
from servecast.simulator.report.plots import DOTS_PER_INCH, STYLES, UNDATED

Row = dict[str, Any]


def draw_workload_figure(row: Row, path: Path) -> None:
    """Save the figure of what `workload_job.describe_workload` returns; the ending is its format.

    Raises:
        UserError: an unknown format, or a file that cannot be written.
    """
    kind = path.suffix.removeprefix(".")
    if kind not in UNDATED:
        raise UserError(
            f"{path}: figures are {', '.join(UNDATED)}, not {kind or 'without an ending'}"
        )
    with matplotlib.style.context(STYLES), matplotlib.rc_context({"svg.hashsalt": "servecast"}):
        figure = Figure(figsize=(3.5, 3.2), layout="constrained")
        above, below = figure.subplots(2, 1)
        _arrivals(row, above)
        _lengths(row, below)
        try:
            figure.savefig(path, metadata=UNDATED[kind], dpi=DOTS_PER_INCH)
        except OSError as error:
            raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error


def _arrivals(row: Row, axes: Axes) -> None:
    axes.set_xlabel("time (s)")
    axes.set_ylabel("requests per s")
    if row["arrivals"] is None:
        return
    window_s = row["arrivals"]["window_s"]
    rates = [count / window_s for count in row["arrivals"]["counts"]]
    edges = [window_s * i for i in range(len(rates) + 1)]
    axes.stairs(rates, edges, fill=True)
    axes.axhline(row["rate_per_s"], color="black", lw=0.6, ls="--")
    axes.set_ylim(bottom=0)


def _lengths(row: Row, axes: Axes) -> None:
    for part in ("prompt", "output"):
        histogram = row[f"{part}_histogram"]
        shares = [count / row["num_requests"] for count in histogram["counts"]]
        axes.stairs(shares, histogram["edges"], label=part)
    axes.set_xscale("log")
    axes.set_xlabel("tokens")
    axes.set_ylabel("share of requests")
    axes.legend()
