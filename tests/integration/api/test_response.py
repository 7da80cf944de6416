"""The answer that is written in one piece, held against aiohttp's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from kosreg.api import response
from kosreg.api.response import LARGE, Direct, Writer, plain
from kosreg.api.server import Server
from kosreg.node import Node
from tests.harness import until
from tests.integration.api.conftest import Bare, bare

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def connected(handler: Handler) -> AsyncIterator[Bare]:
    """A bare connection to a bare aiohttp server with this handler."""
    runner = web.ServerRunner(web.Server(handler, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    connection = Bare(*await asyncio.open_connection(*runner.addresses[0][:2]))
    try:
        yield connection
    finally:
        await connection.close()
        await runner.cleanup()


CASES = [
    (200, b'{"a":1}', "application/json", None),
    (201, b"x" * LARGE, "application/json", {"ETag": 'W/"v.1.2"', "Cache-Control": "private, no-cache"}),
    (200, b"", "application/json", {"X-Empty": "1"}),
    (200, b"\x81\xa1a\x01", "application/vnd.msgpack", {"Vary": "Accept"}),
    (200, b"y" * 1_000_000, "text/plain; version=0.0.4; charset=utf-8", {}),
    (202, "é".encode(), "text/html", {"X-Name": "é"}),
]


@pytest.mark.parametrize("request_line", ["GET / HTTP/1.1", "POST / HTTP/1.1", "HEAD / HTTP/1.1", "GET / HTTP/1.0"])
@pytest.mark.parametrize("connection_header", ["", "Connection: close\r\n", "Connection: keep-alive\r\n"])
@pytest.mark.parametrize("case", CASES)
async def test_it_is_what_aiohttp_would_have_sent(
    case: tuple[int, bytes, str, dict[str, str] | None], request_line: str, connection_header: str
) -> None:
    writer = Writer()
    status, body, content_type, headers = case

    async def directly(request: web.BaseRequest) -> web.StreamResponse:
        return writer.answer(request, status, body, content_type, headers)

    async def plainly(request: web.BaseRequest) -> web.StreamResponse:
        return plain(status, body, content_type, headers)

    told = []
    for handler in (directly, plainly):
        async with connected(handler) as connection:
            await connection.send(f"{request_line}\r\nHost: localhost\r\n{connection_header}\r\n".encode())
            head = await connection.reader.readuntil(b"\r\n\r\n")
            first, *lines = head.decode().strip().split("\r\n")
            fields = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
            sent = b"" if request_line.startswith("HEAD") else await connection.reader.readexactly(len(body))
            fields.pop("date")
            told.append((first.split()[1:], fields, sent))
    (line, fields, sent), (plain_line, plain_fields, plain_sent) = told
    assert (line, sent) == (plain_line, plain_sent)
    if request_line.endswith("1.0"):  # there a connection is never kept, whatever the client would like
        assert request_line.startswith("HEAD") or fields.pop("connection") == "close"
        plain_fields.pop("connection", None)
        fields.pop("connection", None)
    plain_fields.setdefault("content-type", content_type)  # aiohttp gives an empty body none
    assert fields == plain_fields


@pytest.mark.parametrize("end", ["\r\n", "\n", "\r", "\0"])
async def test_a_header_cannot_become_two(end: str) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        with pytest.raises(ValueError, match="a header cannot hold"):
            Writer().answer(request, 200, b"{}", "application/json", {"ETag": f"a{end}Set-Cookie: b=c"})
        with pytest.raises(ValueError, match="a header cannot hold"):
            Writer().answer(request, 200, b"{}", f"text/plain{end}Set-Cookie: b=c", None)
        return plain(204, None, None, None)

    async with connected(answer) as connection:
        await connection.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await connection.told()).status == 204


async def test_the_date_moves_on(monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Writer()
    now = 1_700_000_000.9
    monkeypatch.setattr(response, "time", lambda: now)

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return writer.answer(request, 200, b"{}", "application/json", None)

    async with connected(answer) as connection:
        dates = []
        for step in (0.0, 0.05, 0.1, 60.0):
            now += step
            await connection.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            dates.append((await connection.told()).headers["date"])
    assert dates == ["Tue, 14 Nov 2023 22:13:20 GMT"] * 2 + ["Tue, 14 Nov 2023 22:13:21 GMT"] + [
        "Tue, 14 Nov 2023 22:14:21 GMT"
    ]


async def test_a_client_that_does_not_read_is_cut_off(
    server: Server, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(response, "SEND_SECONDS", 0.3)
    async with bare(server) as connection:
        connection.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await connection.send(b"GET /large?size=50000000 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await until(lambda: server.door.writer.unsent > 0)
        await until(lambda: node.metrics.connections == 0)
    assert server.door.writer.unsent == 0


async def test_while_too_much_is_unsent_large_answers_are_refused_and_small_ones_are_not(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.door.writer.unsent = response.MAX_UNSENT + 1
    async with bare(server) as connection:
        await connection.send(b"GET /large?size=100000 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        told = await connection.told()
        assert (told.status, told.slug) == (503, "unavailable")
        await connection.send(b"GET /large?size=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await connection.told()).status == 200
    server.door.writer.unsent = 0


def test_it_says_what_it_is() -> None:
    assert repr(Direct(Writer(), 200, b"", b"abc", True)) == "<Direct 200 of 3 bytes>"
