"""``servecast calibrate`` and ``servecast drift``: what a recording of one's own engine says of its terms."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

PATH = click.Path(path_type=Path)
COUNT = click.IntRange(min=1)
SETUP = ("tp", "pp", "dp", "ep", "max_num_seqs", "max_batched_tokens", "kv_blocks")


def _deployment_options(command: Callable[..., None]) -> Callable[..., None]:
    """What a recording may not tell of the engine."""
    options = (
        click.option("--sku", required=True, help="The GPU that the engine ran on."),
        click.option("--model", help="A model of SPEC; its first one by default."),
        click.option("--tp", type=COUNT, help="Tensor-parallel degree."),
        click.option("--pp", type=COUNT, help="Pipeline-parallel degree."),
        click.option("--dp", type=COUNT, help="Data-parallel ranks that share experts."),
        click.option("--ep", type=COUNT, help="Expert-parallel degree."),
        click.option("--max-num-seqs", type=COUNT, help="Batch limit."),
        click.option(
            "--max-num-batched-tokens", "max_batched_tokens", type=COUNT, help="Tokens a step."
        ),
        click.option("--kv-blocks", type=COUNT, help="KV blocks, as the engine's log tells them."),
        click.option(
            "--source", "sources", multiple=True, help="Operator times to use; repeat for more."
        ),
        click.option("--store", type=PATH, help="Profile store; a per-user one by default."),
        click.option("--json", "as_json", is_flag=True, help="Print one object."),
        click.option("--quiet", is_flag=True, help="Print nothing but the result."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _asked(run: Path, engine: Path | None, options: dict[str, Any]) -> Any:
    from servecast.simulator.commands.validate_job import ValidateOptions

    said = {name: options[name] for name in SETUP}
    rest = {name: value for name, value in options.items() if name not in SETUP}
    configuration = {name: value for name, value in said.items() if value is not None}
    return ValidateOptions(run=run, engine=engine, configuration=configuration, **rest)


@click.command("calibrate", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("spec", type=PATH)
@click.argument("run", type=PATH)
@click.option("--out", "-o", type=PATH, required=True, help="The engine profile to write.")
@_deployment_options
def calibrate_command(run: Path, out: Path, as_json: bool, quiet: bool, **options: Any) -> None:
    """Refit the engine's named terms to RUN, a recording of your engine, and write its profile.

    \b
    servecast calibrate spec/llama.llm bench.json --sku h100-sxm --kv-blocks 27600 -o engine.json
    servecast validate spec/llama.llm fresh.json --sku h100-sxm --kv-blocks 27600 --engine engine.json

    Every second block of requests is held out; both halves' errors are shown before and after. A term that
    RUN does not tell stays where it was; where it tells none, nothing is written.
    """
    from servecast.simulator.commands.calibrate_job import run_calibration, write_profile

    done = run_calibration(_asked(run, None, options))
    write_profile(done.profile, out)
    if as_json:
        click.echo(json.dumps(done.summary, indent=2))
        return
    for f in done.fitted:
        moved = (
            f"stays at {f.before:g}: {f.refused}"
            if f.refused
            else f"{f.before:g} -> {f.after:g} +- {f.sd:.2g}"
        )
        click.echo(f"{f.name:16} {moved}")
    for half in ("fitted", "held_out"):
        for metric, error in done.summary["after"][half].items():
            before = done.summary["before"][half][metric]
            click.echo(f"{half:9} {metric:12} error {before:+.1%} -> {error:+.1%}")
    if not quiet:
        click.echo(f"wrote {out}", err=True)


@click.command("drift", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("spec", type=PATH)
@click.argument("before", type=PATH)
@click.argument("after", type=PATH)
@click.option("--engine", type=PATH, help="The profile that servecast calibrate wrote.")
@_deployment_options
def drift_command(
    before: Path, after: Path, engine: Path | None, as_json: bool, quiet: bool, **options: Any
) -> None:
    """Say whether workload, engine or hardware moved between two recordings of one deployment.

    \b
    servecast drift spec/llama.llm march.json april.json --sku h100-sxm --kv-blocks 27600
    """
    from servecast.simulator.commands.calibrate_job import run_drift

    found = run_drift(_asked(before, engine, options), _asked(after, engine, options))
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    click.echo(f"moved: {', '.join(found['moved'])}")
    for part in ("workload", "engine", "hardware"):
        for change in found[part]:
            what = change.get("what") or change.get("setting") or change.get("term")
            click.echo(f"{part:9} {what}: {change['before']} -> {change['after']}")
