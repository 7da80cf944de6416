"""Addresses, connections, and an orderly end."""

from __future__ import annotations

import asyncio
import datetime
import socket
import ssl
import stat
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kosreg.api.server import CannotListen, Gate, Server
from kosreg.node import Node
from tests.harness import running_node, until
from tests.integration.api.conftest import Probe, bare, serving


async def refusal(directory: Path, **options: object) -> str:
    """The text that the node refuses to start with."""
    with pytest.raises(CannotListen) as caught:
        async with running_node(directory, **options):
            pass
    assert isinstance(caught.value, OSError), "what the command line catches"
    return str(caught.value)


@asynccontextmanager
async def over_unix(path: Path) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession("http://localhost", connector=aiohttp.UnixConnector(str(path))) as session:
        yield session


# ---- TCP


async def test_port_zero_gives_a_free_port_and_the_url_names_it(node: Node) -> None:
    assert node.server.url.startswith("http://127.0.0.1:")
    assert not node.server.url.endswith(":0")


async def test_a_port_in_use_is_named_with_what_to_do(node: Node, tmp_path: Path) -> None:
    port = node.server.url.rpartition(":")[2]
    text = await refusal(tmp_path / "other", api__listen=f"127.0.0.1:{port}")
    assert f"port {port} is in use" in text
    assert "--api 127.0.0.1:" in text


async def test_a_refused_start_leaves_nothing_open(node: Node, tmp_path: Path) -> None:
    port = node.server.url.rpartition(":")[2]
    await refusal(tmp_path / "other", api__listen=f"127.0.0.1:{port}")
    async with running_node(tmp_path / "other") as other:
        assert other.ready


@pytest.mark.parametrize(
    ("listen", "says"),
    [("192.0.2.1:7480", "no such address"), ("no-such-host.invalid:7480", "knows no host")],
)
async def test_other_addresses_that_cannot_be_opened(tmp_path: Path, listen: str, says: str) -> None:
    assert says in await refusal(tmp_path / "node", api__listen=listen, api__insecure=True)


async def test_on_all_addresses_the_url_is_one_that_can_be_called(tmp_path: Path) -> None:
    async with running_node(tmp_path / "node", api__listen="0.0.0.0:0", api__insecure=True) as node:
        assert node.server.url.startswith("http://127.0.0.1:")
        async with aiohttp.ClientSession() as session, session.get(node.server.url + "/healthz") as answer:
            assert answer.status == 200


# ---- Unix socket


async def test_a_unix_socket_serves_and_goes_away(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    async with running_node(tmp_path / "node", api__listen=f"unix:{path}") as node:
        assert node.server.url == f"unix:{path}"
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        async with over_unix(path) as session:
            for host in ("localhost", "whatever.example"):
                async with session.get("/healthz", headers={"Host": host}) as answer:
                    assert answer.status == 200
            async with session.get("/healthz", headers={"Origin": "http://evil.example"}) as answer:
                assert answer.status == 403
    assert not path.exists()


async def test_a_socket_that_nobody_answers_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert path.exists(), "as after SIGKILL"
    async with (
        running_node(tmp_path / "node", api__listen=f"unix:{path}"),
        over_unix(path) as session,
        session.get("/healthz") as answer,
    ):
        assert answer.status == 200


async def test_a_socket_that_somebody_answers_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    async with running_node(tmp_path / "node", api__listen=f"unix:{path}"):
        assert "another program answers" in await refusal(tmp_path / "other", api__listen=f"unix:{path}")
        async with over_unix(path) as session, session.get("/healthz") as answer:
            assert answer.status == 200


async def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    path.write_text("precious")
    assert "something else has this name" in await refusal(tmp_path / "node", api__listen=f"unix:{path}")
    assert path.read_text() == "precious"


async def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    text = await refusal(tmp_path / "node", api__listen=f"unix:{tmp_path / 'no' / 'api.sock'}")
    assert "directory must be there" in text


async def test_a_socket_of_somebody_else_is_not_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with socket.socket(socket.AF_UNIX) as other:
        async with running_node(tmp_path / "node", api__listen=f"unix:{path}"):
            path.unlink()
            other.bind(str(path))
        assert path.exists()


# ---- TLS


def certificate(directory: Path, name: str = "localhost") -> tuple[Path, Path]:
    """A self-signed certificate for `name`, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = directory / f"{name}.pem", directory / f"{name}.key"
    cert_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return cert_file, key_file


async def test_tls_is_served_and_nothing_older_than_1_2_is_taken(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    async with running_node(tmp_path / "node", api__listen="localhost:0", api__tls_cert=cert, api__tls_key=key) as node:
        assert node.server.url.startswith("https://localhost:")
        trusted = ssl.create_default_context(cafile=str(cert))
        async with aiohttp.ClientSession() as session:
            async with session.get(node.server.url + "/healthz", ssl=trusted) as answer:
                assert answer.status == 200
            origin = {"Origin": node.server.url}
            async with session.get(node.server.url + "/healthz", ssl=trusted, headers=origin) as answer:
                assert answer.status == 200
        context = node.server._tls()
        assert context is not None
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2


async def test_a_certificate_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    _, other_key = certificate(tmp_path, "other")
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nonsense")
    locked = tmp_path / "locked.key"
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    locked.write_bytes(
        loaded.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
        )
    )
    for tls_key, says in ((other_key, "does not belong"), (nonsense, "not what it should be"), (locked, "password")):
        text = await refusal(tmp_path / "node", api__tls_cert=cert, api__tls_key=tls_key)
        assert says in text
        assert "api.tls_key" in text


# ---- connections


async def test_connections_beyond_the_bound_are_closed_at_once(node: Node, probe: Probe) -> None:
    async with serving(node, probe.routes()) as server:
        gate = server.gate
        assert isinstance(gate, Gate)
        before = node.metrics.connections
        gate.max_connections = before + 2
        async with bare(server) as one, bare(server):
            await until(lambda: node.metrics.connections == before + 2)
            async with bare(server) as third:
                assert await third.ended()
            assert node.metrics.connections_refused == 1
            await one.send(b"GET /see HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await one.told()).status == 200
        await until(lambda: node.metrics.connections == before)
        async with bare(server) as again:
            await again.send(b"GET /see HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await again.told()).status == 200


async def test_a_connection_that_sends_no_request_is_closed(
    node: Node, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kosreg.api.server.KEEP_ALIVE", 0.3)
    async with (
        serving(node, probe.routes()) as server,
        bare(server) as silent,
        bare(server) as slow,
        bare(server) as idle,
    ):
        await slow.send(b"GET /see HTTP/1.1\r\nHo")
        await idle.send(b"GET /see HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await idle.told()).status == 200
        for connection in (silent, slow, idle):
            assert await connection.ended()


# ---- the end


async def test_a_call_under_way_is_answered_when_the_server_ends(node: Node, probe: Probe) -> None:
    server = Server(node, probe.routes())
    await server.start()
    async with bare(server) as connection:
        await connection.send(b"POST /wait HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        await asyncio.wait_for(probe.entered.wait(), 5)
        stopping = asyncio.create_task(server.stop())
        host, _, port = server.url.removeprefix("http://").rpartition(":")

        async def refused() -> bool:
            try:
                _, writer = await asyncio.open_connection(host, int(port))
            except ConnectionError:
                return True
            writer.close()
            return False

        await until(refused)
        probe.go.set()
        assert (await connection.told()).status == 200
        await asyncio.wait_for(stopping, 5)
        assert await connection.ended()


async def test_a_call_that_does_not_end_is_ended(node: Node, probe: Probe) -> None:
    server = Server(node, probe.routes())
    await server.start()
    async with bare(server) as connection:
        await connection.send(b"POST /wait HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        await asyncio.wait_for(probe.entered.wait(), 5)
        began = time.monotonic()
        await server.stop()
        assert time.monotonic() - began < 4
        assert probe.cancelled.is_set()
        assert await connection.ended()
    assert node.metrics.in_flight == 0


async def test_stopping_twice_is_stopping(node: Node, probe: Probe) -> None:
    server = Server(node, probe.routes())
    await server.stop()
    await server.start()
    await server.stop()
    await server.stop()
