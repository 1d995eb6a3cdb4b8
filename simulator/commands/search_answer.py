"""The answer as a person reads it in a terminal: one sentence, a table, and what cannot run."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from servecast.simulator.commands.ranked_table import (
    HALF,
    difference_table,
    grounded,
    has_tie,
    infeasible_table,
    milliseconds,
    ranked_table,
)
from servecast.simulator.report.headline import (
    binding,
    carrying,
    cheaper_tie,
    headline,
    shape,
    worst_trace,
)
from servecast.simulator.report.text import plural
from servecast.simulator.search.confidence import CONTENDER
from servecast.simulator.search.sensitivity import share_text

Row = dict[str, Any]
MAX_ROWS = 12
MAX_TIES = 3
TIMES = {0.8: "8 times in 10", 0.9: "9 times in 10", 0.95: "19 in 20", 0.99: "99 in 100"}
"""How a confidence reads."""


def show(result: Row, console: Console, *, rows: int = MAX_ROWS) -> None:
    """Prints the JSON object of ``docs/results.md``."""
    if not result.get("complete", True):
        console.print("Stopped: this is the best so far.", style="bold yellow")
    console.print(headline(result), style="bold", highlight=False)
    if result["best"]:
        best = result["best"]
        cost = f"${best['usd_per_million_output_tokens']:.2f} per million output tokens"
        console.print(f"{shape(best)}; {cost}. {binding(best)}", highlight=False)
        for said in filter(None, (carrying(result), cheaper_tie(result), worst_trace(best))):
            console.print(said, highlight=False)
        if grounded(best) < HALF:
            console.print(
                f"Only {grounded(best):.0%} of its predicted time rests on measurements of "
                f"{best['sku']}: profile it before you rely on this.",
                style="bold yellow",
            )
        console.print()
        console.print(_latency_table(best))
        console.print(_use_line(best, result["question"]["confidence"]), highlight=False)
        _show_explanation(result.get("explanation"), console)
        console.print()
        _show_ranking(result, console, rows)
    if result["infeasible"]:
        console.print()
        console.print(infeasible_table(result["infeasible"]))
    for note in result["provenance"]["notes"]:
        console.print(f"note: {note}", style="dim", highlight=False)


def _show_ranking(result: Row, console: Console, rows: int) -> None:
    """The table, what else its rows differ in, and what ties."""
    objective = result["question"].get("objective")
    if objective and objective["key"] != "qps_per_usd_hour":
        console.print(f"Ranked by {objective['says']}.", highlight=False)
    tied = has_tie(result["ranked"])
    shown = result["ranked"][:rows]
    console.print(ranked_table(result, shown, console.width))
    hidden = len(result["ranked"]) - rows
    if hidden > 0:
        console.print(f"… and {hidden} more; --json or --out has all of them", style="dim")
    if others := difference_table(shown):
        console.print()
        console.print(others)
        console.print()
    console.print(_provenance_line(result, tied=tied), highlight=False)
    for tie in result.get("ties", ())[:MAX_TIES]:
        console.print(f"tie: {tie['text']}", highlight=False)
    if result["best"]["qps_interval"] is not None and (more := result.get("undrawn")):
        near = f"{more} more within {1 - CONTENDER:.0%} of the best"
        how = "under each trace" if result.get("workloads") else "but others of their kind"
        console.print(f"{near} were not drawn {how}: --draw-all does it", highlight=False)


def show_space(space: Row, console: Console) -> None:
    """Prints what a search would try: the JSON object of ``--dry-run``."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("axis", "values", ""):
        table.add_column(name, justify="right" if name == "" else "left")
    for axis, values in space["question"]["axes"].items():
        if values:
            table.add_row(axis, ", ".join(map(str, values)), str(len(values)))
    table.add_row("replicas", f"found: what the trace needs, of {_gpus(space['question'])}", "")
    console.print(table)
    console.print(
        f"{space['configurations']:,} configurations, {space['to_search']:,} of them to search, "
        f"on {_placed(space)}",
        highlight=False,
    )
    for trace in space.get("traces", ()):
        console.print(f"under {trace['name']}: {trace['to_search']:,} to search", highlight=False)
    for constraint, count in space["refused"].items():
        console.print(f"{count:,} refused by {constraint}", highlight=False)
    if space["infeasible"]:
        console.print()
        console.print(infeasible_table(space["infeasible"]))


def _placed(space: Row) -> str:
    """``4 placements and 8 pairs for prefill and decode``."""
    placements, pairs = space["placements"], space["pairs"]
    said = [plural(placements, "placement")] if placements else []
    said += [f"{plural(pairs, 'pair')} for prefill and decode"] if pairs else []
    return " and ".join(said or ["no placement"])


def _gpus(question: Row) -> str:
    """``16 GPUs at most, 4 of them l40s``."""
    most = plural(question["max_gpus"], "GPU")
    stock = [f"{count} of them {sku}" for sku, count in question["stock"].items()]
    nodes = ["by whole nodes"] if question["whole_nodes"] else []
    return ", ".join([f"{most} at most", *stock, *nodes])


LATENCIES = {
    "TTFT": "ttft_s",
    "TBT": "tbt_s",
    "TPOT": "tpot_s",
    "E2E": "e2e_s",
    "queue": "queue_delay_s",
}
AT = ("p50", "p90", "p99", "mean")


def _latency_table(best: Row) -> Table:
    """The best configuration's latencies under the trace as it is, and when full."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("\nms")
    loads = {"trace": best.get("at_trace_rate"), "full": best}
    shown = {load: row["metrics"] for load, row in loads.items() if row}
    for load in shown:
        for name in AT:
            table.add_column(f"{load}\n{name}", justify="right", no_wrap=True)
    for name, key in LATENCIES.items():
        cells = [milliseconds(metrics[key][at]) for metrics in shown.values() for at in AT]
        table.add_row(name, *cells)
    return table


def _use_line(best: Row, confidence: float) -> str:
    kv = best["kv_use"]
    like = ""
    if best["qps_interval"] is not None:
        low, high = best["qps_interval"]
        like = f" ({low:.1f} to {high:.1f} under like traffic, {TIMES[confidence]})"
    mfu = "–" if best["mfu"] is None else f"{best['mfu']:.0%}"
    return (
        f"Full at {best['qps']:.2f} req/s{like}: GPUs busy {best['busy']:.0%}, MFU {mfu}, "
        f"mean batch {best['mean_batch']:.0f}, KV use {kv['mean']:.0%} (peak {kv['peak']:.0%}) of "
        f"{best['memory']['kv_blocks']:,} blocks a replica, {best['preemptions']} preemptions."
    )


def _show_explanation(told: Row | None, console: Console) -> None:
    """Where the time of the best goes, and what a little more of each thing is worth."""
    if told is None:
        return
    parts = ", ".join(
        f"{share:.0%} {name.replace('_', ' ')}"
        for name, share in sorted(told["gpu_time"].items(), key=lambda item: -item[1])
        if share >= 0.005
    )
    console.print(f"GPU time: {parts}; most of the work is {told['resource']}.", highlight=False)
    prices = "; ".join(
        f"{price['input']} {price['change']}: {share_text(price['qps'])}"
        for price in told["shadow_prices"]
    )
    console.print(f"Requests per dollar with {prices}.", highlight=False)


def _provenance_line(result: Row, *, tied: bool) -> str:
    best, confidence = result["best"], result["question"]["confidence"]
    shares = sorted(best["time_by_source"].items(), key=lambda item: -item[1])
    parts = ", ".join(f"{share:.0%} {source}" for source, share in shares if share >= 0.005)
    marks = "= not told apart from the best. " if tied else ""
    if best["qps_interval"] is not None:
        marks += f"± how far off QPS may be, {TIMES[confidence]}; ≤ as the widest of its kind. "
    marks += "~ most of its time is from the datasheet or extrapolated. "
    return f"{marks}Latencies are those when full, at QPS. Predicted time of the best: {parts}."
