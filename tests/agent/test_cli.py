"""The `agent` command as a process of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from servecast.agent.client import Agent

AGENT = [sys.executable, "-m", "servecast.agent.cli"]


@pytest.fixture
def served() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running `agent serve` and its address."""
    command = [
        *AGENT,
        "serve",
        "--port",
        "0",
        "--threads",
        "1",
        "--backend",
        "cpu",
        "--sku",
        "tiny",
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[-1]
        yield process, address
        process.kill()


def test_serve_says_where_and_ends_cleanly_on_sigterm(
    served: tuple[subprocess.Popen[str], str],
) -> None:
    process, address = served
    with Agent(address) as agent:
        assert agent.describe().sku == "tiny"
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=10)
    assert process.returncode == 0
    assert [json.loads(line)["event"] for line in stderr.splitlines()] == ["stopping", "stopped"]


def test_describe_prints_an_agents_node(served: tuple[subprocess.Popen[str], str]) -> None:
    _, address = served
    done = subprocess.run(
        [*AGENT, "describe", "--agent", address, "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["sku"] == "tiny"


def test_check_prints_every_kernel_as_json() -> None:
    command = [*AGENT, "check", "--backend", "cpu", "--library", "torch_weight_only", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (row,) = json.loads(done.stdout)
    assert (row["kernel"], row["dtype"], row["library"]) == ("linear", "int8", "torch_weight_only")
    assert row["passed"]
    assert row["error"] <= row["tolerance"]


@pytest.mark.parametrize(
    ("address", "code", "message"),
    [
        ("127.0.0.1:1", 5, "agent 127.0.0.1:1 does not answer; is `agent serve` running there?"),
        ("gpu1", 2, "agent 'gpu1' has no port; write HOST:PORT, as in gpu1:50051"),
    ],
)
def test_an_agent_that_cannot_be_reached_is_one_sentence(
    address: str, code: int, message: str
) -> None:
    done = subprocess.run([*AGENT, "describe", "--agent", address], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (code, f"Error: {message}\n")


def test_importing_the_agent_loads_no_database_parser_or_learner() -> None:
    code = (
        "import sys, servecast.agent.serve, servecast.agent.client;"
        "print(*sorted({'duckdb', 'lark', 'sklearn', 'numba'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
