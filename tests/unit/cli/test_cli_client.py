"""The client against servers that are no node, or a node with TLS: what it takes for what, and what it says."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kosreg.client import Address, ApiError, CannotRead, Client, Disconnected, Target, UnexpectedAnswer, Unreachable
from kosreg.client.stream import follow, watch

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[Address]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        yield Address.parse(f"{'https' if tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}")
    finally:
        await runner.cleanup()


def certificate(directory: Path, name: str) -> tuple[Path, ssl.SSLContext]:
    """A self-signed certificate for a name that is not the address, as the file and as a server's context."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    cert, secret = directory / f"{name}.pem", directory / f"{name}.key"
    cert.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, secret)
    return cert, context


async def empty_list(_: web.Request) -> web.Response:
    return web.json_response({"services": [], "total": 0})


async def test_exactly_the_certificate_that_the_node_serves_is_taken(tmp_path: Path) -> None:
    cert, context = certificate(tmp_path, "node.example")
    other, _ = certificate(tmp_path, "other.example")
    async with serving(empty_list, context) as address:
        async with Client(Target(address, "tok", pinned=cert)) as client:
            assert await client.discover() == []
        async with Client(Target(address, "tok", pinned=other)) as client:
            with pytest.raises(Unreachable, match="another certificate"):
                await client.discover()
        async with Client(Target(address, "tok")) as client:
            with pytest.raises(Unreachable, match="not trusted"):
                await client.discover()


async def test_a_certificate_file_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.pem").write_text("nonsense")
    target = Target(Address.parse("https://127.0.0.1:1"), pinned=tmp_path / "x.pem")
    with pytest.raises(CannotRead, match=r"x\.pem"):
        await Client(target).__aenter__()


async def test_a_problem_is_raised_with_its_faults_and_when_to_come_again() -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.json_response(
            {
                "type": "urn:kosreg:problem:rate-limited",
                "title": "Too fast",
                "status": 429,
                "errors": [{"pointer": "/a"}],
            },
            status=429,
            content_type="application/problem+json",
            headers={"Retry-After": "2"},
        )

    async with serving(refuse) as address, Client(Target(address)) as client:
        with pytest.raises(ApiError) as caught:
            await client.get("x")
    error = caught.value
    assert (error.status, error.slug, error.retry_after, error.faults[0].pointer) == (429, "rate-limited", 2.0, "/a")


@pytest.mark.parametrize("status", [200, 404, 500, 302])
async def test_what_is_no_node_is_said_to_be_none(status: int) -> None:
    async def page(_: web.Request) -> web.Response:
        return web.Response(text="<html>", status=status, content_type="text/html", headers={"Location": "/"})

    async with serving(page) as address, Client(Target(address)) as client:
        with pytest.raises(UnexpectedAnswer, match="kosreg node"):
            await client.get("x")


async def test_nobody_listening_is_unreachable() -> None:
    async with serving(empty_list) as address:
        pass
    async with Client(Target(address)) as client:
        with pytest.raises(Unreachable, match="Connection refused"):
            await client.discover()
        with pytest.raises(Unreachable, match="Connection refused"):
            await anext(watch(client))


async def test_the_token_goes_nowhere_else_by_a_redirect() -> None:
    seen: list[str] = []

    async def elsewhere(request: web.Request) -> web.Response:
        seen.append(request.path)
        return web.Response(status=307, headers={"Location": "/other"})

    async with serving(elsewhere) as address, Client(Target(address, "tok")) as client:
        with pytest.raises(UnexpectedAnswer):
            await client.get("x")
    assert seen == ["/api/services/x"]


@pytest.mark.parametrize(("code", "lasting"), [(4401, True), (4403, True), (1012, False), (1001, False)])
async def test_a_closed_watch_says_why_and_whether_it_may_come_back(code: int, lasting: bool) -> None:
    async def close(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(protocols=("kosreg.v1",))
        await socket.prepare(request)
        await socket.receive()
        await socket.close(code=code, message=b"because")
        return socket

    async with serving(close) as address, Client(Target(address)) as client:
        with pytest.raises(Disconnected, match="because") as caught:
            await anext(watch(client))
    assert (caught.value.code, caught.value.lasting) == (code, lasting)


async def test_follow_goes_on_from_the_last_cursor_and_gives_up_in_time() -> None:
    wishes: list[object] = []

    async def twice(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(protocols=("kosreg.v1",))
        await socket.prepare(request)
        wish = await socket.receive_json()
        wishes.append(wish.get("since"))
        event = {"op": "event", "sub": wish["id"], "event": "registered", "service": {}, "cursor": f"c{len(wishes)}"}
        await socket.send_json(event)
        await socket.close(code=1012)
        return socket

    lost: list[str] = []
    seen: list[object] = []
    async with serving(twice) as address:
        frames = follow(lambda: Target(address), patience=0.3, lost=lost.append)
        async for frame in frames:
            seen.append(frame.value["cursor"])
            if len(seen) == 2:
                break
    with pytest.raises(Unreachable, match="did not come back"):
        async for _ in frames:
            pass
    assert (seen, wishes, len(lost) >= 1) == (["c1", "c2"], [None, "c1"], True)
