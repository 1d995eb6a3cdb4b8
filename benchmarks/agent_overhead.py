"""What a case costs an agent beside its measurement: making and filling its tensors, packing weights, gRPC.

    python benchmarks/agent_overhead.py            # an agent on this machine's processor, one thread

Prints one JSON object a case. ``measured_ms`` is the time within the agent's clocks, calibration included;
``overhead_ms`` all other time from asking to the outcome, the least of ``REPEATS``, because neighbours only
ever add. The first repeat, which fills memory that later cases find filled, stands beside it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from servecast.agent.client import Agent
from servecast.agent.cpu import CpuBackend
from servecast.agent.kernels.kernel import Launch
from servecast.agent.messages import Outcome, Settings, Status
from servecast.agent.profiler import Profiler
from servecast.agent.server import create_server
from servecast.compiler.kernels import KernelCase

REPEATS = 5
SETTINGS = Settings(min_samples=2, max_case_s=0.02)


@dataclass(frozen=True, slots=True)
class CountingBackend(CpuBackend):
    """Adds up the time within its clocks."""

    measured_s: list[float] = field(default_factory=list)

    def elapsed(
        self, method: str, launches: Sequence[Launch], index: int, rows: int = 0
    ) -> Callable[[int], float]:
        timer = CpuBackend.elapsed(self, method, launches, index, rows)

        def counted(count: int) -> float:
            begin_s = time.perf_counter()
            found = timer(count)
            self.measured_s.append(time.perf_counter() - begin_s)
            return found

        return counted


def case(kernel: str, kv_dtype: str = "", **dims: int) -> KernelCase:
    return KernelCase(kernel, "bf16", kv_dtype, tuple(sorted(dims.items())))


def linear(inner: int, outer: int) -> KernelCase:
    return case("linear", rows=1, in_features=inner, out_features=outer)


def decode(batch: int, context: int) -> KernelCase:
    shape = {"heads": 32, "kv_heads": 8, "head_dim": 128, "window": 0}
    return case("attention_decode", "bf16", batch=batch, context=context, **shape)


CASES = {
    "swiglu of 2 KiB": case("swiglu", rows=1, width=512),
    "swiglu of 96 MiB": case("swiglu", rows=2048, width=8192),
    "linear of 4 MiB": linear(1024, 2048),
    "linear of 112 MiB": linear(4096, 14336),
    "decode over 128 MiB": decode(32, 1024),
    "decode over 1 GiB": decode(64, 4096),
}


def overhead_ms(agent: Agent, backend: CountingBackend, wanted: KernelCase) -> tuple[float, float]:
    """Of one case: beside the measurement, and the measurement."""
    backend.measured_s.clear()
    begin_s = time.perf_counter()
    *_, (_, last) = agent.profile([wanted], SETTINGS)
    took_s = time.perf_counter() - begin_s
    assert isinstance(last, Outcome)
    assert last.status is Status.MEASURED, last.message
    measured_s = sum(backend.measured_s)
    return (took_s - measured_s) * 1e3, measured_s * 1e3


def main() -> None:
    backend = CountingBackend(1)
    server = create_server(Profiler(backend, "cpu"), "127.0.0.1", 0)
    server.start()
    with Agent(f"127.0.0.1:{server.port}") as agent:
        for name, wanted in CASES.items():
            found = [overhead_ms(agent, backend, wanted) for _ in range(REPEATS)]
            best_ms, measured_ms = min(found)
            told = {"overhead_ms": best_ms, "first_ms": found[0][0], "measured_ms": measured_ms}
            print(
                json.dumps({"case": name} | {k: round(v, 1) for k, v in told.items()}), flush=True
            )
    server.stop(0.0)


if __name__ == "__main__":
    main()
