"""A search on a real Ray cluster: two nodes on this machine, of which one is killed in mid-search."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shlex
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from pages import documented

REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAMS = Path(sys.executable).parent
HEAD, NODE, SEARCH = documented("ray.md", "ray start --head").splitlines()
BENCHMARK = documented("ray.md", "python benchmarks/ray_scaling.py")
"""The documentation's way to a search on a cluster: two commands that start it, the search, and its worth."""
ASKED = shlex.split(SEARCH)[1:-2]  # without the program and --ray HEAD:6379
QUESTION = (
    *(*ASKED, "--sku", "h100-sxm", "--tp", "1,2"),
    *("--max-num-seqs", "64,128", "--max-num-batched-tokens", "512,1024,2048", "--json"),
)
ONE_CORE = ("--block", "--num-cpus", "1", "--object-store-memory", "100000000")
"""Added to what starts a node. It ends with the process that blocks."""
START_S = 280
TASK_TITLE = b"ray::_run"
"""What Ray calls a process while it runs a task of `simulator/search/ray_pool.py`."""
IN_TASK_S = 0.3

needs_ray = pytest.mark.skipif(
    find_spec("ray") is None, reason="the ray extra is not installed; pip install 'servecast[ray]'"
)


class RayNode:
    """One of a cluster on this machine, by a command of the documentation."""

    def __init__(self, command: str, address: str, *options: str) -> None:
        words = shlex.split(command.replace("HEAD:6379", address), comments=True)
        words = [address.rpartition(":")[2] if word == "6379" else word for word in words]
        self._process = subprocess.Popen(
            [PROGRAMS / words[0], *words[1:], *ONE_CORE, *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
        )

    def wait_until_it_runs(self) -> None:
        assert self._process.stdout is not None
        said = ""
        for line in self._process.stdout:
            said += line
            if "Ray runtime started" in line:
                return
        pytest.fail(said)

    @property
    def is_in_a_task(self) -> bool:
        """Whether a worker of the node runs a task of ours."""
        mine = children(self._process.pid)
        (raylet,) = (pid for pid, command in mine if b"raylet/raylet\0" in command)
        return any(title.startswith(TASK_TITLE) for _, title in children(raylet))

    def kill(self) -> None:
        """Once it is in the middle of a task."""
        while not self.is_in_a_task:
            time.sleep(0.05)
        time.sleep(IN_TASK_S)
        self._process.kill()

    def close(self) -> None:
        assert self._process.stdout is not None
        self._process.terminate()
        self._process.wait(timeout=60)
        self._process.stdout.close()


def children(parent: int) -> Iterator[tuple[int, bytes]]:
    """Processes and their command lines."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError):  # it ended meanwhile
            if int(folder.joinpath("stat").read_text().rpartition(")")[2].split()[1]) == parent:
                yield int(folder.name), folder.joinpath("cmdline").read_bytes()


@dataclass(frozen=True)
class Cluster:
    address: str
    last: RayNode


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Of two nodes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with ExitStack() as stack:
        for command, options in ((HEAD, ("--include-dashboard", "false")), (NODE, ())):
            node = RayNode(command, address, *options)
            stack.callback(node.close)
            node.wait_until_it_runs()
        yield Cluster(address, node)


def start(*options: str, folder: Path, stderr: int = subprocess.PIPE) -> subprocess.Popen[str]:
    """On the datasheet alone: nothing to import and to fit, and a store that no other run waits for."""
    store = ("--source", "agent", "--store", str(folder / "profiles.duckdb"))
    return subprocess.Popen(
        [str(PROGRAMS / "compile-and-search"), *QUESTION, *store, *options],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )


class Screen:
    """A terminal of 80 columns as a program's standard error, and all that it was sent."""

    def __init__(self) -> None:
        self._mine, self.theirs = pty.openpty()
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
        self._sent: list[bytes] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        with suppress(OSError):  # nobody has it open any more
            while sent := os.read(self._mine, 65536):
                self._sent.append(sent)

    def text(self) -> str:
        """Once the program has ended."""
        os.close(self.theirs)
        self._reader.join()
        os.close(self._mine)
        return b"".join(self._sent).decode()


def answer(search: subprocess.Popen[str], screen: Screen | None = None) -> dict[str, Any]:
    """What it found, without what differs between two runs of the same search."""
    stdout, stderr = search.communicate(timeout=START_S)
    assert search.returncode == 0, stderr or (screen and screen.text())
    result: dict[str, Any] = json.loads(stdout)
    del result["elapsed_s"], result["provenance"]["command"]
    return result


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(700)
def test_a_node_killed_in_mid_search_changes_nothing_of_the_answer(
    cluster: Cluster, tmp_path: Path
) -> None:
    alone = answer(start("--jobs", "1", folder=tmp_path))
    screen = Screen()
    on_two = start("--ray", cluster.address, folder=tmp_path, stderr=screen.theirs)
    cluster.last.kill()
    found = answer(on_two, screen)
    assert found == alone
    assert len(found["ranked"]) > 6
    doing = (
        r"h100-sxm tp=[12] pp=1: (?:tables|\S+ seqs)"  # a search is soon over, tables take longer
    )
    assert re.search(doing, screen.text())


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_workers_are_timed_against_one_and_against_as_many_processes() -> None:
    """So little that starting is most of it: what is timed is not judged."""
    little = shlex.split("--requests 20 --repeats 1 --placements 1 --source agent")
    command = [sys.executable, *shlex.split(BENCHMARK)[1:], *little]
    timed = json.loads(subprocess.check_output(command, cwd=REPOSITORY, stderr=subprocess.PIPE))
    assert (timed["workers"], timed["configurations"]) == (2, 64)
    assert timed["ratio"] == timed["one_worker_s"] / timed["workers_s"]
    assert timed["ratio_without_ray"] == timed["one_process_s"] / timed["processes_s"]


@needs_ray
def test_a_server_that_is_no_cluster_is_one_sentence_in_seconds(tmp_path: Path) -> None:
    """As Ray's dashboard is, on a port that is easily taken for the head's; Ray would wait for minutes."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        search = start("--ray", address, folder=tmp_path)
        _, stderr = search.communicate(timeout=60)
    assert search.returncode == 5
    assert stderr == (
        f"Error: --ray {address}: what answers there is no Ray cluster; "
        "give the HOST:PORT that `ray start --head` prints\n"
    )


@needs_ray
@pytest.mark.parametrize(
    ("address", "message", "exit_code"),
    [
        ("head-node", "--ray 'head-node' is not 'auto' or the HOST:PORT", 2),
        ("ray://head:10001", "is not 'auto' or the HOST:PORT", 2),
        ("127.0.0.1:99999", "is not 'auto' or the HOST:PORT", 2),
        ("127.0.0.1:{free}", "no Ray cluster answers there: Connection refused", 5),
    ],
)
def test_an_address_without_a_cluster_is_one_sentence_at_once(
    address: str, message: str, exit_code: int, tmp_path: Path
) -> None:
    with socket.socket() as nobody:  # bound, not listening
        nobody.bind(("127.0.0.1", 0))
        search = start("--ray", address.format(free=nobody.getsockname()[1]), folder=tmp_path)
        _, stderr = search.communicate(timeout=60)
    assert search.returncode == exit_code
    assert message in stderr
    assert stderr.count("\n") == 1


@needs_ray
def test_a_task_that_is_lost_for_good_is_a_broken_pool_and_an_error_of_its_own_is_itself() -> None:
    """In a process of its own: importing Ray warns."""
    code = """
from concurrent.futures import Future
from ray.exceptions import RayTaskError, WorkerCrashedError
from servecast.simulator.search.ray_pool import hand_over
for error in (WorkerCrashedError(), RayTaskError("run", "", ValueError("of its own"))):
    done, found = Future(), Future()
    done.set_exception(error)
    hand_over(found, done)
    print(repr(found.exception())[:40])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lost, own = done.stdout.splitlines()
    assert lost.startswith("BrokenExecutor('lost 21 times: ")
    assert own == "ValueError('of its own')"
