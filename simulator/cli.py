"""The command line: the ``servecast`` group and the main job. Parses, calls one function, prints.

Only click and the standard library are imported here; a command's own modules load when it runs.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import click

from servecast.compiler.errors import UserError

INTERRUPTED = 130  # 128 + SIGINT, as shells report it

COMMANDS = {
    "agent": "servecast.agent.cli:main",
    "compile": "servecast.compiler.cli:compile_command",
    "compile-and-search": "servecast.simulator.cli:compile_and_search_command",
    "fit": "servecast.estimator.cli:fit_command",
    "deploy": "servecast.simulator.deploy_cli:deploy_command",
    "diff": "servecast.compiler.cli:diff_command",
    "explain": "servecast.simulator.explain_cli:explain_command",
    "fmt": "servecast.compiler.cli:fmt_command",
    "import": "servecast.compiler.cli:import_command",
    "plot": "servecast.simulator.report.cli:plot_command",
    "profile": "servecast.estimator.profile_cli:profile_command",
    "report": "servecast.simulator.report.cli:report_command",
    "simulate": "servecast.simulator.simulate_cli:simulate_command",
    "store": "servecast.estimator.cli:store_command",
    "validate": "servecast.simulator.validate_cli:validate_command",
}


class LazyGroup(click.Group):
    """Loads a command's module when the command is asked for, and turns a UserError into one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name].split(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(error.exit_code)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="servecast")
def cli() -> None:
    """Which GPUs, how many and how configured, to serve a language model within its latency targets for
    the least money.

    \b
    servecast compile spec/llama.llm --tp 2
    servecast compile-and-search spec/llama.llm --trace spec/traces/chat.csv
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script ``servecast``; Ctrl-C ends it with 130."""
    try:
        code = cli.main(args=arguments, prog_name="servecast", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _interrupted()
    except RuntimeError as error:
        if str(error) != "Query interrupted":  # DuckDB's word for Ctrl-C while it works
            raise
        _interrupted()
    sys.exit(code if isinstance(code, int) else 0)


def _interrupted() -> NoReturn:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # one more would change the exit code
    click.echo("interrupted", err=True)
    sys.exit(INTERRUPTED)


def compile_and_search_main() -> None:
    """The console script ``compile-and-search``."""
    main(["compile-and-search", *sys.argv[1:]])


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


PATH = click.Path(path_type=Path, dir_okay=False)


@click.command("compile-and-search", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("spec", type=PATH)
@click.option("--trace", "trace", type=PATH, required=True, help="The traffic; see docs/traces.md.")
@click.option("--model", help="A model of SPEC; its first one by default.")
@click.option("--service", "service", help="A service block of SPEC; its first one by default.")
@click.option("--sku", "skus", multiple=True, help="GPU to try; repeat for more.")
@click.option("--gpus", "max_gpus", type=click.IntRange(min=1), help="Most GPUs in all.")
@click.option("--tp", type=Numbers(), help="Tensor-parallel degrees to try.")
@click.option("--pp", type=Numbers(), help="Pipeline-parallel degrees to try.")
@click.option("--max-num-seqs", type=Numbers(), help="Batch limits to try.")
@click.option("--max-num-batched-tokens", type=Numbers(), help="Token budgets a step to try.")
@click.option("--slo", "slo_texts", multiple=True, help="Target, such as 'ttft p90 < 2 s'; repeat.")
@click.option(
    "--rate", "rate_per_s", type=click.FloatRange(min=0, min_open=True), help="Requests/s."
)
@click.option("--trace-format", "format", help="Of --trace, where its header does not tell.")
@click.option(
    "--arrival-cv", type=click.FloatRange(min=0), help="Draw arrivals: 1 Poisson, more is bursty."
)
@click.option(
    "--requests", "num_requests", type=click.IntRange(min=2), help="First N of the trace."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of arrivals that are drawn.")
@click.option("--store", type=PATH, help="Profile store; a per-user one by default.")
@click.option(
    "--source", "sources", multiple=True, help="Of operator times: agent, silicon, vidur…; repeat."
)
@click.option("--jobs", type=click.IntRange(min=1), help="Worker processes; all cores by default.")
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

    from servecast.compiler.service import Service
    from servecast.simulator.answer import show
    from servecast.simulator.job import JobOptions, asked_slos, check_folder, run_job, save
    from servecast.simulator.traces import TraceOptions

    axes = {name: options.pop(name) or () for name in ("skus", "tp", "pp", "max_num_seqs")}
    asked = Service(
        "command line",
        slos=asked_slos(options.pop("slo_texts")),
        max_gpus=options.pop("max_gpus"),
        max_batched_tokens=options.pop("max_num_batched_tokens") or (),
        **axes,
    )
    traffic_options = ("format", "rate_per_s", "arrival_cv", "seed", "num_requests")
    traffic = TraceOptions(**{name: options.pop(name) for name in traffic_options})
    out, as_json = options.pop("out"), options.pop("as_json")
    if out:
        check_folder(out)
    result = run_job(JobOptions(asked=asked, traffic=traffic, **options))
    if out:
        save(result, out)
    if as_json:
        click.echo(json.dumps(result, indent=2, allow_nan=False))
    else:
        show(result, Console())
    if result["best"] is None:
        sys.exit(3)
