"""What a clumsy or hostile client sends on the WebSocket: it is answered, the socket stays, memory stays bounded."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
from typing import Any

import aiohttp
import msgpack
import pytest

from kosreg import subscriptions
from kosreg.node import Node
from kosreg.query import Filter
from kosreg.subscriptions import Subscription
from tests.harness import Client

RECORD: dict[str, Any] = {"id": "svc", "name": "Service", "type": "agent"}


KEY = "AAAAAAAAAAAAAAAAAAAAAA=="


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


TEXTS = [
    "", "{", "null", "[]", "5", '"x"', "{}", '{"op":5}', '{"op":"nonsense","id":1}', '{"op":"ping"', '{"op":"ping"}x',
    '{"op":"subscribe"}', '{"op":"subscribe","id":null}', '{"op":"subscribe","id":1,"filter":5}',
    '{"op":"subscribe","id":1,"filter":{"tag":[5]}}', '{"op":"subscribe","id":1,"filter":{"tags":"x"}}',
    '{"op":"subscribe","id":1,"filter":{"limit":"5"}}', '{"op":"subscribe","id":1,"since":5}',
    '{"op":"unsubscribe"}', '{"op":"unsubscribe","sub":{"a":[1]}}', '{"op":"register"}',
    '{"op":"register","service":[]}',
    '{"op":"register","service":{}}', '{"op":"register","id":1,"service":{"name":"n","type":"agent","ttl":1e400}}',
    '{"op":"heartbeat"}', '{"op":"heartbeat","service_id":5}', '{"op":"heartbeat","service_id":"x","load":2}',
    '{"op":"heartbeat","service_id":"x","status":[]}', '{"op":"heartbeat","beats":5}', '{"op":"heartbeat","beats":[5]}',
    '{"op":"heartbeat","beats":[{"id":"\\ud800"}]}', '{"op":"deregister"}', '{"op":"deregister","service_id":["x"]}',
    '{"op":"auth","token":"x"}', "\x00", '{"op":"ping","id":"\\ud800"}',
    '{"op":"ping","id":' + nested(300) + "}", '{"op":"subscribe","id":' + nested(300) + "}",
    '{"op":"unsubscribe","sub":' + nested(300) + "}",
    '{"op":"register","service":{"name":"n","type":"agent","metadata":{"x":' + nested(300) + "}}}",
    '{"op":"register","service":{"name":"n","type":"agent","metadata":{"x":' + nested(900) + "}}}",
    '{"op":"ping","id":' + nested(50_000) + "}", '{"op":"subscribe","id":"' + "x" * 10_000 + '"}',
    '{"op":"subscribe","id":1,"filter":' + json.dumps({n: ["x" * 500] * 60 for n in ("tag", "any_tag")}) + "}",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
async def test_a_frame_that_cannot_be_meant_gets_an_error_and_the_socket_stays(bob: Client, text: str) -> None:
    async with bob.ws("?subscribe=0") as ws:
        await ws.send_str(text)
        answer = await ws.receive_json(timeout=5)
        if answer["op"] == "error":
            assert 400 <= answer["problem"]["status"] < 500, answer
        else:
            assert json.loads(text)["op"] == "ping"
        await ws.send_json({"op": "ping", "id": "still here"})
        assert (await ws.receive_json(timeout=5))["id"] == "still here"


ODD = [b"bytes", msgpack.ExtType(5, b"x"), msgpack.Timestamp(5), float("nan"), [[b"x"]], {b"x": 1}]


@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
async def test_what_json_has_no_word_for_is_refused_in_msgpack_too(bob: Client, odd: Any) -> None:
    frames: list[Any] = [
        {"op": "ping", "id": odd},
        {"op": "subscribe", "id": odd},
        {"op": "unsubscribe", "id": 1, "sub": odd},
        {"op": odd, "id": 1},
        {"op": "register", "id": 1, "service": RECORD | {"metadata": {"x": odd}}},
        {"op": "heartbeat", "id": 1, "service_id": odd},
        {"op": "heartbeat", "id": 1, "beats": [{"id": "x", "load": odd}]},
        {"op": "subscribe", "id": 1, "filter": {"tag": [odd]}},
        {"op": "subscribe", "id": 2, "since": odd},
    ]
    async with bob.ws("?subscribe=0", protocols=("kosreg.v1.msgpack",)) as ws:
        for frame in frames:
            await ws.send_bytes(msgpack.packb(frame))
            answer = msgpack.unpackb((await ws.receive(timeout=5)).data)
            assert answer["op"] == "error", (frame, answer)
            assert answer["problem"]["status"] in (400, 404, 422)
        for raw in (
            b"",
            b"\xc1",
            b"\x81",
            b"\x81\xa2op",
            b"\xdf\xff\xff\xff\xff",
            b"\xdd\x00\x03\xd0\x00" * 400,
            b"\x91" * 2000,
        ):
            await ws.send_bytes(raw)
            assert msgpack.unpackb((await ws.receive(timeout=5)).data)["problem"]["status"] == 400
        await ws.send_bytes(msgpack.packb({"op": "ping", "id": 1}))
        assert msgpack.unpackb((await ws.receive(timeout=5)).data)["op"] == "ok"


async def test_a_subscription_holds_little_of_what_a_client_sends(bob: Client) -> None:
    """64 of them on each of 1,024 sockets, with an id and a filter of 256 KiB each, would be 16 GiB."""
    async with bob.ws("?subscribe=0") as ws:
        for fields in (
            {"id": "x" * 300},
            {"id": ["x" * 100] * 3},
            {"id": 1, "filter": {"tag": ["x" * 500] * 20}},
            {"id": 1, "filter": {"tag": "x" * 500, "owner": ["y" * 500] * 20}},
        ):
            await ws.send_json({"op": "subscribe"} | fields)
            answer = await ws.receive_json(timeout=5)
            assert answer["op"] == "error", str(answer)[:200]
            assert len(json.dumps(answer)) < 2_000
        await ws.send_json({"op": "subscribe", "id": "x" * 200, "filter": {"tag": ["x" * 100] * 20}})
        assert (await ws.receive_json(timeout=5))["op"] == "ok"


async def test_rounds_and_snapshots_are_bounded_in_bytes(node: Node, bob: Client) -> None:
    """200 records of 60 KB are no frame of 12 MB, and 256 events of that size no list of 15 MB that waits."""
    fields = {"metadata": {"x": "y" * 50_000}}
    for n in range(60):
        assert (await bob.post("/api/services/register", RECORD | fields | {"id": f"s{n}"}))[0] == 201
    caller = node.auth.verify(bob.token or "")
    reading = Subscription(node.registry, caller, b'"s"', Filter(types=("agent",)), None)
    found: list[str] = []
    while reading.behind:
        frames = reading.next_frames()
        assert sum(map(len, frames)) < subscriptions.ROUND_BYTES + 70_000
        found += [service["id"] for frame in frames for service in json.loads(frame)["services"]]
    assert sorted(found) == sorted(f"s{n}" for n in range(60))
    for n in range(60):
        assert (await bob.call("PATCH", f"/api/services/s{n}", {"name": "second"}))[0] == 200
    told: list[str] = []
    while reading.behind:
        frames = reading.next_frames()
        assert sum(map(len, frames)) < subscriptions.ROUND_BYTES + 70_000
        told += [json.loads(frame)["service"]["id"] for frame in frames]
    assert told == [f"s{n}" for n in range(60)]


async def test_many_subscriptions_of_a_client_that_does_not_read_wait_in_the_journal(node: Node, bob: Client) -> None:
    fields = {"metadata": {"x": "y" * 50_000}}
    for n in range(40):
        assert (await bob.post("/api/services/register", RECORD | fields | {"id": f"s{n}"}))[0] == 201
    async with bob.ws("?subscribe=0") as ws:
        ws._conn.protocol.pause_reading()
        for n in range(60):
            await ws.send_json({"op": "subscribe", "id": n})
        session = next(iter(node.sockets))

        def subscribed() -> bool:
            return len(session.subscriptions) == 60  # type: ignore[attr-defined]

        async with asyncio.timeout(10):
            while not subscribed():
                await asyncio.sleep(0.02)
        for _ in range(20):
            await bob.call("PATCH", "/api/services/s1", {"name": "again"})
        transport = session.call.request.transport  # type: ignore[attr-defined]
        assert transport.get_write_buffer_size() < 4 * 1024 * 1024
        ws._conn.protocol.resume_reading()


async def raw(node: Node, request: str) -> bytes:
    host, port = node.server.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request.encode())
    async with asyncio.timeout(10):
        head = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    return head


@pytest.mark.parametrize(
    "headers",
    [
        "Upgrade: websocket\r\n",
        "Upgrade: websocket\r\nConnection: upgrade\r\n",
        "Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13\r\n",
        "Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: short\r\n",
        f"Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 99\r\nSec-WebSocket-Key: {KEY}\r\n",
        f"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n",
        "Upgrade: h2c\r\nConnection: upgrade\r\n",
    ],
)
async def test_a_broken_handshake_is_a_problem_of_the_client(node: Node, headers: str) -> None:
    answer = await raw(node, f"GET /ws/registry HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n")
    assert answer.startswith(b"HTTP/1.1 400 "), answer
    assert b"application/problem+json" in answer


async def test_frames_that_break_the_protocol_close_the_socket_and_nothing_else(node: Node, bob: Client) -> None:
    for broken in (b"\xff\xff" + bytes(20), b"\x81\xff\x7f" + b"\xff" * 20, b"\x83\x80\x00\x00\x00\x00"):
        async with bob.ws("?subscribe=0") as ws:
            transport = ws._conn.transport
            sock: socket.socket = transport.get_extra_info("socket")
            assert sock is not None
            transport.write(broken)
            async with asyncio.timeout(10):
                message = await ws.receive()
            assert message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)
    assert (await bob.get("/api/services"))[0] == 200


@pytest.mark.parametrize("depth", [17, 100, 253, 300, 990, 1_100, 30_000])
async def test_depth_is_a_fault_of_the_client_on_every_way(bob: Client, depth: int) -> None:
    assert (await bob.post("/api/services/register", RECORD))[0] == 201
    for deep in ('{"a":' * depth + "1" + "}" * depth, "[" * depth + "]" * depth, '[{"a":' * depth + "1" + "}]" * depth):
        wrapped = [
            ("PATCH", "/api/services/svc", '{"metadata":{"x":%s}}'),
            ("PATCH", "/api/services/svc", '{"tags":%s}'),
            ("PATCH", "/api/services/svc", "%s"),
            ("POST", "/api/services/register", '{"id":"svc","name":"n","type":"agent","metadata":{"x":%s}}'),
            ("POST", "/api/services/register", '{"id":"svc","name":"n","type":"agent","liveness":%s}'),
            ("POST", "/api/heartbeats", '{"beats":%s}'),
            ("POST", "/api/services/svc/heartbeat", '{"status":%s}'),
        ]
        for method, path, text in wrapped:
            status, answer, _ = await bob.call(method, path, (text % deep).encode())
            if "liveness" in text:
                assert status in (200, 400), answer  # read-only: ignored, where it can be read at all
            else:
                assert status in (400, 413, 422), answer
    assert (await bob.get("/api/services/svc"))[1]["metadata"] == {}


async def test_a_cursor_of_a_list_that_was_tampered_with_is_a_fault(bob: Client) -> None:
    await bob.post("/api/services/register", RECORD)
    for value in (
        ["", {"a": 1}], {"": 1, "a": 2}, ["", []], ["", [[]]], ["", [None]], ["", [True]], ["name", ["x"]], "ab", 5,
        ["name", [1, "a"]], ["name", [{}, "a"]], ["name", [["x"], "a"]], ["name", [1e308, "a"]], [], [1], None,
        ["created", ["x", "a"]],
    ):  # fmt: skip
        cursor = base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()
        for sort in ("", "&sort=name", "&sort=created"):
            status, answer, _ = await bob.get(f"/api/services?cursor={cursor}{sort}")
            assert status in (200, 422), (value, answer)
    for cursor in ("%00", "%C3%BC", "=", "-", "_" * 5000, "%FF"):
        assert (await bob.get(f"/api/services?cursor={cursor}"))[0] == 422
