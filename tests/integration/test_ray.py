"""A search on a real Ray cluster: two nodes on this machine, of which one is killed in mid-search."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shlex
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from pages import documented

REPOSITORY = Path(__file__).resolve().parents[2]
CLUSTER = Path(__file__).with_name("ray_cluster.py")
SEARCH = Path(sys.executable).with_name("compile-and-search")
PAGE = documented("ray.md", "ray start --head").splitlines()
"""The documentation's way to a search on a cluster: two commands that start it, and the search."""
ASKED = shlex.split(PAGE[-1])[1:-2]  # without the program and --ray HEAD:6379
QUESTION = (
    *(*ASKED, "--sku", "h100-sxm", "--tp", "1,2"),
    *("--max-num-seqs", "64,128", "--max-num-batched-tokens", "512,1024,2048", "--json"),
)
START_S = 280

needs_ray = pytest.mark.skipif(
    find_spec("ray") is None, reason="the ray extra is not installed; pip install 'servecast[ray]'"
)


class Cluster:
    """The process of ``ray_cluster.py``."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(CLUSTER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        self.address = self.heard("address")

    def heard(self, key: str) -> str:
        """The value of the next line that says ``key``; Ray writes lines of its own."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{") and key in (said := json.loads(line)):
                return str(said[key])
        pytest.fail(f"the cluster ended before it said {key}")

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
        if self._process.stdout is not None:
            self._process.stdout.close()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    started = Cluster()
    yield started
    started.close()


def start(*options: str, folder: Path, stderr: int = subprocess.PIPE) -> subprocess.Popen[str]:
    """On the datasheet alone: nothing to import and to fit, and a store that no other run waits for."""
    store = ("--source", "agent", "--store", str(folder / "profiles.duckdb"))
    return subprocess.Popen(
        [str(SEARCH), *QUESTION, *store, *options],
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
    cluster.tell("kill")
    found = answer(on_two, screen)
    assert cluster.heard("killed") == cluster.address
    assert found == alone
    assert len(found["ranked"]) > 6
    line = r"([\d.]+:\d+) +h100-sxm tp=[12] pp=1: 64-128 seqs, \S+ tokens"
    assert re.findall(line, screen.text())  # of both nodes, or of the one that is left


@needs_ray
@pytest.mark.parametrize("command", PAGE[:2])
def test_ray_itself_takes_the_commands_that_start_a_cluster(command: str) -> None:
    """In a process of its own: importing Ray warns. Nothing is started: a cluster listens everywhere."""
    program, start_it, *options = shlex.split(command, comments=True)
    assert (program, start_it) == ("ray", "start")
    code = "import click, sys; from ray.scripts.scripts import start as s; s.make_context('s', sys.argv[1:])"
    subprocess.run([sys.executable, "-c", code, *options], check=True)


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
