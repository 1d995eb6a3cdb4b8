"""The ranking and what cannot serve, as tables of a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.table import Table
from rich.text import Text

from servecast.simulator.report.headline import place, roles
from servecast.simulator.report.view import axis_text, varied
from servecast.simulator.search.objective import OBJECTIVES

Row = dict[str, Any]
MAX_REASONS = 8
HALF = 0.5
"""Below this share of measured time a configuration is marked as resting on estimates."""
FIGURES = {
    "qps_per_usd_hour": ("QPS/$h", ".3f"),
    "usd_per_hour": ("$/h", ",.2f"),
    "gpus": ("GPUs", ",.4g"),
    "watts_at_trace_rate": ("W", ",.0f"),
    "goodput_per_usd_hour": ("good/$h", ".3f"),
}
"""What each objective ranks by: heading and format."""


GAP = 1
"""Between two columns."""


@dataclass(frozen=True, slots=True)
class Column:
    """``spare``: which goes first where there is no room, the lowest; None: it is needed to read a row."""

    name: str
    cell: Callable[[Row], str]
    spare: int | None = None
    justify: Literal["left", "right"] = "right"

    def width(self, rows: Sequence[Row]) -> int:
        return max(map(len, [*self.name.split("\n"), *map(self.cell, rows)]))


def ranked_table(result: Row, shown: Sequence[Row], width: int) -> Table:
    """As many columns as a terminal's width has room for: no figure is cut.

    Rows are numbered where `difference_table` tells more of them.
    """
    rows = [{**row, "#": number} for number, row in enumerate(shown, 1)]
    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold")
    columns = _fitting(_columns(result, rows), rows, width)
    for column in columns:
        table.add_column(column.name, justify=column.justify, no_wrap=True, vertical="bottom")
    for row in rows:
        table.add_row(*(column.cell(row) for column in columns))
    return table


def _fitting(columns: list[Column], rows: Sequence[Row], width: int) -> list[Column]:
    """Without those that can be spared; pairs of GPUs are named below, too."""

    def too_wide(kept: Sequence[Column]) -> bool:
        return sum(column.width(rows) + GAP for column in kept) - GAP > width

    spared = sorted((c for c in columns if c.spare is not None), key=lambda c: c.spare or 0)
    while too_wide(columns) and spared:
        one = spared.pop(0)
        columns = [column for column in columns if column is not one]
        if one.spare == LAST_BEFORE_LATENCIES and too_wide(columns):
            columns = [GPUS_BELOW if column.name == GPUS.name else column for column in columns]
    return columns


def difference_table(shown: Sequence[Row]) -> Table | None:
    """What rows differ in beside the columns of their table; None where in nothing."""
    axes = varied([*shown])
    if any(roles(row) for row in shown) and "mode" not in axes:
        axes.append("mode")
    if not axes:
        return None
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("#", justify="right")
    for axis in axes:
        table.add_column(axis)
    for number, row in enumerate(shown, 1):
        table.add_row(str(number), *(Text(axis_text(row, axis)) for axis in axes))
    return table


def _columns(result: Row, rows: Sequence[Row]) -> list[Column]:
    tied = has_tie(result["ranked"])
    numbers = [Column("#", lambda row: str(row["#"]))] if difference_table(rows) else []
    return [
        *numbers,
        GPUS,
        Column("", lambda row: _marks(row, tied=tied)),
        Column("tp·pp", lambda row: f"{row['tp']}·{row['pp']}"),
        Column("batch", lambda row: str(row["max_num_seqs"])),
        Column("tokens", lambda row: str(row["max_batched_tokens"])),
        Column("repl", _replicas),
        *_figures(result),
        Column("TTFT p90", lambda row: _seconds(row["metrics"]["ttft_s"]["p90"]), 6),
        Column("TBT p99", lambda row: milliseconds(row["metrics"]["tbt_s"]["p99"]) + " ms", 7),
        Column("E2E p90", lambda row: _seconds(row["metrics"]["e2e_s"]["p90"]), 3),
        Column("MFU", lambda row: "–" if row["mfu"] is None else f"{row['mfu']:.0%}", 2),
        Column("KV peak", lambda row: f"{row['kv_use']['peak']:.0%}", 1),
        Column("binds", lambda row: row["binds"]["slo"] or row["binds"]["resource"], 0, "left"),
    ]


LAST_BEFORE_LATENCIES = 5
GPUS = Column("SKU", lambda row: str(row["sku"]), None, "left")
GPUS_BELOW = Column("SKU", lambda row: "apart" if roles(row) else str(row["sku"]), None, "left")


def _figures(result: Row) -> list[Column]:
    """The rate, how sure it is, what the ranking is by, and prices."""
    objective, choice = result["question"].get("objective"), result["question"].get("robust")
    key = objective["key"] if objective else OBJECTIVES["qps_per_usd"].key
    title, form = FIGURES[key]
    by = Column(title, lambda row: format(row[key], form))
    if choice:
        by = Column(f"{choice}\n{title}", lambda row: format(row["robust"], form))
    per_dollar = Column("QPS/$h", lambda row: f"{row['qps_per_usd_hour']:.3f}", 4)
    return [
        Column("QPS", lambda row: f"{row['qps']:.2f}"),
        Column("±", _spread),
        by,
        *([] if by.name == per_dollar.name else [per_dollar]),
        Column("$/Mtok", lambda row: f"{row['usd_per_million_output_tokens']:.2f}", 5),
    ]


def _replicas(row: Row) -> str:
    """``2P3D`` where roles are apart."""
    return "".join(f"{p['replicas']}{name[0].upper()}" for name, p in roles(row)) or str(
        row["replicas"]
    )


def _spread(row: Row) -> str:
    """How far the farther end of the capacity's interval is; ``≤`` where others of its kind say it."""
    if row.get("qps_interval") is None:
        return "–"
    low, high = row["qps_interval"]
    of_others = "" if row.get("qps_draws") else "≤"
    return f"{of_others}{max(high / row['qps'] - 1, 1 - low / row['qps']):.0%}"


def has_tie(ranked: Sequence[Row]) -> bool:
    """Whether the best, which stands first, ties with another: a mark on it alone says nothing."""
    return any(row["tied_with_best"] for row in ranked[1:])


def _marks(row: Row, *, tied: bool) -> str:
    equal = tied and row["tied_with_best"]
    return ("=" if equal else " ") + ("~" if grounded(row) < HALF else " ")


def grounded(row: Row) -> float:
    """Share of predicted time that measurements bear: taken as they are, or between them."""
    shares = row["time_by_source"]
    return float(sum(shares.get(name, 0.0) for name in ("measured", "imported", "interpolated")))


def milliseconds(value: float | None) -> str:
    return "–" if value is None else f"{value * 1e3:,.0f}"


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} s"


def infeasible_table(infeasible: Sequence[Row]) -> Table:
    """One line a placement, with its first reason and how many more settings fail."""
    grouped: dict[str, list[str]] = {}
    for miss in infeasible:
        grouped.setdefault(place(miss), []).append(miss["reason"])
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("cannot serve", no_wrap=not any("→" in where for where in grouped))
    table.add_column("why")
    for where, reasons in list(grouped.items())[:MAX_REASONS]:
        more = f" (and {len(reasons) - 1} more settings)" if len(reasons) > 1 else ""
        table.add_row(where, Text(reasons[0] + more))
    if len(grouped) > MAX_REASONS:
        table.add_row("…", f"{len(grouped) - MAX_REASONS} more")
    return table
