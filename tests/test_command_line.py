"""The command line as a whole: every command answers --help at once, in one voice, with true examples."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from servecast.compiler.errors import UserError
from servecast.simulator.cli import COMMANDS, INTERRUPTED, cli

EXAMPLE = re.compile(
    r"^ +((?:servecast|compile-and-search|agent) (?:.*\\\n)*.*)$", re.MULTILINE
)  # with the lines that a backslash continues
WIDTH = 80


def leaves(command: click.Command, path: tuple[str, ...]) -> list[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        inner = command.commands.items()
        return [leaf for name, each in sorted(inner) for leaf in leaves(each, (*path, name))]
    return [(" ".join(path), command)]


def every_command() -> list[tuple[str, click.Command]]:
    """With the words that call it; those of groups one by one."""
    context = click.Context(cli)
    found = []
    for name in sorted(COMMANDS):
        command = cli.get_command(context, name)
        assert command is not None
        found += leaves(command, (name,))
    return found


each_command = pytest.mark.parametrize(
    ("name", "command"), every_command(), ids=[name for name, _ in every_command()]
)


def help_of(name: str) -> str:
    done = CliRunner().invoke(cli, [*name.split(), "--help"], terminal_width=WIDTH)
    assert done.exit_code == 0
    return done.output


def words_of(example: str) -> list[str]:
    """An example's words after ``servecast``; the other console scripts are commands of it."""
    words = shlex.split(example.replace("\\\n", " "), comments=True)
    words = words[: next((i for i, word in enumerate(words) if word in (">", ">>", "|")), None)]
    return words[1:] if words[0] == "servecast" else words


@each_command
def test_every_command_has_an_example_whose_options_exist(
    name: str, command: click.Command
) -> None:
    examples = [words_of(found) for found in EXAMPLE.findall(help_of(name))]
    path = name.split()
    own = [words[len(path) :] for words in examples if words[: len(path)] == path]
    assert own
    for words in own:
        command.make_parser(click.Context(command)).parse_args(list(words))


@each_command
def test_help_is_at_most_80_columns_wide(name: str, command: click.Command) -> None:
    text = help_of(name)
    assert f"Usage: cli {name}" in text
    wide = [line for line in text.splitlines() if len(line) > WIDTH]
    assert [line for line in wide if not EXAMPLE.match(line)] == []


def test_every_command_prints_json_and_is_quiet_where_asked() -> None:
    for name, command in every_command():
        options = {text for parameter in command.params for text in parameter.opts}
        assert {"--json", "--quiet"} <= options, name


def test_help_says_every_exit_code() -> None:
    codes = {0, INTERRUPTED, UserError.exit_code}
    subclasses = UserError.__subclasses__()
    codes |= {each.exit_code for each in subclasses}
    said = help_of("").partition("Exit codes:")[2]
    assert codes <= {int(code) for code in re.findall(r"\b(\d+)\b", said)}


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
    assert "no command 'compile-and-serch' (did you mean 'compile-and-search'?)" in done.stderr


def test_the_version_is_the_package_s() -> None:
    done = CliRunner().invoke(cli, ["--version"])
    assert done.output.startswith("cli, version 0.")
