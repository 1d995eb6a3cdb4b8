"""``compile-and-search``: the main job's command line. Parses, calls one function, prints."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

from servecast.compiler.errors import UserError

PATH = click.Path(path_type=Path, dir_okay=False)
POSITIVE = click.FloatRange(min=0, min_open=True)

Command = TypeVar("Command", bound=Callable[..., Any])


class Numbers(click.ParamType):  # type: ignore[type-arg]  # generic in the stubs only
    """``1,2,4``: positive whole numbers."""

    name = "n,n,…"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in value.split(",")]
        if not all(part.isdecimal() and int(part) > 0 for part in parts):
            self.fail(
                f"{value!r} is not a list of positive whole numbers such as 1,2,4", param, ctx
            )
        return tuple(int(part) for part in parts)


class OfSku(click.ParamType):  # type: ignore[type-arg]  # generic in the stubs only
    """``h100-sxm=1.90``: a SKU's figure, above 0."""

    def __init__(self, kind: type[int] | type[float]) -> None:
        self.kind = kind
        self.name = "SKU=N" if kind is int else "SKU=USD"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, float]:
        if isinstance(value, tuple):
            return value
        sku, _, figure = value.rpartition("=")
        try:
            number = self.kind(figure)
        except ValueError:
            number = 0
        if not sku or not 0 < number < float("inf"):
            self.fail(
                f"{value!r} is not a SKU with a figure above 0, as in {self.name}", param, ctx
            )
        return sku, number


def _options(*groups: list[Callable[[Command], Command]]) -> Callable[[Command], Command]:
    """All options of the groups, listed in that order."""

    def decorate(command: Command) -> Command:
        for option in [option for group in groups for option in group][::-1]:
            command = option(command)
        return command

    return decorate


AXES = [
    click.option("--sku", "skus", multiple=True, help="GPU to try; repeat for more."),
    click.option("--tp", type=Numbers(), help="Tensor-parallel degrees to try."),
    click.option("--pp", type=Numbers(), help="Pipeline-parallel degrees to try."),
    click.option("--ep", type=Numbers(), help="Expert-parallel degrees to try."),
    click.option("--dp", type=Numbers(), help="Degrees of data-parallel attention to try."),
    click.option("--precision", "precisions", multiple=True, help="bf16, fp8, fp8-kv, …; repeat."),
    click.option("--max-num-seqs", type=Numbers(), help="Batch limits to try."),
    click.option(
        "--max-num-batched-tokens",
        "max_batched_tokens",
        type=Numbers(),
        help="Token budgets a step to try.",
    ),
    click.option("--policy", "policies", multiple=True, help="Scheduling policy to try; repeat."),
    click.option("--router", "routers", multiple=True, help="Routing rule to try; repeat."),
    click.option("--mode", "modes", multiple=True, help="aggregated, disaggregated; repeat."),
    click.option("--prefill-sku", "prefill_skus", multiple=True, help="GPU for prefill apart."),
    click.option("--decode-sku", "decode_skus", multiple=True, help="GPU for decode apart."),
]
MARKET = [
    click.option("--gpus", "max_gpus", type=click.IntRange(min=1), help="Most GPUs in all."),
    click.option("--price-kind", help="on_demand, spot or reserved, as the GPUs declare it."),
    click.option("--price", "prices", type=OfSku(float), multiple=True, help="An hour of a GPU."),
    click.option("--stock", type=OfSku(int), multiple=True, help="Most GPUs of one SKU."),
    click.option("--whole-nodes", is_flag=True, help="GPUs are rented by the node."),
]
TRAFFIC = [
    click.option("--rate", "rate_per_s", type=POSITIVE, help="Requests/s."),
    click.option("--trace-format", "format", help="Of --trace, where its header does not tell."),
    click.option(
        "--arrival-cv",
        type=click.FloatRange(min=0),
        help="Draw arrivals: 1 Poisson, more is bursty.",
    ),
    click.option(
        "--requests", "num_requests", type=click.IntRange(min=2), help="First N of the trace."
    ),
    click.option(
        "--seed", type=int, default=0, show_default=True, help="Of arrivals that are drawn."
    ),
]


@click.command("compile-and-search", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("spec", type=PATH)
@click.option(
    "--trace",
    "traces",
    type=PATH,
    required=True,
    multiple=True,
    help="The traffic; see docs/traces.md. Repeat for one answer to several.",
)
@click.option("--weight", "weights", type=POSITIVE, multiple=True, help="Of each --trace.")
@click.option(
    "--robust",
    type=click.Choice(["worst", "mean"]),
    default="worst",
    show_default=True,
    help="Of several traces: what counts.",
)
@click.option("--model", help="A model of SPEC; its first one by default.")
@click.option("--service", "service", help="A service block of SPEC; its first one by default.")
@click.option(
    "--slo",
    "slo_texts",
    multiple=True,
    help="Target, such as 'ttft p90 < 2 s', or 'class 1: e2e p99 < 9 s' of the trace's priority 1; repeat.",
)
@click.option(
    "--objective",
    help="qps_per_usd (the default), cost, gpus, energy or goodput.",
)
@_options(AXES, MARKET, TRAFFIC)
@click.option("--store", type=PATH, help="Profile store; a per-user one by default.")
@click.option(
    "--source", "sources", multiple=True, help="Of operator times: agent, silicon, vidur…; repeat."
)
@click.option("--jobs", type=click.IntRange(min=1), help="Worker processes; all cores by default.")
@click.option("--ray", "ray", metavar="HOST:PORT|auto", help="Search on a Ray cluster instead.")
@click.option(
    "--confidence",
    type=click.Choice(["0.8", "0.9", "0.95", "0.99"]),
    default="0.9",
    show_default=True,
    help="Of intervals, of ties, and of the replicas that are sure to carry the rate.",
)
@click.option("--draw-all", is_flag=True, help="Draw every interval, not one for many alike.")
@click.option("--best-only", is_flag=True, help="Find the best alone, several times faster.")
@click.option("--resume", is_flag=True, help="Go on with a search that was stopped.")
@click.option("--dry-run", is_flag=True, help="Print the space and its size, and stop.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for results.json."
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print the answer as JSON; see docs/results.md."
)
@click.option("--quiet", is_flag=True, help="No progress bar.")
def compile_and_search_command(**options: Any) -> None:
    """Compile SPEC (a .llm file), search configurations for the traffic of --trace, and rank them.

    \b
    compile-and-search spec/llama.llm --trace spec/traces/chat.csv
    compile-and-search spec/llama.llm --model llama-3.1-70b --trace azure.csv --sku h100-sxm \\
        --slo 'ttft p90 < 1 s' --slo 'tbt p99 < 100 ms' --gpus 8 --out results

    Exit code 3 when no configuration meets the targets; the rest stand in docs/results.md.
    """
    import json

    from rich.console import Console

    from servecast.simulator.commands.result_files import check_folder, save, write_json
    from servecast.simulator.commands.search_answer import show, show_space
    from servecast.simulator.commands.search_job import describe_space, run_job

    as_json, dry_run, out = options["as_json"], options["dry_run"], options["out"]
    job = job_options(options)
    if dry_run:
        space = describe_space(job)
        click.echo(json.dumps(space, indent=2)) if as_json else show_space(space, Console())
        return
    if out:
        check_folder(out)
    result = run_job(job)
    if out:
        save(result, out)
    if as_json:
        write_json(result, sys.stdout)
    else:
        show(result, Console())
    if not result["complete"]:
        again = f"--out {out} " if out else ""
        click.echo(
            f"interrupted; the same command with {again}--resume goes on from here", err=True
        )
        sys.exit(130)
    if result["best"] is None:
        sys.exit(3)


def job_options(options: dict[str, Any]) -> Any:
    """The `JobOptions` that the command line says; takes its parts out of ``options``."""
    from servecast.compiler.service import Service
    from servecast.simulator.commands.search_job import JobOptions, asked_slos
    from servecast.simulator.traffic.traces import TraceOptions

    for shown in ("as_json", "dry_run"):
        options.pop(shown)
    names = [name for name in Service.__dataclass_fields__ if name in options]
    said: dict[str, Any] = {name: options.pop(name) for name in names}
    said = {name: value for name, value in said.items() if value is not None}
    asked = Service("command line", slos=asked_slos(options.pop("slo_texts")), **said)
    traffic = {
        name: options.pop(name) for name in TraceOptions.__dataclass_fields__ if name in options
    }
    options["trace"], *more = options.pop("traces")
    options["more_traces"] = tuple(more)
    options["confidence"] = float(options["confidence"])
    prices, stock = dict(options.pop("prices")), dict(options.pop("stock"))
    cluster = _cluster(options.pop("ray"), options["jobs"])
    return JobOptions(
        asked=asked,
        traffic=TraceOptions(**traffic),
        prices=prices,
        stock=stock,
        cluster=cluster,
        **options,
    )


def _cluster(address: str | None, jobs: int | None) -> Any:
    """What makes the pool of ``--ray``; None for this machine's processes."""
    if address is None:
        return None
    if jobs is not None:
        raise click.UsageError("--jobs is for this machine's processes; --ray takes the cluster's")
    try:
        from servecast.simulator.search.ray_pool import ray_pool
    except ModuleNotFoundError as error:
        raise UserError(
            f"--ray needs {error.name}, which is not installed; run pip install 'servecast[ray]'"
        ) from error
    return partial(ray_pool, address=address)
