"""`servecast profile`: parses, calls `collect`, prints. Heavy modules are imported inside the command."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from servecast.agent.security_options import client_options
from servecast.compiler.errors import AgentError
from servecast.compiler.output_options import json_option, quiet_option

if TYPE_CHECKING:
    from servecast.estimator.profiling.collect import Progress
    from servecast.estimator.profiling.workers import Job

DURATION = re.compile(r"(\d+(?:\.\d+)?)(s|m|h)")
DEFAULT_TP = (1, 2, 4, 8)
SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def _seconds(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """``90s``, ``10m``, ``1.5h`` as seconds."""
    if value is None:
        return None
    match = DURATION.fullmatch(value)
    if match is None:
        raise click.BadParameter(f"{value!r} is not a duration like 90s, 10m or 1h", ctx, param)
    return float(match[1]) * SECONDS[match[2]]


def _degrees(
    ctx: click.Context, param: click.Parameter, value: str | None
) -> tuple[int, ...] | None:
    """``1,2,4,8`` as numbers."""
    if value is None:
        return None
    parts = value.split(",")
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise click.BadParameter(f"{value!r} is not a list of degrees like 1,2,4", ctx, param)
    return tuple(int(part) for part in parts)


@click.command("profile")
@click.argument("spec", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--agent",
    "agents",
    metavar="HOST:PORT",
    multiple=True,
    help="An agent to measure with; repeat for more.",
)
@click.option(
    "--store",
    "store_path",
    type=click.Path(dir_okay=False, path_type=Path),
    default="profile.duckdb",
    show_default=True,
    help="The DuckDB file to fill; made where it is not there.",
)
@click.option("--model", help="Model of the file; its first where not given.")
@click.option(
    "--tp", callback=_degrees, help="Degrees, as 1,2,4; default: those of 1,2,4,8 that divide."
)
@click.option("--budget", callback=_seconds, help="Longest time to measure for, as 90s, 10m or 1h.")
@click.option("--max-num-batched-tokens", type=click.IntRange(1), default=8192, show_default=True)
@click.option("--max-num-seqs", type=click.IntRange(1), default=256, show_default=True)
@click.option("--max-context", type=click.IntRange(1), help="Default: the model's, 32768 at most.")
@click.option("--max-case-s", type=click.FloatRange(min=0, min_open=True), help="Time per case.")
@click.option(
    "--method",
    help="How to time: cuda_graph or cuda_eager; cpu_eager, cpu_step or cpu_time; default: each node's "
    "first.",
)
@click.option("--max-samples", type=click.IntRange(10), help="Samples per case at most.")
@click.option(
    "--keep-samples", is_flag=True, help="Store every sample, not their statistics alone."
)
@click.option(
    "--rounds",
    type=click.IntRange(1, 99),
    default=1,
    show_default=True,
    help="Measure every case so often, a round of all after the other; from three on the median counts.",
)
@click.option(
    "--cross-check",
    type=click.IntRange(0),
    default=4,
    show_default=True,
    help="Cases that every GPU measures, to compare nodes where there are several.",
)
@client_options
@click.option(
    "--dry-run", is_flag=True, help="Show the plan and its time on a GPU, and measure nothing."
)
@click.option("--sku", help="With --dry-run: the plan for this GPU, which no agent need have.")
@json_option
@quiet_option
def profile_command(  # noqa: PLR0913  # one option each
    spec: Path,
    agents: tuple[str, ...],
    store_path: Path,
    model: str | None,
    tp: tuple[int, ...] | None,
    budget: float | None,
    max_num_batched_tokens: int,
    max_num_seqs: int,
    max_context: int | None,
    max_case_s: float | None,
    method: str | None,
    max_samples: int | None,
    keep_samples: bool,
    rounds: int,
    cross_check: int,
    token_file: Path | None,
    tls_ca: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    dry_run: bool,
    sku: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure the kernels of SPEC that the store lacks, with agents on GPUs.

    \b
    servecast profile spec/llama.llm --dry-run --sku h100-sxm
    servecast profile spec/llama.llm --agent gpu1:50051 --agent gpu2:50051 --budget 10m
    """
    from servecast.agent.messages import Settings
    from servecast.agent.security import client_security
    from servecast.compiler.catalog import shipped_skus
    from servecast.compiler.load import load_spec
    from servecast.compiler.shard import shard, tp_degrees
    from servecast.compiler.sharded import Parallelism
    from servecast.estimator.profiling.plan import PlanLimits, plan_cases
    from servecast.estimator.profiling.plan_view import as_text, json_text, plans_of
    from servecast.estimator.profiling.workers import Job

    if not dry_run:
        _check_agents(agents, sku)
    compiled = load_spec(spec)
    program = compiled.model(model)
    context = max_context or min(program.context_tokens, PlanLimits().max_context_tokens)
    degrees = tp or [d for d in tp_degrees(program, max(DEFAULT_TP)) if d in DEFAULT_TP]
    cases = plan_cases(
        [shard(program, Parallelism(tp=degree)) for degree in degrees],
        PlanLimits(max_num_batched_tokens, max_num_seqs, context),
    )
    checks = cross_check if len(agents) > 1 else 0
    security = client_security(token_file, tls_ca, tls_cert, tls_key)
    settings = Settings(max_case_s=max_case_s, max_samples=max_samples, method=method)
    job = Job(agents, tuple(cases), settings, budget, security, checks, keep_samples, rounds)
    if dry_run:
        plans = plans_of(store_path, job, {**shipped_skus(), **compiled.skus}, sku)
        click.echo(json_text(plans) if as_json else as_text(plans))
    else:
        _run(store_path, job, as_json, quiet)


def _check_agents(agents: tuple[str, ...], sku: str | None) -> None:
    if sku is not None:
        raise click.UsageError(
            "--sku goes with --dry-run: agents say themselves which GPU they are"
        )
    if not agents:
        raise click.UsageError("Missing option '--agent'.")


def _run(store_path: Path, job: Job, as_json: bool, quiet: bool) -> None:
    from rich.console import Console

    from servecast.estimator.profiling.collect import collect, first_nodes
    from servecast.estimator.profiling.profile_view import shown
    from servecast.estimator.store import Store

    first_nodes(job)  # before the store is made
    with Store.open(store_path) as store, shown(Console(stderr=True, quiet=quiet)) as show:
        done = collect(store, job, show)
    click.echo(json.dumps(_summary(done)) if as_json else _text(done))
    for found in done.disagreements if not quiet else ():
        click.echo(f"Warning: {found}", err=True)
    if done.failed:
        case, message = done.failed[0]
        raise AgentError(f"{len(done.failed)} cases failed; the first, {case.kernel}: {message}")


def _summary(done: Progress) -> dict[str, object]:
    told = dataclasses.asdict(done)
    del told["checks"], told["running"]
    return told | {"disagreements": [dataclasses.asdict(found) for found in done.disagreements]}


def _text(done: Progress) -> str:
    parts = [
        f"{done.measured} measured",
        f"{done.present} in the store before",
        f"{done.out_of_memory} do not fit",
        f"{done.unsupported} that no agent can run",
        f"{done.left} left",
    ]
    return f"{', '.join(done.skus)}: {', '.join(parts)}, in {done.elapsed_s:.1f} s"
