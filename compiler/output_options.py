"""The options that every command has for what it prints."""

from __future__ import annotations

import click

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON value instead of text."
)
quiet_option = click.option(
    "--quiet", is_flag=True, help="Print the result alone: no progress, no notes."
)
