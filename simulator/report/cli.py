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
ERRORS = "errors"


@click.command("plot", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("results", type=PATH, nargs=-1, required=True)
@click.option(
    "--figure",
    "figures",
    type=click.Choice((*FIGURES, ERRORS)),
    multiple=True,
    help="All but errors by default.",
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
    results: tuple[Path, ...],
    figures: tuple[str, ...],
    kind: str,
    out: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Draw RESULTS (the results.json of compile-and-search) as figures for a paper; with --figure errors,
    those of several recorded workloads (servecast validate --json) as one figure of their errors.

    \b
    servecast plot results/results.json --figure pareto-ttft --format svg
    servecast plot chat.json code.json --figure errors

    Needs the plot extra: pip install 'servecast[plot]'.
    """
    try:
        from servecast.simulator.report.plots import write_errors, write_plots
    except ModuleNotFoundError as error:
        raise UserError(
            f"figures need {error.name}, which is not installed; run pip install 'servecast[plot]'"
        ) from error
    folder = out or results[0].parent
    if ERRORS in figures:
        if len(figures) > 1:
            raise click.UsageError("--figure errors reads other files than the other figures")
        written = [write_errors(results, folder, kind)]
    elif len(results) > 1:
        raise click.UsageError(f"{len(results)} results: only --figure errors takes several")
    else:
        written = write_plots(results[0], folder, kind, figures)
    if as_json:
        click.echo(json.dumps({"figures": [str(path) for path in written]}))
    elif not quiet:
        click.echo("\n".join(str(path) for path in written))
