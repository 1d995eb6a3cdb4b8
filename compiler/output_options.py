"""The options that every command has for what it prints."""

from __future__ import annotations

import click

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON value instead of text."
)
result_alone_option = click.option(
    "--quiet",
    is_flag=True,
    expose_value=False,
    help="Changes nothing: only the result is printed.",
)
"""Of commands that have no progress and no notes; a script need not know which do."""
quiet_option = click.option(
    "--quiet", is_flag=True, help="Print the result alone: no progress, no notes."
)
