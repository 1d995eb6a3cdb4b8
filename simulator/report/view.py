"""What the report says, computed from a search result: sentences, tiles, tables. No markup."""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import dataclass
from typing import Any

from servecast.compiler.service import Slo
from servecast.simulator.deploy.engines import Command, vllm_command
from servecast.simulator.metrics.classes import slo_of
from servecast.simulator.report.headline import carrying, cheaper_tie, degrees, place, roles
from servecast.simulator.report.text import number, percent, plural, seconds, usd
from servecast.simulator.search.confidence import DEFAULT_CONFIDENCE

Row = dict[str, Any]

MAX_ROWS = 1_000
"""Rows of the ranking in the page, which keeps it below 3 MB; the result file has all of them."""

MEASURED = ("measured", "imported")
ESTIMATED = {
    "interpolated": "lies between measured shapes",
    "extrapolated": "beyond them",
    "analytical": "rests on the data sheet",
}
METRIC_NAMES = {
    "ttft": "Time to first token (TTFT)",
    "tbt": "Time between tokens (TBT)",
    "tpot": "Time per output token (TPOT)",
    "e2e": "Request latency (E2E)",
    "queue_delay": "Queue delay",
}
MORE_AXES = ("precision", "ep", "dp", "policy", "router", "mode")
"""What a configuration may differ in beside GPU, tp, pp and batch limits."""
STATISTICS = ("p50", "p90", "p95", "p99", "max", "mean")


@dataclass(frozen=True, slots=True)
class Tile:
    value: str
    label: str


@dataclass(frozen=True, slots=True)
class TargetRow:
    """One latency target and what the best configuration makes of it; shares of the limit for bars."""

    target: str
    limit: str
    at_capacity: str
    at_capacity_share: float | None
    at_trace_rate: str
    at_trace_rate_share: float | None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Configurations that cannot serve for one reason."""

    where: str
    settings: int
    reason: str


def interval(row: Row) -> str | None:
    """The capacity under like workloads, in requests per second; None where not computed.

    ``within`` the widest of its kind, where nobody drew this one.
    """
    bounds = row.get("qps_interval")
    if bounds is None:
        return None
    return f"{'within ' if _is_borrowed(row) else ''}{number(bounds[0])} to {number(bounds[1])}"


def has_borrowed(ranked: list[Row]) -> bool:
    """Whether there are intervals of others of the kind."""
    return any(map(_is_borrowed, ranked))


def _is_borrowed(row: Row) -> bool:
    return row.get("qps_interval") is not None and row.get("qps_draws", True) is None


def asked(result: Row) -> str:
    """The confidence of intervals and ties."""
    return percent(result["question"].get("confidence", DEFAULT_CONFIDENCE))


def confidence(result: Row) -> list[str]:
    """What the recommendation rests on, one sentence each."""
    best, ranked = result["best"], result["ranked"]
    sources = best["time_by_source"]
    known = sum(sources.get(name, 0.0) for name in MEASURED)
    said = [f"Of the predicted time {percent(known)} is of kernels measured at that very shape"]
    said += [
        f"{percent(sources[name])} {text}" for name, text in ESTIMATED.items() if sources.get(name)
    ]
    sentences = [", ".join(said) + "."]
    if interval(best):
        sentences.append(f"Like workloads have capacities of {interval(best)} requests per second.")
    sentences += filter(None, (carrying(result), cheaper_tie(result)))
    tied = sum(bool(row.get("tied_with_best")) for row in ranked[1:])
    if tied:
        verb = "is" if tied == 1 else "are"
        sentences.append(
            f"{plural(tied, 'other configuration')} {verb} as good per dollar at {asked(result)} confidence."
        )
    return sentences


def tiles(best: Row) -> list[Tile]:
    """The six numbers of the first screen."""
    metrics = best["metrics"]
    return [
        Tile(usd(best["usd_per_hour"]), "per hour"),
        Tile(usd(best["usd_per_million_output_tokens"]), "per million output tokens"),
        Tile(number(best["qps"]), "requests per second at capacity"),
        Tile(seconds(metrics["ttft_s"]["p90"]), "TTFT p90 at capacity"),
        Tile(seconds(metrics["tbt_s"]["p99"]), "TBT p99 at capacity"),
        Tile(percent(best.get("mfu")), "model FLOPs utilisation"),
    ]


def statistic(slo: Slo) -> str:
    """The name of a target's statistic in the result's distributions."""
    return "mean" if slo.percentile is None else f"p{slo.percentile:g}"


def targets(result: Row) -> list[TargetRow]:
    """Each target beside what the best configuration does at capacity and at the trace's rate."""
    best = result["best"]
    at_rate = best.get("at_trace_rate", {}).get("metrics", {})
    rows = []
    for slo in map(slo_of, result["question"]["slos"]):
        name, key = f"{slo.metric}_s", statistic(slo)
        whose = "" if slo.priority is None else f"class {slo.priority}: "
        told = slo.priority is None  # a result holds latencies of all requests
        capacity_s = best["metrics"][name].get(key) if told else None
        trace_s = at_rate.get(name, {}).get(key) if told else None
        rows.append(
            TargetRow(
                target=f"{whose}{METRIC_NAMES[slo.metric]} {key}",
                limit=seconds(slo.limit_s),
                at_capacity=seconds(capacity_s),
                at_capacity_share=None if capacity_s is None else capacity_s / slo.limit_s,
                at_trace_rate=seconds(trace_s),
                at_trace_rate_share=None if trace_s is None else trace_s / slo.limit_s,
            )
        )
    return rows


def varied(rows: list[Row]) -> list[str]:
    """Axes beside the usual ones by which the configurations differ."""
    return [axis for axis in MORE_AXES if len({row.get(axis) for row in rows}) > 1]


def axis_text(row: Row, axis: str) -> str:
    """An axis of a configuration; of the mode also what each role runs on."""
    parts = roles(row)
    if axis != "mode" or not parts:
        return str(row.get(axis, ""))
    places = (f"{p['replicas']} × {p['sku']} {degrees(p)}" for _, p in parts)
    return "; ".join(f"{name} {place}" for (name, _), place in zip(parts, places, strict=True))


def refusals(infeasible: list[Row]) -> list[Refusal]:
    """The configurations that cannot serve, those of one placement and one reason together."""

    counted = Counter((place(row), row["reason"]) for row in infeasible)
    return [Refusal(where, times, reason) for (where, reason), times in counted.items()]


def reproduce(result: Row) -> str | None:
    """The command that gave this result, as a shell takes it."""
    command = result["provenance"].get("command")
    if not command:
        return None
    return command if isinstance(command, str) else shlex.join(str(part) for part in command)


def deploy(result: Row) -> str:
    """The engine's command line for one replica of the best configuration, or of each role."""
    best, model = result["best"], result["question"]["model"]
    parts = roles(best)
    if not parts:
        return _lines(vllm_command(best, model))
    return "\n".join(
        f"# {name}\n{_lines(vllm_command({**part, 'role': name}, model))}" for name, part in parts
    )


def _lines(command: Command) -> str:
    """One option a line."""
    every = [command.program, *command.options]
    return " \\\n    ".join(shlex.join(words) for words in every)
