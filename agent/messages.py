"""The agent's messages as values; `wire.py` translates them from and to protobuf."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from servecast.agent.stopping import Flag, Statistics, StopReason
from servecast.compiler.kernels import KernelCase

PROTOCOL_VERSION = 1
MAX_MESSAGE_BYTES = 1 << 20  # the largest request is 256 cases of some 200 bytes
MAX_CASES = 256
MAX_CALL_S = 43_200.0  # a deadline further off is none; a full request may take 8.5 hours


class Status(StrEnum):
    MEASURED = "measured"
    OUT_OF_MEMORY = "out_of_memory"
    FAILED = "failed"
    JOINED = "joined"


class Phase(StrEnum):
    QUEUED = "queued"
    PREPARING = "preparing"


@dataclass(frozen=True, slots=True)
class Device:
    """One GPU, or the processor. None is what the node cannot read."""

    index: int
    name: str
    uuid: str
    memory_bytes: int
    processors: int
    cache_bytes: int | None = None
    power_limit_w: float | None = None
    max_clock_mhz: float | None = None
    capability: str = ""


@dataclass(frozen=True, slots=True)
class Link:
    a: int
    b: int
    kind: str
    lanes: int = 0


@dataclass(frozen=True, slots=True)
class KernelSupport:
    """A kernel, the axes it wants, and formats that one library runs it in on a node: all their pairs."""

    kernel: str
    dims: tuple[str, ...]
    dtypes: tuple[str, ...]
    kv_dtypes: tuple[str, ...] = ()
    max_degree: int = 0
    library: str = ""

    def has_formats(self, case: KernelCase) -> bool:
        return case.dtype in self.dtypes and case.kv_dtype in (self.kv_dtypes or ("",))


@dataclass(frozen=True, slots=True)
class Node:
    agent_version: str
    hostname: str
    backend: str
    sku: str
    devices: tuple[Device, ...]
    links: tuple[Link, ...]
    versions: tuple[tuple[str, str], ...]  # sorted by name
    kernels: tuple[KernelSupport, ...]
    threads: int
    max_cases: int = MAX_CASES
    protocol_version: int = PROTOCOL_VERSION

    def runs(self, case: KernelCase) -> bool:
        """Whether the node has the case's kernel at its formats (and degree)."""
        return any(
            support.kernel == case.kernel
            and support.has_formats(case)
            and dict(case.dims).get("degree", 0) <= support.max_degree
            for support in self.kernels
        )


@dataclass(frozen=True, slots=True)
class Settings:
    """How to measure; None means the agent's default."""

    relative_ci: float | None = None
    min_samples: int | None = None
    max_samples: int | None = None
    max_case_s: float | None = None
    method: str | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Where an agent's ranks stand in a process group that spans agents."""

    world_size: int
    first_rank: int
    local_ranks: int
    rendezvous: str = ""
    host: str = ""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a case runs: a device, or for a collective a part of a group (None: all ranks on this node)."""

    device: int = 0
    group: Group | None = None


@dataclass(frozen=True, slots=True)
class Conditions:
    """Of the device around a case."""

    clock_mhz: float | None = None
    memory_clock_mhz: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    throttle_reasons: tuple[str, ...] = ()
    host_load: float | None = None
    steal: float | None = None


@dataclass(frozen=True, slots=True)
class Samples:
    """New runtimes of one launch, in the order taken."""

    runtime_us: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Rendezvous:
    address: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """A case's end. ``statistics`` and ``stop_reason`` are there exactly if it was measured."""

    status: Status
    message: str = ""
    statistics: Statistics | None = None
    stop_reason: StopReason | None = None
    method: str = ""
    launches_per_sample: int = 0
    rotated_buffers: int = 0
    host_launch_us: float | None = None
    energy_j: float | None = None
    flags: tuple[Flag, ...] = ()
    before: Conditions = field(default_factory=Conditions)
    after: Conditions = field(default_factory=Conditions)
    library: str = ""


Event = Phase | Samples | Outcome | Rendezvous
