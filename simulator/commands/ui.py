"""A page on this machine alone: the results below a folder, each ranked again under targets that one types.

Listens on the loopback address only, answers reads only, and only under its own name, so that no page of
another origin reaches it through the browser. A request names a file of the listing, never a path.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from html import escape
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from markupsafe import Markup

from servecast.compiler.errors import UserError
from servecast.simulator.metrics.classes import slo_of
from servecast.simulator.report.check import checked
from servecast.simulator.report.files import read_result
from servecast.simulator.report.headline import headline
from servecast.simulator.report.render import render, render_index
from servecast.simulator.report.rerank import rerank

LOOPBACK = "127.0.0.1"
MAX_RESULTS = 500
MAX_TARGETS = 16


@dataclass(frozen=True, slots=True)
class Listed:
    """A file of the folder: what it recommends, or why it cannot be read."""

    name: str
    headline: str
    is_result: bool


@dataclass(frozen=True, slots=True)
class Answer:
    status: HTTPStatus
    html: str


def listing(folder: Path) -> list[Path]:
    """The result files below a folder, newest first."""
    found = sorted(folder.rglob("results*.json"), key=lambda path: (-path.stat().st_mtime, path))
    return found[:MAX_RESULTS]


def answer(folder: Path, target: str) -> Answer:
    """The page for the target of a request: ``/``, or ``/result?file=…&slo=…&slo=…``."""
    parts = urlsplit(target)
    if parts.path == "/":
        return Answer(HTTPStatus.OK, render_index([*_listed(folder)], str(folder)))
    fields = parse_qs(parts.query)
    name = fields.get("file", [""])[0]
    path = {_name(path, folder): path for path in listing(folder)}.get(name)
    if parts.path != "/result" or path is None:
        return Answer(HTTPStatus.NOT_FOUND, _refused("there is no such result"))
    try:
        return Answer(HTTPStatus.OK, _result_page(path, name, fields.get("slo", [])[:MAX_TARGETS]))
    except UserError as error:
        return Answer(HTTPStatus.BAD_REQUEST, _refused(str(error)))


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _listed(folder: Path) -> list[Listed]:
    found = []
    for path in listing(folder):
        name = _name(path, folder)
        try:
            result = checked(read_result(path), name)
            found.append(Listed(name, headline(result), True))
        except UserError as error:
            found.append(Listed(name, str(error), False))
    return found


def _result_page(path: Path, name: str, asked: list[str]) -> str:
    shown: dict[str, Any] = checked(read_result(path), name)
    slos = [slo_of(text) for text in asked if text.strip()]
    if slos:
        shown = rerank(shown, slos, name)
    return render(shown, name, toolbar(name, shown["question"]["slos"]))


def toolbar(name: str, slos: list[str]) -> Markup:
    """The form that asks for other targets: one field each, and an empty one."""
    fields = "".join(
        f'<input type="text" name="slo" value="{escape(slo)}" aria-label="Target {number}" '
        'placeholder="tbt p99 &lt; 100 ms">'
        for number, slo in enumerate([*slos, ""], start=1)
    )
    return Markup(  # every value in it is escaped above
        '<form class="toolbar" method="get"><a href="/">All results</a> '
        f'<input type="hidden" name="file" value="{escape(name)}"> <span>Targets</span> {fields} '
        '<button type="submit">Rank again</button> '
        f'<a href="?file={escape(quote(name))}">As searched</a></form>'
    )


def _refused(message: str) -> str:
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Servecast</title>'
        f'<main><h1>Not possible</h1><pre>{escape(message)}</pre><p><a href="/">All results</a></p></main>'
    )


class Handler(BaseHTTPRequestHandler):
    """Answers GET with `answer`."""

    server_version = "servecast"
    sys_version = ""

    def __init__(self, folder: Path, *arguments: Any) -> None:
        self.folder = folder
        super().__init__(*arguments)

    def do_GET(self) -> None:  # http.server's name
        host = self.headers.get("Host", "").partition(":")[0]
        if host not in (LOOPBACK, "localhost"):
            self._send(
                Answer(HTTPStatus.FORBIDDEN, _refused("this page is for this machine alone"))
            )
            return
        self._send(answer(self.folder, self.path))

    def _send(self, found: Answer) -> None:
        body = found.html.encode()
        self.send_response(found.status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: a person sees the page."""


def make_server(folder: Path, port: int) -> ThreadingHTTPServer:
    """A server on the loopback address; port 0 takes a free one.

    Raises:
        UserError: the folder is none, or the port is taken.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: is not a folder of results")
    make: Callable[..., BaseHTTPRequestHandler] = partial(Handler, folder.resolve())
    try:
        return ThreadingHTTPServer((LOOPBACK, port), make)
    except OSError as error:
        raise UserError(f"port {port} on {LOOPBACK}: {error.strerror or error}") from error
