"""One device, one thread: whatever runs on the device runs here, one job after another, in their order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")
Job = Callable[[Callable[[], bool]], Iterator[T]]
"""Yields results while the given predicate does not say that they are wanted no more."""

MAX_WAITING = 16  # callers in line for one device; each holds a thread of the server


class BusyError(RuntimeError):
    """Too many callers wait for the device."""


class DeviceThread(Generic[T]):
    """Two kernels timed at once would time each other, and OpenMP's threads belong to the calling thread."""

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._lock = threading.Lock()
        self._waiting = 0

    @property
    def waiting(self) -> int:
        """Callers whose job runs or waits."""
        return self._waiting

    @property
    def idle(self) -> bool:
        return self._waiting == 0

    def stream(self, job: Job[T], stop: threading.Event) -> Iterator[T]:
        """Yields what the job yields. Closing this iterator sets ``stop``, which the job must watch.

        Raises: BusyError, CancelledError where the device closed first, and whatever the job raises.
        """
        with self._lock:
            if self._waiting >= MAX_WAITING:
                raise BusyError(f"{self._waiting} callers wait for the device already")
            self._waiting += 1
        queue: SimpleQueue[T | None] = SimpleQueue()
        future = self._executor.submit(self._run, job, stop, queue)
        future.add_done_callback(lambda _: queue.put(None))  # also where it never ran
        try:
            while (item := queue.get()) is not None:
                yield item
            future.result()
        finally:
            stop.set()
            self._forget(future)

    def _forget(self, future: Future[None]) -> None:
        """Counts the job out once it has really left the device."""

        def leave(_: Future[None]) -> None:
            with self._lock:
                self._waiting -= 1

        future.add_done_callback(leave)

    @staticmethod
    def _run(job: Job[T], stop: threading.Event, queue: SimpleQueue[T | None]) -> None:
        if not stop.is_set():
            for item in job(stop.is_set):
                queue.put(item)

    def close(self) -> None:
        """Waits for the job that runs; jobs in line end without having run (CancelledError)."""
        self._executor.shutdown(wait=True, cancel_futures=True)
