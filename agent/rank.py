"""One rank of a process group, as a process of its own: `python -m servecast.agent.rank`.

Standard input carries one JSON object per line, first a ``RankConfig``, then cases; its end ends the rank, so
that no rank outlives its agent, however that one died. Standard output carries JSON objects back.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from importlib import import_module
from queue import SimpleQueue

import torch
import torch.distributed as dist

from servecast.agent.collective_kernels import Library, prepare_collective
from servecast.agent.cpu import POOL_SHARE, SAMPLE_FLOOR_US, CpuTimer, meminfo_bytes
from servecast.agent.cuda import EagerTimer
from servecast.agent.kernels.buffers import Buffers, DeviceOutOfMemoryError
from servecast.agent.kernels.kernel import Launch
from servecast.agent.kernels.pool import Pool
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
        no_room = isinstance(error, DeviceOutOfMemoryError | torch.OutOfMemoryError)
        _say(error=f"{type(error).__name__}: {error}".splitlines()[0], no_room=no_room)
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
    rank = Rank(config, import_module(CUPY).library() if config.library == "cupy" else None)
    _say(ready=True)
    while True:
        case = RankCase(**json.loads(lines.get()))
        for message in rank.measure(case):
            if config.rank == 0 or "reason" in message:
                _say(**message)


@dataclass(slots=True)
class Rank:
    """A member of a group that has met. ``measured_s`` of a case is within the clocks, warm-up included."""

    config: RankConfig
    library: Library | None
    pool: Pool | None = field(init=False)
    measured_s: float = 0.0

    def __post_init__(self) -> None:
        share = POOL_SHARE / self.config.world_size
        on_cpu = self.config.device < 0
        self.pool = Pool(int(meminfo_bytes("MemTotal") * share)) if on_cpu else None

    def measure(self, case: RankCase) -> Iterator[dict[str, object]]:
        """Samples as they come, then how they ended. Every rank computes the same, and so decides the same.

        Raises: DeviceOutOfMemoryError, WrongResultError.
        """
        self.measured_s, ready_s = 0.0, self.pool.once_s if self.pool else 0.0
        collective = prepare_collective(
            case.kernel, case.dtype, case.payload_bytes, self._buffers(), self.library
        )
        once_s = self.pool.once_s - ready_s if self.pool else 0.0
        elapsed = self._together(_timer(collective.launch, self.device))
        collective.mark()
        elapsed(1)
        collective.check()
        launches = launches_per_sample(elapsed, SAMPLE_FLOOR_US, 1)
        sampling = Sampling(launches, [])
        rule = StopRule(**case.rule)  # type: ignore[arg-type]  # as asdict made it
        for runtime_us in take_samples(elapsed, rule, lambda: False, sampling):
            yield {"sample_us": runtime_us}
        yield {
            "launches": launches,
            "reason": sampling.reason,
            "measured_s": self.measured_s,
            "once_s": once_s,
        }

    @property
    def device(self) -> torch.device:
        index = self.config.device
        return torch.device("cuda", index) if index >= 0 else torch.device("cpu")

    def _buffers(self) -> Buffers:
        """Of memory that the ranks of a processor share."""
        if self.pool is None:
            return Buffers(self.device, torch.cuda.mem_get_info(self.device)[0], 0)
        free_bytes = meminfo_bytes("MemAvailable") // self.config.world_size
        return Buffers(self.device, free_bytes, 0, self.pool)

    def _together(self, elapsed_us: Elapsed) -> Elapsed:
        """The slowest rank's time, begun together."""

        def slowest_us(count: int) -> float:
            begin_s = time.perf_counter()
            dist.barrier()
            slowest = torch.tensor([elapsed_us(count)], dtype=torch.float64, device=self.device)
            dist.all_reduce(slowest, dist.ReduceOp.MAX)
            found = float(slowest.item())
            self.measured_s += time.perf_counter() - begin_s
            return found

        return slowest_us


def _timer(launch: Launch, device: torch.device) -> Elapsed:
    rotation = Rotation((launch,))
    return CpuTimer(rotation) if device.type == "cpu" else EagerTimer(rotation)


def line_of(message: RankConfig | RankCase) -> str:
    return json.dumps(asdict(message)) + "\n"


if __name__ == "__main__":
    main()
