"""Figures for print, from a search result: Pareto charts, heat map, latencies. Needs the ``plot`` extra.

Sized for one column of a paper, by SciencePlots' ``ieee`` and ``bright`` styles. Equal results give
equal bytes. Colours are Paul Tol's bright scheme, told apart with every common colour blindness;
markers and line styles repeat the distinction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.style
import scienceplots  # type: ignore[import-untyped]  # noqa: F401  no stubs; registers the styles
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from servecast.compiler.errors import UserError
from servecast.simulator.report.charts import Axis, Cloud, wants_log
from servecast.simulator.report.check import METRICS, checked
from servecast.simulator.report.error_plot import plot_errors, read_validation
from servecast.simulator.report.figures import heat_map, pareto_clouds
from servecast.simulator.report.files import read_result
from servecast.simulator.report.text import tick_seconds
from servecast.simulator.report.view import METRIC_NAMES, Row

STYLES = ("science", "ieee", "bright", "no-latex")
MARKERS = "osD^vP*X"
DOTS_PER_INCH = 600
BRIGHT = 0.5
"""Share of the colour map above which black is easier to read than white."""
UNDATED: dict[str, dict[str, Any]] = {
    "pdf": {"CreationDate": None},
    "svg": {"Date": None},
    "png": {"Software": None},
}
"""The formats, and what keeps the date of writing out of each."""

Plot = Callable[[Row, Axes], None]


def draw(result: Row, name: str, path: Path) -> None:
    """Save the figure of that name; the file's ending is its format.

    Raises:
        UserError: an unknown format, or a figure that this result has nothing for.
    """
    save(lambda axes: PLOTS[name](result, axes), path)


def write_errors(validations: Sequence[Path], folder: Path, kind: str) -> Path:
    """Draw the errors of recorded workloads, one file of ``servecast validate --json`` each.

    Raises:
        UserError: a file is no validation, or the folder cannot be written to.
    """
    workloads = [read_validation(path) for path in validations]
    path = _folder(folder) / f"errors.{kind}"
    save(lambda axes: plot_errors(workloads, axes), path)
    return path


def save(plot: Callable[[Axes], None], path: Path) -> None:
    """What ``plot`` draws, in the styles of print.

    Raises:
        UserError: an unknown format, or the file cannot be written.
    """
    kind = path.suffix.removeprefix(".")
    if kind not in UNDATED:
        raise UserError(
            f"{path}: figures are {', '.join(UNDATED)}, not {kind or 'without an ending'}"
        )
    with matplotlib.style.context(STYLES), matplotlib.rc_context({"svg.hashsalt": "servecast"}):
        figure = Figure()
        plot(figure.add_subplot())
        try:
            figure.savefig(path, metadata=UNDATED[kind], dpi=DOTS_PER_INCH, bbox_inches="tight")
        except OSError as error:
            raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error


def write_plots(results: Path, folder: Path, kind: str, names: tuple[str, ...] = ()) -> list[Path]:
    """Draw the figures named (all by default) into ``folder``, and return their paths.

    Raises:
        UserError: ``results`` is no search result, recommends nothing, or has nothing for a figure.
    """
    result = checked(read_result(results), str(results))
    if result["best"] is None:
        raise UserError(f"{results}: recommends no configuration; there is nothing to plot")
    paths = [_folder(folder) / f"{name}.{kind}" for name in names or PLOTS]
    for path in paths:
        draw(result, path.stem, path)
    return paths


def _folder(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made: {error.strerror or error}") from error
    return folder


def _pareto(key: str) -> Plot:
    def plot(result: Row, axes: Axes) -> None:
        cloud = next((cloud for cloud in pareto_clouds(result) if cloud.key == key), None)
        if cloud is None:
            raise UserError(f"no configuration has the figures that a {key} chart needs")
        _plot_cloud(cloud, axes)

    return plot


def _plot_cloud(cloud: Cloud, axes: Axes) -> None:
    for marker, name in zip(MARKERS * len(cloud.series), cloud.series, strict=False):
        own = [point for point in cloud.points if point.series == name]
        axes.plot(
            [p.x for p in own], [p.y for p in own], marker, ms=3.5, mec="white", mew=0.3, label=name
        )
    for p in cloud.points:
        if p.x_interval is not None:
            axes.plot(p.x_interval, (p.y, p.y), "|-", color="0.3", lw=0.6, ms=3, zorder=1)
    edge = cloud.frontier()
    axes.plot(*zip(*edge, strict=True), "k-", lw=0.8, zorder=1, label="frontier")
    best = min(cloud.points, key=lambda point: point.row)
    axes.plot(best.x, best.y, "o", ms=7, mfc="none", mec="black", label="recommended")
    _frame(axes.set_xscale, axes.set_xlim, axes.xaxis, cloud.x, cloud.x_values)
    _frame(axes.set_yscale, axes.set_ylim, axes.yaxis, cloud.y, [p.y for p in cloud.points])
    axes.set(xlabel=cloud.x.title, ylabel=cloud.y.title)
    _shade_targets(cloud, axes)
    _legend(axes)


def _legend(axes: Axes) -> None:
    """Above the frame, where it hides nothing."""
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, fontsize="x-small")


def _shade_targets(cloud: Cloud, axes: Axes) -> None:
    """What the targets forbid is hatched, so that it shows in grey as well."""
    if cloud.y.limit is not None:
        axes.axhspan(cloud.y.limit, axes.get_ylim()[1], **FORBIDDEN)
    if cloud.x.limit is not None:
        axes.axvspan(cloud.x.limit, axes.get_xlim()[1], **FORBIDDEN)


FORBIDDEN: dict[str, Any] = {
    "facecolor": "0.92",
    "edgecolor": "0.7",
    "hatch": "////",
    "linewidth": 0,
    "zorder": 0,
}


def _frame(
    set_scale: Callable[[str], None],
    set_limits: Callable[[float, float], object],
    ticks: Any,  # matplotlib's XAxis or YAxis
    axis: Axis,
    values: list[float],
) -> None:
    inside = values if axis.limit is None else [*values, axis.limit]
    low, high = min(inside), max(inside)
    if wants_log(low, high):
        set_scale("log")
        ticks.set_minor_formatter(NullFormatter())
        set_limits(low / 1.3, high * 1.3)
    else:
        set_limits(0, high * 1.08)
    ticks.set_major_formatter(FuncFormatter(lambda value, _: axis.write(value)))


def _heat_map(result: Row, axes: Axes) -> None:
    """Requests per dollar of the recommended placement by its two batch settings."""
    heat = heat_map(result)
    if heat is None:
        raise UserError("the recommended placement was tried with one batch setting: no heat map")
    worst = min(cell["qps_per_usd_hour"] for cell in heat.cells.values())
    nothing = {"qps_per_usd_hour": float("nan")}
    values = [
        [heat.cells.get((seqs, tokens), nothing)["qps_per_usd_hour"] for tokens in heat.columns]
        for seqs in heat.rows
    ]
    axes.imshow(values, cmap="cividis", aspect="auto", origin="lower")
    for i, line in enumerate(values):
        for j, value in enumerate(line):
            ink = "black" if value - worst > BRIGHT * (heat.best - worst) else "white"
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", color=ink, fontsize="small")
    axes.set_xticks(range(len(heat.columns)), [str(tokens) for tokens in heat.columns])
    axes.set_yticks(range(len(heat.rows)), [str(seqs) for seqs in heat.rows])
    axes.tick_params(which="minor", length=0)
    axes.set(xlabel="max_num_batched_tokens", ylabel="max_num_seqs", title=heat.title)


def _latency(result: Row, axes: Axes) -> None:
    """Each latency's median with bars to its p90 (thick) and p99 (thin), at both loads."""
    best = result["best"]
    loads = {
        "at capacity": best["metrics"],
        "at the trace's rate": best["at_trace_rate"]["metrics"],
    }
    for place, (load, metrics) in enumerate(loads.items()):
        for row, metric in enumerate(METRICS):
            p50, p90, p99 = (metrics[metric][key] for key in ("p50", "p90", "p99"))
            if not p50:  # absent, or 0, which a logarithmic axis has no place for
                p50 = p90
            if not p90:
                continue
            y = row - 0.18 * (1 - 2 * place)
            color = f"C{place}"
            axes.plot([p50, p99], [y, y], "-", color=color, lw=0.8)
            axes.plot([p50, p90], [y, y], "-", color=color, lw=2.4)
            axes.plot(p50, y, MARKERS[place], color=color, ms=4, label=load if row == 0 else None)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick_seconds(value)))
    axes.set_yticks(range(len(METRICS)), [METRIC_NAMES[m.removesuffix("_s")] for m in METRICS])
    axes.tick_params(axis="y", which="minor", length=0)
    axes.set_xlabel("median, to p90 (thick) and p99 (thin)")
    axes.invert_yaxis()
    _legend(axes)


PLOTS: dict[str, Plot] = {
    "pareto-ttft": _pareto("ttft"),
    "pareto-tbt": _pareto("tbt"),
    "pareto-latency": _pareto("latency"),
    "heat-map": _heat_map,
    "latency": _latency,
}
