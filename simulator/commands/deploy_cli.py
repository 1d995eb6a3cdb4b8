"""``servecast deploy``: the answer as files that start it."""

from __future__ import annotations

from pathlib import Path

import click

from servecast.compiler.errors import UserError
from servecast.compiler.output_options import json_option, quiet_option


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
@json_option
@quiet_option
def deploy_command(results: Path, rank: int, out: Path | None, as_json: bool, quiet: bool) -> None:
    """Write RESULTS (the results.json of compile-and-search) as files that start a configuration:
    a vLLM, SGLang and TensorRT-LLM command, manifests for Kubernetes and llm-d, and two load tests.

    \b
    servecast deploy results/results.json
    servecast deploy results/results.json --rank 2 -o second

    With --json the texts are printed, by name, and written only where --out says. See docs/deploy.md.
    """
    import json

    from servecast.simulator.deploy.files import files
    from servecast.simulator.report.check import checked
    from servecast.simulator.report.files import read_result

    result = checked(read_result(results), str(results))
    if rank > len(result["ranked"]):
        raise UserError(f"{results}: has {len(result['ranked'])} ranked configurations, not {rank}")
    texts = files(result, rank)
    written = [] if as_json and out is None else _write(texts, out or results.parent / "deploy")
    if as_json:
        click.echo(json.dumps(texts, indent=2))
    elif not quiet:
        for path in written:
            click.echo(path)


def _write(texts: dict[str, str], folder: Path) -> list[Path]:
    paths = [folder / name for name in texts]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in paths:
            path.write_text(texts[path.name], encoding="utf-8")
            if path.suffix == ".sh":
                path.chmod(0o755)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror or error}") from error
    return paths
