"""Where a search's tasks run: here, or in processes that share nothing but the demand."""

from __future__ import annotations

import pickle
import signal
import tempfile
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol, TypeVar

from servecast.compiler.errors import UserError
from servecast.simulator.search.task import Demand
from servecast.simulator.search.worker import Worker

T = TypeVar("T")


class LostWorkerError(UserError):
    """A process of the search ended before its tasks did."""

    exit_code = 5


class Pool(Protocol):
    """Runs ``work(worker, *args)`` with the `Worker` of one of its ``slots`` processes.

    A result depends on the demand and the arguments alone, so a task that was lost may run again, anywhere.
    """

    slots: int

    def share(self, value: Any) -> Any:
        """What stands for a large value among the arguments of several tasks."""

    def submit(self, work: Callable[..., T], *args: Any) -> Future[T]: ...

    def close(self, *, now: bool) -> None:
        """``now``: in the middle of what its tasks do."""


class Here:
    """Runs a task when it is submitted."""

    slots = 1

    def __init__(self, demand: Demand) -> None:
        self._worker = Worker(demand)

    def share(self, value: Any) -> Any:
        return value

    def submit(self, work: Callable[..., T], *args: Any) -> Future[T]:
        future: Future[T] = Future()
        future.set_result(work(self._worker, *args))
        return future

    def close(self, *, now: bool) -> None:
        pass


class Processes:
    """``slots`` processes of this machine. They read the demand from a file.

    As an argument it would be written to a process that starts through a pipe, which it fills: this
    one would wait for ever for a process that died.
    """

    def __init__(self, demand: Demand, slots: int) -> None:
        self.slots = slots
        with tempfile.NamedTemporaryFile(prefix="servecast-demand-", delete=False) as file:
            pickle.dump(demand, file)
        self._demand = Path(file.name)
        self._executor = _DeafProcesses(slots, get_context("spawn"), _start, (self._demand,))

    def share(self, value: Any) -> Any:
        return value

    def submit(self, work: Callable[..., T], *args: Any) -> Future[T]:
        task: Future[T] = self._executor.submit(_run, work, *args)  # type: ignore[no-untyped-call]
        return task

    def close(self, *, now: bool) -> None:
        if now:
            self._executor.kill()
        self._executor.shutdown(cancel_futures=True)
        self._demand.unlink(missing_ok=True)


def local_pool(demand: Demand, jobs: int) -> Pool:
    return Here(demand) if jobs == 1 else Processes(demand, jobs)


class _DeafProcesses(ProcessPoolExecutor):
    """Starts its processes with SIGINT blocked, which they inherit: Ctrl-C is this one's to handle.

    The pool starts a process in any ``submit`` that finds none idle. An interrupt that comes
    meanwhile waits here until it is unblocked.
    """

    def submit(self, fn, /, *args, **kwargs):  # type: ignore[no-untyped-def]  # as Executor's
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return super().submit(fn, *args, **kwargs)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

    def kill(self) -> None:
        """Ends the processes in the middle of what they do, as 3.14's ``kill_workers`` would."""
        for process in (self._processes or {}).values():
            process.kill()


_worker: list[Worker] = []  # one per process


def _start(demand: Path) -> None:
    with demand.open("rb") as file:  # written by the process that starts this one
        _worker[:] = [Worker(pickle.load(file))]


def _run(work: Callable[..., T], *args: Any) -> T:
    return work(_worker[0], *args)
