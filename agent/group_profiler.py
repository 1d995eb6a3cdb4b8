"""Measures collectives: keeps a group of ranks for as long as cases want the same one, then ends it."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from servecast.agent.backend import Backend
from servecast.agent.cases import BadCaseError
from servecast.agent.collective_kernels import COLLECTIVES, DIMS, FORMATS
from servecast.agent.collectives import GroupError, GroupOutOfMemoryError, RankGroup, rank_case
from servecast.agent.messages import (
    Event,
    Group,
    KernelSupport,
    Outcome,
    Phase,
    Placement,
    Rendezvous,
    Status,
)
from servecast.agent.results import batched, outcome_of
from servecast.agent.stopping import StopRule
from servecast.agent.timing import Sampling
from servecast.agent.topology import choose_devices, slowest_kind
from servecast.compiler.kernels import KernelCase

CPU_RANKS = 8  # on one processor: enough to try every degree, meaningless as a speed
IDLE_S = 30.0  # a group that nobody wants for so long ends, and frees its memory
ADDRESS = re.compile(r"[A-Za-z0-9.:\[\]-]{1,253}:\d{1,5}")


@dataclass(slots=True)
class GroupProfiler:
    """The collectives of a node. One case at a time: the caller holds the devices."""

    backend: Backend
    cpu_ranks: int = CPU_RANKS
    library: str = "torch"  # whose launches: PyTorch's or cupy's
    _ranks: RankGroup | None = None
    _idle: threading.Timer | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def on_gpus(self) -> bool:
        return self.backend.name == "cuda"

    @property
    def max_local_ranks(self) -> int:
        return len(self.backend.devices()) if self.on_gpus else self.cpu_ranks

    def supported(self) -> list[KernelSupport]:
        """Nothing where there is one device only: a group spans agents then, and says its own degree."""
        most, library = self.max_local_ranks, self._library
        return [
            KernelSupport(name, DIMS, FORMATS, max_degree=most, library=library)
            for name in sorted(COLLECTIVES)
        ]

    @property
    def _method(self) -> str:
        return "nccl" if self.on_gpus else "gloo"

    @property
    def _library(self) -> str:
        return self.library if self.library == "cupy" else self._method

    def check(self, case: KernelCase, placement: Placement) -> None:
        """Raises: BadCaseError."""
        degree = dict(case.dims)["degree"]
        group = _group(case, placement)
        if group.world_size != degree or not degree >= 2:
            raise BadCaseError(f"{case.kernel}: a group of {group.world_size} for degree {degree}")
        last = group.first_rank + group.local_ranks
        if not 1 <= group.local_ranks <= self.max_local_ranks or last > degree:
            raise BadCaseError(
                f"{case.kernel}: this node runs 1 to {self.max_local_ranks} ranks of a group, "
                f"not {group.local_ranks} from rank {group.first_rank} of {degree}"
            )
        if group.first_rank and not ADDRESS.fullmatch(group.rendezvous):
            raise BadCaseError(f"{group.rendezvous!r} is no HOST:PORT to meet rank 0 at")

    def profile(
        self, case: KernelCase, rule: StopRule, placement: Placement, stopped: Callable[[], bool]
    ) -> Iterator[Event]:
        """Events of a checked case, the last one its Outcome (none if stopped)."""
        yield Phase.PREPARING
        before = self.backend.conditions(0)
        sampling = Sampling(0, [])
        try:
            for address in self._enter(_group(case, placement), stopped):
                yield Rendezvous(address)
            assert self._ranks is not None
            payload = dict(case.dims)["payload_bytes"]
            wanted = rank_case(case.kernel, case.dtype, payload, rule)
            yield from batched(self._ranks.measure(wanted, stopped, sampling))
        except GroupError as error:
            self.end()
            no_room = isinstance(error, GroupOutOfMemoryError)
            status = Status.OUT_OF_MEMORY if no_room else Status.FAILED
            yield Outcome(status, message=str(error))
            return
        if sampling.reason is None:
            self.end()  # a stopped collective leaves its ranks in the middle of one
        elif sampling.samples_us:
            after = self.backend.conditions(0)
            outcome = outcome_of(sampling, self._method, 1, before, after)
            where = self._where(_group(case, placement))
            yield replace(outcome, library=self._library, message=where)
            self._wait_idle()
        else:
            yield Outcome(Status.JOINED)
            self._wait_idle()

    def _enter(self, group: Group, stopped: Callable[[], bool]) -> Iterator[str]:
        """Makes the group the one that runs; yields its rendezvous where rank 0 is here and it is new."""
        with self._lock:
            if self._idle is not None:
                self._idle.cancel()
        if self._ranks is not None and self._ranks.ranks and self._ranks.group == group:
            return
        self.end()
        self._ranks = RankGroup(group, self.library)
        yield from self._ranks.start(self._devices(group), 1, stopped)

    def _devices(self, group: Group) -> tuple[int, ...]:
        """Of each rank here: the GPUs that reach each other best, or the processor."""
        if not self.on_gpus:
            return (-1,) * group.local_ranks
        return choose_devices(self.backend.links(), self.max_local_ranks, group.local_ranks)

    def _where(self, group: Group) -> str:
        devices = self._devices(group)
        if not self.on_gpus:
            return ""
        kind = slowest_kind(self.backend.links(), devices)
        return f"devices {' '.join(map(str, devices))}" + f" over {kind}" * bool(kind)

    def _wait_idle(self) -> None:
        with self._lock:
            self._idle = threading.Timer(IDLE_S, self.end)
            self._idle.daemon = True
            self._idle.start()

    def end(self) -> None:
        """Ends the ranks, if there are any."""
        with self._lock:
            if self._idle is not None:
                self._idle.cancel()
            ranks, self._ranks = self._ranks, None
        if ranks is not None:
            ranks.end()


def _group(case: KernelCase, placement: Placement) -> Group:
    """The group asked for; without one, all ranks are on this node."""
    degree = dict(case.dims)["degree"]
    return placement.group or Group(degree, 0, degree)
