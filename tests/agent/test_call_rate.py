"""Calls beyond the rate are refused, on a clock that stands still until it is moved; and over gRPC."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from servecast.agent.call_rate import CallRate
from servecast.agent.client import Agent
from servecast.agent.cpu import CpuBackend
from servecast.agent.profiler import Profiler
from servecast.agent.server import create_server
from servecast.compiler.errors import AgentError


@dataclass
class Clock:
    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


def taken(rate: CallRate, asked: int) -> int:
    return sum(rate.takes() for _ in range(asked))


def test_a_burst_is_taken_and_no_more_until_time_passes() -> None:
    clock = Clock()
    rate = CallRate(per_s=2.0, burst=3, now_s=clock)
    assert taken(rate, 5) == 3
    clock.now_s = 1.0
    assert taken(rate, 5) == 2


def test_idleness_never_saves_up_more_than_a_burst() -> None:
    clock = Clock()
    rate = CallRate(per_s=2.0, burst=3, now_s=clock)
    clock.now_s = 1e6
    assert taken(rate, 10) == 3


@pytest.fixture
def slow_agent() -> Iterator[Agent]:
    """One that takes two calls, and then one in a thousand seconds."""
    rate = CallRate(per_s=0.001, burst=2)
    server = create_server(Profiler(CpuBackend(1), "cpu"), "127.0.0.1", 0, rate=rate)
    server.start()
    with Agent(f"127.0.0.1:{server.port}") as agent:
        yield agent
    server.stop(0.0)


def test_a_caller_beyond_the_rate_is_told_so(slow_agent: Agent) -> None:
    for _ in range(2):
        assert slow_agent.describe().sku == "cpu"
    with pytest.raises(AgentError, match=r"more than 0.001 calls a second; try later"):
        slow_agent.describe()
