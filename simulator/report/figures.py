"""What the report draws, computed from a search result: Pareto charts, heat map, stacked bars. No markup."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from servecast.compiler.service import Slo
from servecast.simulator.metrics.classes import slo_of
from servecast.simulator.report.charts import Axis, Cloud, Point, Scatter, scale_json, scatter
from servecast.simulator.report.headline import roles
from servecast.simulator.report.panels import Numbers
from servecast.simulator.report.text import (
    number,
    percent,
    seconds,
    size,
    tick_number,
    tick_seconds,
    usd,
)
from servecast.simulator.report.view import (
    MAX_ROWS,
    MORE_AXES,
    STATISTICS,
    Row,
    axis_text,
    statistic,
    varied,
)

NOT_USED = "not used"
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


def pareto_clouds(result: Row) -> list[Cloud]:
    """TTFT and TBT against requests per dollar, and against each other; empty ones are left out."""
    ranked = result["ranked"][:MAX_ROWS]
    slos = [slo_of(text) for text in result["question"]["slos"]]
    value = Quantity(VALUE_AXIS, lambda row: row["qps_per_usd_hour"])
    ttft, tbt = (_latency(metric, slos) for metric in ("ttft", "tbt"))
    clouds = [
        _cloud("ttft", f"{ttft.axis.title} against value for money", value, ttft, ranked),
        _cloud("tbt", f"{tbt.axis.title} against value for money", value, tbt, ranked),
        _cloud("latency", f"{ttft.axis.title} against {tbt.axis.title}", ttft, tbt, ranked),
    ]
    return [cloud for cloud in clouds if cloud.points]


def pareto_numbers(chart: Scatter, result: Row) -> dict[str, object]:
    """The data behind a Pareto chart, with what the page's script needs to zoom into it."""
    cloud = chart.cloud
    keys = ("sku", "tp", "pp", "max_num_seqs", "max_batched_tokens")
    rows = tuple(
        (
            point.row + 1,
            *(result["ranked"][point.row][key] for key in keys),
            point.x,
            *(point.x_interval or (None, None)),
            point.y,
        )
        for point in cloud.points
    )
    columns = ("rank", *keys, cloud.x.title, "low", "high", cloud.y.title)
    return {
        **Numbers(f"pareto-{cloud.key}", columns, rows).as_json(),
        "frontier": cloud.frontier(),
        "x": scale_json(chart.x, cloud.x),
        "y": scale_json(chart.y, cloud.y),
    }


def pareto_charts(result: Row) -> list[Scatter]:
    """The clouds laid out for the page."""
    return [scatter(cloud) for cloud in pareto_clouds(result)]


@dataclass(frozen=True, slots=True)
class Quantity:
    """One figure of a configuration, None where it does not exist, and the axis that shows it."""

    axis: Axis
    of: Callable[[Row], float | None]


def _latency(metric: str, slos: list[Slo]) -> Quantity:
    """The statistic that a target names, else p90."""
    asked = next(
        (
            s
            for s in slos
            if s.priority is None and s.metric == metric and statistic(s) in STATISTICS
        ),
        None,
    )
    key = "p90" if asked is None else statistic(asked)
    limit = None if asked is None else asked.limit_s
    axis = Axis(f"{metric.upper()} {key}", tick_seconds, limit)
    return Quantity(axis, lambda row: row["metrics"][f"{metric}_s"].get(key))


def _cloud(key: str, title: str, x: Quantity, y: Quantity, ranked: list[Row]) -> Cloud:
    placed = ((index, row, x.of(row), y.of(row)) for index, row in enumerate(ranked))
    axes = varied(ranked)
    per_dollar = x.axis is VALUE_AXIS  # where it is no axis, larger marks are better value
    best = max((row["qps_per_usd_hour"] for row in ranked), default=1.0)
    points = (
        Point(
            across,
            up,
            index,
            row["sku"],
            _label(index, row, axes),
            _value_interval(row) if per_dollar else None,
            1.0 if per_dollar else 0.5 + row["qps_per_usd_hour"] / best,
        )
        for index, row, across, up in placed
        if across and up  # neither absent nor 0, which no logarithmic axis has
    )
    return Cloud(key, title, x.axis, y.axis, per_dollar, tuple(points))


def _value_interval(row: Row) -> tuple[float, float] | None:
    """The capacity's interval as requests per dollar; the price has none."""
    bounds = row.get("qps_interval")
    if bounds is None:
        return None
    per_qps = row["qps_per_usd_hour"] / row["qps"]
    return bounds[0] * per_qps, bounds[1] * per_qps


def _label(index: int, row: Row, axes: list[str]) -> str:
    more = "".join(f", {axis} {axis_text(row, axis)}" for axis in axes)
    return (
        f"#{index + 1} {row['sku']} TP {row['tp']} PP {row['pp']}, {row['max_num_seqs']} seqs, "
        f"{row['max_batched_tokens']} tokens{more}: {number(row['qps_per_usd_hour'])} per $/h, "
        f"TTFT p90 {seconds(row['metrics']['ttft_s']['p90'])}, "
        f"TBT p99 {seconds(row['metrics']['tbt_s']['p99'])}"
    )


def heat_map(result: Row) -> HeatMap | None:
    """The best placement's batch settings; None where only one was tried, or each role has its own."""
    best = result["best"]
    place = ("sku", "tp", "pp", *MORE_AXES)
    rows = [r for r in result["ranked"] if all(r.get(key) == best.get(key) for key in place)]
    if len(rows) < 2 or roles(best):
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
    shown.append((NOT_USED, total - sum(terms.values())))
    return [
        Part(name.replace("_", " "), value / total, size(value)) for name, value in shown if value
    ]


def time_parts(result: Row, of: str) -> list[Part]:
    """What ``request_time`` or ``gpu_time`` goes to, most first; empty where the result does not tell."""
    shares = (result.get("explanation") or {}).get(of) or {}
    return source_parts({name.replace("_", " "): share for name, share in shares.items()})


def money_parts(result: Row) -> list[Part]:
    """What the price pays for: the trace as it is, and the headroom up to capacity."""
    best, rate = result["best"], result["workload"].get("rate_per_s")
    if not rate:
        return []
    used = min(rate / best["qps"], 1.0)
    price = best["usd_per_hour"]
    parts = [Part("carries the trace", used, f"{usd(used * price)} an hour")]
    if used < 1:
        parts.append(Part("headroom", 1 - used, f"{usd((1 - used) * price)} an hour"))
    return parts


def source_parts(sources: Mapping[str, float]) -> list[Part]:
    """Where the predicted time comes from, most first."""
    shown = sorted(sources.items(), key=lambda item: (-item[1], item[0]))
    return [Part(name, share, percent(share)) for name, share in shown if share > 0]


def part_numbers(parts: list[Part], name: str) -> Numbers:
    """The data behind a stacked bar."""
    rows = tuple((part.name, part.share, part.text) for part in parts)
    return Numbers(name, ("part", "share", "amount"), rows)
