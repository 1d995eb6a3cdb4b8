"""The report's drawings beside the Pareto charts: latencies, prices, sensitivity, traffic. No markup."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from servecast.simulator.metrics.classes import slo_of
from servecast.simulator.report.charts import Axis
from servecast.simulator.report.check import METRICS
from servecast.simulator.report.panels import (
    Bar,
    Numbers,
    Panel,
    Reading,
    bars,
    curve,
    histogram,
)
from servecast.simulator.report.text import (
    number,
    seconds,
    tick_number,
    tick_seconds,
    tick_usd,
    usd,
)
from servecast.simulator.report.view import STATISTICS, Row

LOADS = ("capacity", "trace’s rate")
USD = "usd_per_million_output_tokens"
DRAWN = ("p50", "p90", "p99")
"""The statistics of a latency that its bar shows."""
SHORT = {"queue_delay": "queue delay"}


def latency_panel(best: Row) -> Panel | None:
    """Each latency from its median to its p90 (thick) and p99 (thin), at both loads."""
    found = [best, best.get("at_trace_rate") or {}]
    rows = []
    for metric in METRICS:
        own = [
            _latency_bar(load.get("metrics", {}).get(metric) or {}, load, metric, place)
            for place, load in enumerate(found)
        ]
        drawn = [bar for bar in own if bar is not None]
        if drawn:
            rows.append((_short(metric), drawn))
    axis = Axis("median (tick), to p90 (thick) and p99 (thin)", tick_seconds)
    title = "Latency at capacity and at the trace’s rate"
    return bars(title, axis, rows, latency_numbers(best)) if rows else None


def _short(metric: str) -> str:
    name = metric.removesuffix("_s")
    return SHORT.get(name, name.upper())


def _latency_bar(values: Row, load: Row, metric: str, place: int) -> Bar | None:
    p50, p90, p99 = (values.get(key) for key in DRAWN)
    start = p50 or p90  # a median of 0 has no place on a logarithmic axis
    if not start or p90 is None or p99 is None:
        return None
    said = f"median {seconds(p50)}, p90 {seconds(p90)}, p99 {seconds(p99)}"
    title = f"{_short(metric)} at {LOADS[place]}: {said}"
    bounds = tuple(
        (pair[0], pair[1])
        for key, pair in _intervals(load, metric).items()
        if key in DRAWN and pair and pair[0] > 0
    )
    return Bar(start, p99, max(p90, start), start, place, title, bounds)


def _intervals(load: Row, metric: str) -> Mapping[str, Any]:
    """Statistics of a latency with their 90 % intervals, where the result has them."""
    return (load.get("intervals") or {}).get(metric) or {}


def latency_numbers(best: Row) -> Numbers:
    """The table behind the drawing, with the intervals that exist."""
    rows: list[tuple[Any, ...]] = []
    for name, load in zip(LOADS, (best, best.get("at_trace_rate") or {}), strict=True):
        for metric in METRICS:
            values = load.get("metrics", {}).get(metric) or {}
            for key in STATISTICS:
                low, high = _intervals(load, metric).get(key) or (None, None)
                rows.append((metric.removesuffix("_s"), name, key, values.get(key), low, high))
    columns = ("metric", "load", "statistic", "seconds", "low_s", "high_s")
    return Numbers("latency", columns, tuple(rows))


COST = Axis("$ per million output tokens", tick_usd)


def slo_cost_panels(result: Row) -> list[Panel]:
    """What a tighter or looser target costs; empty where the result holds no such curve."""
    limits = {text.rsplit(" < ")[0]: slo_of(text).limit_s for text in result["question"]["slos"]}
    panels = []
    for each in _sensitivity(result).get("slo_cost") or ():
        name, points = each["slo"], sorted(each["points"], key=lambda point: point["limit_s"])
        reached = [_reading(point) for point in points if point.get(USD) is not None]
        if len(reached) > 1:
            keys = ("limit_s", USD, "at_most", "qps_per_usd_hour", "configuration")
            rows = tuple(tuple(point.get(key) for key in keys) for point in points)
            numbers = Numbers(f"slo-cost-{name.replace(':', '').replace(' ', '-')}", keys, rows)
            axes = Axis(f"limit of {name}", tick_seconds, limits.get(name)), COST
            panels.append(curve(f"What a limit of {name} costs", axes, reached, numbers))
    return panels


def _sensitivity(result: Row) -> Row:
    return result.get("sensitivity") or {}


def _reading(point: Row) -> Reading:
    bounds = None if point.get("low") is None else (point["low"], point["high"])
    most = "at most " if point.get("at_most") else ""
    price = f"{most}{usd(point[USD])} per million output tokens"
    title = f"{seconds(point['limit_s'])}: {price}, {point['configuration']}"
    return Reading(point["limit_s"], point[USD], bounds, title)


UNITS = {USD: "$ per million output tokens", "qps_per_usd_hour": "requests per second per $/hour"}


def tornado_panel(result: Row) -> Panel | None:
    """How far each input moves the recommendation, widest first; None where not computed."""
    found = _sensitivity(result)
    inputs = found.get("tornado") or []
    if not inputs:
        return None
    base, unit = found["tornado_base"], str(found["tornado_unit"])
    widest = sorted(inputs, key=lambda each: -abs(each["at_high"] - each["at_low"]))
    keys = ("input", "low", "high", "at_low", "at_high")
    numbers = Numbers("sensitivity", keys, tuple(tuple(e[key] for key in keys) for e in widest))
    rows = [(each["input"], _tornado_bars(each, base)) for each in widest]
    return bars("What moves it", Axis(UNITS.get(unit, unit), tick_number, base), rows, numbers)


def _tornado_bars(each: Row, base: float) -> list[Bar]:
    made = []
    for place, end in enumerate(("low", "high")):
        value = each[f"at_{end}"]
        start, stop = sorted((base, value))
        title = f"{each['input']} × {number(each[end])}: {number(value)}"
        made.append(Bar(start, stop, stop, value, place, title))
    return made


def workload_panels(workload: Row) -> list[Panel]:
    """Arrivals over time, and prompt and output lengths, as far as the result holds them."""
    panels = []
    arrivals = workload.get("arrivals")
    if arrivals and arrivals["counts"]:
        window_s, counts = arrivals["window_s"], arrivals["counts"]
        edges = [window_s * place for place in range(len(counts) + 1)]
        up = Axis(f"requests in {seconds(window_s)}", tick_number)
        axes = Axis("time since the first arrival", tick_seconds), up
        panels.append(histogram("Arrivals", axes, _counts("arrivals", edges, counts)))
    for name in ("prompt", "output"):
        found = workload.get(f"{name}_histogram")
        if found and found["counts"]:
            axes = Axis(f"{name} tokens of a request", tick_number), Axis("requests", tick_number)
            title = f"{name.capitalize()} lengths"
            numbers = _counts(name, found["edges"], found["counts"])
            panels.append(histogram(title, axes, numbers))
    return panels


def _counts(name: str, edges: list[float], counts: list[float]) -> Numbers:
    rows = tuple(zip(edges, edges[1:], counts, strict=False))
    return Numbers(f"{name}-histogram", ("from", "to", "requests"), rows)
