"""The processor as a device: the same kernels, a pinned number of threads, the monotonic clock.

One thread may be timed by its own processor time instead, which leaves out what other programs take from it.
Before each launch the cores' own caches are filled with something else, untimed: in a step, too,
the weights of the kernel before have just passed through them. With ``cpu_step`` it may be a matrix product
(interlude.py), and the clock is the thread's.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import torch

from servecast.agent.interlude import Interlude
from servecast.agent.kernels.buffers import Buffers
from servecast.agent.kernels.kernel import Capability, Launch
from servecast.agent.kernels.pool import Pool
from servecast.agent.messages import Conditions, Device, Link
from servecast.agent.timing import Elapsed, Rotation

CPU = Capability("cpu")
SAMPLE_FLOOR_US = 1000.0  # of launches timed together: the monotonic clock's 0.1 us is 0.01 % of it
ALONE_FLOOR_US = 100.0  # of launches timed one by one, whose clock is read and paid for each time
CLOCK_TRIALS = 200
POOL_SHARE = 0.5  # of the memory may stay filled between cases
DEFAULT_CACHE_BYTES = 32 << 20  # where the system does not say: a common L3
DEFAULT_OWN_CACHE_BYTES = 1 << 20  # a common L2
_INDEX2 = Path("/sys/devices/system/cpu/cpu0/cache/index2/size")
_INDEX3 = Path("/sys/devices/system/cpu/cpu0/cache/index3/size")


@dataclass(frozen=True, slots=True)
class CpuBackend:
    """All processors are one device. ``threads`` is how many a kernel runs on."""

    threads: int
    name: str = "cpu"
    pool: Pool = field(default_factory=lambda: Pool(int(meminfo_bytes("MemTotal") * POOL_SHARE)))
    sample_floor_us: float = ALONE_FLOOR_US
    capability: Capability = CPU

    @property
    def methods(self) -> tuple[str, ...]:
        """A thread's own time is the kernel's where there is one thread."""
        return ("cpu_eager", "cpu_step", "cpu_time") if self.threads == 1 else ("cpu_eager",)

    def devices(self) -> tuple[Device, ...]:
        return (
            Device(
                index=0,
                name=_cpu_name(),
                uuid="",
                memory_bytes=meminfo_bytes("MemTotal"),
                processors=os.cpu_count() or 1,
                cache_bytes=_cache_bytes(),
            ),
        )

    def links(self) -> tuple[Link, ...]:
        return ()

    def versions(self) -> dict[str, str]:
        return {"python": platform.python_version(), "torch": torch.__version__}

    def conditions(self, index: int) -> Conditions:
        del index
        return Conditions(host_load=os.getloadavg()[0], steal=_steal())

    def buffers(self, index: int) -> Buffers:
        del index
        cache = _cache_bytes() or DEFAULT_CACHE_BYTES
        return Buffers(torch.device("cpu"), meminfo_bytes("MemAvailable"), cache, self.pool)

    def elapsed(
        self, method: str, launches: Sequence[Launch], index: int, rows: int = 0
    ) -> Elapsed:
        del index
        clock_ns = time.perf_counter_ns if method == "cpu_eager" else time.thread_time_ns
        if method == "cpu_step" and rows:
            return ColdTimer(Rotation(launches), clock_ns, Interlude(rows))
        own = (_cache_bytes(_INDEX2) or DEFAULT_OWN_CACHE_BYTES) * self.threads
        return ColdTimer(Rotation(launches), clock_ns, torch.ones(own // 4).sum)

    def host_launch_us(self, launches: Sequence[Launch]) -> None:
        """A launch on the processor ends before the host goes on."""
        del launches

    def energy_j(self, index: int) -> None:
        del index

    def works(self, index: int) -> bool:
        del index
        return True

    def enter(self, index: int) -> None:
        """OpenMP keeps its number of threads for each calling thread."""
        del index
        torch.set_num_threads(self.threads)

    def make_room(self, index: int) -> None:
        del index
        self.pool.drop()

    def release(self, index: int) -> None:
        """The allocator of the processor keeps nothing worth giving back."""


@dataclass(slots=True)
class CpuTimer:
    """A clock around launches."""

    rotation: Rotation[Launch]
    clock_ns: Callable[[], int] = time.perf_counter_ns

    def __call__(self, count: int) -> float:
        turns = self.rotation.take(count)
        with torch.inference_mode():
            begin = self.clock_ns()
            for launch in turns:
                launch()
            return (self.clock_ns() - begin) / 1e3


@dataclass(slots=True)
class ColdTimer:
    """A clock around each launch alone; ``before`` it, untimed, something else has the caches."""

    rotation: Rotation[Launch]
    clock_ns: Callable[[], int]
    before: Callable[[], object]
    clock_cost_ns: float = field(init=False)

    def __post_init__(self) -> None:
        self.clock_cost_ns = median(
            -(self.clock_ns() - self.clock_ns()) for _ in range(CLOCK_TRIALS)
        )

    def __call__(self, count: int) -> float:
        total_ns = 0
        with torch.inference_mode():
            for launch in self.rotation.take(count):
                self.before()
                begin = self.clock_ns()
                launch()
                total_ns += self.clock_ns() - begin
        return max(total_ns - count * self.clock_cost_ns, 1.0) / 1e3


def _cpu_name() -> str:
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def meminfo_bytes(key: str) -> int:
    """A line of /proc/meminfo, which counts KiB; elsewhere physical memory."""
    for line in _lines("/proc/meminfo"):
        name, _, rest = line.partition(":")
        if name == key:
            return int(rest.split()[0]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _cache_bytes(level: Path | None = None) -> int | None:
    """A cache, the last level where none is named, which Linux writes like ``32768K``."""
    lines = _lines(level or _INDEX3)
    return int(lines[0].rstrip("K")) * 1024 if lines and lines[0].endswith("K") else None


def _steal() -> float | None:
    """Share of processor time since boot that the hypervisor gave to others (proc(5), /proc/stat)."""
    lines = _lines("/proc/stat")
    if not lines:
        return None
    ticks = [int(field) for field in lines[0].split()[1:9]]
    return ticks[7] / sum(ticks)


def _lines(path: str | Path) -> list[str]:
    """A kernel file's lines; none where the system has no such file."""
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
