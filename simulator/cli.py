"""The command line: the ``servecast`` group, whose commands load when they run.

Only click and the standard library are imported here; a command's own modules load when it runs.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

import click

from servecast.compiler.errors import UserError, is_interrupt
from servecast.compiler.suggest import did_you_mean

INTERRUPTED = 130  # 128 + SIGINT, as shells report it

COMMANDS = {
    "agent": "servecast.agent.cli:main",
    "calibrate": "servecast.simulator.commands.calibrate_cli:calibrate_command",
    "bench": "servecast.simulator.commands.bench_cli:bench_command",
    "compile": "servecast.compiler.cli:compile_command",
    "compile-and-search": "servecast.simulator.commands.search_cli:compile_and_search_command",
    "fit": "servecast.estimator.cli:fit_command",
    "completion": "servecast.simulator.commands.completion_cli:completion_command",
    "deploy": "servecast.simulator.commands.deploy_cli:deploy_command",
    "diff": "servecast.compiler.cli:diff_command",
    "doctor": "servecast.simulator.commands.doctor_cli:doctor_command",
    "drift": "servecast.simulator.commands.calibrate_cli:drift_command",
    "explain": "servecast.simulator.commands.explain_cli:explain_command",
    "fmt": "servecast.compiler.cli:fmt_command",
    "import": "servecast.compiler.cli:import_command",
    "plot": "servecast.simulator.report.cli:plot_command",
    "profile": "servecast.estimator.profiling.profile_cli:profile_command",
    "report": "servecast.simulator.report.cli:report_command",
    "simulate": "servecast.simulator.commands.simulate_cli:simulate_command",
    "store": "servecast.estimator.cli:store_command",
    "ui": "servecast.simulator.commands.ui_cli:ui_command",
    "validate": "servecast.simulator.commands.validate_cli:validate_command",
    "workload": "servecast.simulator.commands.workload_cli:workload_command",
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

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"no command {args[0]!r}{did_you_mean(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

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

    Exit codes: 0 done; 1 a bug; 2 wrong usage or input; 3 nothing meets the targets; 4 profile data
    missing; 5 an agent, cluster or worker failed; 130 interrupted.
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
        if not is_interrupt(error):
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
