"""Starts and stops the gRPC server: address, limits, health."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc

from servecast.agent.call_rate import CallRate, RateInterceptor
from servecast.agent.messages import MAX_MESSAGE_BYTES
from servecast.agent.security import ServerSecurity, TokenInterceptor
from servecast.agent.service import AgentService, CaseProfiler
from servecast.compiler.errors import AgentError
from servecast.protos import agent_pb2_grpc

try:
    from grpc_health.v1 import health, health_pb2, health_pb2_grpc
except ImportError:  # a GPU node without a network may lack it, and then has no health service
    HAS_HEALTH = False
else:
    HAS_HEALTH = True

OPEN = ServerSecurity()
try:
    from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped,import-not-found,unused-ignore]
except ImportError:  # for debugging only, and asked for by name
    HAS_REFLECTION = False
else:
    HAS_REFLECTION = True

SERVICE = "servecast.agent.v1.Agent"
CALL_THREADS = 32  # callers that wait for devices, and room for Describe and health beside them
STOP_GRACE_S = 6.0  # a stopping agent lets the running case finish for so long, and is gone in 10 s
OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),  # a port that another agent has is an error, not a lottery
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 0),
)


@dataclass(slots=True)
class AgentServer:
    """A server that is bound and not yet started. ``port`` is the one it got."""

    server: grpc.Server
    service: AgentService
    health: Any  # grpc_health is untyped; None where it is not installed
    host: str
    port: int

    def start(self) -> None:
        self.server.start()

    def stop(self, grace_s: float = STOP_GRACE_S) -> None:
        """Refuses new calls at once, lets running cases finish within the grace, waits for the devices."""
        self.service.drain()
        if self.health is not None:
            self.health.enter_graceful_shutdown()
        self.server.stop(grace_s).wait()
        self.service.close()

    def wait(self) -> None:
        self.server.wait_for_termination()


def create_server(
    profiler: CaseProfiler,
    host: str,
    port: int,
    security: ServerSecurity = OPEN,
    rate: CallRate | None = None,
) -> AgentServer:
    """Raises: AgentError where the address cannot be had. Port 0 is the system's choice."""
    interceptors: list[grpc.ServerInterceptor[Any, Any]] = [RateInterceptor(rate or CallRate())]
    if security.token is not None:
        interceptors.append(TokenInterceptor(security.token))
    server = grpc.server(
        ThreadPoolExecutor(max_workers=CALL_THREADS, thread_name_prefix="call"),
        interceptors=interceptors,
        options=OPTIONS,
    )
    service = AgentService(profiler)
    agent_pb2_grpc.add_AgentServicer_to_server(service, server)  # type: ignore[no-untyped-call]  # generated
    healthy = _add_health(server)
    bound = _bind(server, host, port, security.credentials())
    return AgentServer(server, service, healthy, host, bound)


def add_reflection(server: AgentServer) -> None:
    """Lets tools such as grpcurl list the services. Raises: AgentError without the package."""
    if not HAS_REFLECTION:
        raise AgentError("--reflection needs a package: pip install grpcio-reflection")
    names = (SERVICE, "grpc.health.v1.Health", reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server.server)


def _add_health(server: grpc.Server) -> Any:
    if not HAS_HEALTH:
        return None
    servicer = health.HealthServicer()
    for name in ("", SERVICE):
        servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    return servicer


def _bind(
    server: grpc.Server, host: str, port: int, credentials: grpc.ServerCredentials | None
) -> int:
    bare = host.strip("[]")
    address = f"[{bare}]:{port}" if ":" in bare else f"{bare}:{port}"  # IPv6 goes in brackets
    try:
        if credentials is None:
            bound = server.add_insecure_port(address)
        else:
            bound = server.add_secure_port(address, credentials)
    except RuntimeError:
        bound = 0
    if bound == 0:
        raise AgentError(
            f"cannot listen on {address}: the address is taken or is not this machine's"
        )
    return bound
