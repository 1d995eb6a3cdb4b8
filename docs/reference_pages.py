"""The site's reference of commands, store and Python, made from the code itself while the site is built."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from importlib import import_module
from importlib.resources import files
from typing import Any

import click

import servecast
from servecast.simulator.cli import COMMANDS, cli

WIDTH = 100


def on_files(found: Any, config: Any) -> Any:
    """MkDocs calls this with the files of the site."""
    from mkdocs.structure.files import File

    for name, make in PAGES.items():
        found.append(File.generated(config, f"reference/{name}.md", content=make()))
    return found


def commands_page() -> str:
    """Every command with its own help text."""
    parts = [
        "# Commands\n\nEvery command's `--help`, as it prints it. The exit codes stand in "
        "[results](../results.md#exit-codes).\n"
    ]
    for path, command in commands():
        context = click.Context(command, info_name=" ".join(("servecast", *path)))
        context.terminal_width = context.max_content_width = WIDTH
        parts.append(f"## {' '.join(path)}\n\n```text\n{command.get_help(context)}\n```\n")
    return "\n".join(parts)


def commands() -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Commands with the words that call them; those of a group follow it."""
    context = click.Context(cli)
    for name in sorted(COMMANDS):
        command = cli.get_command(context, name)
        assert command is not None
        yield (name,), command
        if isinstance(command, click.Group):
            for inner in sorted(command.commands):
                yield (name, inner), command.commands[inner]


def store_page() -> str:
    """The schema as it is created."""
    schema = files("servecast.estimator").joinpath("schema.sql").read_text(encoding="utf-8")
    head = (
        "# The profile store\n\nOne DuckDB file. `servecast store ls` lists what it holds; any DuckDB client "
        "can read it while nothing else has it open. This is its schema:\n"
    )
    return f"{head}\n```sql\n{schema.strip()}\n```\n"


def python_page() -> str:
    """The public functions with their signatures and docstrings."""
    parts = [
        "# Python\n\n`import servecast` gives the verbs of the command line as functions on values. "
        "Their examples run in the tests, and so does the [notebook](../notebook.ipynb).\n"
    ]
    for name in servecast.__all__:
        function = getattr(servecast, name)
        signature = f"{name}{inspect.signature(function)}"
        module = import_module(function.__module__).__name__
        parts.append(f"## {name}\n\n```python\n{signature}\n```\n\nFrom `{module}`.\n")
        parts.append(f"```text\n{inspect.getdoc(function)}\n```\n")
    return "\n".join(parts)


PAGES = {"commands": commands_page, "store": store_page, "python": python_page}
