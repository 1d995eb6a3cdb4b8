"""Measures one case on one device: prepares it, samples it, judges it. Knows no gRPC."""

from __future__ import annotations

import platform
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version

import torch

from servecast.agent.backend import Backend
from servecast.agent.cases import check_case, stop_rule
from servecast.agent.collective_kernels import COLLECTIVES
from servecast.agent.group_profiler import GroupProfiler
from servecast.agent.interlude import rows_of
from servecast.agent.kernels.buffers import DeviceOutOfMemoryError
from servecast.agent.kernels.kernel import Kernel, Prepared, Shape
from servecast.agent.kernels.registry import Offer, offers
from servecast.agent.messages import (
    Event,
    KernelSupport,
    Node,
    Outcome,
    Phase,
    Placement,
    Settings,
    Status,
)
from servecast.agent.results import batched, outcome_of
from servecast.agent.service import DeviceLostError
from servecast.agent.timing import Sampling, launches_per_sample, take_samples
from servecast.compiler.kernels import KernelCase

ENERGY_FROM_S = 0.2  # a GPU's energy counter moves every 20 to 100 ms


@dataclass(slots=True)
class Profiler:
    """A backend's devices as things that time kernels."""

    backend: Backend
    sku: str
    offered: tuple[Offer, ...] = ()
    groups: GroupProfiler = field(init=False)
    _locks: list[threading.Lock] = field(init=False)

    def __post_init__(self) -> None:
        self.offered = self.offered or offers(("torch",), self.backend.capability)
        self.groups = GroupProfiler(self.backend, library=self._first_library())
        self._locks = [threading.Lock() for _ in self.backend.devices()]

    def _first_library(self) -> str:
        """Of those that have collectives, by whose kernels are wanted most."""
        named = (offer.library for offer in self.offered if offer.name == "add")
        return next(named, "torch")

    def describe(self) -> Node:
        return Node(
            agent_version=agent_version(),
            hostname=platform.node(),
            backend=self.backend.name,
            sku=self.sku,
            devices=self.backend.devices(),
            links=self.backend.links(),
            versions=tuple(sorted(self.backend.versions().items())),
            kernels=self.supported(),
            threads=self.backend.threads,
        )

    def supported(self) -> tuple[KernelSupport, ...]:
        """Each library's kernels by what pairs of formats they take."""
        alone = [support for offer in self.offered for support in _supports(offer, self.backend)]
        return (*alone, *self.groups.supported())

    def check(self, case: KernelCase, settings: Settings, placement: Placement) -> None:
        """Raises: UnknownKernelError, BadCaseError."""
        stop_rule(settings, self.backend.methods)
        mine = (offer for offer in self.offered if offer.name == case.kernel)
        lacks = {name: why for offer in mine for name, why in offer.kernel.lacks.items()}
        check_case(case, self.supported(), lacks)
        if case.kernel in COLLECTIVES:
            self.groups.check(case, placement)

    def profile(
        self,
        case: KernelCase,
        settings: Settings,
        placement: Placement,
        stopped: Callable[[], bool],
    ) -> Iterator[Event]:
        """Events of a checked case, the last one its Outcome (none if stopped)."""
        collective = case.kernel in COLLECTIVES
        # A collective has all devices; only device 0's thread runs any, so that no two wait for each other.
        with ExitStack() as held:
            for lock in self._locks if collective else [self._locks[placement.device]]:
                held.enter_context(lock)
            if collective:
                rule = stop_rule(settings, self.backend.methods)
                yield from self.groups.profile(case, rule, placement, stopped)
            else:
                yield from self._profile_alone(case, settings, placement.device, stopped)

    def _profile_alone(
        self, case: KernelCase, settings: Settings, index: int, stopped: Callable[[], bool]
    ) -> Iterator[Event]:
        yield Phase.PREPARING
        self.backend.enter(index)
        try:
            yield from self._measure(case, settings, index, stopped)
        except (DeviceOutOfMemoryError, torch.OutOfMemoryError) as error:
            yield Outcome(Status.OUT_OF_MEMORY, message=str(error).partition("\n")[0])
        except RuntimeError as error:  # what PyTorch raises for a launch that it refuses
            if not self.backend.works(index):
                raise DeviceLostError(str(error)) from error
            yield Outcome(Status.FAILED, message=str(error).partition("\n")[0])
        finally:
            self.backend.release(index)

    def _measure(
        self, case: KernelCase, settings: Settings, index: int, stopped: Callable[[], bool]
    ) -> Iterator[Event]:
        shape = Shape(case.dtype, case.kv_dtype, dict(case.dims))
        offer = self._offer(case)
        prepared = self._prepared(offer.kernel, shape, index)
        if stopped():
            return
        method = settings.method or self.backend.methods[0]
        sampling = Sampling(self._calibrate(prepared, method, index), [])
        elapsed = self.backend.elapsed(
            method, prepared.launches, index, rows_of(case.kernel, shape)
        )
        elapsed(sampling.launches)  # captures a graph, and warms up as it will be timed
        host_launch_us = self.backend.host_launch_us(prepared.launches)
        before, energy = self.backend.conditions(index), self.backend.energy_j(index)
        rule = stop_rule(settings, self.backend.methods)
        yield from batched(take_samples(elapsed, rule, stopped, sampling))
        if sampling.reason is None:
            return
        spent = _energy_of_launch(sampling, energy, self.backend.energy_j(index))
        after = self.backend.conditions(index)
        outcome = outcome_of(sampling, method, len(prepared.launches), before, after)
        yield replace(outcome, host_launch_us=host_launch_us, energy_j=spent, library=offer.library)

    def _prepared(self, kernel: Kernel, shape: Shape, index: int) -> Prepared:
        """Raises: DeviceOutOfMemoryError where it does not fit, also without what earlier cases left."""
        buffers = self.backend.buffers(index)
        try:
            return kernel.prepare(shape, buffers)
        except DeviceOutOfMemoryError:
            if not buffers.might_fit():
                raise
        self.backend.make_room(index)
        return kernel.prepare(shape, self.backend.buffers(index))

    def _offer(self, case: KernelCase) -> Offer:
        """The first library's that has the case's formats."""
        return next(
            offer
            for offer in self.offered
            if offer.name == case.kernel
            and (case.dtype, case.kv_dtype) in offer.kernel.formats(self.backend.capability)
        )

    def _calibrate(self, prepared: Prepared, method: str, index: int) -> int:
        """Launches per sample, found with eager launches, which every backend lists last."""
        eager = self.backend.elapsed(self.backend.methods[-1], prepared.launches, index)
        rotation = len(prepared.launches)
        whole = rotation if method == "cuda_graph" else 1  # a graph replays from its first launch
        return launches_per_sample(eager, self.backend.sample_floor_us, whole)

    def close(self) -> None:
        """Ends the processes of collectives."""
        self.groups.end()


def _supports(offer: Offer, backend: Backend) -> Iterator[KernelSupport]:
    """One for all formats that go with the same caches."""
    caches: dict[str, tuple[str, ...]] = {}
    for dtype, kv_dtype in offer.kernel.formats(backend.capability):
        caches[dtype] = (*caches.get(dtype, ()), *((kv_dtype,) if kv_dtype else ()))
    for kv_dtypes in dict.fromkeys(caches.values()):
        dtypes = tuple(dtype for dtype, found in caches.items() if found == kv_dtypes)
        yield KernelSupport(offer.name, offer.kernel.dims, dtypes, kv_dtypes, library=offer.library)


def _energy_of_launch(
    sampling: Sampling, before_j: float | None, after_j: float | None
) -> float | None:
    """Joules of one launch; None where the counter is not there, or too coarse for so short a case."""
    total_s = sum(sampling.samples_us) * sampling.launches / 1e6
    if before_j is None or after_j is None or total_s < ENERGY_FROM_S:
        return None
    return (after_j - before_j) / (len(sampling.samples_us) * sampling.launches)


def agent_version() -> str:
    """Servecast's version; a node that runs from a folder has no metadata of it."""
    try:
        return version("servecast")
    except PackageNotFoundError:
        return "source"
