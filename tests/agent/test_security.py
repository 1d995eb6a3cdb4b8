"""Who gets in: every cell of encryption × token × certificate, over real connections."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from servecast.agent.client import Agent
from servecast.agent.cpu import CpuBackend
from servecast.agent.profiler import Profiler
from servecast.agent.security import (
    ClientSecurity,
    ServerSecurity,
    check_exposure,
    client_security,
    read_token,
    server_security,
)
from servecast.agent.server import AgentServer, create_server
from servecast.compiler.errors import AgentError, UserError

TOKEN = "correct-horse-battery"
REFUSED = "a token is wanted, and this is not it"
HANDSHAKE = "the TLS handshake failed"


@dataclass(frozen=True)
class Pair:
    certificate: bytes
    key: bytes


class Authority:
    """A certificate authority in a folder, by openssl."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.openssl("req", "-x509", "-newkey", "ec:ec.pem", "-nodes", "-subj", "/CN=test CA", "-days", "2",
                     "-keyout", "ca.key", "-out", "ca.crt")  # fmt: skip

    def openssl(self, *arguments: str) -> None:
        if not (self.folder / "ec.pem").exists():
            curve = ["openssl", "ecparam", "-name", "prime256v1", "-out", "ec.pem"]
            subprocess.run(curve, cwd=self.folder, check=True, capture_output=True)
        subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, capture_output=True)

    @property
    def certificate(self) -> bytes:
        return (self.folder / "ca.crt").read_bytes()

    def sign(self, name: str, expired: bool = False) -> Pair:
        """A pair for 127.0.0.1; an expired one ended in 2001."""
        self.openssl("req", "-newkey", "ec:ec.pem", "-nodes", "-subj", f"/CN={name}",
                     "-keyout", f"{name}.key", "-out", f"{name}.csr")  # fmt: skip
        (self.folder / "san").write_text("subjectAltName=IP:127.0.0.1")
        if expired:
            self._sign_in_the_past(name)
        else:
            self.openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key",
                         "-CAcreateserial", "-days", "1", "-extfile", "san",
                         "-out", f"{name}.crt")  # fmt: skip
        return Pair(*((self.folder / f"{name}.{kind}").read_bytes() for kind in ("crt", "key")))

    def _sign_in_the_past(self, name: str) -> None:
        (self.folder / "index").write_text("")
        (self.folder / "serial").write_text("01")
        (self.folder / "ca.conf").write_text(
            "[ca]\ndefault_ca=a\n[a]\ndatabase=index\nserial=serial\nnew_certs_dir=.\n"
            "default_md=sha256\npolicy=p\n[p]\ncommonName=supplied\n"
        )
        self.openssl("ca", "-batch", "-config", "ca.conf", "-cert", "ca.crt", "-keyfile", "ca.key",
                     "-startdate", "20010101000000Z", "-enddate", "20010201000000Z", "-extfile", "san",
                     "-in", f"{name}.csr", "-out", f"{name}.crt", "-notext")  # fmt: skip


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki") / "ca")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki") / "stranger")


def serve(security: ServerSecurity) -> AgentServer:
    server = create_server(Profiler(CpuBackend(1), "cpu"), "127.0.0.1", 0, security)
    server.start()
    return server


@pytest.fixture(scope="module")
def secured(authority: Authority) -> Iterator[dict[str, AgentServer]]:
    """The same agent behind plaintext, TLS and mutual TLS, each with a token."""
    pair = authority.sign("agent")
    servers = {
        "plaintext": serve(ServerSecurity(TOKEN)),
        "tls": serve(ServerSecurity(TOKEN, pair.certificate, pair.key)),
        "mtls": serve(ServerSecurity(TOKEN, pair.certificate, pair.key, authority.certificate)),
    }
    yield servers
    for server in servers.values():
        server.stop(0.0)


def call(server: AgentServer, security: ClientSecurity) -> str:
    with Agent(f"127.0.0.1:{server.port}", security) as agent:
        return agent.describe(timeout_s=5).sku


@pytest.mark.parametrize("kind", ["plaintext", "tls", "mtls"])
@pytest.mark.parametrize("token", [None, "wrong-horse-battery", TOKEN])
def test_only_the_right_token_gets_in(
    secured: dict[str, AgentServer], authority: Authority, kind: str, token: str | None
) -> None:
    pair = authority.sign("caller")
    security = {
        "plaintext": ClientSecurity(token),
        "tls": ClientSecurity(token, authority.certificate),
        "mtls": ClientSecurity(token, authority.certificate, pair.certificate, pair.key),
    }[kind]
    if token == TOKEN:
        assert call(secured[kind], security) == "cpu"
    else:
        with pytest.raises(AgentError, match=REFUSED):
            call(secured[kind], security)


def test_a_caller_without_a_certificate_is_refused_by_mutual_tls(
    secured: dict[str, AgentServer], authority: Authority
) -> None:
    with pytest.raises(AgentError):
        call(secured["mtls"], ClientSecurity(TOKEN, authority.certificate))


@pytest.mark.parametrize("whose", ["a stranger's", "expired"])
def test_a_callers_wrong_certificate_is_refused_by_mutual_tls(
    secured: dict[str, AgentServer], authority: Authority, stranger: Authority, whose: str
) -> None:
    pair = authority.sign("late", expired=True) if whose == "expired" else stranger.sign("other")
    security = ClientSecurity(TOKEN, authority.certificate, pair.certificate, pair.key)
    with pytest.raises(AgentError):
        call(secured["mtls"], security)


def test_an_agent_signed_by_a_stranger_is_not_trusted(
    secured: dict[str, AgentServer], stranger: Authority
) -> None:
    with pytest.raises(AgentError, match=HANDSHAKE):
        call(secured["tls"], ClientSecurity(TOKEN, stranger.certificate))


def test_an_agent_with_an_expired_certificate_is_not_trusted(authority: Authority) -> None:
    pair = authority.sign("old", expired=True)
    server = serve(ServerSecurity(TOKEN, pair.certificate, pair.key))
    with pytest.raises(AgentError, match=HANDSHAKE):
        call(server, ClientSecurity(TOKEN, authority.certificate))
    server.stop(0.0)


def test_a_plaintext_caller_gets_nothing_from_a_tls_agent(secured: dict[str, AgentServer]) -> None:
    with pytest.raises(AgentError):
        call(secured["tls"], ClientSecurity(TOKEN))


def test_a_probe_needs_no_token(secured: dict[str, AgentServer]) -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(f"127.0.0.1:{secured['plaintext'].port}") as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(), timeout=5
        )
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]"])
def test_loopback_needs_nothing(host: str) -> None:
    check_exposure(host, ServerSecurity(), insecure=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "gpu-node-3"])
def test_another_address_needs_a_token_and_tls_or_the_word_insecure(host: str) -> None:
    with pytest.raises(UserError, match=rf"^--host {host} is reachable .* and needs a token"):
        check_exposure(host, ServerSecurity(), insecure=False)
    with pytest.raises(UserError, match=r"and needs TLS \(--tls-cert and --tls-key\); --insecure"):
        check_exposure(host, ServerSecurity(TOKEN), insecure=False)
    check_exposure(host, ServerSecurity(), insecure=True)
    check_exposure(host, ServerSecurity(TOKEN, b"c", b"k"), insecure=False)


def test_a_token_comes_from_a_file_or_else_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SERVECAST_AGENT_TOKEN", raising=False)
    assert read_token(None) is None
    monkeypatch.setenv("SERVECAST_AGENT_TOKEN", "from-the-environment")
    assert read_token(None) == "from-the-environment"
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    assert read_token(tmp_path / "token") == TOKEN


def test_a_short_token_is_refused_without_being_shown(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hunter2")
    with pytest.raises(UserError, match="at least 16 printable ASCII characters") as refused:
        read_token(tmp_path / "token")
    assert "hunter2" not in str(refused.value)


def test_half_a_pair_of_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.pem").write_text("x")
    with pytest.raises(UserError, match=r"^--tls-cert and --tls-key go together$"):
        server_security(None, tmp_path / "c.pem", None, None)
    with pytest.raises(UserError, match=r"^--tls-cert needs --tls-ca"):
        client_security(None, None, tmp_path / "c.pem", tmp_path / "c.pem")


def test_secrets_are_in_no_representation() -> None:
    pair = (b"certificate", b"the key")
    for security in (ServerSecurity(TOKEN, *pair), ClientSecurity(TOKEN, b"ca", *pair)):
        assert TOKEN not in repr(security)
        assert "the key" not in repr(security)


def test_serve_refuses_an_open_address_with_exit_code_2() -> None:
    command = [
        sys.executable,
        "-m",
        "servecast.agent.cli",
        "serve",
        "--host",
        "0.0.0.0",
        "--port",
        "0",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "0.0.0.0 is reachable from other machines" in done.stderr
