"""The WebSocket: who gets in, what is told, and what a slow or clumsy client gets."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import msgpack
import pytest
from aiohttp import WSMsgType

from kosreg.node import Node
from tests.harness import Client, client_of, running_node, until

RECORD: dict[str, Any] = {"id": "svc", "name": "Service", "type": "agent", "tags": ["a"]}


async def frame(ws: aiohttp.ClientWebSocketResponse, op: str | None = None) -> dict[str, Any]:
    """The next frame; of the kind `op`, where it is said."""
    async with asyncio.timeout(5):
        value: dict[str, Any] = await ws.receive_json()
    assert op is None or value["op"] == op, value
    return value


async def ask(ws: aiohttp.ClientWebSocketResponse, **fields: Any) -> dict[str, Any]:
    """Send one frame and return its answer; events on the way are dropped."""
    await ws.send_json(fields)
    while True:
        value = await frame(ws)
        if value["op"] in ("ok", "error") and value["id"] == fields.get("id"):
            return value


async def closing(ws: aiohttp.ClientWebSocketResponse, within: float = 5) -> int | None:
    """The close code; whatever came before is dropped."""
    async with asyncio.timeout(within):
        while True:
            message = await ws.receive()
            if message.type in (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR):
                return ws.close_code


async def register(client: Client, **fields: Any) -> None:
    status, answer, _ = await client.post("/api/services/register", RECORD | fields)
    assert status in (200, 201), answer


async def test_a_socket_is_subscribed_at_once_and_hears_everything(bob: Client, node: Node) -> None:
    await register(bob)
    async with bob.ws() as ws:
        snapshot = await frame(ws, "snapshot")
        assert (snapshot["sub"], snapshot["more"], "reset" in snapshot) == ("auto", False, False)
        assert {service["id"] for service in snapshot["services"]} == {"svc", node.did}
        await register(bob, name="Renamed")
        event = await frame(ws, "event")
        assert (event["sub"], event["event"], event["service"]["name"]) == ("auto", "updated", "Renamed")
        assert event["cursor"]
        assert event["at"].endswith("Z")
        await bob.post("/api/services/svc/heartbeat", {"status": "degraded"})
        assert (await frame(ws, "event"))["event"] == "degraded"
        await bob.post("/api/services/svc/heartbeat", {"status": "active"})
        assert (await frame(ws, "event"))["event"] == "active"
        await bob.call("DELETE", "/api/services/svc")
        event = await frame(ws, "event")
        assert (event["event"], event["service"]["id"]) == ("deregistered", "svc")
        await register(bob)
        assert (await frame(ws, "event"))["event"] == "registered"


async def test_offline_is_told_with_its_reason(bob: Client) -> None:
    await register(bob, ttl=1)
    async with bob.ws("?q=service") as ws:
        await frame(ws, "snapshot")
        event = await frame(ws, "event")
        assert (event["event"], event["service"]["status"]) == ("offline", "offline")
        assert event["service"]["liveness"]["reason"] == "no heartbeat within its ttl of 1 s"


async def test_the_query_string_is_the_filter_of_the_automatic_subscription(bob: Client) -> None:
    async with bob.ws("?tag=wanted&type=agent") as ws:
        assert (await frame(ws, "snapshot"))["services"] == []
        await register(bob, id="no")
        await register(bob, id="yes", tags=["wanted"])
        event = await frame(ws, "event")
        assert event["service"]["id"] == "yes"
        await register(bob, id="yes", tags=["other"])
        event = await frame(ws, "event")
        assert (event["event"], event["service"]["tags"]) == ("updated", ["other"]), (
            "who leaves the filter is told once"
        )
        await register(bob, id="yes", tags=["third"])
        await register(bob, id="last", tags=["wanted"])
        assert (await frame(ws, "event"))["service"]["id"] == "last"


async def test_operations_and_their_answers(bob: Client) -> None:
    async with bob.ws("?subscribe=0") as ws:
        answer = await ask(ws, op="register", id=1, service=RECORD)
        assert (answer["op"], answer["result"]["id"], answer["result"]["owner"]) == ("ok", "svc", "bob")
        answer = await ask(ws, op="heartbeat", id="two", service_id="svc", load=0.25)
        assert answer["result"] == {"id": "svc", "status": "active", "ttl": 30}
        answer = await ask(ws, op="heartbeat", id=[3], beats=[{"id": "svc"}, {"id": "x"}])
        assert answer["result"] == {"ok": 1, "unknown": ["x"], "forbidden": []}
        answer = await ask(ws, op="ping", id=None)
        assert answer["op"] == "ok"
        answer = await ask(ws, op="deregister", id=5, service_id="svc")
        assert answer["op"] == "ok"
        answer = await ask(ws, op="heartbeat", id=6, service_id="svc")
        assert (answer["op"], answer["problem"]["status"]) == ("error", 404)
        answer = await ask(ws, op="register", id=7, service={"name": ""})
        assert answer["problem"]["status"] == 422
        assert {fault["pointer"] for fault in answer["problem"]["errors"]} == {"/name", "/type"}


async def test_subscriptions_have_names_and_end(bob: Client) -> None:
    async with bob.ws("?subscribe=0") as ws:
        answer = await ask(ws, op="subscribe", id="mine", filter={"tag": ["a", "b"], "type": "agent"})
        assert answer["op"] == "ok"
        snapshot = await frame(ws, "snapshot")
        assert snapshot["sub"] == "mine"
        assert (await ask(ws, op="subscribe", id="mine"))["problem"]["status"] == 409
        assert (await ask(ws, op="subscribe", id="bad", filter={"tags": "a"}))["problem"]["status"] == 422
        assert (await ask(ws, op="subscribe", id="bad", filter=[]))["problem"]["status"] == 422
        await register(bob, id="one", tags=["a"])
        await register(bob, id="both", tags=["a", "b"])
        event = await frame(ws, "event")
        assert (event["sub"], event["service"]["id"]) == ("mine", "both")
        assert (await ask(ws, op="unsubscribe", id=9, sub="mine"))["op"] == "ok"
        assert (await ask(ws, op="unsubscribe", id=9, sub="mine"))["problem"]["status"] == 404
        await register(bob, id="both", tags=["a", "b", "c"])
        assert (await ask(ws, op="ping", id=1))["op"] == "ok"


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', '{"op": 5}', '{"op": "fly"}', '{"op": "subscribe"}', "\u0000"])
async def test_a_frame_that_cannot_be_read_gets_an_error_and_the_socket_stays(bob: Client, text: str) -> None:
    async with bob.ws("?subscribe=0") as ws:
        await ws.send_str(text)
        error = await frame(ws, "error")
        assert error["id"] is None
        assert error["problem"]["status"] in (400, 422)
        assert (await ask(ws, op="ping", id=1))["op"] == "ok"


async def test_msgpack_by_subprotocol(bob: Client) -> None:
    async with bob.ws("?q=service", protocols=("kosreg.v1.msgpack",)) as ws:
        assert ws.protocol == "kosreg.v1.msgpack"
        message = await ws.receive(timeout=5)
        assert message.type is WSMsgType.BINARY
        assert msgpack.unpackb(message.data)["op"] == "snapshot"
        await ws.send_bytes(msgpack.packb({"op": "register", "id": 1, "service": RECORD}))
        ops = [msgpack.unpackb((await ws.receive(timeout=5)).data) for _ in range(2)]
        assert {answer["op"] for answer in ops} == {"ok", "event"}
        await ws.send_bytes(b"\xc1")
        assert msgpack.unpackb((await ws.receive(timeout=5)).data)["op"] == "error"


# -- who gets in ---------------------------------------------------------------------------------------------------


async def test_the_token_may_come_as_subprotocol_or_first_frame(bob: Client, node: Node) -> None:
    token, bob.token = bob.token, None
    async with bob.ws(protocols=("kosreg.v1", f"bearer.{token}")) as ws:
        assert ws.protocol == "kosreg.v1"
        await frame(ws, "snapshot")
    async with bob.ws() as ws:
        await ws.send_json({"op": "auth", "token": token})
        await frame(ws, "snapshot")


@pytest.mark.parametrize(
    "first", [{"op": "ping"}, {"op": "auth"}, {"op": "auth", "token": "x.y.z"}, {"op": "auth", "token": 5}, "nonsense"]
)
async def test_without_a_good_token_nothing_is_sent_but_the_close(node: Node, bob: Client, first: Any) -> None:
    bob.token = None
    async with bob.ws() as ws:
        await ws.send_str(json.dumps(first))
        message = await ws.receive(timeout=5)
        assert message.type is WSMsgType.CLOSE
        assert ws.close_code == 4401


async def test_a_bad_token_in_the_header_closes_with_4401(bob: Client) -> None:
    bob.token = "bad"
    async with bob.ws() as ws:
        assert await closing(ws) == 4401


async def test_the_token_is_never_taken_from_the_url(bob: Client) -> None:
    token, bob.token = bob.token, None
    async with bob.ws(f"?token={token}") as ws:
        await ws.send_json({"op": "ping", "id": 1})
        assert await closing(ws) == 4401


async def test_too_late_is_4408(bob: Client) -> None:
    bob.token = None
    async with bob.ws() as ws:
        assert await closing(ws, within=8) == 4408


async def test_without_read_scope_a_subscription_is_4403_and_beats_go_on(node: Node) -> None:
    writer = await client_of(node, "writer", "write:service:*")
    async with writer.ws() as ws:
        assert await closing(ws) == 4403
    async with writer.ws("?subscribe=0") as ws:
        assert (await ask(ws, op="register", id=1, service=RECORD))["op"] == "ok"
        assert (await ask(ws, op="subscribe", id=2))["problem"]["status"] == 403
    await writer.close()


async def test_a_revoked_token_closes_its_sockets_at_once(node: Node, bob: Client, eve: Client) -> None:
    async with bob.ws() as ws, eve.ws() as other:
        await frame(ws, "snapshot")
        await frame(other, "snapshot")
        row = next(row for row in node.auth.list() if row.sub == "bob")
        await node.auth.revoke(row.jti)
        assert await closing(ws) == 4401
        assert (await ask(other, op="ping", id=1))["op"] == "ok"


async def test_an_expired_token_closes_its_sockets(node: Node) -> None:
    short = Client(node.server.url, (await node.auth.issue("short", ("read:service:*",), 1)).token)
    async with short.ws() as ws:
        await frame(ws, "snapshot")
        assert await closing(ws) == 4401
    await short.close()


async def test_a_large_frame_is_4413(bob: Client) -> None:
    async with bob.ws("?subscribe=0") as ws:
        await ws.send_str("x" * 300_000)
        assert await closing(ws) == 4413


async def test_a_restart_is_1012(tmp_path: Path) -> None:
    async with running_node(tmp_path / "n") as node:
        bob = await client_of(node, "bob")
        async with bob.ws() as ws:
            await frame(ws, "snapshot")
            stopping = asyncio.create_task(node.stop())
            assert await closing(ws) == 1012
            await stopping
        await bob.close()


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:1"])
async def test_a_foreign_origin_gets_no_socket(bob: Client, origin: str) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await bob.ws(headers={"Origin": origin, "Authorization": f"Bearer {bob.token}"})
    assert refused.value.status == 403


# -- resuming and lagging ------------------------------------------------------------------------------------------


async def test_a_cursor_goes_on_where_it_was_also_after_a_restart(tmp_path: Path) -> None:
    async with running_node(tmp_path / "n") as node:
        bob = await client_of(node, "bob")
        await register(bob, id="kept")
        await register(bob, id="doomed")
        async with bob.ws("?type=agent") as ws:
            cursor = (await frame(ws, "snapshot"))["cursor"]
        await register(bob, id="new")
        async with bob.ws(f"?type=agent&since={cursor}") as ws:
            event = await frame(ws, "event")
            assert (event["event"], event["service"]["id"]) == ("registered", "new")
            cursor = event["cursor"]
        await bob.call("DELETE", "/api/services/doomed")
        await register(bob, id="later")
        token = bob.token
        await bob.close()
    async with running_node(tmp_path / "n") as node:
        bob = Client(node.server.url, token)
        async with bob.ws(f"?type=agent&since={cursor}") as ws:
            events = [await frame(ws, "event") for _ in range(2)]
            assert [(e["event"], e["service"]["id"]) for e in events] == [
                ("deregistered", "doomed"),
                ("registered", "later"),
            ]
            assert (await ask(ws, op="ping", id=1))["op"] == "ok"
        async with bob.ws(f"?type=agent&since={events[-1]['cursor']}") as ws:
            await register(bob, id="kept", name="touched")
            event = await frame(ws, "event")
            assert (event["event"], event["service"]["name"]) == ("updated", "touched")
        await bob.close()


async def test_a_foreign_cursor_gets_a_new_snapshot_that_says_so(bob: Client) -> None:
    await register(bob)
    for since in ("AAAAAAAAAAAAAAAAAAAAAA", "x"):
        async with bob.ws(f"?q=service&since={since}") as ws:
            snapshot = await frame(ws, "snapshot")
            assert snapshot["reset"] is True
            assert [service["id"] for service in snapshot["services"]] == ["svc"]


async def test_a_slow_reader_gets_the_newest_states_and_is_told(node: Node, bob: Client, admin: Client) -> None:
    """A client that stops reading while far more happens than its socket's buffers hold."""
    filler = "x" * 4000
    for n in range(20):
        await register(admin, id=f"s{n}", description=filler)
    async with bob.ws("?subscribe=0", receive_timeout=None) as ws:
        await ask(ws, op="subscribe", id="slow")
        ws._conn.protocol.pause_reading()  # type: ignore[union-attr]
        for n in range(6000):
            await admin.post(
                "/api/services/register", RECORD | {"id": f"s{n % 20}", "name": f"n{n}", "description": filler}
            )
        ws._conn.protocol.resume_reading()  # type: ignore[union-attr]
        newest: dict[str, str] = {}
        merged = 0
        while any(newest.get(f"s{n}") != f"n{5980 + n}" for n in range(20)):
            value = await frame(ws)
            if value["op"] == "lagged":
                merged += value["merged"]
            elif value["op"] == "event":
                newest[value["service"]["id"]] = value["service"]["name"]
        assert merged > 0


async def test_a_slow_reader_delays_nobody_else(node: Node, bob: Client, eve: Client, admin: Client) -> None:
    filler = "x" * 8_000
    async with bob.ws() as slow, eve.ws() as quick:
        await frame(quick, "snapshot")
        slow._conn.protocol.pause_reading()  # type: ignore[union-attr]
        for n in range(1000):
            await register(admin, id="big", description=f"{n}{filler}")
        await register(admin, id="last")
        seen = ""
        while seen != "last":
            seen = (await frame(quick, "event"))["service"]["id"]


async def test_many_services_come_in_chunks(bob: Client) -> None:
    for start in range(0, 450, 50):
        await asyncio.gather(*(register(bob, id=f"s{n:03}", tags=["many"]) for n in range(start, start + 50)))
    async with bob.ws("?tag=many") as ws:
        found: list[str] = []
        more = True
        while more:
            snapshot = await frame(ws, "snapshot")
            found += [service["id"] for service in snapshot["services"]]
            more = snapshot["more"]
        assert found == [f"s{n:03}" for n in range(450)]


async def test_sessions_are_forgotten_when_clients_go(node: Node, bob: Client) -> None:
    async with bob.ws() as ws:
        await frame(ws, "snapshot")
        assert len(node.sockets) == 1
    await until(lambda: not node.sockets)
    async with bob.ws() as ws:
        transport = ws._conn.transport  # type: ignore[union-attr]
        assert transport is not None
        transport.abort()
    await until(lambda: not node.sockets)
