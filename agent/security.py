"""Who may call an agent: addresses, tokens and certificates. Reads files; opens no sockets."""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import grpc

from servecast.compiler.errors import UserError

TOKEN_VARIABLE = "SERVECAST_AGENT_TOKEN"
MIN_TOKEN_CHARACTERS = 16  # shorter ones can be guessed
OPEN_METHODS = ("/grpc.health.v1.Health/",)  # a probe has no token, and learns only: serving or not


@dataclass(frozen=True, slots=True)
class ServerSecurity:
    """What a server asks of its callers. With ``client_ca`` a caller needs a certificate signed by it."""

    token: str | None = field(default=None, repr=False)
    certificate: bytes | None = None
    key: bytes | None = field(default=None, repr=False)
    client_ca: bytes | None = None

    def credentials(self) -> grpc.ServerCredentials | None:
        """TLS, or None where there is no certificate."""
        if self.certificate is None or self.key is None:
            return None
        return grpc.ssl_server_credentials(
            [(self.key, self.certificate)],
            root_certificates=self.client_ca,
            require_client_auth=self.client_ca is not None,
        )


@dataclass(frozen=True, slots=True)
class ClientSecurity:
    """How a caller proves itself. ``ca`` checks the agent; without any file the channel is not encrypted."""

    token: str | None = field(default=None, repr=False)
    ca: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = field(default=None, repr=False)

    def credentials(self) -> grpc.ChannelCredentials | None:
        if self.ca is None:
            return None
        return grpc.ssl_channel_credentials(self.ca, self.key, self.certificate)

    def metadata(self) -> tuple[tuple[str, str], ...]:
        return () if self.token is None else (("authorization", f"Bearer {self.token}"),)


def server_security(
    token_file: Path | None,
    certificate: Path | None,
    key: Path | None,
    client_ca: Path | None,
) -> ServerSecurity:
    """From files. Raises: UserError."""
    _check_pair(certificate, key)
    if client_ca is not None and certificate is None:
        raise UserError("--tls-client-ca needs --tls-cert and --tls-key")
    return ServerSecurity(read_token(token_file), *_contents(certificate, key, client_ca))


def client_security(
    token_file: Path | None,
    ca: Path | None,
    certificate: Path | None,
    key: Path | None,
) -> ClientSecurity:
    """From files. Raises: UserError."""
    _check_pair(certificate, key)
    if certificate is not None and ca is None:
        raise UserError("--tls-cert needs --tls-ca, the CA that signed the agent's certificate")
    return ClientSecurity(read_token(token_file), *_contents(ca, certificate, key))


def _check_pair(certificate: Path | None, key: Path | None) -> None:
    if (certificate is None) != (key is None):
        raise UserError("--tls-cert and --tls-key go together")


def _contents(*paths: Path | None) -> list[bytes | None]:
    return [None if path is None else read_bytes(path) for path in paths]


def check_exposure(host: str, security: ServerSecurity, insecure: bool) -> None:
    """Raises: UserError where others could reach an agent that asks nothing of them."""
    if _is_loopback(host) or insecure:
        return
    lacks = [
        name
        for name, there in (
            (f"a token (--token-file or {TOKEN_VARIABLE})", security.token is not None),
            ("TLS (--tls-cert and --tls-key)", security.certificate is not None),
        )
        if not there
    ]
    if lacks:
        raise UserError(
            f"--host {host} is reachable from other machines and needs {' and '.join(lacks)}; "
            "--insecure serves without"
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def read_token(path: Path | None) -> str | None:
    """The token of a file, or of the environment, or None. Raises: UserError where it is too short."""
    token = (
        read_bytes(path).decode(errors="replace").strip()
        if path
        else os.environ.get(TOKEN_VARIABLE)
    )
    if token is None:
        return None
    if len(token) < MIN_TOKEN_CHARACTERS or not token.isascii() or not token.isprintable():
        raise UserError(
            f"{path or TOKEN_VARIABLE}: a token is at least {MIN_TOKEN_CHARACTERS} printable ASCII characters"
        )
    return token


def read_bytes(path: Path) -> bytes:
    """Raises: UserError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


class TokenInterceptor(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic in its stubs only
    """Turns away whoever does not bring the token; how long that takes tells nothing about it."""

    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}".encode()
        self._refusal = grpc.unary_unary_rpc_method_handler(_refuse)

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Any],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:  # gRPC's handlers have no common type
        if handler_call_details.method.startswith(OPEN_METHODS):
            return continuation(handler_call_details)
        given = dict(handler_call_details.invocation_metadata).get("authorization", "")
        raw = given if isinstance(given, bytes) else given.encode()
        if hmac.compare_digest(raw, self._expected):
            return continuation(handler_call_details)
        return self._refusal


def _refuse(request: object, context: grpc.ServicerContext) -> None:
    del request
    context.abort(grpc.StatusCode.UNAUTHENTICATED, "a token is wanted, and this is not it")
