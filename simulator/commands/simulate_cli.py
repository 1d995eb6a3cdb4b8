"""``servecast simulate``: one configuration under one trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from servecast.compiler.errors import UserError
from servecast.compiler.output_options import quiet_option
from servecast.simulator.commands.mode_options import mode_options, take_modes
from servecast.simulator.commands.pool_options import pool_options, take_pools

PATH = click.Path(path_type=Path, dir_okay=False)
COUNT = click.IntRange(min=1)
SETUP = (
    "sku",
    "tp",
    "pp",
    "max_num_seqs",
    "max_batched_tokens",
    "replicas",
    "router",
    "policy",
    "kv_blocks",
    "sequence_parallel",
    "async_scheduling",
    "prefix_caching",
    "max_queue",
    "queue_timeout_s",
    "carbon_g_per_kwh",
    "operators",
)


@click.command("simulate", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("spec", type=PATH)
@click.option("--trace", type=PATH, required=True, help="The traffic; see docs/traces.md.")
@click.option("--model", help="A model of SPEC; its first one by default.")
@click.option("--sku", help="GPU; h100-sxm by default.")
@click.option("--tp", type=COUNT, help="Tensor-parallel degree.  [default: 1]")
@click.option("--pp", type=COUNT, help="Pipeline-parallel degree.  [default: 1]")
@click.option("--max-num-seqs", type=COUNT, help="Batch limit.  [default: 256]")
@click.option(
    "--max-num-batched-tokens",
    "max_batched_tokens",
    type=COUNT,
    help="Token budget a step.  [default: 2048]",
)
@click.option(
    "--sequence-parallel",
    is_flag=True,
    default=None,
    help="Reduce-scatter and all-gather for each all-reduce of --tp.",
)
@click.option(
    "--comm-overlap",
    "overlap",
    type=click.FloatRange(min=0, max=1),
    help="Share of a layer's GEMM time that hides its collectives.  [default: 0]",
)
@click.option("--replicas", type=COUNT, help="Equal replicas behind a router.  [default: 1]")
@click.option("--router", help="Which replica; docs/policies.md.  [default: least_outstanding]")
@click.option("--policy", help="Which batches, as name:parameter=value.  [default: vllm_v1]")
@click.option(
    "--kv-blocks", type=COUNT, help="KV blocks a replica; by default what fits in memory."
)
@click.option(
    "--async-scheduling/--no-async-scheduling",
    default=None,
    help="Form a batch while the one before runs, as vLLM does since 0.14.  [default: no]",
)
@click.option(
    "--prefix-caching/--no-prefix-caching",
    default=None,
    help="Share equal prefixes; by default where the trace has block hashes.",
)
@click.option(
    "--kv-tier",
    "kv_tiers",
    multiple=True,
    help="Memory below the GPU's for KV: 'name=host,gb=64,gb_per_s=50,ms=0.1'; repeat downwards.",
)
@click.option("--max-queue", type=COUNT, help="Turn away who finds so many waiting at a replica.")
@click.option(
    "--queue-timeout",
    "queue_timeout_s",
    type=click.FloatRange(min=0),
    help="Seconds until a client gives up that no batch has taken.",
)
@mode_options
@pool_options
@click.option(
    "--slo",
    "slos",
    multiple=True,
    help="Target for goodput: 'ttft p90 < 2s', 'class 1: e2e p99 < 9s'; repeat.",
)
@click.option("--carbon", "carbon_g_per_kwh", type=float, help="Grid intensity, g CO2e per kWh.")
@click.option(
    "--operators",
    is_flag=True,
    default=None,
    help="Tell what each of the model's operators took, and its sizes.",
)
@click.option("--trace-format", "format", help="Where the trace's fields do not tell it.")
@click.option("--rate", "rate_per_s", type=float, help="Requests/s; rescales the trace.")
@click.option(
    "--arrival-cv", type=float, help="Redraw arrivals: 0 regular, 1 Poisson, more: bursty."
)
@click.option("--requests", "num_requests", type=COUNT, help="First N of the trace.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of arrivals that are drawn.")
@click.option("--store", type=PATH, help="Profile store; a per-user one by default.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for summary.json, requests.parquet, steps.parquet, timeline.json.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary; see docs/simulate.md.")
@quiet_option
def simulate_command(
    spec: Path,
    trace: Path,
    model: str | None,
    store: Path | None,
    out: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Simulate one configuration of SPEC's model under the traffic of --trace.

    \b
    servecast simulate spec/llama.llm --trace spec/traces/chat.csv --sku h100-sxm --out run
    servecast simulate spec/llama.llm --trace spec/traces/chat.csv --mode disaggregated --decode-sku l40s

    Open run/timeline.json at ui.perfetto.dev.
    """
    from rich.console import Console

    from servecast.simulator.commands.simulate_answer import show
    from servecast.simulator.commands.simulate_job import (
        SimulateOptions,
        run_simulation,
        save_simulation,
        summary_text,
    )
    from servecast.simulator.engine.kv_tiers import parse_kv_tier
    from servecast.simulator.metrics.classes import targets_of
    from servecast.simulator.traffic.traces import TraceOptions

    quiet = options.pop("quiet")
    said = {name: options.pop(name) for name in SETUP}
    configuration = {name: value for name, value in said.items() if value is not None}
    configuration |= take_modes(options, said["replicas"])
    if tiers := options.pop("kv_tiers"):
        configuration["kv_tiers"] = tuple(parse_kv_tier(text) for text in tiers)
    targets = targets_of(options.pop("slos"))
    configuration |= {"slos": targets.slos, "class_slos": targets.by_class}
    pools, overlap = take_pools(options, configuration), options.pop("overlap")
    if overlap is not None and not 0 <= overlap <= 1:  # not a number, which no range refuses
        raise UserError(f"--comm-overlap must be from 0 to 1, got {overlap}")
    ranks = (said["tp"] or 1) * configuration.get("dp", 1)
    if overlap and pools is None and ranks == 1:
        raise UserError("--comm-overlap without --tp: a single rank has no collective to hide")
    asked = SimulateOptions(
        spec, trace, configuration, TraceOptions(**options), model, store, pools, overlap or 0.0
    )
    done = run_simulation(asked)
    if out:
        save_simulation(done, out)
    if as_json:
        click.echo(summary_text(done))
    else:
        show(done.summary, Console(), notes=not quiet)
