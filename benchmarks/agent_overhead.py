"""What a case costs an agent beside its measurement: making its tensors, gRPC, giving memory back.

    python benchmarks/agent_overhead.py            # an agent on this machine's processor, one thread
    python benchmarks/agent_overhead.py --plan     # the cases of Llama 3.1 8B at TP 1, 2, 4 and 8
    python benchmarks/agent_overhead.py --groups   # collectives of two processes over gloo

Prints one JSON object a case: ``measured_ms`` is the time within the agent's clocks, calibration included,
``once_ms`` that of filling memory and packing weights which later cases find ready; ``first_ms`` all other
time from asking to the outcome when the size is met for the first time, ``again_ms`` the least of
``REPEATS`` later ones, because neighbours only ever add. With ``--plan`` one object a kernel; its cases come
twice, and their launches are prepared, and not run. With ``--groups`` the ranks' own clocks are read, which
an agent logs, and ``start_s`` is what starting the two processes took, once a group.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from servecast.agent.client import Agent
from servecast.agent.collective_kernels import COLLECTIVES
from servecast.agent.cpu import CpuBackend
from servecast.agent.kernels.kernel import Launch
from servecast.agent.messages import Outcome, Settings, Status
from servecast.agent.profiler import Profiler
from servecast.agent.server import create_server
from servecast.compiler.kernels import KernelCase
from servecast.compiler.load import load_spec
from servecast.compiler.shard import shard
from servecast.compiler.sharded import Parallelism
from servecast.estimator.profiling.plan import PlanLimits, plan_cases

REPEATS = 4
SETTINGS = Settings(min_samples=2, max_case_s=0.02)
SPEC = Path(__file__).parents[1] / "spec" / "llama.llm"
DEGREES = (1, 2, 4, 8)
MAX_CONTEXT_TOKENS = 4096  # 4 GiB of 256 sequences: less than half of a common machine
PAYLOADS_BYTES = (
    1 << 12,
    1 << 16,
    1 << 20,
    1 << 24,
    1 << 26,
    1 << 27,
)  # of all that a plan asks for


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


@dataclass(frozen=True, slots=True)
class PreparingBackend(CountingBackend):
    """Its clocks run nothing, and tell the same time always."""

    def elapsed(
        self, method: str, launches: Sequence[Launch], index: int, rows: int = 0
    ) -> Callable[[int], float]:
        return lambda count: 1e3 * count


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one case, in milliseconds; ``status`` of what came of it."""

    beside_ms: float
    once_ms: float
    measured_ms: float
    status: Status
    case: KernelCase


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


def cost(agent: Agent, backend: CountingBackend, wanted: KernelCase) -> Cost:
    backend.measured_s.clear()
    begin_s, before_s = time.perf_counter(), backend.pool.once_s
    *_, (_, last) = agent.profile([wanted], SETTINGS)
    took_s = time.perf_counter() - begin_s
    assert isinstance(last, Outcome)
    assert last.status is not Status.FAILED, last.message
    measured_s, once_s = sum(backend.measured_s), backend.pool.once_s - before_s
    beside_s = took_s - measured_s - once_s
    return Cost(beside_s * 1e3, once_s * 1e3, measured_s * 1e3, last.status, wanted)


def of_each(agent: Agent, backend: CountingBackend) -> Iterator[dict[str, object]]:
    """The first time and later ones, side by side."""
    for name, wanted in CASES.items():
        first, *again = (cost(agent, backend, wanted) for _ in range(1 + REPEATS))
        told = {
            "once_ms": first.once_ms,
            "first_ms": first.beside_ms,
            "again_ms": min(some.beside_ms for some in again),
            "measured_ms": min(some.measured_ms for some in again),
        }
        yield {"case": name} | {key: round(value, 1) for key, value in told.items()}


def of_plan(agent: Agent, backend: CountingBackend) -> Iterator[dict[str, object]]:
    """Every case twice, in the plan's order; then by kernel."""
    program = load_spec(SPEC).model("llama-3.1-8b")
    programs = [shard(program, Parallelism(tp=degree)) for degree in DEGREES]
    found: dict[str, list[tuple[Cost, Cost]]] = {}
    for wanted in plan_cases(programs, PlanLimits(max_context_tokens=MAX_CONTEXT_TOKENS)):
        if wanted.kernel not in COLLECTIVES:  # --groups
            twice = (cost(agent, backend, wanted), cost(agent, backend, wanted))
            found.setdefault(wanted.kernel, []).append(twice)
    found["all"] = [twice for of_kernel in found.values() for twice in of_kernel]
    for kernel, costs in found.items():
        yield (
            {"kernel": kernel}
            | _summary(costs)
            | {"held_gib": round(backend.pool.held_bytes / 2**30, 1)}
        )


class RankClocks(logging.Handler):
    """The last times that ranks told their agent, in seconds."""

    measured_s = once_s = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        told = vars(record)
        if "measured_s" in told:
            self.measured_s, self.once_s = told["measured_s"], told["once_s"]


def of_groups(agent: Agent, backend: CountingBackend) -> Iterator[dict[str, object]]:
    """Of each kernel and payload, the largest last; the first time and later ones."""
    del backend
    clocks = RankClocks()
    log = logging.getLogger("servecast.agent.collectives")
    log.addHandler(clocks)
    log.setLevel(logging.INFO)

    def beside_ms(wanted: KernelCase) -> float:
        begin_s = time.perf_counter()
        *_, (_, last) = agent.profile([wanted], SETTINGS)
        took_s = time.perf_counter() - begin_s
        assert isinstance(last, Outcome)
        assert last.status is Status.MEASURED, last.message
        return (took_s - clocks.measured_s - clocks.once_s) * 1e3

    first = case("all_reduce", degree=2, payload_bytes=PAYLOADS_BYTES[0])
    yield {"start_s": round(beside_ms(first) / 1e3, 1)}
    for kernel in sorted(COLLECTIVES):
        for payload_bytes in PAYLOADS_BYTES:
            wanted = case(kernel, degree=2, payload_bytes=payload_bytes)
            first_ms, once_ms = beside_ms(wanted), clocks.once_s * 1e3
            told = {"once_ms": once_ms, "first_ms": first_ms}
            told["again_ms"] = min(beside_ms(wanted) for _ in range(REPEATS))
            told["measured_ms"] = clocks.measured_s * 1e3
            named = {"kernel": kernel, "payload_bytes": payload_bytes}
            yield named | {key: round(value, 1) for key, value in told.items()}


def _summary(costs: list[tuple[Cost, Cost]]) -> dict[str, object]:
    first_ms, again_ms = ([some.beside_ms for some in part] for part in zip(*costs, strict=True))
    return {
        "cases": len(costs),
        "out_of_memory": sum(first.status is Status.OUT_OF_MEMORY for first, _ in costs),
        "median_first_ms": round(median(first_ms), 1),
        "most_first_ms": round(max(first_ms), 1),
        "median_again_ms": round(median(again_ms), 1),
        "most_again_ms": round(max(again_ms), 1),
        "above_50_ms": [dict(first.case.dims) for first, _ in costs if first.beside_ms > 50],
        "once_s": round(sum(some.once_ms for twice in costs for some in twice) / 1e3, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plan", action="store_true", help="every case of an 8B model's plan")
    parser.add_argument("--groups", action="store_true", help="collectives of two processes")
    asked = parser.parse_args()
    backend = PreparingBackend(1) if asked.plan else CountingBackend(1)
    of_all = of_plan if asked.plan else of_groups if asked.groups else of_each
    server = create_server(Profiler(backend, "cpu"), "127.0.0.1", 0)
    server.start()
    with Agent(f"127.0.0.1:{server.port}") as agent:
        agent.describe()  # as a coordinator does first: it opens the connection
        for told in of_all(agent, backend):
            print(json.dumps(told), flush=True)
    server.stop(0.0)


if __name__ == "__main__":
    main()
