"""Bodies: bounded in bytes and time, JSON or MessagePack, and what is told when they are not what they should be."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator

import msgpack
import pytest
import pytest_asyncio

from kosreg.api import body as bodies
from kosreg.api.server import Server
from kosreg.node import Node
from tests.harness import Client, until
from tests.integration.api.conftest import Bare, Probe, bare

LIMIT = 256 * 1024
MSGPACK = "application/vnd.msgpack"


@pytest_asyncio.fixture
async def client(node: Node, server: Server) -> AsyncIterator[Client]:
    client = Client(server.url, (await node.auth.issue("bob")).token)
    yield client
    await client.close()


@pytest_asyncio.fixture
async def connection(server: Server) -> AsyncIterator[Bare]:
    async with bare(server) as connection:
        yield connection


def head(client: Client, path: str = "/echo", **headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {client.token}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def slug(body: object) -> str:
    assert isinstance(body, dict), body
    return str(body["type"]).rpartition(":")[2]


# ---- how much


async def test_a_body_at_the_limit_passes_and_one_byte_more_does_not(client: Client, probe: Probe) -> None:
    fits = b'"' + b"x" * (LIMIT - 2) + b'"'
    status, _, _ = await client.post("/echo", fits)
    assert (status, len(probe.calls[-1].raw)) == (200, LIMIT)
    status, body, _ = await client.post("/echo", fits + b" ")
    assert (status, slug(body)) == (413, "too-large")
    assert "256 KiB" in body["detail"]


async def test_each_route_has_its_own_limit(client: Client) -> None:
    assert (await client.post("/echo/small", b" " * 998 + b"{}"))[0] == 200
    status, body, _ = await client.post("/echo/small", b" " * 999 + b"{}")
    assert (status, slug(body)) == (413, "too-large")


async def test_the_limit_holds_without_a_length(client: Client, connection: Bare) -> None:
    await connection.send(head(client, Transfer_Encoding="chunked"))
    for _ in range(5):
        await connection.send(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
    await connection.send(b"0\r\n\r\n")
    told = await connection.told()
    assert (told.status, told.slug) == (413, "too-large")


async def test_the_sender_of_a_large_body_sees_the_answer_and_keeps_the_connection(
    client: Client, connection: Bare
) -> None:
    size = 8 * 1024 * 1024
    await connection.send(head(client, Content_Length=str(size)))
    await connection.send(b"x" * size)
    told = await connection.told()
    assert (told.status, told.slug, told.closed) == (413, "too-large", False)
    await connection.send(head(client, Content_Length="2", Content_Type="application/json") + b"{}")
    assert (await connection.told()).status == 200


async def test_a_body_without_end_is_refused_once_it_is_too_large(
    client: Client, connection: Bare, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "DROP_SECONDS", 0.3)
    await connection.send(head(client, Transfer_Encoding="chunked"))
    for _ in range(5):
        await connection.send(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
    told = await connection.told()
    assert (told.status, told.slug, told.closed) == (413, "too-large", True)


async def test_what_is_dropped_is_bounded_in_bytes(
    client: Client, connection: Bare, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "DROP_SECONDS", 60)
    await connection.send(head(client, Content_Length=str(10**12)))

    async def flood() -> None:
        while True:
            await connection.send(b"x" * 65_536)

    flooding = asyncio.create_task(flood())
    told = await connection.told()
    assert (told.status, told.slug, told.closed) == (413, "too-large", True)
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(flooding, 10)


async def test_a_body_that_is_refused_before_it_is_read_is_dropped_too(client: Client, connection: Bare) -> None:
    client.token = "x.y.z"
    await connection.send(head(client, Content_Length=str(1_000_000)))
    await connection.send(b"x" * 1_000_000)
    told = await connection.told()
    assert (told.status, told.slug, told.closed) == (401, "unauthenticated", False)


async def test_a_client_that_asks_first_is_told_to_go_on_or_not(client: Client, server: Server) -> None:
    async with bare(server) as connection:
        await connection.send(head(client, Content_Length="2", Expect="100-continue"))
        assert await connection.reader.readline() == b"HTTP/1.1 100 Continue\r\n"
        await connection.reader.readline()
        await connection.send(b"{}")
        told = await connection.told()
        assert (told.status, told.body) == (200, b"{}")
    async with bare(server) as connection:
        await connection.send(head(client, Content_Length=str(LIMIT + 1), Expect="100-continue"))
        told = await connection.told(within=2)
        assert (told.status, told.closed) == (413, True), "at once: nothing has been sent that could be dropped"


# ---- how long


async def test_a_body_that_drips_is_given_up(
    client: Client, connection: Bare, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "READ_SECONDS", 0.3)
    monkeypatch.setattr(bodies, "DROP_SECONDS", 0.3)
    await connection.send(head(client, Content_Length="100"))
    dripping = asyncio.create_task(drip(connection))
    told = await connection.told()
    assert (told.status, told.slug, told.closed) == (408, "timeout", True)
    assert await connection.ended()
    await dripping
    assert not probe.calls


async def drip(connection: Bare) -> None:
    try:
        for _ in range(90):
            await connection.send(b" ")
            await asyncio.sleep(0.02)
    except ConnectionError:
        pass


async def test_a_client_that_leaves_while_it_sends_leaves_nothing(client: Client, server: Server, node: Node) -> None:
    async with bare(server) as connection:
        await connection.send(head(client, Content_Length="100"))
        await until(lambda: node.metrics.in_flight == 1)
    await until(lambda: node.metrics.in_flight == 0)


# ---- broken framing


@pytest.mark.parametrize(
    "chunks", [b"zz\r\n{}\r\n0\r\n\r\n", b"2\r\n{}XX0\r\n\r\n", b"-2\r\n{}\r\n0\r\n\r\n", b"fffffffffffffffff\r\n"]
)
async def test_broken_chunks_are_a_problem(client: Client, connection: Bare, chunks: bytes, probe: Probe) -> None:
    await connection.send(head(client, Transfer_Encoding="chunked", Content_Type="application/json") + chunks)
    told = await connection.told()
    assert (told.status, told.slug) == (400, "malformed")
    assert not probe.calls


# ---- what it is


async def test_json_is_the_default(client: Client, probe: Probe, connection: Bare) -> None:
    await connection.send(head(client, Content_Length="2") + b"{}")
    assert (await connection.told()).status == 200
    assert probe.calls[-1].content_type == "application/json"


@pytest.mark.parametrize(
    "kind",
    ["application/json", "Application/JSON", "application/json; charset=utf-8", 'application/json;charset="UTF-8"',
     "text/json"],
)  # fmt: skip
async def test_json_by_any_of_its_names(client: Client, probe: Probe, kind: str) -> None:
    assert (await client.post("/echo", b'{"a": 1}', Content_Type=kind))[:2] == (200, {"a": 1})
    assert probe.calls[-1].raw == b'{"a": 1}', "as it was sent"


@pytest.mark.parametrize("kind", [MSGPACK, "application/msgpack", "application/x-msgpack"])
async def test_msgpack_by_any_of_its_names(client: Client, probe: Probe, kind: str) -> None:
    packed = msgpack.packb({"a": [1, None, "é", 0.5]})
    assert (await client.post("/echo", packed, Content_Type=kind))[:2] == (200, {"a": [1, None, "é", 0.5]})
    assert probe.calls[-1].content_type == MSGPACK
    assert probe.calls[-1].raw == '{"a":[1,null,"é",0.5]}'.encode()


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "application/octet-stream", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
     "application/cbor", "application/json; charset=latin-1", "application/merge-patch+json", "json", ""],
)  # fmt: skip
async def test_other_types_are_refused(client: Client, kind: str, probe: Probe) -> None:
    status, body, _ = await client.post("/echo", b"{}", Content_Type=kind)
    assert (status, slug(body)) == (415, "unsupported-media-type")
    assert not probe.calls


async def test_a_route_may_take_other_types_as_they_are(client: Client, probe: Probe) -> None:
    assert (await client.post("/take", b"\x00\xff", Content_Type="application/cose"))[0] == 200
    assert (probe.calls[-1].raw, probe.calls[-1].content_type) == (b"\x00\xff", "application/cose")
    for kind in ("application/json", MSGPACK):
        assert (await client.post("/take", b"{}", Content_Type=kind))[0] == 415


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "gzip, gzip", "x"])
async def test_compressed_bodies_are_refused_unread(client: Client, connection: Bare, coding: str) -> None:
    bomb = gzip.compress(b"0" * 100_000_000)
    assert len(bomb) < LIMIT
    await connection.send(
        head(client, Content_Length=str(len(bomb)), Content_Encoding=coding, Content_Type="application/json") + bomb
    )
    told = await connection.told()
    assert (told.status, told.slug, told.headers["accept-encoding"]) == (415, "unsupported-media-type", "identity")


async def test_an_empty_body_where_one_is_needed(client: Client, probe: Probe) -> None:
    status, body, _ = await client.post("/echo")
    assert (status, slug(body)) == (400, "malformed")
    status, _, _ = await client.post("/echo/optional")
    assert (status, probe.calls[-1].raw) == (200, b"")


async def test_a_get_with_a_body_is_answered_and_the_body_forgotten(
    client: Client, connection: Bare, node: Node
) -> None:
    await connection.send(head(client, "/see", Content_Length="100000").replace(b"POST", b"GET", 1) + b"x")
    await until(lambda: node.metrics.in_flight == 1)
    await connection.send(b"x" * 99_999)
    told = await connection.told()
    assert (told.status, told.closed) == (200, False)
    await connection.send(head(client, Content_Length="2", Content_Type="application/json") + b"{}")
    assert (await connection.told()).status == 200


async def test_requests_that_come_together_are_answered_in_order(
    client: Client, connection: Bare, probe: Probe
) -> None:
    sent = b"".join(head(client, Content_Length="3", Content_Type="application/json") + b"%3d" % n for n in range(100))
    await connection.send(sent)
    assert [int((await connection.told()).body) for _ in range(100)] == list(range(100))
