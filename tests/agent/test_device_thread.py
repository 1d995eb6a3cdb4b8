"""One device, one thread: order, stopping, how many may wait, and the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError

import pytest

from servecast.agent.device_thread import MAX_WAITING, BusyError, DeviceThread


@pytest.fixture
def device() -> Iterator[DeviceThread[int]]:
    device: DeviceThread[int] = DeviceThread("test")
    yield device
    device.close()


def count_up(stopped: Callable[[], bool]) -> Iterator[int]:
    number = 0
    while not stopped():
        yield number
        number += 1
        time.sleep(0.001)


def three(stopped: Callable[[], bool]) -> Iterator[int]:
    yield from (1, 2, 3)


def test_a_job_yields_from_the_devices_own_thread(device: DeviceThread[int]) -> None:
    names: list[str] = []

    def job(stopped: Callable[[], bool]) -> Iterator[int]:
        names.append(threading.current_thread().name)
        yield 1

    assert list(device.stream(job, threading.Event())) == [1]
    assert names == ["test_0"]


def test_closing_the_stream_stops_its_job_and_frees_the_device(device: DeviceThread[int]) -> None:
    stop = threading.Event()
    stream = device.stream(count_up, stop)
    assert next(stream) == 0
    stream.close()
    assert stop.is_set()
    assert list(device.stream(three, threading.Event())) == [1, 2, 3]


def test_a_job_that_was_stopped_before_its_turn_never_runs(device: DeviceThread[int]) -> None:
    stop = threading.Event()
    stop.set()
    assert list(device.stream(three, stop)) == []


def test_an_error_of_the_job_reaches_its_caller(device: DeviceThread[int]) -> None:
    def job(stopped: Callable[[], bool]) -> Iterator[int]:
        yield 1
        raise ZeroDivisionError("by hand")

    stream = device.stream(job, threading.Event())
    assert next(stream) == 1
    with pytest.raises(ZeroDivisionError, match="by hand"):
        next(stream)


def test_no_more_than_so_many_callers_wait(device: DeviceThread[int]) -> None:
    first = device.stream(count_up, threading.Event())
    next(first)
    waiting = [device.stream(three, threading.Event()) for _ in range(MAX_WAITING)]
    threads = [threading.Thread(target=list, args=(stream,)) for stream in waiting[1:]]
    for thread in threads:
        thread.start()
    while device.waiting < MAX_WAITING:
        time.sleep(0.001)
    with pytest.raises(BusyError, match=f"{MAX_WAITING} callers wait for the device already"):
        next(waiting[0])
    first.close()
    for thread in threads:
        thread.join()
    assert device.idle


def test_a_device_that_closes_hands_back_what_has_not_begun() -> None:
    device: DeviceThread[int] = DeviceThread("test")
    stop = threading.Event()
    first = device.stream(count_up, stop)
    next(first)
    errors: list[BaseException] = []

    def wait_in_line() -> None:
        try:
            list(device.stream(three, threading.Event()))
        except CancelledError as error:
            errors.append(error)

    waiting = threading.Thread(target=wait_in_line)
    waiting.start()
    while device.waiting < 2:
        time.sleep(0.001)
    threading.Timer(0.05, stop.set).start()
    device.close()
    waiting.join()
    assert len(errors) == 1
