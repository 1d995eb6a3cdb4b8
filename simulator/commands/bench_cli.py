"""``servecast bench``: the standing benchmark over models, workloads and SKUs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from servecast.compiler.output_options import json_option, quiet_option


@click.command("bench", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--model", "models", multiple=True, help="Of the shipped specs; repeat for more.")
@click.option("--workload", "workloads", multiple=True, help="A kind, or a trace; repeat for more.")
@click.option("--sku", "skus", multiple=True, help="GPU to try; repeat for more.")
@click.option("--quick", is_flag=True, help="One model, two workloads, four configurations.")
@click.option("--store", type=click.Path(path_type=Path, dir_okay=False), help="Profile store.")
@click.option("--source", "sources", multiple=True, help="Of operator times; repeat.")
@click.option("--jobs", type=click.IntRange(min=1), help="Worker processes; all cores by default.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("bench"),
    show_default=True,
    help="Folder of the searches that are done; the next run goes on from them.",
)
@json_option
@quiet_option
def bench_command(as_json: bool, quiet: bool, **options: Any) -> None:
    """Search every model under every workload, and print which configuration is best for each, and what
    it costs to serve a workload with the configuration of another.

    \b
    servecast bench --quick
    servecast bench --model qwen3-32b --workload chat --workload reasoning --sku h200-sxm

    See docs/bench.md.
    """
    import json

    from rich.console import Console

    from servecast.simulator.commands.bench_job import BenchOptions, run_bench
    from servecast.simulator.commands.bench_show import show_bench

    with _progress(quiet) as progress:
        result = run_bench(BenchOptions(**options), progress)
    if as_json:
        click.echo(json.dumps(result, indent=2, allow_nan=False))
    else:
        show_bench(result, Console())
    if not result["complete"]:
        click.echo("interrupted; the same command goes on from here", err=True)
        sys.exit(130)


@contextmanager
def _progress(quiet: bool) -> Iterator[Any]:
    """A bar on stderr where a person is looking, silence elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    hidden = quiet or not console.is_terminal
    with Progress(
        *columns, TimeElapsedColumn(), console=console, disable=hidden, transient=True
    ) as bar:
        task = bar.add_task("compiling")

        def report(done: int, total: int, doing: str) -> None:
            bar.update(task, completed=done, total=total, description=doing)

        yield report
