"""A search's tasks on a Ray cluster. Needs the ``ray`` extra, here and on every node.

Ray is what starts processes, moves tables and runs the tasks of a lost node again; this file only connects.
"""

from __future__ import annotations

import io
import logging
import os
import pickle
import socket
import time
from collections.abc import Callable, Mapping
from concurrent.futures import BrokenExecutor, Future
from contextlib import ExitStack, redirect_stdout
from functools import partial
from threading import Lock
from typing import Any, TypeVar
from uuid import uuid4

import ray
from ray.exceptions import RayError, RayTaskError

from servecast.compiler.errors import AgentError, UserError
from servecast.simulator.search.pool import Running
from servecast.simulator.search.task import Demand
from servecast.simulator.search.worker import Worker

T = TypeVar("T")

RETRIES = 20
"""Of one task, each after the loss of the node or process that ran it; a task that kills its process ends."""

CONNECT_TIMEOUT_S = 5.0
ASK_S = 1.0
AUTO = "auto"
_SETTINGS = b"\0\0\0\4\0\0\0\0\0"


class RayPool:
    """``slots`` processes of a cluster, one for each CPU that it has when the search begins.

    ``connection`` ends with the pool.
    """

    def __init__(self, demand: Demand, connection: ExitStack) -> None:
        self._connection = connection
        self.slots = int(ray.cluster_resources().get("CPU", 0))
        if self.slots < 1:
            raise AgentError("--ray: the cluster has no CPU to run on; start its nodes with some")
        # Pickled here: arrays from the object store cannot be written, and numba would compile for them anew.
        self._demand = ray.put(pickle.dumps(demand))
        self._search = uuid4().hex
        self._board = _BOARD.remote()
        self._asking = Lock()  # once the connection is closed, a question would start a cluster
        self._closed = False

    def share(self, value: Any) -> Any:
        """Once in the object store; each node fetches it once, and its processes map it."""
        return ray.put(value)

    def submit(self, work: Callable[..., T], *args: Any, doing: str = "") -> Future[T]:
        found: Future[T] = Future()
        task = _TASK.remote(self._search, [self._demand], (self._board, doing), work, *args)
        task.future().add_done_callback(partial(hand_over, found))
        return found

    def running(self) -> Mapping[str, Running]:
        """Of processes of lost nodes what they did last, until the search ends."""
        with self._asking:
            if self._closed:
                return {}
            try:
                found: Mapping[str, Running] = ray.get(self._board.running.remote(), timeout=ASK_S)
            except (RayError, TimeoutError):
                return {}  # the cluster is busy with other things, or has lost the board
            return found

    def close(self, *, now: bool) -> None:
        """Ray ends the tasks of a driver that leaves, so ``now`` or not, nothing runs on."""
        with self._asking:
            self._closed = True
            self._connection.close()


def hand_over(found: Future[T], done: Future[T]) -> None:
    """What became of a task of Ray's, as a process pool would say it."""
    error = done.exception()
    if error is None:
        found.set_result(done.result())
    elif isinstance(error, RayTaskError):
        found.set_exception(error.cause)  # what the work itself raised
    else:
        found.set_exception(BrokenExecutor(f"lost {RETRIES + 1} times: {_first_line(error)}"))


def ray_pool(demand: Demand, address: str) -> RayPool:
    """A pool on the cluster at ``host:port``, or on this machine's own with ``auto``.

    Raises:
        UserError: the address is none.
        AgentError: no cluster answers there, or it cannot serve this Ray and Python.
    """
    _check(address)
    with ExitStack() as stack:
        # A thread of Ray's prints a page on standard output when a node is lost; there the answer belongs.
        stack.enter_context(redirect_stdout(io.StringIO()))
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (RayError, ConnectionError, RuntimeError, ValueError) as error:
            why = _first_line(error)
            if address == AUTO and isinstance(error, ConnectionError):
                why = (
                    "no Ray cluster runs here; start one with `ray start --head`, or name HOST:PORT"
                )
            raise AgentError(f"--ray {address}: {why}") from error
        stack.callback(ray.shutdown)
        return RayPool(demand, stack.pop_all())


def _check(address: str) -> None:
    """Ray itself waits for minutes where nothing answers."""
    if address == AUTO:
        return
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdecimal() and 0 < int(port) < 1 << 16) or "/" in host:
        raise UserError(
            f"--ray {address!r} is not 'auto' or the HOST:PORT that `ray start --head` prints"
        )
    try:
        with socket.create_connection((host, int(port)), CONNECT_TIMEOUT_S) as connection:
            speaks = _speaks(connection)
    except OSError as error:
        why = error.strerror or str(error)
        raise AgentError(f"--ray {address}: no Ray cluster answers there: {why}") from error
    if not speaks and os.environ.get("RAY_USE_TLS", "0") == "0":
        raise AgentError(
            f"--ray {address}: what answers there is no Ray cluster; "
            "give the HOST:PORT that `ray start --head` prints"
        )


def _speaks(connection: socket.socket) -> bool:
    """A cluster's head is a gRPC server: it begins with its settings. Ray's dashboard does not.

    SOURCE: RFC 9113 (HTTP/2), sections 3.4 and 6.5: the client's preface and a frame of no settings, the
    fourth byte of which is its type.
    """
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _SETTINGS)
    try:
        return connection.recv(len(_SETTINGS))[3:4] == _SETTINGS[3:4]
    except TimeoutError:
        return False


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


class Board:
    """What each process of a search works on, kept by one process of the cluster that takes no CPU of it."""

    def __init__(self) -> None:
        self._running: dict[str, Running] = {}

    def note(self, process: str, doing: str | None) -> None:
        """None: nothing."""
        self._running.pop(process, None)
        if doing is not None:
            self._running[process] = Running(doing, time.time())

    def running(self) -> Mapping[str, Running]:
        return self._running


_workers: dict[str, Worker] = {}  # this process's, by search; at most one


def _run(
    search: str, demand: list[Any], noted: tuple[Any, str], work: Callable[..., T], *args: Any
) -> T:
    """``demand`` holds a reference, which is followed only by a process that is new to the search."""
    if search not in _workers:
        _workers.clear()
        _workers[search] = Worker(pickle.loads(ray.get(demand[0])))
    board, doing = noted
    process = f"{ray.util.get_node_ip_address()}:{os.getpid()}"
    board.note.remote(process, doing)  # nobody waits for it, also where the board is lost
    try:
        return work(_workers[search], *args)
    finally:
        board.note.remote(process, None)


_BOARD = ray.remote(num_cpus=0, max_restarts=-1)(Board)
_TASK = ray.remote(num_cpus=1, max_retries=RETRIES)(_run)
