"""Real servers on free loopback ports, with the real CPU kernels or a scripted profiler behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from servecast.agent.client import Agent
from servecast.agent.cpu import CpuBackend
from servecast.agent.profiler import Profiler
from servecast.agent.server import create_server
from servecast.agent.service import CaseProfiler
from servecast.compiler.kernels import KernelCase

Serve = Callable[..., Agent]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a server and returns a client of it; the CPU's profiler unless another is given."""
    with ExitStack() as stack:

        def start(profiler: CaseProfiler | None = None) -> Agent:
            server = create_server(profiler or Profiler(CpuBackend(1), "cpu"), "127.0.0.1", 0)
            server.start()
            stack.callback(server.stop, 0.0)
            return stack.enter_context(Agent(f"127.0.0.1:{server.port}"))

        yield start


@pytest.fixture
def linear() -> Callable[..., KernelCase]:
    """A small linear case; keywords change its dimensions."""

    def case(dtype: str = "bf16", **dims: int) -> KernelCase:
        wanted = {"rows": 4, "in_features": 32, "out_features": 16} | dims
        return KernelCase("linear", dtype, "", tuple(sorted(wanted.items())))

    return case
