"""``servecast validate``: a recorded run of a real engine against its simulation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from servecast.compiler.output_options import quiet_option

PATH = click.Path(path_type=Path)
COUNT = click.IntRange(min=1)
SETUP = (
    "tp",
    "pp",
    "dp",
    "ep",
    "max_num_seqs",
    "max_batched_tokens",
    "replicas",
    "router",
    "policy",
    "kv_blocks",
)


@click.command("validate", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("spec", type=PATH)
@click.argument("run", type=PATH)
@click.option("--sku", required=True, help="The GPU that the engine ran on.")
@click.option("--model", help="A model of SPEC; its first one by default.")
@click.option("--tp", type=COUNT, help="Tensor-parallel degree.")
@click.option("--pp", type=COUNT, help="Pipeline-parallel degree.")
@click.option("--dp", type=COUNT, help="Data-parallel ranks that share experts.")
@click.option("--ep", type=COUNT, help="Expert-parallel degree.")
@click.option("--max-num-seqs", type=COUNT, help="Batch limit.")
@click.option("--max-num-batched-tokens", "max_batched_tokens", type=COUNT, help="Tokens a step.")
@click.option("--replicas", type=COUNT, help="Equal replicas behind a router.")
@click.option("--router", help="Which replica or rank; docs/policies.md.")
@click.option("--policy", help="Order of service.")
@click.option("--kv-blocks", type=COUNT, help="KV blocks, as the engine's log tells them.")
@click.option(
    "--host-step",
    "host_step_s",
    type=click.FloatRange(min=0),
    help="Host seconds between two steps; by default the engine profile's.",
)
@click.option("--engine", type=PATH, help="An engine profile that servecast calibrate wrote.")
@click.option("--source", "sources", multiple=True, help="Operator times to use; repeat for more.")
@click.option("--store", type=PATH, help="Profile store; a per-user one by default.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the intervals.")
@click.option("--json", "as_json", is_flag=True, help="Print one object; see docs/validate.md.")
@quiet_option
def validate_command(as_json: bool, quiet: bool, **options: Any) -> None:
    """Replay RUN (a recording of a real engine) on SPEC's model, and compare predicted with measured.

    \b
    servecast validate spec/llama.llm bench.json --sku h100-sxm --kv-blocks 27600

    RUN is what vllm bench serve --save-detailed, guidellm, aiperf or inference-perf writes, a recording of
    LLMServingSim, Prometheus' range data of vLLM's metrics, or a CSV (docs/validate.md). What the recording
    tells of the engine is used; options override it.
    """
    from rich.console import Console

    from servecast.simulator.commands.validate_answer import show
    from servecast.simulator.commands.validate_job import ValidateOptions, run_validation

    said = {name: options.pop(name) for name in SETUP}
    configuration = {name: value for name, value in said.items() if value is not None}
    result = run_validation(ValidateOptions(configuration=configuration, **options))
    if as_json:
        click.echo(json.dumps(result, indent=2, allow_nan=False))
    else:
        show(result, Console(), notes=not quiet)
