"""Where a search's tasks run: here, or in processes that share nothing but the demand."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol, TypeVar

from servecast.compiler.errors import UserError
from servecast.simulator.search.task import Demand
from servecast.simulator.search.worker import Worker

T = TypeVar("T")
DEMAND = "demand"
NOTE = ".doing"


class LostWorkerError(UserError):
    """A process of the search ended before its tasks did."""

    exit_code = 5


@dataclass(frozen=True, slots=True)
class Running:
    """What a process works on, in a few words, and since when by the clock of `time.time`."""

    doing: str
    since_s: float


class Pool(Protocol):
    """Runs ``work(worker, *args)`` with the `Worker` of one of its ``slots`` processes.

    A result depends on the demand and the arguments alone, so a task that was lost may run again, anywhere.
    """

    slots: int

    def share(self, value: Any) -> Any:
        """What stands for a large value among the arguments of several tasks."""

    def submit(self, work: Callable[..., T], *args: Any, doing: str = "") -> Future[T]:
        """``doing`` is the task in a few words, for `running`."""

    def running(self) -> Mapping[str, Running]:
        """By process; those that wait for a task, or cannot tell, are left out. Any thread may ask."""

    def close(self, *, now: bool) -> None:
        """``now``: in the middle of what its tasks do."""


class Here:
    """Runs a task when it is submitted."""

    slots = 1

    def __init__(self, demand: Demand) -> None:
        self._worker = Worker(demand)
        self._running: dict[str, Running] = {}

    def share(self, value: Any) -> Any:
        return value

    def submit(self, work: Callable[..., T], *args: Any, doing: str = "") -> Future[T]:
        future: Future[T] = Future()
        self._running = {"this process": Running(doing, time.time())}
        future.set_result(work(self._worker, *args))
        self._running = {}
        return future

    def running(self) -> Mapping[str, Running]:
        return self._running

    def close(self, *, now: bool) -> None:
        pass


class Processes:
    """``slots`` processes of this machine. They read the demand from a file, and note in files what they do.

    As an argument the demand would be written to a process that starts through a pipe, which it fills: this
    one would wait for ever for a process that died.
    """

    def __init__(self, demand: Demand, slots: int) -> None:
        self.slots = slots
        self._folder = Path(tempfile.mkdtemp(prefix="servecast-search-"))
        with (self._folder / DEMAND).open("wb") as file:
            pickle.dump(demand, file)
        self._executor = _DeafProcesses(slots, get_context("spawn"), _start, (self._folder,))

    def share(self, value: Any) -> Any:
        return value

    def submit(self, work: Callable[..., T], *args: Any, doing: str = "") -> Future[T]:
        task: Future[T] = self._executor.submit(_run, doing, work, *args)  # type: ignore[no-untyped-call]
        return task

    def running(self) -> Mapping[str, Running]:
        found = {}
        for note in self._folder.glob(f"*{NOTE}"):
            try:
                found[f"pid {note.stem}"] = Running(note.read_text(), note.stat().st_mtime)
            except FileNotFoundError:
                continue  # its task has ended meanwhile
        return found

    def close(self, *, now: bool) -> None:
        if now:
            self._executor.kill()
        self._executor.shutdown(cancel_futures=True)
        shutil.rmtree(self._folder, ignore_errors=True)


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
_note: list[Path] = []  # what says what it does


def _start(folder: Path) -> None:
    with (folder / DEMAND).open("rb") as file:  # written by the process that starts this one
        _worker[:] = [Worker(pickle.load(file))]
    _note[:] = [folder / f"{os.getpid()}{NOTE}"]


def _run(doing: str, work: Callable[..., T], *args: Any) -> T:
    draft = _note[0].with_suffix(".draft")
    draft.write_text(doing)
    draft.replace(_note[0])  # whole or not at all for who reads meanwhile
    try:
        return work(_worker[0], *args)
    finally:
        _note[0].unlink(missing_ok=True)
