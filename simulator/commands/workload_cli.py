"""``servecast workload``: traffic made and described."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from servecast.compiler.errors import UserError
from servecast.compiler.output_options import json_option, quiet_option

PATH = click.Path(path_type=Path, dir_okay=False)
ABOVE_0 = click.FloatRange(min=0, min_open=True)


@click.command("workload", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("subject", metavar="[KIND|TRACE]", required=False)
@click.option("--rate", "rate_per_s", type=ABOVE_0, help="Requests/s; of a kind 1 by default.")
@click.option("--arrivals", help="poisson, gamma:cv=2, mmpp:burst=5,…, diurnal:peak=1.8,….")
@click.option(
    "--requests", "num_requests", type=click.IntRange(min=1), help="To draw; first N of a trace."
)
@click.option(
    "--resample", type=click.IntRange(min=1), help="Draw N from the trace, in blocks of neighbours."
)
@click.option("--scale-prompt", "prompt_factor", type=ABOVE_0, default=1.0, help="Length factor.")
@click.option("--scale-output", "output_factor", type=ABOVE_0, default=1.0, help="Length factor.")
@click.option(
    "--context", "context_tokens", type=click.IntRange(min=2), help="Leave longer requests out."
)
@click.option("--trace-format", "format", help="Of TRACE, where its header does not tell.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--out", type=PATH, help="Save the workload: .csv, or .jsonl with prefix blocks.")
@click.option("--plot", type=PATH, help="Draw arrivals and lengths: .png, .pdf or .svg.")
@json_option
@quiet_option
def workload_command(subject: str | None, **options: Any) -> None:
    """Make or describe a workload: a KIND drawn from published statistics, or a TRACE file.

    \b
    servecast workload                       # the kinds, and where their numbers come from
    servecast workload agentic --rate 5 --arrivals mmpp:burst=4,busy_s=15,quiet_s=45 --out agentic.jsonl
    servecast workload spec/traces/chat.csv --resample 100000 --scale-prompt 2 --out long.csv

    See docs/workloads.md.
    """
    from servecast.simulator.commands.workload_job import describe_kinds

    out, plot = options.pop("out"), options.pop("plot")
    as_json, quiet = options.pop("as_json"), options.pop("quiet")
    if subject is None:
        _print(describe_kinds(), as_json, of_kinds=True)
        return
    row = _make(subject, options, out)
    if plot:
        _draw(row, plot)
    _print(row, as_json, of_kinds=False)
    for path in filter(None, (out, plot)):
        if not quiet:
            click.echo(f"wrote {path}", err=True)


def _make(subject: str, options: dict[str, Any], out: Path | None) -> dict[str, Any]:
    from servecast.simulator.commands.workload_job import (
        WorkloadOptions,
        describe_workload,
        make_workload,
    )
    from servecast.simulator.traffic.traces import write_trace

    workload = make_workload(WorkloadOptions(subject, **options))
    if out:
        write_trace(workload, out)
    return describe_workload(workload)


def _draw(row: dict[str, Any], path: Path) -> None:
    try:
        from servecast.simulator.report.workload_plot import draw_workload_figure
    except ModuleNotFoundError as error:
        raise UserError(
            f"figures need {error.name}, which is not installed; run pip install 'servecast[plot]'"
        ) from error
    draw_workload_figure(row, path)


def _print(value: Any, as_json: bool, *, of_kinds: bool) -> None:
    import json

    from rich.console import Console

    from servecast.simulator.commands.workload_show import show_kinds, show_workload

    if as_json:
        click.echo(json.dumps(value, indent=2, allow_nan=False))
    elif of_kinds:
        show_kinds(value, Console())
    else:
        show_workload(value, Console())
