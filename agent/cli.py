"""Command line of the agent: parses, calls, prints. Heavy modules are imported inside the commands."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from servecast.agent.security_options import client_options, server_options
from servecast.compiler.errors import AgentError, UserError
from servecast.compiler.output_options import json_option, quiet_option, result_alone_option

library_option = click.option(
    "--library",
    "libraries",
    multiple=True,
    help="Whose kernels to time, best first: torch, flashinfer, flash_attn, cupy, vllm, "
    "torch_weight_only. Default: all that are installed, but vllm.",
)


class AgentGroup(click.Group):
    """Turns a UserError into one line and its exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            failure = click.ClickException(str(error))
            failure.exit_code = error.exit_code  # type: ignore[misc]  # click reads it from the instance
            raise failure from error


@click.group(cls=AgentGroup, epilog="agent serve")
def main() -> None:
    """Measure kernels on this machine for Servecast."""


@main.command(epilog="agent serve --port 50051 --sku h100-sxm")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=50051,
    show_default=True,
    help="Port to listen on; 0 takes a free one.",
)
@click.option(
    "--backend",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="What to measure; auto takes CUDA where a GPU answers.",
)
@click.option("--sku", default="", help="The GPU's name in the specs, where its own does not tell.")
@click.option(
    "--threads", type=click.IntRange(min=1), help="Threads of a CPU kernel; all cores if not given."
)
@library_option
@server_options
@click.option("--reflection", is_flag=True, help="Let tools list the services; off by default.")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
)
@click.option("--json", "as_json", is_flag=True, help="Print the address as one JSON object.")
@click.option("--quiet", is_flag=True, help="Log errors alone.")
def serve(  # noqa: PLR0913  # one option each
    host: str,
    port: int,
    backend: str,
    sku: str,
    threads: int | None,
    libraries: tuple[str, ...],
    token_file: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_client_ca: Path | None,
    insecure: bool,
    reflection: bool,
    log_level: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Serve measurements over gRPC until stopped."""
    from servecast.agent.logs import log_to_stderr
    from servecast.agent.security import check_exposure, server_security

    security = server_security(token_file, tls_cert, tls_key, tls_client_ca)
    check_exposure(host, security, insecure)
    _need_torch()
    from servecast.agent.serve import make_profiler, serve_until_stopped
    from servecast.agent.server import add_reflection, create_server

    log_to_stderr("error" if quiet else log_level)
    server = create_server(make_profiler(backend, sku, threads, libraries), host, port, security)
    if reflection:
        add_reflection(server)
    serve_until_stopped(server, as_json)


@main.command(epilog="agent describe --agent 127.0.0.1:50051")
@click.option(
    "--agent", "address", metavar="HOST:PORT", help="An agent; this machine if not given."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@result_alone_option
@client_options
def describe(
    address: str | None,
    as_json: bool,
    token_file: Path | None,
    tls_ca: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
) -> None:
    """Print what a node is and which kernels it can run."""
    import dataclasses

    from servecast.agent.client import Agent
    from servecast.agent.describe import node_text
    from servecast.agent.security import client_security

    if address is None:
        _need_torch()
        from servecast.agent.serve import make_profiler

        node = make_profiler("auto", "", None).describe()
    else:
        security = client_security(token_file, tls_ca, tls_cert, tls_key)
        with Agent(address, security) as agent:
            node = agent.describe()
    click.echo(json.dumps(dataclasses.asdict(node)) if as_json else node_text(node))


@main.command()
@click.option(
    "--backend",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="What to check; auto takes CUDA where a GPU answers.",
)
@library_option
@json_option
@quiet_option
def check(backend: str, libraries: tuple[str, ...], as_json: bool, quiet: bool) -> None:
    """Run every kernel of this machine once and compare it with float64.

    \b
    agent check --backend cpu
    agent check --library vllm --quiet  # only what is wrong
    """
    _need_torch()
    from servecast.agent.kernels.reference import check_kernels
    from servecast.agent.serve import make_profiler

    profiler = make_profiler(backend, "", None, libraries)
    checks = []
    for found in check_kernels(profiler.backend, profiler.offered):
        checks.append(found)
        if not as_json and not (quiet and found.passed):
            click.echo(found.text)
    if as_json:
        click.echo(json.dumps([found.row for found in checks]))
    failed = sum(not found.passed for found in checks)
    if failed:
        raise AgentError(f"{failed} kernels are wrong or refused on this machine")


def _need_torch() -> None:
    if find_spec("torch") is None:
        raise AgentError("measuring needs PyTorch: pip install 'servecast[agent]'")


if __name__ == "__main__":
    main()
