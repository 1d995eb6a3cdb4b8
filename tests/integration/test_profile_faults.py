"""SIGKILL at random moments, of agents and of the coordinator: nothing lost, nothing doubled, all done."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from servecast.agent.stopping import UNSTABLE
from servecast.compiler.catalog import compile_text
from servecast.compiler.kernels import KernelCase
from servecast.compiler.shard import shard
from servecast.compiler.sharded import Parallelism
from servecast.estimator.profiling.plan import PlanLimits, plan_cases
from servecast.estimator.store import Store

KILLS = 50
SPEC = """\
model "tiny" {
    source   "made for tests"
    context  64
    weights  bf16
    kv_cache bf16
    let hidden = 64, vocab = 128, heads = 4, head = 16
    embedding vocab -> hidden
    repeat 2 {
        residual {
            rms_norm  hidden
            linear    hidden -> 3*heads*head  split columns by heads
            attention heads/heads x head
            linear    heads*head -> hidden  split rows
        }
    }
    rms_norm hidden
    linear   hidden -> vocab  split columns  at last_token
}
"""
LIMITS = PlanLimits(max_batched_tokens=16, max_num_seqs=4, max_context_tokens=64)
OPTIONS = ["--tp", "1", "--max-num-batched-tokens", "16", "--max-num-seqs", "4"]
SKUS = ("cpu-a", "cpu-a", "cpu-b")  # two agents share one SKU


class Zygote:
    """Starts our commands as processes of their own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        script = Path(__file__).parent / "zygote.py"
        self._process = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, *command: str) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {"command": command, "stdout": str(self._folder / "out.txt")}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Fleet:
    """Three agents on fixed ports, each started again where it was killed."""

    def __init__(self, zygote: Zygote) -> None:
        self._zygote = zygote
        self.ports = [free_port() for _ in SKUS]
        self.pids = [self._start(index) for index in range(len(SKUS))]

    def _start(self, index: int) -> int:
        where = ["--port", str(self.ports[index]), "--sku", SKUS[index], "--log-level", "error"]
        return self._zygote.start("agent", "serve", "--backend", "cpu", "--threads", "1", *where)

    @property
    def options(self) -> list[str]:
        return [part for port in self.ports for part in ("--agent", f"127.0.0.1:{port}")]

    def kill_one(self, rng: random.Random) -> None:
        index = rng.randrange(len(SKUS))
        os.kill(self.pids[index], signal.SIGKILL)
        wait_for_end(self.pids[index])
        self.pids[index] = self._start(index)

    def close(self) -> None:
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def wait_for_end(pid: int) -> None:
    """The zygote's children are reaped by the system, so that their id vanishes."""
    with suppress(ProcessLookupError):
        while True:
            os.kill(pid, 0)
            time.sleep(0.001)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def zygote(tmp_path: Path) -> Iterator[Zygote]:
    zygote = Zygote(tmp_path)
    yield zygote
    zygote.close()


@pytest.fixture
def fleet(zygote: Zygote) -> Iterator[Fleet]:
    fleet = Fleet(zygote)
    for port in fleet.ports:
        wait_for_port(port)
    yield fleet
    fleet.close()


def wait_for_port(port: int) -> None:
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"nothing listens on {port}")


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.llm"
    path.write_text(SPEC)
    return path


def planned() -> set[KernelCase]:
    """The cases of one rank alone; starting collectives would take the test's time."""
    program = compile_text(SPEC, "tiny.llm").model()
    return set(plan_cases([shard(program, Parallelism())], LIMITS))


def is_complete(path: Path) -> bool:
    with Store.open(path, read_only=True) as store:
        return not any(store.missing(planned(), sku) for sku in set(SKUS))


def check_store(path: Path) -> None:
    """Every planned case once per SKU, twice at most where it was unstable, and nothing else."""
    with Store.open(path, read_only=True) as store:
        for sku in set(SKUS):
            rows = store.measurements(sku)
            unstable = Counter(row.case for row in rows if UNSTABLE.intersection(row.flags))
            every = Counter(row.case for row in rows)
            assert all(n == 1 or (n == 2 and unstable[case]) for case, n in every.items()), (
                "doubled"
            )
            assert set(every) == planned()


@pytest.mark.slow
def test_agents_killed_at_fifty_random_moments_lose_and_double_nothing(
    zygote: Zygote, fleet: Fleet, spec: Path, tmp_path: Path
) -> None:
    rng = random.Random(20)
    kills = runs = 0
    while kills < KILLS:
        store = tmp_path / f"{runs}.duckdb"
        command = ["servecast", "profile", str(spec), "--store", str(store), *OPTIONS]
        command += ["--max-case-s", "0.01", *fleet.options]
        run = zygote.start(*command)
        while is_running(run):
            time.sleep(rng.uniform(0, 0.15))
            if kills < KILLS:
                fleet.kill_one(rng)
                kills += 1
        if not is_complete(store):  # a case that met five kills was given up: the next run's
            wait_for_end(zygote.start(*command))
        check_store(store)
        runs += 1


@pytest.mark.slow
def test_a_coordinator_killed_at_fifty_random_moments_goes_on_where_it_was(
    zygote: Zygote, fleet: Fleet, spec: Path, tmp_path: Path
) -> None:
    rng = random.Random(21)
    kills = runs = 0
    while kills < KILLS:
        store = tmp_path / f"{runs}.duckdb"
        command = ["servecast", "profile", str(spec), "--store", str(store), *OPTIONS]
        command += ["--max-case-s", "0.01", *fleet.options]
        for _ in range(10):
            run = zygote.start(*command)
            while is_running(run) and not store.exists():
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.25))
            if is_running(run):
                os.kill(run, signal.SIGKILL)
                kills += 1
            wait_for_end(run)
        wait_for_end(zygote.start(*command))
        check_store(store)
        runs += 1


@pytest.mark.slow
def test_the_case_of_an_agent_that_hangs_is_done_by_another(
    zygote: Zygote, fleet: Fleet, spec: Path, tmp_path: Path
) -> None:
    store = tmp_path / "s.duckdb"
    command = ["servecast", "profile", str(spec), "--store", str(store), *OPTIONS, *fleet.options]
    run = zygote.start(*command, "--max-case-s", "0.05")
    while not store.exists():
        time.sleep(0.01)
    os.kill(fleet.pids[0], signal.SIGSTOP)  # its connection stays open, and silent
    deadline = time.monotonic() + 90
    while is_running(run) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(run)
    check_store(store)
