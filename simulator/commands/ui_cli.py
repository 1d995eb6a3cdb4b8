"""``servecast ui``: explore a folder of results in a browser, on this machine alone."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("ui", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument(
    "folder", type=click.Path(path_type=Path, file_okay=False), default=Path("."), required=False
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, help="Port; a free one by default."
)
@click.option("--open", "open_browser", is_flag=True, help="Open the page in a browser.")
@click.option("--json", "as_json", is_flag=True, help="Print the address as one JSON object.")
@click.option("--quiet", is_flag=True, help="Print the address and nothing else.")
def ui_command(folder: Path, port: int, open_browser: bool, as_json: bool, quiet: bool) -> None:
    """Serve the results below FOLDER as a local page: look at them, and rank one again under other targets
    without simulating anything. Listens on 127.0.0.1 alone, until Ctrl-C.

    \b
    servecast ui results
    servecast ui results --port 8000 --open
    """
    import json
    import webbrowser

    from servecast.simulator.commands.ui import LOOPBACK, make_server

    server = make_server(folder, port)
    address = f"http://{LOOPBACK}:{server.server_port}/"
    click.echo(json.dumps({"address": address}) if as_json else address)
    if not (quiet or as_json):
        click.echo("Ctrl-C ends it.", err=True)
    if open_browser:
        webbrowser.open(address)
    with server:
        server.serve_forever()
