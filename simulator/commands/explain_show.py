"""An explanation as a person reads it in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from servecast.simulator.report.headline import binding, shape
from servecast.simulator.search.sensitivity import share_text

Row = dict[str, Any]
LEAST_SHARE = 0.005
"""Parts of the time below this are left out."""


def show_explained(result: Row, told: Row, console: Console) -> None:
    """Prints what `explain_job.explained` returns."""
    for each in told["steps_aside"]:
        row = result["ranked"][each["rank"] - 1]
        console.print(
            f"#{each['rank']}: {row['sku']}, {shape(row)}. {binding(row)}", highlight=False
        )
        for one in told["explanations"]:
            if one["rank"] == each["rank"]:
                _show_time(one, console, of_trace=len(result.get("workloads", ())) > 1)
        console.print()
        if each["changes"]:
            console.print(_changes(each["changes"], "one step aside"))
            console.print()
    if len(told["steps_aside"]) > 1:
        ranks = [each["rank"] for each in told["steps_aside"]]
        console.print(_changes(told["changes"], f"from #{ranks[0]} to #{ranks[1]}"))
        if times := _time_table(told["explanations"]):
            console.print()
            console.print(times)
    for what, reason in told["refused"]:
        console.print(f"{what}: cannot serve: {reason}", highlight=False)
    if told["unexplained"]:
        console.print(f"Where time goes is not told: {told['unexplained']}", highlight=False)


def _show_time(told: Row, console: Console, *, of_trace: bool) -> None:
    trace = f"{told['trace']}: " if of_trace else ""
    gpus = f"{_parts(told['gpu_time'])}; most of the work is {told['resource']}"
    console.print(f"{trace}GPU time: {gpus}.", highlight=False)
    console.print(f"{trace}Requests' time: {_parts(told['request_time'])}.", highlight=False)
    for price in told["shadow_prices"]:
        console.print(f"{trace}{price['text']}", highlight=False)


def _parts(shares: Row) -> str:
    largest = sorted(shares.items(), key=lambda item: -item[1])
    return ", ".join(
        f"{share:.0%} {name.replace('_', ' ')}" for name, share in largest if share >= LEAST_SHARE
    )


def _time_table(told: Sequence[Row]) -> Table | None:
    """Shares of the time side by side, and what a little more of each thing is worth to each."""
    if len(told) < 2:
        return None
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for each in told:
        table.add_column(f"#{each['rank']} {each['trace']}", justify="right")
    for kind, title in (("gpu_time", "GPUs"), ("request_time", "requests")):
        for name in dict.fromkeys(name for each in told for name in each[kind]):
            cells = (f"{each[kind].get(name, 0.0):.1%}" for each in told)
            table.add_row(f"{title}: {name.replace('_', ' ')}", *cells)
    prices = [{p["input"]: p for p in each["shadow_prices"]} for each in told]
    for name, price in prices[0].items():
        cells = (share_text(each[name]["qps"]) if name in each else "–" for each in prices)
        table.add_row(f"QPS with {name} {price['change']}", *cells)
    return table


def _changes(changes: Sequence[Row], title: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(title)
    for name in ("QPS/$h", "QPS", "$/h", "TTFT p90", "TBT p99", "E2E p90"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in changes:
        ratios = (each["qps_per_usd"], each["qps"], each["usd_per_hour"])
        seconds = (each["ttft_p90_s"], each["tbt_p99_s"], each["e2e_p90_s"])
        cells = [*(f"{ratio:+.0%}" for ratio in ratios), *(f"{1e3 * s:+,.0f} ms" for s in seconds)]
        table.add_row(each["axes"] or "nothing", *cells)
    return table
