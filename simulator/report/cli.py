"""``servecast report`` and ``servecast plot``: a search result as a page, and as figures for print."""

from __future__ import annotations

import json
from pathlib import Path

import click

from servecast.compiler.errors import UserError
from servecast.compiler.output_options import json_option, quiet_option

PATH = click.Path(path_type=Path, dir_okay=False)


@click.command("report", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("results", type=PATH)
@click.option("-o", "--out", type=PATH, help="The page to write; beside RESULTS by default.")
@json_option
@quiet_option
def report_command(results: Path, out: Path | None, as_json: bool, quiet: bool) -> None:
    """Turn RESULTS (the results.json of compile-and-search) into one HTML page that needs no network.

    \b
    servecast report results/results.json -o report.html
    """
    from servecast.simulator.report.files import write_report

    page = write_report(results, out or results.with_suffix(".html"))
    if as_json:
        click.echo(json.dumps({"page": str(page)}))
    elif not quiet:
        click.echo(page)


FIGURES = ("pareto-ttft", "pareto-tbt", "pareto-latency", "heat-map", "latency")


@click.command("plot", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("results", type=PATH)
@click.option(
    "--figure", "figures", type=click.Choice(FIGURES), multiple=True, help="All by default."
)
@click.option(
    "--format", "kind", type=click.Choice(("pdf", "svg", "png")), default="pdf", show_default=True
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder to write to; that of RESULTS by default.",
)
@json_option
@quiet_option
def plot_command(
    results: Path,
    figures: tuple[str, ...],
    kind: str,
    out: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Draw RESULTS (the results.json of compile-and-search) as figures for a paper.

    \b
    servecast plot results/results.json --figure pareto-ttft --format svg

    Needs the plot extra: pip install 'servecast[plot]'.
    """
    try:
        from servecast.simulator.report.plots import write_plots
    except ModuleNotFoundError as error:
        raise UserError(
            f"figures need {error.name}, which is not installed; run pip install 'servecast[plot]'"
        ) from error
    written = [str(path) for path in write_plots(results, out or results.parent, kind, figures)]
    if as_json:
        click.echo(json.dumps({"figures": written}))
    elif not quiet:
        click.echo("\n".join(written))
