"""An agent as a process: how it ends, what it leaves behind, and what cannot kill it."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from servecast.agent.client import Agent, AgentUnavailableError
from servecast.agent.messages import Outcome, Phase, Settings, Status
from servecast.agent.security import ClientSecurity
from servecast.compiler.errors import AgentError
from servecast.compiler.kernels import KernelCase
from servecast.protos import agent_pb2 as pb

ENDLESS = Settings(relative_ci=1e-9, max_samples=100_000, max_case_s=60)
LONG = 1 << 14  # rows of a linear of which 100,000 samples take a minute, not seconds
QUICK = Settings(min_samples=3, max_case_s=0.02)
TOKEN = "a-token-of-this-test"
MIB = 1 << 20


def linear(rows: int = 4) -> KernelCase:
    dims = (("in_features", 64), ("out_features", 64), ("rows", rows))
    return KernelCase("linear", "bf16", "", dims)


def all_reduce() -> KernelCase:
    return KernelCase("all_reduce", "bf16", "", (("degree", 2), ("payload_bytes", 4096)))


@dataclass
class Served:
    process: subprocess.Popen[str]
    address: str
    log: Path

    def resident_bytes(self) -> int:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def children(self) -> list[int]:
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                with suppress(OSError):
                    parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                    if int(parent) == self.process.pid:
                        found.append(int(entry.name))
        return found


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """`agent serve` with a token, at the most talkative log level."""
    (tmp_path / "token").write_text(TOKEN)
    log = tmp_path / "log"
    command = [
        sys.executable,
        "-m",
        "servecast.agent.cli",
        "serve",
        "--port",
        "0",
        "--threads",
        "1",
    ]
    command += ["--backend", "cpu", "--token-file", str(tmp_path / "token"), "--log-level", "debug"]
    with (
        log.open("w") as stderr,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True) as process,
    ):
        assert process.stdout is not None
        yield Served(process, process.stdout.readline().split()[-1], log)
        process.kill()


@pytest.fixture
def agent(served: Served) -> Iterator[Agent]:
    with Agent(served.address, ClientSecurity(TOKEN)) as agent:
        yield agent


def wait_until(claim: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not claim() and time.monotonic() < deadline:
        time.sleep(0.01)
    return claim()


def test_sigterm_lets_the_running_case_finish_and_ends_with_0_in_10_s(
    served: Served, agent: Agent
) -> None:
    half_a_second = Settings(relative_ci=1e-9, max_samples=100_000, max_case_s=0.5)
    stream = agent.profile([linear(1), linear(2)], half_a_second)
    next(stream)
    served.process.send_signal(signal.SIGTERM)
    begin = time.monotonic()
    seen = []
    with pytest.raises(AgentUnavailableError, match="the agent is stopping; cases left: 1"):
        seen.extend(event for _, event in stream)
    assert isinstance(seen[-1], Outcome)
    assert served.process.wait(10) == 0
    assert time.monotonic() - begin < 10


def test_a_case_longer_than_the_grace_is_handed_back(served: Served, agent: Agent) -> None:
    stream = agent.profile([linear(LONG)], ENDLESS)
    next(stream)
    served.process.send_signal(signal.SIGTERM)
    begin = time.monotonic()
    with pytest.raises(AgentError):
        list(stream)
    assert served.process.wait(10) == 0
    assert time.monotonic() - begin < 10


def test_a_launch_that_never_ends_keeps_no_agent_alive_beyond_its_time() -> None:
    """Nothing of the process answers any more but the signal's thread."""
    stuck = (
        "import threading, time; from servecast.agent.serve import leave_in_time; "
        "leave_in_time(0.2, 5); threading.Thread(target=time.sleep, args=(30,)).start(); time.sleep(30)"
    )
    begin = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-c", stuck], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 5
    assert "left while a launch still ran" in ended.stderr
    assert time.monotonic() - begin < 20


def test_a_second_sigterm_ends_at_once(served: Served, agent: Agent) -> None:
    stream = agent.profile([linear(LONG)], ENDLESS)
    next(stream)
    served.process.send_signal(signal.SIGTERM)
    assert wait_until(lambda: "stopping" in served.log.read_text())
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(2) == 128 + signal.SIGTERM


@pytest.mark.slow
def test_a_hundred_cancelled_calls_leave_no_process_and_no_memory(
    served: Served, agent: Agent
) -> None:
    def cancel(case: KernelCase) -> None:
        stream = agent.profile([case], ENDLESS)
        next(event for _, event in stream if event is not Phase.QUEUED)
        stream.close()

    for _ in range(10):
        cancel(linear())
    before = served.resident_bytes()
    for _ in range(97):
        cancel(linear())
    for _ in range(3):
        cancel(all_reduce())
    outcomes = [e for _, e in agent.profile([linear()], QUICK) if isinstance(e, Outcome)]
    assert [outcome.status for outcome in outcomes] == [Status.MEASURED]
    assert wait_until(lambda: served.children() == [])
    assert served.resident_bytes() - before < 60 * MIB


def test_hostile_bytes_do_not_kill_an_agent(served: Served, agent: Agent) -> None:
    agent.describe()
    before = served.resident_bytes()
    rng = random.Random(3)
    good = pb.ProfileRequest(protocol_version=1, cases=[pb.KernelCase(kernel="linear")])
    with grpc.insecure_channel(served.address) as channel:
        call = channel.unary_stream(
            "/servecast.agent.v1.Agent/Profile",
            request_serializer=lambda raw: raw,
            response_deserializer=lambda raw: raw,
        )
        for _ in range(500):
            raw = bytearray(good.SerializeToString())
            for _ in range(rng.randrange(1, 6)):
                raw[rng.randrange(len(raw))] = rng.randrange(256)
            with suppress(grpc.RpcError):
                list(call(bytes(raw), timeout=5, metadata=(("authorization", f"Bearer {TOKEN}"),)))
        with suppress(grpc.RpcError):
            list(call(b"\0" * 100 * MIB, timeout=5))
    host, port = served.address.split(":")
    for _ in range(20):
        with socket.create_connection((host, int(port))) as raw_socket:
            raw_socket.sendall(rng.randbytes(4096))
    assert agent.describe().backend == "cpu"
    assert served.resident_bytes() - before < 50 * MIB


def test_logs_are_json_lines_without_the_token(served: Served, agent: Agent) -> None:
    list(agent.profile([linear()], QUICK))
    stranger = Agent(served.address, ClientSecurity("the-wrong-token-here"))
    with stranger, pytest.raises(AgentError):
        stranger.describe()
    served.process.terminate()
    served.process.wait(10)
    lines = [json.loads(line) for line in served.log.read_text().splitlines()]
    assert [line["case"]["kernel"] for line in lines if line["event"] == "case"] == ["linear"]
    assert TOKEN not in served.log.read_text()
    assert "the-wrong-token-here" not in served.log.read_text()
