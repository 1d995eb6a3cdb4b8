"""A search's tasks on a Ray cluster. Needs the ``ray`` extra, here and on every node.

Ray is what starts processes, moves tables and runs the tasks of a lost node again; this file only connects.
"""

from __future__ import annotations

import io
import logging
import pickle
import socket
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future
from contextlib import ExitStack, redirect_stdout
from functools import partial
from typing import Any, TypeVar
from uuid import uuid4

import ray
from ray.exceptions import RayError, RayTaskError

from servecast.compiler.errors import AgentError, UserError
from servecast.simulator.search.task import Demand
from servecast.simulator.search.worker import Worker

T = TypeVar("T")

RETRIES = 20
"""Of one task, each after the loss of the node or process that ran it; a task that kills its process ends."""

CONNECT_TIMEOUT_S = 5.0
AUTO = "auto"


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

    def share(self, value: Any) -> Any:
        """Once in the object store; each node fetches it once, and its processes map it."""
        return ray.put(value)

    def submit(self, work: Callable[..., T], *args: Any) -> Future[T]:
        found: Future[T] = Future()
        task = _TASK.remote(self._search, [self._demand], work, *args)
        task.future().add_done_callback(partial(hand_over, found))
        return found

    def close(self, *, now: bool) -> None:
        """Ray ends the tasks of a driver that leaves, so ``now`` or not, nothing runs on."""
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
            raise AgentError(f"--ray {address}: {_first_line(error)}") from error
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
        socket.create_connection((host, int(port)), CONNECT_TIMEOUT_S).close()
    except OSError as error:
        why = error.strerror or str(error)
        raise AgentError(f"--ray {address}: no Ray cluster answers there: {why}") from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


_workers: dict[str, Worker] = {}  # this process's, by search; at most one


def _run(search: str, demand: list[Any], work: Callable[..., T], *args: Any) -> T:
    """``demand`` holds a reference, which is followed only by a process that is new to the search."""
    if search not in _workers:
        _workers.clear()
        _workers[search] = Worker(pickle.loads(ray.get(demand[0])))
    return work(_workers[search], *args)


_TASK = ray.remote(num_cpus=1, max_retries=RETRIES)(_run)
