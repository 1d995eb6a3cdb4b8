"""The agent's process: serves until a signal, then stops within the grace."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading

import click

from servecast.agent.backend import Backend
from servecast.agent.device import choose_backend, sku_of
from servecast.agent.kernels.registry import installed, offers
from servecast.agent.profiler import Profiler
from servecast.agent.server import AgentServer
from servecast.compiler.errors import AgentError

LOOK_S = 0.5  # between two looks whether a device is lost
LONGEST_STOP_S = 8.0  # one launch may take longer, and nothing ends it but the process
log = logging.getLogger(__name__)


def make_profiler(
    backend: str, sku: str, threads: int | None, libraries: tuple[str, ...] = ()
) -> Profiler:
    """A profiler of this machine; ``backend`` is cpu, cuda or auto.

    ``libraries`` whose kernels to time, the first one best; empty: all that are installed and load.

    Raises: AgentError without a GPU, or without a library that was asked for.
    """
    chosen = choose_backend(backend, threads or os.cpu_count() or 1)
    found = libraries or _loadable(chosen)
    return Profiler(chosen, sku or sku_of(chosen), offers(found, chosen.capability))


def _loadable(backend: Backend) -> tuple[str, ...]:
    names = []
    for name in installed(backend.name):
        try:
            offers((name,), backend.capability)
        except AgentError as error:
            log.warning("library left out", extra={"library": name, "reason": str(error)})
        else:
            names.append(name)
    return tuple(names)


def serve_until_stopped(server: AgentServer, as_json: bool = False) -> None:
    """Serves until SIGTERM or SIGINT; a second signal ends the process at once.

    Raises: AgentError where a device was lost.
    """
    stopping = threading.Event()

    def stop(number: int, frame: object) -> None:
        del frame
        if stopping.is_set():
            os._exit(128 + number)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    server.start()
    address = f"{server.host}:{server.port}"
    click.echo(json.dumps({"address": address}) if as_json else f"serving on {address}")
    while not stopping.wait(LOOK_S) and not server.service.lost.is_set():
        pass
    log.info("stopping")
    leave_in_time(LONGEST_STOP_S, AgentError.exit_code if server.service.lost.is_set() else 0)
    server.stop()
    log.info("stopped")
    if server.service.lost.is_set():
        raise AgentError("a device failed for good; a new process can use it again")


def leave_in_time(seconds: float, exit_code: int) -> None:
    """Ends the process then, whatever still runs. Its calls have been handed back by that time."""

    def leave() -> None:
        log.warning("left while a launch still ran")
        os._exit(exit_code)

    timer = threading.Timer(seconds, leave)
    timer.daemon = True
    timer.start()
