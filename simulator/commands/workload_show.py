"""A workload as a person reads it in a terminal: its numbers, and bars of its arrivals and lengths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

Row = dict[str, Any]

BARS = " ▁▂▃▄▅▆▇█"
MAX_BARS = 60
MAX_LENGTH_BARS = 30


def show_workload(row: Row, console: Console) -> None:
    """Prints what `workload_job.describe_workload` returns."""
    rate = (
        "no rate" if row["rate_per_s"] is None else f"{row['rate_per_s']:.4g} requests per second"
    )
    title = f"{row['name']}: {row['num_requests']:,} requests over {row['span_s']:,.0f} s, {rate}"
    console.print(title, style="bold", highlight=False)
    if row["kind"]:
        assumed = f". Assumed: {row['kind']['assumed']}" if row["kind"]["assumed"] else ""
        console.print(f"From {row['kind']['source']}{assumed}.", style="dim", highlight=False)
    console.print(_lengths(row))
    for line in _sentences(row):
        console.print(line, highlight=False)
    for reason, count in row["rejected"].items():
        console.print(f"{count:,} rows left out: {reason}", style="yellow", highlight=False)


def show_kinds(kinds: Sequence[Row], console: Console) -> None:
    """Prints what `workload_job.describe_kinds` returns."""
    for kind in kinds:
        console.print(f"[bold]{kind['name']}[/bold]  {kind['says']}", highlight=False)
        for part in ("prompt", "output"):
            lengths = kind[part]
            console.print(
                f"    {part}: median {lengths['p50']:,.0f}, p90 {lengths['p90']:,.0f} tokens, "
                f"at most {lengths['most']:,}",
                highlight=False,
            )
        console.print(f"    {kind['source']}", style="dim", highlight=False)
        if kind["assumed"]:
            console.print(f"    assumed: {kind['assumed']}", style="dim", highlight=False)


def _lengths(row: Row) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("tokens")
    for name in ("mean", "p50", "p90", "p99", "max"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("shortest to longest (log)", no_wrap=True)
    for part in ("prompt", "output"):
        lengths, histogram = row[f"{part}_tokens"], row[f"{part}_histogram"]
        cells = [f"{lengths[name]:,.0f}" for name in ("mean", "p50", "p90", "p99", "max")]
        table.add_row(part, *cells, bars(histogram["counts"], MAX_LENGTH_BARS))
    return table


def _sentences(row: Row) -> list[str]:
    lines = [
        f"prompt per output token (P:D): {row['prompt_per_output']:.3g} in all, "
        f"{row['prompt_per_output_p50']:.3g} in the median request; "
        f"rank correlation of the two lengths: {_number(row['length_correlation'])}",
        f"gaps between arrivals: CV {_number(row['gap_cv'])}; dispersion of counts: "
        f"{_number(row['dispersion'])} (both are 1 for Poisson)",
    ]
    if row["prefix"]:
        prefix = row["prefix"]
        lines.append(
            f"prefixes: a cache without limit would hold {prefix['token_share']:.0%} of the prompt tokens; "
            f"{prefix['request_share']:.0%} of the requests hit it "
            f"({prefix['distinct_blocks']:,} blocks of {prefix['block_tokens']})"
        )
    if row["arrivals"]:
        lines.append(f"arrivals over time  {bars(row['arrivals']['counts'])}")
    return lines


def _number(value: float | None) -> str:
    return "not known" if value is None else f"{value:.2f}"


def bars(counts: Sequence[int], most: int = MAX_BARS) -> str:
    """One character a count, neighbours added up where there are too many; any request shows."""
    each = -(-len(counts) // most)
    sums = [sum(counts[i : i + each]) for i in range(0, len(counts), each)]
    highest = max(sums)
    return "".join(BARS[-(-count * (len(BARS) - 1) // highest)] for count in sums)
