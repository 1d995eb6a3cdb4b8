"""The command line as a whole: every command answers --help at once, in one voice, with an example."""

from __future__ import annotations

import subprocess
import sys

import pytest
from click.testing import CliRunner

from servecast.simulator.cli import COMMANDS, cli

GROUPS = {"agent", "store"}


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help(name: str) -> None:
    done = CliRunner().invoke(cli, [name, "--help"])
    assert done.exit_code == 0
    assert f"Usage: cli {name}" in done.output
    if name not in GROUPS:
        assert f"servecast {name} " in done.output or f"\n  {name} " in done.output, "an example"


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom servecast.simulator.cli import cli\n"
        "assert CliRunner().invoke(cli, ['--help']).exit_code == 0\n"
        "print(*sorted({'duckdb', 'sklearn', 'numba', 'torch', 'scipy', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_an_unknown_command_is_a_usage_error() -> None:
    done = CliRunner().invoke(cli, ["compile-and-serch"])
    assert done.exit_code == 2
    assert "No such command 'compile-and-serch'" in done.stderr


def test_the_version_is_the_package_s() -> None:
    done = CliRunner().invoke(cli, ["--version"])
    assert done.output.startswith("cli, version 0.")
