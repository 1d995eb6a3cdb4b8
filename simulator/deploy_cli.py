"""``servecast deploy``: the answer as files that start it."""

from __future__ import annotations

from pathlib import Path

import click

from servecast.compiler.errors import UserError


@click.command("deploy", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("results", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--rank", type=click.IntRange(min=1), default=1, show_default=True, help="Of the ranking."
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder to write to; deploy/ beside RESULTS by default.",
)
def deploy_command(results: Path, rank: int, out: Path | None) -> None:
    """Write RESULTS (the results.json of compile-and-search) as files that start a configuration:
    a vLLM, SGLang and TensorRT-LLM command, a Kubernetes manifest, and a load test.

    \b
    servecast deploy results/results.json
    servecast deploy results/results.json --rank 2 -o second
    """
    from servecast.simulator.deploy import files
    from servecast.simulator.report.check import checked
    from servecast.simulator.report.files import read_result

    result = checked(read_result(results), str(results))
    if rank > len(result["ranked"]):
        raise UserError(f"{results}: has {len(result['ranked'])} ranked configurations, not {rank}")
    folder = out or results.parent / "deploy"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files(result, rank).items():
            (folder / name).write_text(text, encoding="utf-8")
            if name.endswith(".sh"):
                (folder / name).chmod(0o755)
            click.echo(folder / name)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror or error}") from error
