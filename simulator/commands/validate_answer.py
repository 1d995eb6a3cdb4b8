"""A validation as a person reads it in a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from servecast.simulator.report.text import ABSENT, percent, seconds
from servecast.simulator.report.view import METRIC_NAMES

Row = dict[str, Any]


def show(result: Row, console: Console, *, notes: bool = True) -> None:
    """Prints the object of ``docs/validate.md``."""
    setup, recording = result["simulation"]["configuration"], result["recording"]
    console.print(
        f"{setup['model']} on {setup['sku']}, {recording['requests']:,} requests of {recording['path']} "
        f"({recording['clock']}'s clock)",
        style="bold",
        highlight=False,
    )
    console.print(_table(result["comparison"]))
    for curve in result["curves"]:
        console.print(_curve_text(curve), highlight=False)
    settings = ", ".join(
        f"{name} {setup[name]} ({recording['settings_from'].get(name, 'assumed')})"
        for name in ("max_num_seqs", "max_batched_tokens", "kv_blocks")
    )
    host = f"host {seconds(recording['host_step_s'])} a step ({recording['host_step_from']})"
    console.print(f"Settings: {settings}; {host}.", highlight=False)
    sources = result["simulation"]["time_by_source"]
    shares = ", ".join(f"{percent(share)} {name}" for name, share in sources.items() if share > 0)
    console.print(f"Predicted time: {shares}.", highlight=False)
    told = (*recording["notes"], *result["simulation"]["provenance"]["notes"])
    for note in told if notes else ():
        console.print(f"note: {note}", style="dim", highlight=False)


def _curve_text(curve: Row) -> str:
    return (
        f"Requests {curve['curve']} at {curve['samples']:,} moments: mean {curve['measured_mean']:.1f} "
        f"measured, {curve['predicted_mean']:.1f} predicted; peak {curve['measured_peak']:.0f}, "
        f"{curve['predicted_peak']:.0f}; {curve['mean_distance']:.1f} apart on average."
    )


def _table(rows: list[Row]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for title in ("", "measured", "predicted", "error", "90% interval"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        interval = ABSENT
        if row["error_low"] is not None and row["error_high"] is not None:
            interval = f"{row['error_low']:+.1%} … {row['error_high']:+.1%}"
        table.add_row(
            METRIC_NAMES[row["metric"]] if row["statistic"] == "mean" else "",
            row["statistic"],
            seconds(row["measured_s"]),
            seconds(row["predicted_s"]),
            ABSENT if row["error"] is None else f"{row['error']:+.1%}",
            interval,
        )
    return table
