"""What the report draws, computed from a search result: Pareto charts, heat map, stacked bars. No markup."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from servecast.compiler.catalog import parse_slo
from servecast.compiler.service import Slo
from servecast.simulator.report.charts import Axis, Point, Scatter, scatter
from servecast.simulator.report.text import (
    number,
    percent,
    seconds,
    size,
    tick_number,
    tick_seconds,
)
from servecast.simulator.report.view import MAX_ROWS, STATISTICS, Row, statistic

VALUE_AXIS = Axis("requests per second per $/hour (more is better)", tick_number)


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a stacked bar."""

    name: str
    share: float
    text: str


@dataclass(frozen=True, slots=True)
class HeatMap:
    """Requests per dollar of one placement by batch limit (rows) and token budget (columns)."""

    title: str
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    cells: Mapping[tuple[int, int], Row]
    best: float


def pareto_charts(result: Row) -> list[Scatter]:
    """TTFT and TBT against requests per dollar, and against each other."""
    ranked = result["ranked"][:MAX_ROWS]
    slos = [parse_slo(text) for text in result["question"]["slos"]]
    ttft, tbt = (_latency_axis(metric, slos) for metric in ("ttft", "tbt"))
    charts = [
        _scatter("ttft", f"{ttft[1].title} against value for money", ranked, None, ttft),
        _scatter("tbt", f"{tbt[1].title} against value for money", ranked, None, tbt),
        _scatter("latency", f"{ttft[1].title} against {tbt[1].title}", ranked, ttft, tbt),
    ]
    return [chart for chart in charts if chart is not None]


LatencyAxis = tuple[tuple[str, str], Axis]


def _latency_axis(metric: str, slos: list[Slo]) -> LatencyAxis:
    """The statistic that a target names, else p90, and the axis that shows it."""
    asked = next(
        (slo for slo in slos if slo.metric == metric and statistic(slo) in STATISTICS), None
    )
    key = "p90" if asked is None else statistic(asked)
    limit = None if asked is None else asked.limit_s
    return (f"{metric}_s", key), Axis(f"{metric.upper()} {key}", tick_seconds, limit)


def _scatter(
    key: str,
    title: str,
    ranked: list[Row],
    across: LatencyAxis | None,
    up: LatencyAxis,
) -> Scatter | None:
    points = []
    for index, row in enumerate(ranked):
        y = row["metrics"][up[0][0]].get(up[0][1])
        x = row["qps_per_usd_hour"]
        if across is not None:
            x = row["metrics"][across[0][0]].get(across[0][1])
        if x is not None and y is not None:
            points.append(Point(x, y, index, row["sku"], _label(index, row)))
    x_axis = across[1] if across else VALUE_AXIS
    return scatter(key, title, points, x_axis, up[1], more_x_is_better=across is None)


def _label(index: int, row: Row) -> str:
    return (
        f"#{index + 1} {row['sku']} TP {row['tp']} PP {row['pp']}, {row['max_num_seqs']} seqs, "
        f"{row['max_batched_tokens']} tokens: {number(row['qps_per_usd_hour'])} per $/h, "
        f"TTFT p90 {seconds(row['metrics']['ttft_s']['p90'])}, "
        f"TBT p99 {seconds(row['metrics']['tbt_s']['p99'])}"
    )


def heat_map(result: Row) -> HeatMap | None:
    """The best placement's batch settings; None where only one was tried."""
    best = result["best"]
    place = ("sku", "tp", "pp")
    rows = [r for r in result["ranked"] if all(r[key] == best[key] for key in place)]
    if len(rows) < 2:
        return None
    cells = {(row["max_num_seqs"], row["max_batched_tokens"]): row for row in rows}
    return HeatMap(
        title=f"{best['sku']}, TP {best['tp']}, PP {best['pp']}",
        rows=tuple(sorted({seqs for seqs, _ in cells})),
        columns=tuple(sorted({tokens for _, tokens in cells})),
        cells=cells,
        best=best["qps_per_usd_hour"],
    )


def memory_parts(memory: Row) -> list[Part]:
    """The terms of the memory plan and what they leave of the GPU, largest first."""
    terms = {name.removesuffix("_bytes"): value for name, value in memory["terms"].items()}
    terms["KV cache"] = memory["kv_bytes"]
    total = max(memory["total_bytes"], sum(terms.values()))
    shown = sorted(terms.items(), key=lambda item: -item[1])
    shown.append(("not used", total - sum(terms.values())))
    return [
        Part(name.replace("_", " "), value / total, size(value)) for name, value in shown if value
    ]


def source_parts(sources: Mapping[str, float]) -> list[Part]:
    """Where the predicted time comes from, most first."""
    shown = sorted(sources.items(), key=lambda item: (-item[1], item[0]))
    return [Part(name, share, percent(share)) for name, share in shown if share > 0]
