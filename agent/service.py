"""The agent's gRPC face: translates messages and errors, measures nothing itself."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from functools import partial
from typing import NoReturn, Protocol

import grpc

from servecast.agent import wire
from servecast.agent.cases import BadCaseError, UnknownKernelError
from servecast.agent.device_thread import BusyError, DeviceThread, Job
from servecast.agent.messages import (
    MAX_CALL_S,
    MAX_CASES,
    PROTOCOL_VERSION,
    Event,
    Node,
    Outcome,
    Phase,
    Placement,
    Settings,
)
from servecast.compiler.kernels import KernelCase
from servecast.protos import agent_pb2 as pb
from servecast.protos import agent_pb2_grpc

log = logging.getLogger(__name__)
Code = grpc.StatusCode


class DeviceLostError(RuntimeError):
    """This process can use its device no more; a new one can."""


class CaseProfiler(Protocol):
    """What the service drives; `profiler.py` has the real one, tests their own."""

    def describe(self) -> Node: ...

    def check(self, case: KernelCase, settings: Settings, placement: Placement) -> None:
        """Raises: UnknownKernelError, BadCaseError."""

    def profile(
        self,
        case: KernelCase,
        settings: Settings,
        placement: Placement,
        stopped: Callable[[], bool],
    ) -> Iterator[Event]:
        """Raises: DeviceLostError."""

    def close(self) -> None: ...


class AgentService(agent_pb2_grpc.AgentServicer):
    """One thread per device times kernels; the server's threads wait on it."""

    def __init__(self, profiler: CaseProfiler) -> None:
        self._profiler = profiler
        self._node = profiler.describe()
        self._draining = threading.Event()
        self.lost = threading.Event()  # a device failed for good: this process must end
        self._devices = [
            DeviceThread[Event](f"device-{device.index}") for device in self._node.devices
        ]

    def Describe(self, request: pb.DescribeRequest, context: grpc.ServicerContext) -> pb.Node:  # noqa: N802  # gRPC's name
        _check_call(request.protocol_version, context)
        return wire.node_to_wire(self._node)

    def Profile(  # noqa: N802  # gRPC's name
        self, request: pb.ProfileRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.ProfileEvent]:
        cases, settings, placement = self._checked(request, context)
        device = self._devices[placement.device]
        for index, case in enumerate(cases):
            if self._draining.is_set():
                left = len(cases) - index
                _abort(context, Code.UNAVAILABLE, f"the agent is stopping; cases left: {left}")
            job = partial(self._profiler.profile, case, settings, placement)
            for event in self._stream(device, job, context):
                if isinstance(event, Outcome):
                    log.info("case", extra={"case": case, "outcome": event})
                yield wire.event_to_wire(index, event)

    def _checked(
        self, request: pb.ProfileRequest, context: grpc.ServicerContext
    ) -> tuple[list[KernelCase], Settings, Placement]:
        """The request's cases, settings and place, or an abort before anything runs."""
        _check_call(request.protocol_version, context)
        if not 1 <= len(request.cases) <= MAX_CASES:
            message = f"a request has 1 to {MAX_CASES} cases, not {len(request.cases)}"
            _abort(context, Code.INVALID_ARGUMENT, message)
        if request.device >= len(self._devices):
            message = f"no device {request.device}; this node has {len(self._devices)}"
            _abort(context, Code.FAILED_PRECONDITION, message)
        cases = [wire.case_from_wire(case) for case in request.cases]
        settings = wire.settings_from_wire(request.settings)
        placement = wire.placement_from_wire(request)
        try:
            for case in cases:
                self._profiler.check(case, settings, placement)
        except UnknownKernelError as error:
            _abort(context, Code.UNIMPLEMENTED, str(error))
        except BadCaseError as error:
            _abort(context, Code.INVALID_ARGUMENT, str(error))
        return cases, settings, placement

    def _stream(
        self,
        device: DeviceThread[Event],
        job: Job[Event],
        context: grpc.ServicerContext,
    ) -> Iterator[Event]:
        stop = threading.Event()
        context.add_callback(stop.set)  # a caller that is gone frees the device
        if not device.idle:
            yield Phase.QUEUED
        try:
            yield from device.stream(job, stop)
        except BusyError as error:
            _abort(context, Code.RESOURCE_EXHAUSTED, str(error))
        except CancelledError:
            _abort(context, Code.UNAVAILABLE, "the agent is stopping")
        except DeviceLostError as error:
            log.error("device lost", extra={"reason": str(error)})
            self.lost.set()
            _abort(context, Code.UNAVAILABLE, "the agent is stopping: its device is lost")

    def drain(self) -> None:
        """Lets the cases that run finish, and hands the others back."""
        self._draining.set()

    def close(self) -> None:
        """Waits until no device runs anything."""
        for device in self._devices:
            device.close()
        self._profiler.close()


def _check_call(theirs: int, context: grpc.ServicerContext) -> None:
    """The caller's version, and that it waits for no answer for ever."""
    if theirs != PROTOCOL_VERSION:
        older = "agent" if theirs > PROTOCOL_VERSION else "caller"
        _abort(
            context,
            Code.FAILED_PRECONDITION,
            f"the agent speaks protocol {PROTOCOL_VERSION}, the caller {theirs}: upgrade the {older}",
        )
    if context.time_remaining() > MAX_CALL_S:
        message = f"a call needs a deadline, {MAX_CALL_S:g} s from now at most"
        _abort(context, Code.INVALID_ARGUMENT, message)


def _abort(context: grpc.ServicerContext, code: grpc.StatusCode, message: str) -> NoReturn:
    """Ends the call. gRPC's own abort raises, which its types do not say."""
    context.abort(code, message)
    raise AssertionError("abort returned")
