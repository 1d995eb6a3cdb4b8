"""Calls an agent. Whatever goes wrong on the way is an AgentError that names the agent and says why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import grpc

from servecast.agent import wire
from servecast.agent.messages import (
    MAX_MESSAGE_BYTES,
    PROTOCOL_VERSION,
    Event,
    Group,
    Node,
    Settings,
)
from servecast.agent.security import ClientSecurity
from servecast.compiler.errors import AgentError, UserError
from servecast.compiler.kernels import KernelCase
from servecast.protos import agent_pb2 as pb
from servecast.protos import agent_pb2_grpc

OPEN = ClientSecurity()
CALL_TIMEOUT_S = 10.0
CASE_TIMEOUT_S = 120.0  # the most that an agent samples a case for, and as long again to prepare it
OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 10_000),  # an agent that hangs is found out within 15 s
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
)


class AgentUnavailableError(AgentError):
    """The agent cannot be reached, is stopping, or went silent: another one, or a later try, may answer."""


class Agent:
    """A connection to one agent; a context manager. Threads may share it.

    Raises: UserError for an address without a port.
    """

    def __init__(self, address: str, security: ClientSecurity = OPEN) -> None:
        if ":" not in address:  # gRPC would try 443
            raise UserError(f"agent {address!r} has no port; write HOST:PORT, as in gpu1:50051")
        self.address = address
        self._metadata = security.metadata()
        credentials = security.credentials()
        if credentials is None:
            self._channel = grpc.insecure_channel(address, options=OPTIONS)
        else:
            self._channel = grpc.secure_channel(address, credentials, options=OPTIONS)
        self._calls: set[Any] = set()  # gRPC's types of a call have no generic form
        self._stub = agent_pb2_grpc.AgentStub(self._channel)  # type: ignore[no-untyped-call]  # generated

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Cancels what runs."""
        self._channel.close()

    def cancel(self) -> None:
        """Ends the calls that run, from another thread: their iterators raise AgentError."""
        for call in list(self._calls):
            call.cancel()

    def describe(self, timeout_s: float = CALL_TIMEOUT_S) -> Node:
        """Raises: AgentError."""
        request = pb.DescribeRequest(protocol_version=PROTOCOL_VERSION)
        try:
            return wire.node_from_wire(
                self._stub.Describe(request, timeout=timeout_s, metadata=self._metadata)
            )
        except grpc.RpcError as error:
            raise _agent_error(self.address, error) from error

    def profile(
        self,
        cases: Sequence[KernelCase],
        settings: Settings | None = None,
        device: int = 0,
        group: Group | None = None,
        timeout_s: float | None = None,
    ) -> Iterator[tuple[KernelCase, Event]]:
        """Events of the cases as they come; closing the iterator cancels the call.

        Raises: AgentError.
        """
        request = pb.ProfileRequest(
            protocol_version=PROTOCOL_VERSION,
            cases=[wire.case_to_wire(case) for case in cases],
            settings=wire.settings_to_wire(settings or Settings()),
            device=device,
            group=wire.group_to_wire(group) if group else None,
        )
        limit_s = timeout_s or CASE_TIMEOUT_S * max(1, len(cases))
        call = self._stub.Profile(request, timeout=limit_s, metadata=self._metadata)
        self._calls.add(call)
        try:
            for message in call:
                yield cases[message.case_index], wire.event_from_wire(message)
        except grpc.RpcError as error:
            raise _agent_error(self.address, error) from error
        finally:
            call.cancel()
            self._calls.discard(call)


def _agent_error(address: str, error: grpc.RpcError) -> AgentError:
    """The sentence for a status; `protos/agent.proto` says which status means what."""
    code, details = error.code(), error.details() or ""
    match code:
        case grpc.StatusCode.UNAVAILABLE if "agent is stopping" in details:
            return AgentUnavailableError(f"agent {address}: {details}")
        case grpc.StatusCode.UNAVAILABLE if "handshake" in details.lower():
            return AgentUnavailableError(
                f"agent {address}: the TLS handshake failed; check --tls-ca, --tls-cert and --tls-key, "
                "and that the certificates are not expired"
            )
        case grpc.StatusCode.UNAVAILABLE:
            return AgentUnavailableError(
                f"agent {address} does not answer; is `agent serve` running there?"
            )
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return AgentUnavailableError(f"agent {address} did not answer in time")
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return AgentUnavailableError(f"agent {address}: {details}")
        case grpc.StatusCode.UNIMPLEMENTED if "Method not found" in details:
            return AgentError(f"{address} is a gRPC server, but no Servecast agent")
        case _:
            return AgentError(f"agent {address}: {details or code.name.lower()}")
