"""One rank of a process group, as a process of its own: `python -m servecast.agent.rank`.

Standard input carries one JSON object per line, first a ``RankConfig``, then cases; its end ends the rank, so
that no rank outlives its agent, however that one died. Standard output carries JSON objects back.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from importlib import import_module
from queue import SimpleQueue

import torch
import torch.distributed as dist

from servecast.agent.collective_kernels import Library, prepare_collective
from servecast.agent.cpu import SAMPLE_FLOOR_US, CpuTimer
from servecast.agent.cuda import EagerTimer
from servecast.agent.kernels.kernel import Launch
from servecast.agent.stopping import StopRule
from servecast.agent.timing import Elapsed, Rotation, Sampling, launches_per_sample, take_samples

CUPY = "servecast.agent.cupy_nccl"  # loaded where it is asked for: few nodes have it
TIMEOUT = timedelta(seconds=60)  # of one collective; a rank that waits longer has lost another


@dataclass(frozen=True, slots=True)
class RankConfig:
    """``port`` 0 with rank 0 opens the rendezvous on a free port; ``device`` is a GPU's index, -1 a CPU.

    ``library`` "cupy" launches through CuPy, any other through PyTorch.
    """

    rank: int
    world_size: int
    host: str
    port: int
    device: int
    threads: int
    library: str = ""


@dataclass(frozen=True, slots=True)
class RankCase:
    """A collective to measure, with the rule when to stop."""

    kernel: str
    dtype: str
    payload_bytes: int
    rule: dict[str, float]


def main() -> None:
    lines: SimpleQueue[str] = SimpleQueue()
    config = RankConfig(**json.loads(sys.stdin.readline()))
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    try:
        _serve(config, lines)
    except Exception as error:  # whatever it is, the agent must hear it
        _say(error=f"{type(error).__name__}: {error}".splitlines()[0])
        os._exit(1)


def _read(lines: SimpleQueue[str]) -> None:
    """Hands lines on; at their end the process ends at once, also in the middle of a collective."""
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)


def _say(**message: object) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _serve(config: RankConfig, lines: SimpleQueue[str]) -> None:
    torch.set_num_threads(config.threads)
    if config.device >= 0:
        torch.cuda.set_device(config.device)
    store = dist.TCPStore(  # type: ignore[attr-defined]  # torch does not list it as public
        config.host,
        config.port,
        config.world_size,
        is_master=config.rank == 0,
        timeout=TIMEOUT,
        wait_for_workers=False,
    )
    _say(port=store.port)
    dist.init_process_group(
        "nccl" if config.device >= 0 else "gloo",
        store=store,
        rank=config.rank,
        world_size=config.world_size,
        timeout=TIMEOUT,
        device_id=torch.device("cuda", config.device) if config.device >= 0 else None,
    )
    library = import_module(CUPY).library() if config.library == "cupy" else None
    _say(ready=True)
    while True:
        case = RankCase(**json.loads(lines.get()))
        for message in _measure(config, case, library):
            if config.rank == 0 or "reason" in message:
                _say(**message)


def _measure(
    config: RankConfig, case: RankCase, library: Library | None
) -> Iterator[dict[str, object]]:
    """Samples as they come, then how they ended. Every rank computes the same, and so decides the same."""
    device = torch.device("cuda", config.device) if config.device >= 0 else torch.device("cpu")
    launch = prepare_collective(case.kernel, case.dtype, case.payload_bytes, device, library)
    elapsed = _together(_timer(launch, device), device)
    launches = launches_per_sample(elapsed, SAMPLE_FLOOR_US, 1)
    sampling = Sampling(launches, [])
    rule = StopRule(**case.rule)  # type: ignore[arg-type]  # as asdict made it
    for runtime_us in take_samples(elapsed, rule, lambda: False, sampling):
        yield {"sample_us": runtime_us}
    yield {"launches": launches, "reason": sampling.reason}


def _timer(launch: Launch, device: torch.device) -> Elapsed:
    rotation = Rotation((launch,))
    return CpuTimer(rotation) if device.type == "cpu" else EagerTimer(rotation)


def _together(elapsed_us: Elapsed, device: torch.device) -> Elapsed:
    """The slowest rank's time, begun together."""

    def slowest_us(count: int) -> float:
        dist.barrier()
        slowest = torch.tensor([elapsed_us(count)], dtype=torch.float64, device=device)
        dist.all_reduce(slowest, dist.ReduceOp.MAX)
        return float(slowest.item())

    return slowest_us


def line_of(message: RankConfig | RankCase) -> str:
    return json.dumps(asdict(message)) + "\n"


if __name__ == "__main__":
    main()
