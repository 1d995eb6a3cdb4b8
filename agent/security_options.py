"""The command-line options of those who call agents, the same for every command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def client_options(command: Command) -> Command:
    """Adds token_file, tls_ca, tls_cert and tls_key to a command's keywords."""
    options = (
        click.option(
            "--token-file", type=FILE, help="Token of the agents; else the environment's."
        ),
        click.option(
            "--tls-ca", type=FILE, help="CA that signed the agents' certificates; turns TLS on."
        ),
        click.option(
            "--tls-cert", type=FILE, help="This caller's certificate, where agents want one."
        ),
        click.option("--tls-key", type=FILE, help="Its key."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def server_options(command: Command) -> Command:
    """Adds token_file, tls_cert, tls_key, tls_client_ca and insecure to a command's keywords."""
    options = (
        click.option(
            "--token-file", type=FILE, help="Token of the callers; else the environment's."
        ),
        click.option("--tls-cert", type=FILE, help="Certificate chain in PEM; turns TLS on."),
        click.option("--tls-key", type=FILE, help="Its key."),
        click.option(
            "--tls-client-ca", type=FILE, help="Callers need a certificate that this CA signed."
        ),
        click.option("--insecure", is_flag=True, help="Serve other machines without token or TLS."),
    )
    for option in reversed(options):
        command = option(command)
    return command
