"""``servecast report``: reads a search result, writes its page."""

from __future__ import annotations

from pathlib import Path

import click

PATH = click.Path(path_type=Path, dir_okay=False)


@click.command("report", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("results", type=PATH)
@click.option("-o", "--out", type=PATH, help="The page to write; beside RESULTS by default.")
def report_command(results: Path, out: Path | None) -> None:
    """Turn RESULTS (the results.json of compile-and-search) into one HTML page that needs no network.

    \b
    servecast report results/results.json -o report.html
    """
    from servecast.simulator.report.files import write_report

    click.echo(write_report(results, out or results.with_suffix(".html")))
