"""``servecast doctor``: what this installation has and lacks."""

from __future__ import annotations

import sys
from pathlib import Path

import click

PROBLEM = 4
"""The exit code where something is wrong: as where profile data are missing."""


@click.command("doctor", context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--store",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Profile store; a per-user one by default.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
@click.option("--quiet", is_flag=True, help="Print only what is wrong.")
def doctor_command(store: Path | None, as_json: bool, quiet: bool) -> None:
    """Say what this installation has and lacks: versions, extras, GPU, compiled engine, profile store.

    \b
    servecast doctor
    servecast doctor --quiet || echo 'see servecast doctor'

    Exit code 4 where something is wrong; what is merely absent can be done without.
    """
    import json
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from servecast.simulator.commands.doctor import State, diagnose
    from servecast.simulator.commands.search_job import default_store

    every = list(diagnose(store or default_store()))
    wrong = [finding for finding in every if finding.state is State.WRONG]
    shown = wrong if quiet else every
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in shown], indent=2))
    elif shown:
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for finding in shown:
            table.add_row(finding.what, finding.state.value, Text(finding.told))
        Console().print(table, highlight=False)
    if wrong:
        sys.exit(PROBLEM)
