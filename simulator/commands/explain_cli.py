"""``servecast explain``: why the best is best, and how two configurations differ."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from servecast.compiler.errors import UserError
from servecast.compiler.output_options import json_option, result_alone_option

if TYPE_CHECKING:
    from rich.table import Table

    from servecast.simulator.search.explain import Change


@click.command("explain", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("results", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("rank", type=click.IntRange(min=1), default=1)
@click.argument("other", type=click.IntRange(min=1), required=False)
@json_option
@result_alone_option
def explain_command(results: Path, rank: int, other: int | None, as_json: bool) -> None:
    """Say what binds the configuration at RANK of RESULTS (the results.json of compile-and-search) and
    what one step aside would change; or, with OTHER, how two ranks differ.

    \b
    servecast explain results/results.json
    servecast explain results/results.json 1 4
    """
    from rich.console import Console

    from servecast.simulator.report.check import checked
    from servecast.simulator.report.files import read_result
    from servecast.simulator.report.headline import binding, shape
    from servecast.simulator.search.explain import change, refused_aside, steps_aside

    result = checked(read_result(results), str(results))
    row = _ranked(result, rank, results)
    changes = [change(row, _ranked(result, other, results))] if other else steps_aside(result, row)
    refused = [] if other else refused_aside(result, row)
    if as_json:
        steps = [{**asdict(each), "axes": each.label} for each in changes]
        click.echo(
            json.dumps({"rank": rank, "binds": row["binds"], "changes": steps, "refused": refused})
        )
        return
    console = Console()
    console.print(f"#{rank}: {row['sku']}, {shape(row)}. {binding(row)}", highlight=False)
    console.print()
    console.print(_table(changes, f"to #{other}" if other else "one step aside"))
    for what, reason in refused:
        console.print(f"{what}: cannot serve: {reason}", highlight=False)


def _ranked(result: dict[str, Any], rank: int, results: Path) -> dict[str, Any]:
    if rank > len(result["ranked"]):
        raise UserError(f"{results}: has {len(result['ranked'])} ranked configurations, not {rank}")
    row = result["ranked"][rank - 1]
    assert isinstance(row, dict)
    return row


def _table(changes: list[Change], title: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(title)
    for name in ("QPS/$h", "QPS", "$/h", "TTFT p90", "TBT p99", "E2E p90"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in changes:
        ratios = (each.qps_per_usd, each.qps, each.usd_per_hour)
        seconds = (each.ttft_p90_s, each.tbt_p99_s, each.e2e_p90_s)
        cells = [*(f"{ratio:+.0%}" for ratio in ratios), *(f"{1e3 * s:+,.0f} ms" for s in seconds)]
        table.add_row(each.label or "nothing", *cells)
    return table
