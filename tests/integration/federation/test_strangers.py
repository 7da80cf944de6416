"""What somebody may try who is not, or no longer, a good peer: over real sockets, by hand."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from crdt import cbor
from federation import transport
from federation.certificate import client_context, key_of, make_certificate, server_context
from federation.envelope import decode_bare, encode_message
from federation.identity import NodeKey
from federation.session import ClientHandshake, Me, Session
from tests.harness import until
from tests.integration.federation.nodes import HIGH, LOW, THIRD, Running, running

PING = encode_message({"t": "ping", "at": 1})


@asynccontextmanager
async def socket_to(node: Running) -> AsyncIterator[transport.Socket]:
    socket = await transport.dial(node.address, client_context())
    try:
        yield socket
    finally:
        await socket.close()


async def greeted(socket: transport.Socket, node: Running, key: NodeKey = HIGH) -> Session:
    """A session with `node`, made by hand."""
    shake = ClientHandshake(Me(key, 1), node.key, socket.certificate, os.urandom(32))
    await socket.send(shake.challenged(await socket.receive()))
    return shake.answered(await socket.receive())


async def said(socket: transport.Socket) -> tuple[object, object]:
    """(code, reason) of the close that comes next, behind whatever else."""
    while True:
        raw = await socket.receive()
        if raw[0] >> 5 == 5 and (fields := decode_bare(raw))["t"] == "close":
            return fields["code"], fields["reason"]


async def is_cut(socket: transport.Socket) -> bool:
    """Waits for the end of the connection."""
    try:
        while True:
            await socket.receive()
    except transport.SocketClosed:
        return True


async def test_tls_is_1_3_with_the_nodes_own_key_and_nothing_to_resume() -> None:
    async with running(LOW) as a:
        context = client_context()
        context.options &= ~ssl.OP_NO_TICKET
        reader, writer = await asyncio.open_connection("127.0.0.1", a.node.port, ssl=context)
        tls = writer.get_extra_info("ssl_object")
        assert tls.version() == "TLSv1.3"
        assert key_of(tls.getpeercert(binary_form=True)) == a.key
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"404" in await reader.readline()
        assert not tls.session.has_ticket
        writer.close()
        old = client_context()
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("127.0.0.1", a.node.port, ssl=old)


async def test_somebody_between_with_a_certificate_of_its_own_gets_no_hello() -> None:
    got: list[bytes] = []

    async def relay(request: web.BaseRequest) -> web.StreamResponse:
        ws = web.WebSocketResponse(protocols=("klp.1",))
        await ws.prepare(request)
        async with socket_to(b) as there:
            await ws.send_bytes(await there.receive())
            got.extend([message.data async for message in ws if message.type is aiohttp.WSMsgType.BINARY])
        return ws

    async with running(LOW) as a, running(HIGH) as b:
        a.trusts(b)
        b.trusts(a)
        server = web.Server(relay)
        listening = await asyncio.get_running_loop().create_server(
            server, "127.0.0.1", 0, ssl=server_context(THIRD, make_certificate(THIRD))
        )
        a.node.keep(b.key, [f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"])
        await until(lambda: "refused wrong-key" in a.codes())
        await until(lambda: got)
        assert decode_bare(got[0])["code"] == "wrong-key"  # and nothing else: no hello to relay
        assert not b.mesh.opens
        await a.node.stop()
        listening.close()
        await server.shutdown(1)


async def test_a_redirect_is_not_followed() -> None:
    asked: list[str] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        asked.append(request.path)
        raise web.HTTPFound("/elsewhere")

    async with running(LOW) as a:
        a.trusts(THIRD.public)
        server = web.Server(answer)
        listening = await asyncio.get_running_loop().create_server(
            server, "127.0.0.1", 0, ssl=server_context(THIRD, make_certificate(THIRD))
        )
        a.node.keep(THIRD.public, [f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"])
        await until(lambda: a.node.links()[0].error)
        assert "302" in a.node.links()[0].error
        assert set(asked) == {"/klp/v1"}
        await a.node.stop()
        listening.close()
        await server.shutdown(1)


async def test_other_paths_and_subprotocols_get_an_http_error() -> None:
    async with running(LOW) as a, aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=client_context())) as http:
        for path, protocols, status in (
            ("/klp/v1", ("klp.9",), 400),
            ("/klp/v1", (), 400),
            ("/klp/v2", ("klp.1",), 404),
        ):
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                await http.ws_connect(f"wss://{a.address}{path}", protocols=protocols)
            assert caught.value.status == status


async def test_a_stranger_has_a_short_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "PENDING_S", 0.3)
    async with running(LOW) as a:
        async with socket_to(a) as socket:
            assert await is_cut(socket)
        reader, writer = await asyncio.open_connection("127.0.0.1", a.node.port, ssl=client_context())
        assert await reader.read() == b""  # not even a request
        writer.close()


async def test_a_stranger_has_a_few_bytes() -> None:
    async with running(LOW) as a, socket_to(a) as socket:
        await socket.receive()
        await socket.send(b"\xd2" + bytes(transport.PENDING_BYTES))
        assert await is_cut(socket)
        await until(lambda: a.events)
        assert a.events[-1].code == "lost"  # cut in the middle of the frame: nobody has looked at it


async def test_an_address_has_eight_strangers() -> None:
    async with running(LOW) as a:
        a.trusts(HIGH.public)
        sockets = [await transport.dial(a.address, client_context()) for _ in range(transport.PENDING_PER_ADDRESS)]
        with pytest.raises(transport.DialError):
            await transport.dial(a.address, client_context())
        await greeted(sockets[0], a)  # this one is a stranger no more
        sockets.append(await transport.dial(a.address, client_context()))
        with pytest.raises(transport.DialError):
            await transport.dial(a.address, client_context())
        await asyncio.gather(*(socket.close() for socket in sockets))

        async def is_free() -> bool:
            try:
                await (await transport.dial(a.address, client_context())).close()
            except transport.DialError:
                return False
            return True

        await until(is_free)


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"", "signature"),
        (b"\xd2" + bytes(300), "signature"),
        (b"\xa1\x61t\x01", "malformed"),
        (b"\xbf", "malformed"),
        (cbor.encode({"t": "ping", "b": bytes(20_000)}), "oversize"),
        ("another session", "signature"),
    ],
)
async def test_a_bad_frame_ends_the_link_and_says_why(frame: bytes | str, code: str) -> None:
    async with running(LOW) as a, socket_to(a) as socket:
        a.trusts(HIGH.public)
        session = await greeted(socket, a)
        await socket.send(session.channel.seal([encode_message({"t": "x"})], bytes(16), 1))
        await until(lambda: a.mesh.got)
        if isinstance(frame, str):
            async with socket_to(a) as second:
                old = session.channel.seal([encode_message({"t": "old"})], bytes(16), 1)
                await greeted(second, a)
                await second.send(old)
                assert (await said(second))[0] == code
        else:
            await socket.send(frame)
            assert (await said(socket))[0] == code
        await until(lambda: not a.mesh.open)
        assert a.node.counts[f"down {code}"] == 1
        assert [message["t"] for _, message in a.mesh.got] == ["x"]


async def test_a_frame_that_is_too_large_is_not_read() -> None:
    async with running(LOW) as a, socket_to(a) as socket:
        a.trusts(HIGH.public)
        await greeted(socket, a)
        await socket.send(b"\xd2" + bytes(2 << 20))
        await until(lambda: a.mesh.opens and not a.mesh.open)
        assert "1048576" in a.events[-1].reason or "lost" in a.events[-1].code


async def test_what_is_not_known_is_passed_by() -> None:
    async with running(LOW) as a, socket_to(a) as socket:
        a.trusts(HIGH.public)
        await greeted(socket, a)
        await socket.send(encode_message({"t": "of a later version"}))
        await socket.send(encode_message({"t": "entries", "entries": []}))  # must come in an envelope
        await socket.send(PING)
        while decode_bare(await socket.receive())["t"] != "pong":
            pass
        assert a.mesh.got == []


async def test_a_bulk_socket_of_nobody_is_refused() -> None:
    async with running(LOW) as a, running(HIGH) as b:
        a.trusts(b)
        b.trusts(a)
        b.keeps(a)
        await until(lambda: a.linked(b) and a.node._links[b.key].bulk)
        link = a.node._links[b.key]
        name = next(iter(a.node._connections._by_name))
        for fields, code in (
            ({"t": "hello.bulk", "link": bytes(32), "mac": bytes(32)}, "unknown"),
            ({"t": "hello.bulk", "mac": bytes(32)}, "unknown"),
            ({"t": "hello.bulk", "link": name, "mac": bytes(32)}, "signature"),
            ({"t": "hello.bulk", "link": name}, "signature"),
            ({"t": "hello.bulk", "link": [1]}, "unknown"),
            ({"t": "ping"}, "malformed"),
        ):
            async with socket_to(a) as socket:
                await socket.send(encode_message(fields))
                assert (await said(socket))[0] == code
        assert a.node._links[b.key] is link


async def test_a_node_that_dials_itself_is_refused() -> None:
    async with running(LOW) as a:
        a.node.keep(a.key, [a.address])
        assert a.node.links() == []
        async with socket_to(a) as socket:
            await socket.receive()
            await socket.send(encode_message({"t": "close", "code": "self"}))
            assert await is_cut(socket)
        assert a.events[-1].by_peer
