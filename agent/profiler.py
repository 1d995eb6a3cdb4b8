"""Measures one case on one device: checks it, prepares it, samples it, judges it. Knows no gRPC."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version

import torch

from servecast.agent.backend import Backend
from servecast.agent.kernels.buffers import DeviceOutOfMemoryError
from servecast.agent.kernels.kernel import Shape
from servecast.agent.kernels.registry import KERNELS
from servecast.agent.messages import (
    Conditions,
    Event,
    KernelSupport,
    Node,
    Outcome,
    Phase,
    Samples,
    Settings,
    Status,
)
from servecast.agent.service import BadCaseError, UnknownKernelError
from servecast.agent.stopping import Flag, StopReason, StopRule, judge, summarise
from servecast.agent.timing import Sampling, launches_per_sample, take_samples
from servecast.compiler.kernels import KernelCase

REPORT_EVERY_S = 0.1  # samples travel together for so long
MAX_CASE_S = 60.0  # the longest that a caller may ask one case to sample for
MAX_SAMPLES = 100_000
MAX_DIM = (
    1 << 20
)  # above every width, vocabulary and context in use; bounds what the wire can ask for
ZERO_DIMS = {
    "window",
    "residual",
    "context",
}  # axes where nothing is a value; the others count something


@dataclass(slots=True)
class Profiler:
    """A backend's devices as things that time kernels."""

    backend: Backend
    sku: str

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
        capability = self.backend.capability
        return tuple(
            KernelSupport(
                kernel=name,
                dims=kernel.dims,
                dtypes=kernel.formats(capability),
                kv_dtypes=kernel.kv_formats(capability) if kernel.kv_formats else (),
            )
            for name, kernel in sorted(KERNELS.items())
        )

    def check(self, case: KernelCase, settings: Settings) -> None:
        """Raises: UnknownKernelError, BadCaseError."""
        self.rule(settings)
        support = {s.kernel: s for s in self.supported()}
        if case.kernel not in support:
            raise UnknownKernelError(
                f"no kernel {case.kernel!r}; this node has: {', '.join(support)}"
            )
        kernel = support[case.kernel]
        _check_format(case.kernel, "dtype", case.dtype, kernel.dtypes)
        _check_format(case.kernel, "kv_dtype", case.kv_dtype, kernel.kv_dtypes or ("",))
        _check_dims(case, kernel.dims)

    def rule(self, settings: Settings) -> StopRule:
        """The agent's rule with the caller's wishes. Raises: BadCaseError."""
        methods = self.backend.methods
        if settings.method is not None and settings.method not in methods:
            raise BadCaseError(
                f"no method {settings.method!r}; this node has: {', '.join(methods)}"
            )
        asked = {
            name: value
            for name in ("relative_ci", "min_samples", "max_samples", "max_case_s")
            if (value := getattr(settings, name)) is not None
        }
        try:
            rule = replace(StopRule(), **asked)
        except ValueError as error:
            raise BadCaseError(str(error)) from error
        if rule.max_case_s > MAX_CASE_S or rule.max_samples > MAX_SAMPLES:
            raise BadCaseError(
                f"max_case_s may be {MAX_CASE_S:g} and max_samples {MAX_SAMPLES} at most, "
                f"not {rule.max_case_s:g} and {rule.max_samples}"
            )
        return rule

    def profile(
        self, case: KernelCase, settings: Settings, index: int, stopped: Callable[[], bool]
    ) -> Iterator[Event]:
        """Events of a checked case, the last one its Outcome (none if stopped)."""
        yield Phase.PREPARING
        self.backend.enter(index)
        try:
            yield from self._measure(case, settings, index, stopped)
        except (DeviceOutOfMemoryError, torch.OutOfMemoryError) as error:
            yield Outcome(Status.OUT_OF_MEMORY, message=str(error).partition("\n")[0])
        finally:
            self.backend.release(index)

    def _measure(
        self, case: KernelCase, settings: Settings, index: int, stopped: Callable[[], bool]
    ) -> Iterator[Event]:
        shape = Shape(case.dtype, case.kv_dtype, dict(case.dims))
        prepared = KERNELS[case.kernel].prepare(shape, self.backend.buffers(index))
        method = settings.method or self.backend.methods[0]
        rotation = len(prepared.launches)
        eager = self.backend.elapsed(self.backend.methods[-1], prepared.launches, index)
        whole = rotation if method == "cuda_graph" else 1  # a graph replays from its first launch
        launches = launches_per_sample(eager, self.backend.sample_floor_us, whole)
        elapsed = self.backend.elapsed(method, prepared.launches, index)
        elapsed(launches)  # captures a graph, and warms up as it will be timed
        before = self.backend.conditions(index)
        sampling = Sampling(launches, [])
        yield from _batched(
            take_samples(elapsed, self.rule(settings), stopped, sampling), REPORT_EVERY_S
        )
        if sampling.reason is not None:
            after = self.backend.conditions(index)
            yield _outcome(sampling, sampling.reason, method, rotation, before, after)


def _outcome(
    sampling: Sampling,
    reason: StopReason,
    method: str,
    rotation: int,
    before: Conditions,
    after: Conditions,
) -> Outcome:
    flags = judge(sampling.samples_us, reason)
    if before.throttle_reasons or after.throttle_reasons:
        flags = tuple(sorted((*flags, Flag.THROTTLED)))
    return Outcome(
        status=Status.MEASURED,
        statistics=summarise(sampling.samples_us),
        stop_reason=reason,
        method=method,
        launches_per_sample=sampling.launches,
        rotated_buffers=rotation,
        flags=flags,
        before=before,
        after=after,
    )


def _batched(samples_us: Iterator[float], every_s: float) -> Iterator[Samples]:
    """Samples in groups that go out about every ``every_s``."""
    group: list[float] = []
    sent = time.monotonic()
    for runtime_us in samples_us:
        group.append(runtime_us)
        if time.monotonic() - sent >= every_s:
            yield Samples(tuple(group))
            group, sent = [], time.monotonic()
    if group:
        yield Samples(tuple(group))


def _check_format(kernel: str, what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        have = ", ".join(known) if any(known) else "none"
        raise UnknownKernelError(f"{kernel}: no {what} {value!r} on this node, which has: {have}")


def _check_dims(case: KernelCase, wanted: tuple[str, ...]) -> None:
    names = {name for name, _ in case.dims}
    if names != set(wanted):
        given = ", ".join(sorted(names)) or "none"
        raise BadCaseError(f"{case.kernel} wants the dimensions {', '.join(wanted)}, not {given}")
    for name, value in case.dims:
        least = 0 if name in ZERO_DIMS else 1
        if not least <= value <= MAX_DIM:
            raise BadCaseError(
                f"{case.kernel}: {name} must be between {least} and {MAX_DIM}, not {value}"
            )


def agent_version() -> str:
    """Servecast's version; a node that runs from a folder has no metadata of it."""
    try:
        return version("servecast")
    except PackageNotFoundError:
        return "source"
