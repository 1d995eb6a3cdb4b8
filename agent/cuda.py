"""NVIDIA GPUs through PyTorch: CUDA events around eager launches or a captured graph, NVML for conditions."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from servecast.agent.kernels.buffers import Buffers
from servecast.agent.kernels.kernel import Capability, Launch
from servecast.agent.messages import Conditions, Device, Link
from servecast.agent.nvml import Nvml, open_nvml
from servecast.agent.timing import Elapsed, Rotation

HOST_LAUNCHES = 20  # fewer than a stream takes before its host must wait
SAMPLE_FLOOR_US = 500.0  # an event's half microsecond is 0.1 % of it


@dataclass(slots=True)
class CudaBackend:
    """Every visible GPU of this node; they are taken to be alike."""

    nvml: Nvml
    name: str = "cuda"
    methods: tuple[str, ...] = ("cuda_graph", "cuda_eager")
    sample_floor_us: float = SAMPLE_FLOOR_US
    threads: int = 0

    @property
    def capability(self) -> Capability:
        return Capability("cuda", torch.cuda.get_device_capability(0))

    def devices(self) -> tuple[Device, ...]:
        return tuple(self._device(index) for index in range(torch.cuda.device_count()))

    def _device(self, index: int) -> Device:
        found = torch.cuda.get_device_properties(index)
        return Device(
            index=index,
            name=found.name,
            uuid=str(found.uuid),
            memory_bytes=found.total_memory,
            processors=found.multi_processor_count,
            cache_bytes=found.L2_cache_size,
            power_limit_w=self.nvml.power_limit_w(index),
            max_clock_mhz=self.nvml.max_clock_mhz(index),
            capability=f"{found.major}.{found.minor}",
        )

    def links(self) -> tuple[Link, ...]:
        count = torch.cuda.device_count()
        return tuple(self.nvml.link(a, b) for a in range(count) for b in range(a + 1, count))

    def versions(self) -> dict[str, str]:
        found = {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda or "",
            "cudnn": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]  # torch
            "driver": self.nvml.driver_version() or "",
        }
        if torch.distributed.is_nccl_available():
            found["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))  # type: ignore[no-untyped-call]  # torch
        return {name: value for name, value in found.items() if value}

    def conditions(self, index: int) -> Conditions:
        return self.nvml.conditions(index)

    def buffers(self, index: int) -> Buffers:
        free, _ = torch.cuda.mem_get_info(index)
        cache = torch.cuda.get_device_properties(index).L2_cache_size
        return Buffers(torch.device("cuda", index), free, cache)

    def elapsed(
        self, method: str, launches: Sequence[Launch], index: int, rows: int = 0
    ) -> Elapsed:
        del index  # the calling thread entered the device
        rotation = Rotation(launches)
        return GraphTimer(rotation) if method == "cuda_graph" else EagerTimer(rotation)

    def host_launch_us(self, launches: Sequence[Launch]) -> float:
        turns = Rotation(launches).take(HOST_LAUNCHES)
        torch.cuda.synchronize()
        with torch.inference_mode():
            begin = time.perf_counter_ns()
            _run(turns)
            issued_us = (time.perf_counter_ns() - begin) / 1e3
        torch.cuda.synchronize()
        return issued_us / HOST_LAUNCHES

    def energy_j(self, index: int) -> float | None:
        millijoules = self.nvml.energy_mj(index)
        return None if millijoules is None else millijoules / 1e3

    def works(self, index: int) -> bool:
        """Some errors, an illegal access among them, end the process's use of the GPU for good."""
        try:
            torch.cuda.synchronize(index)
            torch.ones(1, device=torch.device("cuda", index)).item()
        except RuntimeError:
            return False
        return True

    def enter(self, index: int) -> None:
        torch.cuda.set_device(index)

    def make_room(self, index: int) -> None:
        """Nothing is kept from case to case: a GPU's memory is filled at its own speed."""

    def release(self, index: int) -> None:
        del index
        torch.cuda.empty_cache()


@dataclass(slots=True)
class EagerTimer:
    """Launches as a program without graphs makes them: short kernels wait for the host, and that counts."""

    rotation: Rotation[Launch]

    def __call__(self, count: int) -> float:
        begin, end = _events()
        turns = self.rotation.take(count)
        torch.cuda.synchronize()
        with torch.inference_mode():
            begin.record()
            _run(turns)
            end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) * 1e3


@dataclass(slots=True)
class GraphTimer:
    """The launches captured once and replayed, so that the host costs one launch for all of them."""

    rotation: Rotation[Launch]
    _graph: torch.cuda.CUDAGraph | None = None
    _count: int = 0

    def __call__(self, count: int) -> float:
        if self._graph is None or self._count != count:
            self._graph, self._count = _capture(self.rotation.take(count)), count
            self._graph.replay()  # the first replay uploads the graph
        begin, end = _events()
        torch.cuda.synchronize()
        begin.record()
        self._graph.replay()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) * 1e3


def _events() -> tuple[torch.cuda.Event, torch.cuda.Event]:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]  # torch
    return begin, end


def _run(launches: Sequence[Launch]) -> None:
    for launch in launches:
        launch()


def _capture(launches: Sequence[Launch]) -> torch.cuda.CUDAGraph:
    """A graph of the launches. What they allocate lives in the graph's own pool."""
    graph = torch.cuda.CUDAGraph()
    with torch.inference_mode(), torch.cuda.graph(graph):
        _run(launches)
    return graph


def cuda_backend() -> CudaBackend:
    """The backend of the GPUs that PyTorch sees."""
    count = torch.cuda.device_count()
    uuids = tuple(str(torch.cuda.get_device_properties(index).uuid) for index in range(count))
    return CudaBackend(open_nvml(uuids))
