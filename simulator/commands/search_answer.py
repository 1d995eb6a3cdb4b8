"""The answer as a person reads it in a terminal: one sentence, a table, and what cannot run."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from servecast.simulator.report.headline import binding, carrying, headline, shape
from servecast.simulator.search.confidence import CONTENDER
from servecast.simulator.search.sensitivity import share_text

Row = dict[str, Any]
MAX_ROWS = 12
MAX_REASONS = 8
MAX_TIES = 3
TIMES = {0.8: "8 times in 10", 0.9: "9 times in 10", 0.95: "19 in 20", 0.99: "99 in 100"}
"""How a confidence reads."""
HALF = 0.5
"""Below this share of measured time a configuration is marked as resting on estimates."""


def show(result: Row, console: Console, *, rows: int = MAX_ROWS) -> None:
    """Prints the JSON object of ``docs/results.md``."""
    if not result.get("complete", True):
        console.print("Stopped: this is the best so far.", style="bold yellow")
    console.print(headline(result), style="bold", highlight=False)
    if result["best"]:
        best = result["best"]
        cost = f"${best['usd_per_million_output_tokens']:.2f} per million output tokens"
        console.print(f"{shape(best)}; {cost}. {binding(best)}", highlight=False)
        if sure := carrying(result):
            console.print(sure, highlight=False)
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
        tied = has_tie(result["ranked"])
        shown = result["ranked"][:rows]
        console.print(_ranked_table(shown, tied=tied, wide=console.width >= 118))
        hidden = len(result["ranked"]) - rows
        if hidden > 0:
            console.print(f"… and {hidden} more; --json or --out has all of them", style="dim")
        console.print(_provenance_line(best, tied=tied), highlight=False)
        for tie in result.get("ties", ())[:MAX_TIES]:
            console.print(f"tie: {tie['text']}", highlight=False)
        if best["qps_interval"] is not None and (more := result.get("undrawn")):
            near = f"{more} more within {1 - CONTENDER:.0%} of the best"
            console.print(f"{near} have no interval: any may be as good", highlight=False)
    if result["infeasible"]:
        console.print()
        console.print(_infeasible_table(result["infeasible"]))
    for note in result["provenance"]["notes"]:
        console.print(f"note: {note}", style="dim", highlight=False)


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
    for constraint, count in space["refused"].items():
        console.print(f"{count:,} refused by {constraint}", highlight=False)
    if space["infeasible"]:
        console.print()
        console.print(_infeasible_table(space["infeasible"]))


def _placed(space: Row) -> str:
    """``4 placements and 8 pairs for prefill and decode``."""
    counts = {"placements": space["placements"], "pairs for prefill and decode": space["pairs"]}
    said = [f"{count} {what}" for what, count in counts.items() if count]
    return " and ".join(said or ["no placement"])


def _gpus(question: Row) -> str:
    """``16 GPUs at most, 4 of them l40s``."""
    stock = [f"{count} of them {sku}" for sku, count in question["stock"].items()]
    nodes = ["by whole nodes"] if question["whole_nodes"] else []
    return ", ".join([f"{question['max_gpus']} GPUs at most", *stock, *nodes])


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
        cells = [_ms(metrics[key][at]) for metrics in shown.values() for at in AT]
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


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value * 1e3:,.0f}"


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} s"


def _ranked_table(ranked: list[Row], *, tied: bool, wide: bool) -> Table:
    """Narrow terminals get the columns a decision needs; wide ones all of them."""
    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold")
    columns = ["SKU", "", "tp·pp", "batch", "tokens", "repl", "QPS", "QPS/$h", "$/Mtok"]
    columns += ["TTFT p90", "TBT p99"]
    if wide:
        columns += ["E2E p90", "MFU", "KV peak", "binds"]
    for name in columns:
        table.add_column(
            name, justify="left" if name in ("SKU", "binds") else "right", no_wrap=True
        )
    for row in ranked:
        table.add_row(*_cells(row, tied=tied, wide=wide))
    return table


def has_tie(ranked: list[Row]) -> bool:
    """Whether the best, which stands first, ties with another: a mark on it alone says nothing."""
    return any(row["tied_with_best"] for row in ranked[1:])


def _cells(row: Row, *, tied: bool, wide: bool) -> list[str]:
    metrics = row["metrics"]
    cells = [
        row["sku"],
        _marks(row, tied=tied),
        f"{row['tp']}·{row['pp']}",
        str(row["max_num_seqs"]),
        str(row["max_batched_tokens"]),
        str(row["replicas"]),
        f"{row['qps']:.2f}",
        f"{row['qps_per_usd_hour']:.3f}",
        f"{row['usd_per_million_output_tokens']:.2f}",
        _seconds(metrics["ttft_s"]["p90"]),
        _ms(metrics["tbt_s"]["p99"]) + " ms",
    ]
    if wide:
        mfu = "–" if row["mfu"] is None else f"{row['mfu']:.0%}"
        binding = row["binds"]["slo"] or row["binds"]["resource"]
        cells += [_seconds(metrics["e2e_s"]["p90"]), mfu, f"{row['kv_use']['peak']:.0%}", binding]
    return cells


def _marks(row: Row, *, tied: bool) -> str:
    equal = tied and row["tied_with_best"]
    return ("=" if equal else " ") + ("~" if grounded(row) < HALF else " ")


def grounded(row: Row) -> float:
    """Share of predicted time that measurements bear: taken as they are, or between them."""
    shares = row["time_by_source"]
    return float(sum(shares.get(name, 0.0) for name in ("measured", "imported", "interpolated")))


def _provenance_line(best: Row, *, tied: bool) -> str:
    shares = sorted(best["time_by_source"].items(), key=lambda item: -item[1])
    parts = ", ".join(f"{share:.0%} {source}" for source, share in shares if share >= 0.005)
    marks = "= not told apart from the best. " if tied else ""
    marks += "~ most of its time is from the datasheet or extrapolated. "
    return f"{marks}Latencies are those when full, at QPS. Predicted time of the best: {parts}."


def _infeasible_table(infeasible: list[Row]) -> Table:
    """One line a placement, with its first reason and how many more settings fail."""
    grouped: dict[tuple[str, int, int], list[str]] = {}
    for miss in infeasible:
        grouped.setdefault((miss["sku"], miss["tp"], miss["pp"]), []).append(miss["reason"])
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("cannot serve", no_wrap=True)
    table.add_column("why")
    for (sku, tp, pp), reasons in list(grouped.items())[:MAX_REASONS]:
        more = f" (and {len(reasons) - 1} more settings)" if len(reasons) > 1 else ""
        table.add_row(f"{sku} tp{tp} pp{pp}", Text(reasons[0] + more))
    if len(grouped) > MAX_REASONS:
        table.add_row("…", f"{len(grouped) - MAX_REASONS} more")
    return table
