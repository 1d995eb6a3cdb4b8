"""A simulated run as a person reads it in a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console, JustifyMethod
from rich.table import Table

from servecast.simulator.report.text import number, percent, plural, seconds, usd
from servecast.simulator.report.view import METRIC_NAMES, STATISTICS

Row = dict[str, Any]
LEAST_SHARE = 0.005


def show(summary: Row, console: Console, *, notes: bool = True) -> None:
    """Prints the object of ``docs/simulate.md``."""
    console.print(headline(summary), style="bold", highlight=False)
    console.print(_latencies(summary["metrics"]))
    if summary["operators"]:
        console.print(_operators(summary["operators"]))
    told = summary["provenance"]["notes"] if notes else []
    lines = _pool_lines(summary) if "pools" in summary else _lines(summary)
    for line in (*lines, *told):
        console.print(line, highlight=False)


def headline(summary: Row) -> str:
    """What ran on what, and whether it kept up."""
    setup, requests = summary["configuration"], summary["requests"]
    kept = "keeps up" if summary["stable"] else "does not keep up: its queue grows"
    roles = [role for role in ("prefill", "decode") if role in setup]
    where = ", ".join(_replicas(setup[role], f"{role} ") for role in roles) or _replicas(setup)
    return (
        f"{setup['model']} on {where} {kept}: {plural(requests['finished'], 'request')} finished."
    )


def _replicas(setup: Row, role: str = "") -> str:
    count = plural(setup["replicas"], f"{role}replica")
    return f"{count} of {setup['sku']} (TP {setup['tp']}, PP {setup['pp']})"


def _latencies(metrics: Row) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for statistic in STATISTICS:
        table.add_column(statistic, justify="right", no_wrap=True)
    for name, title in METRIC_NAMES.items():
        values = metrics[f"{name}_s"]
        table.add_row(title, *(seconds(values[statistic]) for statistic in STATISTICS))
    return table


def _operators(rows: list[Row]) -> Table:
    """The longest first, until what is left is too little to print as a share."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("Operator", no_wrap=True)
    for name in ("kernel", "mean size", "", "calls", "time", "share", "MFU", "MBU"):
        justify: JustifyMethod = "left" if name in ("kernel", "") else "right"
        table.add_column(name, justify=justify, no_wrap=True)
    for row in rows:
        if row["share"] is None or row["share"] < LEAST_SHARE:
            break
        name = " ".join(filter(None, (row.get("pool"), row["operator"])))
        size = "-" if row["sizes"]["mean"] is None else number(row["sizes"]["mean"])
        used = (_share(row["mfu"]), _share(row["mbu"]))
        cells = (size, row["size_of"], f"{row['calls']:,}", seconds(row["time_s"]))
        table.add_row(name, row["kernel"], *cells, percent(row["share"]), *used)
    return table


def _share(value: float | None) -> str:
    return "-" if value is None else percent(value)


def _lines(summary: Row) -> list[str]:
    setup, kv_use = summary["configuration"], summary["kv_use"]
    peak = f"peak {percent(kv_use['peak'])} of {setup['kv_blocks']:,} blocks"
    lines = [
        f"{number(summary['requests_per_s'])} requests/s, "
        f"{number(summary['output_tokens_per_s'])} output tokens/s, {usd(setup['usd_per_hour'])} an hour, "
        f"{usd(summary['usd_per_million_output_tokens'])} per million output tokens.",
        f"GPUs busy {percent(summary['busy'])}, MFU {percent(summary['mfu'])}, mean batch "
        f"{number(summary['mean_batch'])}, KV use {percent(kv_use['mean'])} ({peak}), "
        f"{plural(summary['preemptions'], 'preemption')}.",
    ]
    return [*lines, *_energy(summary), *_rejected(summary), _sources(summary)]


def _pool_lines(summary: Row) -> list[str]:
    setup, sent_s = summary["configuration"], summary["transfer_s"]
    lines = [
        f"{number(summary['requests_per_s'])} requests/s, "
        f"{number(summary['output_tokens_per_s'])} output tokens/s, {usd(setup['usd_per_hour'])} an hour, "
        f"{usd(summary['usd_per_million_output_tokens'])} per million output tokens.",
        f"KV over the link in {seconds(sent_s['mean'])} on average, {seconds(sent_s['p99'])} at p99.",
    ]
    for role, pool in summary["pools"].items():
        if pool is not None:
            lines.append(
                f"{role.capitalize()} replicas busy {percent(pool['busy'])}, mean batch "
                f"{number(pool['mean_batch'])}, KV use {percent(pool['kv_use']['mean'])} (peak "
                f"{percent(pool['kv_use']['peak'])} of {setup[role]['kv_blocks']:,} blocks), "
                f"{plural(pool['preemptions'], 'preemption')}."
            )
    return [*lines, *_rejected(summary), _sources(summary)]


def _rejected(summary: Row) -> list[str]:
    count = plural(summary["requests"]["rejected"], "request")
    return [
        f"{count} rejected; {row['request']} {row['reason']}." for row in summary["rejected"][:1]
    ]


def _sources(summary: Row) -> str:
    sources = sorted(summary["time_by_source"].items(), key=lambda item: -item[1])
    shares = ", ".join(f"{percent(share)} {name}" for name, share in sources if share > 0)
    return f"Predicted time: {shares}." if shares else "Nothing was run."


def _energy(summary: Row) -> list[str]:
    used = summary["energy"]
    if used is None:
        return []
    token = f"{number(used['joules_per_output_token'])} J per output token"
    return [f"{number(used['mean_power_w'])} W on average, {token}, MBU {percent(summary['mbu'])}."]
