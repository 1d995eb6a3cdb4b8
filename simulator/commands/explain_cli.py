"""``servecast explain``: why a configuration ranks where it does, and how two differ."""

from __future__ import annotations

import json
from pathlib import Path

import click

from servecast.compiler.output_options import json_option, result_alone_option


@click.command("explain", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("results", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("rank", type=click.IntRange(min=1), default=1)
@click.argument("other", type=click.IntRange(min=1), required=False)
@json_option
@result_alone_option
def explain_command(results: Path, rank: int, other: int | None, as_json: bool) -> None:
    """Say of the configuration at RANK of RESULTS (the results.json of compile-and-search) what binds it,
    where time goes, what more of each thing is worth, and what one step aside would change; with OTHER, the
    same of both, and how they differ.

    Of others than the best, the search's own command is read again: run this where that ran.

    \b
    servecast explain results/results.json
    servecast explain results/results.json 1 4
    """
    from rich.console import Console

    from servecast.simulator.commands.explain_job import explained
    from servecast.simulator.commands.explain_show import show_explained
    from servecast.simulator.report.check import checked
    from servecast.simulator.report.files import read_result

    result = checked(read_result(results), str(results))
    told = explained(result, str(results), [rank, *([other] if other else [])])
    if as_json:
        click.echo(json.dumps(told))
        return
    show_explained(result, told, Console())
