"""The registry over HTTP: one contract, run in JSON and in MessagePack."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
import pytest_asyncio

from kosreg.node import Node
from tests.harness import Client, client_of, running_node

RECORD: dict[str, Any] = {
    "id": "svc",
    "name": "Service",
    "type": "agent",
    "tags": ["a", "b"],
    "url": "https://h.example/x",
}
MSGPACK = "application/vnd.msgpack"


class Api:
    """A client that speaks one of the two forms."""

    def __init__(self, client: Client, form: str) -> None:
        self.client = client
        self.form = form

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        if self.form == "json":
            status, answer, sent = await self.client.call(method, path, body, **headers)
            if answer and status < 400:
                assert sent["Content-Type"].startswith("application/json")
            return status, answer
        data = None if body is None else msgpack.packb(body)
        status, raw, sent = await self.client.call(
            method, path, data, Accept=MSGPACK, **({"Content-Type": MSGPACK} | headers if data is not None else headers)
        )
        if not raw:
            return status, raw
        assert sent["Content-Type"] == MSGPACK
        return status, msgpack.unpackb(raw)

    async def register(self, **fields: Any) -> tuple[int, Any]:
        return await self.call("POST", "/api/services/register", RECORD | fields)


@pytest_asyncio.fixture(params=["json", "msgpack"])
async def api(request: pytest.FixtureRequest, bob: Client) -> AsyncIterator[Api]:
    yield Api(bob, request.param)


@pytest_asyncio.fixture
async def other(api: Api, eve: Client) -> AsyncIterator[Api]:
    yield Api(eve, api.form)


async def test_register_is_new_then_replaced_then_unchanged(api: Api, node: Node) -> None:
    status, first = await api.register()
    assert status == 201
    rows = node.store.stats().rows
    status, same = await api.register()
    assert status == 200
    status, same = await api.register()
    assert node.store.stats().rows == rows, "the same record again writes nothing"
    assert same["updated"] == first["updated"]
    status, changed = await api.register(name="Other")
    assert (status, changed["name"], changed["created"]) == (200, "Other", first["created"])
    assert changed["updated"] > first["updated"]


async def test_the_record_has_every_field_and_its_defaults(api: Api, node: Node) -> None:
    status, answer = await api.call("POST", "/api/services/register", {"name": "n", "type": "tool"})
    assert status == 201
    assert len(answer["id"]) == 36
    assert answer["id"][14] == "7"  # UUIDv7
    assert answer | {"id": "x", "created": "", "updated": "", "heartbeat": "", "liveness": {}} == {
        "id": "x", "name": "n", "type": "tool", "tags": [], "auth": {"type": "none"}, "endpoints": [], "owner": "bob",
        "visibility": "internal", "capabilities": [], "roles": [], "ttl": 30, "depends_on": [], "weight": 1,
        "metadata": {},
        "origin": node.did, "klp": f"klp://{answer['id']}", "created": "", "updated": "",
        "heartbeat": "", "status": "active", "liveness": {},
    }  # fmt: skip
    assert answer["liveness"] == {
        "declared": "active", "effective": "active", "heartbeat": answer["heartbeat"], "reason": "heartbeats arrive",
    }  # fmt: skip


async def test_a_record_that_was_read_can_be_sent_back(api: Api) -> None:
    await api.register(acl={"read": ["*"]}, metadata={"deep": {"x": [1, 2.5, None, True]}}, endpoints=[{"path": "/a"}])
    _, read = await api.call("GET", "/api/services/svc")
    status, again = await api.call("POST", "/api/services/register", read)
    assert status == 200
    assert again["updated"] == read["updated"]


async def test_patch_is_a_merge_patch(api: Api, node: Node) -> None:
    await api.register(description="old", metadata={"a": 1, "b": {"c": 2}})
    status, answer = await api.call(
        "PATCH", "/api/services/svc", {"description": None, "metadata": {"a": None, "b": {"d": 3}}, "tags": ["z"]}
    )
    assert status == 200
    assert "description" not in answer
    assert (answer["metadata"], answer["tags"], answer["url"]) == ({"b": {"c": 2, "d": 3}}, ["z"], RECORD["url"])
    rows = node.store.stats().rows
    assert (await api.call("PATCH", "/api/services/svc", {"tags": ["z"], "liveness": {"x": 1}}))[0] == 200
    assert node.store.stats().rows == rows
    assert (await api.call("PATCH", "/api/services/svc", {"name": None}))[0] == 422
    assert (await api.call("PATCH", "/api/services/svc", {"id": "other"}))[0] == 422
    assert (await api.call("PATCH", "/api/services/nobody", {"tags": []}))[0] == 404


async def test_merge_patch_has_its_own_type(bob: Client) -> None:
    await bob.post("/api/services/register", RECORD)
    status, _, _ = await bob.call(
        "PATCH", "/api/services/svc", {"name": "P"}, Content_Type="application/merge-patch+json"
    )
    assert status == 200
    assert (await bob.call("PATCH", "/api/services/svc", b"x", Content_Type="text/plain"))[0] == 415
    assert (await bob.call("PATCH", "/api/services/svc", b"[1]"))[0] == 422
    assert (await bob.call("PATCH", "/api/services/svc", b"{"))[0] == 400


async def test_heartbeat_answers_id_status_ttl(api: Api) -> None:
    await api.register(ttl=20)
    assert await api.call("POST", "/api/services/svc/heartbeat") == (200, {"id": "svc", "status": "active", "ttl": 20})
    status, answer = await api.call("POST", "/api/services/svc/heartbeat", {"status": "degraded", "load": 0.5})
    assert (status, answer["status"]) == (200, "degraded")
    _, read = await api.call("GET", "/api/services/svc")
    assert (read["status"], read["liveness"]["load"], read["liveness"]["declared"]) == ("degraded", 0.5, "degraded")
    assert (await api.call("POST", "/api/services/svc/heartbeat", {"load": 1.5}))[0] == 422
    status, problem = await api.call("POST", "/api/services/nobody/heartbeat")
    assert status == 404
    assert "register again" in problem["detail"]


async def test_heartbeats_in_a_batch(api: Api, other: Api) -> None:
    await api.register()
    await other.register(id="theirs")
    await other.register(id="hidden", visibility="private")
    beats = [{"id": "svc", "load": 0.1}, {"id": "nobody"}, {"id": "theirs"}, {"id": "hidden"}]
    status, answer = await api.call("POST", "/api/heartbeats", {"beats": beats})
    assert status == 200
    assert answer == {"ok": 1, "unknown": ["nobody", "hidden"], "forbidden": ["theirs"]}
    plain = [{"id": beat["id"]} for beat in beats]
    assert (await api.call("POST", "/api/heartbeats", {"beats": plain}))[1] == answer
    assert (await api.call("POST", "/api/heartbeats", {"beats": [{"id": 5}]}))[0] == 422


async def test_delete_then_gone(api: Api) -> None:
    await api.register()
    assert await api.call("DELETE", "/api/services/svc") == (204, b"")
    assert (await api.call("GET", "/api/services/svc"))[0] == 404
    assert (await api.call("DELETE", "/api/services/svc"))[0] == 404
    assert (await api.register())[0] == 201


async def test_only_the_owner_changes_a_record(api: Api, other: Api, node: Node) -> None:
    await api.register()
    assert (await other.call("PATCH", "/api/services/svc", {"name": "x"}))[0] == 403
    assert (await other.call("DELETE", "/api/services/svc"))[0] == 403
    assert (await other.call("POST", "/api/services/svc/heartbeat"))[0] == 403
    assert (await other.register())[0] == 403
    assert (await other.register(id="mine", owner="bob"))[0] == 403
    client = await client_of(node)
    root = Api(client, api.form)
    assert (await root.call("PATCH", "/api/services/svc", {"tags": ["by-admin"]}))[1]["owner"] == "bob"
    assert (await root.register(id="for-eve", owner="eve"))[1]["owner"] == "eve"
    assert (await other.call("POST", "/api/services/for-eve/heartbeat"))[0] == 200
    await client.close()


async def test_auth_token_is_write_only_and_kept_as_said(api: Api, node: Node, tmp_path: Path) -> None:
    secret = "sehr-geheim-4711"

    def kept() -> bytes | None:
        sealed = node.registry._secrets.get("svc")
        return None if sealed is None else node.store.unseal(sealed)

    status, answer = await api.register(auth={"type": "api_key", "token": secret})
    assert status == 201
    assert answer["auth"] == {"type": "api_key"}
    assert kept() == secret.encode()
    await api.register(auth={"type": "api_key"})
    assert kept() == secret.encode(), "absent keeps it"
    await api.call("PATCH", "/api/services/svc", {"tags": ["t"]})
    assert kept() == secret.encode()
    await api.call("PATCH", "/api/services/svc", {"auth": {"token": "other"}})
    assert kept() == b"other"
    await api.call("PATCH", "/api/services/svc", {"auth": {"token": None}})
    assert kept() is None, "null removes it"
    await api.register(auth={"type": "jwt", "token": secret})
    assert kept() == secret.encode()
    await api.register(auth={"type": "oauth"})
    assert kept() is None, "another type drops it"
    await api.register(auth={"type": "jwt", "token": secret})
    await api.call("DELETE", "/api/services/svc")
    assert kept() is None
    await api.register(auth={"type": "jwt", "token": secret})
    for file in (tmp_path / "node").iterdir():
        assert secret.encode() not in file.read_bytes(), file


async def test_a_removed_token_is_gone_after_a_restart(tmp_path: Path) -> None:
    async with running_node(tmp_path / "n") as node:
        bob = await client_of(node, "bob")
        await bob.post("/api/services/register", RECORD | {"auth": {"type": "jwt", "token": "s"}})
        await bob.post("/api/services/register", RECORD | {"id": "kept", "auth": {"type": "jwt", "token": "s"}})
        await bob.call("PATCH", "/api/services/svc", {"auth": {"token": None}})
        await bob.close()
    async with running_node(tmp_path / "n") as node:
        assert set(await node.store.secrets()) == {"kept"}


async def test_status_in_a_request_declares_it(api: Api) -> None:
    _, answer = await api.register(status="degraded")
    assert answer["status"] == "degraded"
    _, answer = await api.register(name="plain")
    assert answer["status"] == "degraded", "a plain registration is a plain beat"
    _, answer = await api.register(name="plain", status="offline")
    assert answer["status"] == "degraded", "who beats is not offline"
    _, answer = await api.call("PATCH", "/api/services/svc", {"status": "active"})
    assert answer["status"] == "active"
    _, answer = await api.register(id="device", ttl=0, status="offline")
    assert (answer["status"], answer["liveness"]["reason"]) == ("offline", "declared offline")


async def test_invalid_records_change_nothing_and_tell_every_fault(api: Api) -> None:
    await api.register()
    status, problem = await api.register(ttl="x", tagz=[], name="")
    assert status == 422
    assert {fault["pointer"] for fault in problem["errors"]} == {"/ttl", "/tagz", "/name"}
    assert (await api.call("GET", "/api/services/svc"))[1]["name"] == "Service"


async def test_an_entry_that_cannot_be_signed_is_refused_with_its_place(api: Api) -> None:
    deep: Any = 1
    for _ in range(20):
        deep = [deep]
    status, problem = await api.register(metadata={"deep": deep})
    assert status == 422
    assert problem["errors"][0]["pointer"].startswith("/metadata")
    status, problem = await api.register(metadata={"big": "x" * 70_000})
    assert status == 413
    if api.form == "json":
        status, problem = await api.register(metadata={"n": 2**64})
        assert status == 422


async def test_bodies_over_the_bound_get_an_answer(bob: Client) -> None:
    status, problem, _ = await bob.post("/api/services/register", RECORD | {"description": "x" * 300_000})
    assert (status, problem["status"]) == (413, 413)
    beats = {"beats": [{"id": f"service-with-a-long-name-{n:08}"} for n in range(10_000)]}
    assert len(json.dumps(beats)) > 256 * 1024
    assert (await bob.post("/api/heartbeats", beats))[0] == 200
    assert (await bob.post("/api/services/register", b"x" * 5_000_000))[0] == 413
    assert (await bob.post("/api/services/register", RECORD))[0] == 201, "the connection and the node go on"


async def test_lists_have_pages_totals_and_etags(api: Api) -> None:
    for n in range(25):
        await api.register(id=f"s{n:02}", tags=["page"])
    _, page = await api.call("GET", "/api/services?tag=page&limit=10")
    assert [s["id"] for s in page["services"]] == [f"s{n:02}" for n in range(10)]
    assert page["total"] == 25
    _, last = await api.call("GET", f"/api/services?tag=page&limit=20&cursor={page['next_cursor']}")
    assert [s["id"] for s in last["services"]] == [f"s{n:02}" for n in range(10, 25)]
    assert last["next_cursor"] is None
    _, sparse = await api.call("GET", "/api/services?tag=page&limit=1&fields=id,tags&sort=-id")
    assert sparse["services"] == [{"id": "s24", "tags": ["page"]}]
    _, _, headers = await api.client.get("/api/services?tag=page")
    etag = headers["ETag"]
    assert (await api.client.get("/api/services?tag=page", If_None_Match=etag))[0] == 304
    assert (await api.client.get("/api/services?tag=page&limit=5", If_None_Match=etag))[0] == 200
    await api.call("POST", "/api/services/s00/heartbeat")
    assert (await api.client.get("/api/services?tag=page", If_None_Match=etag))[0] == 304, "a beat is no change"
    await api.call("DELETE", "/api/services/s00")
    assert (await api.client.get("/api/services?tag=page", If_None_Match=etag))[0] == 200


async def test_long_poll_answers_when_something_covered_changes(api: Api) -> None:
    await api.register(tags=["x"])
    _, page = await api.call("GET", "/api/services?tag=x")
    path = f"/api/services?tag=x&since={page['version']}"
    assert (await api.call("GET", path))[0] == 304
    waiting = asyncio.create_task(api.call("GET", path + "&wait=20"))
    await asyncio.sleep(0.05)
    await api.register(id="elsewhere", tags=["y"])
    await api.call("POST", "/api/services/svc/heartbeat")
    done, _ = await asyncio.wait([waiting], timeout=0.3)
    assert not done, "neither another tag nor a beat is a change of this list"
    await api.register(tags=["x", "new"])
    status, answer = await asyncio.wait_for(waiting, 2)
    assert status == 200
    assert answer["services"][0]["tags"] == ["x", "new"]
    waiting = asyncio.create_task(api.call("GET", f"/api/services?tag=x&since={answer['version']}&wait=20"))
    await asyncio.sleep(0.05)
    await api.call("DELETE", "/api/services/svc")
    status, answer = await asyncio.wait_for(waiting, 2)
    assert (status, answer["services"]) == (200, [])


async def test_since_of_another_node_is_gone(api: Api) -> None:
    assert (await api.call("GET", "/api/services?since=AAAAAAAAAAAAAAAAAAAAAA"))[0] == 410
    assert (await api.call("GET", "/api/services?since=nonsense&wait=1"))[0] == 410


async def test_versions_survive_a_restart(tmp_path: Path) -> None:
    async with running_node(tmp_path / "n") as node:
        bob = await client_of(node, "bob")
        for n in range(3):
            await bob.post("/api/services/register", RECORD | {"id": f"s{n}"})
        await bob.post("/api/services/s0/heartbeat", {"status": "degraded"})
        _, page, _ = await bob.get("/api/services")
        token = bob.token
        await bob.close()
    async with running_node(tmp_path / "n") as node:
        bob = Client(node.server.url, token)
        assert (await bob.get(f"/api/services?since={page['version']}&wait=0.3"))[0] == 304
        await bob.call("DELETE", "/api/services/s1")
        status, later, _ = await bob.get(f"/api/services?since={page['version']}")
        assert (status, later["total"]) == (200, page["total"] - 1)
        assert (await bob.get("/api/services/s0"))[1]["status"] == "degraded"
        await bob.close()
    async with running_node(tmp_path / "n") as node:
        bob = Client(node.server.url, token)
        status, again, _ = await bob.get(f"/api/services?since={page['version']}")
        assert status == 200, "what was deleted before the restart is a change since then"
        assert (await bob.get(f"/api/services?since={again['version']}"))[0] == 304
        await bob.close()


async def test_signed_and_verified(bob: Client, node: Node) -> None:
    await bob.post("/api/services/register", RECORD)
    status, cose, headers = await bob.get("/api/services/svc/signed", Accept="application/cose")
    assert (status, headers["Content-Type"]) == (200, "application/cose")
    status, verdict, _ = await bob.post("/api/services/verify", cose, Content_Type="application/cose")
    assert status == 200
    assert {k: verdict[k] for k in ("signature", "trust", "scope", "age", "current")} == dict.fromkeys(
        ("signature", "trust", "scope", "age", "current"), True
    )
    status, jose, _ = await bob.get("/api/services/svc/signed", Accept="application/jose+json")
    status, verdict, _ = await bob.post("/api/services/verify", jose, Content_Type="application/jose+json")
    assert (status, verdict["valid"], verdict["current"], verdict["origin"]) == (200, True, True, node.did)
    spoilt = cose[:-1] + bytes([cose[-1] ^ 1])
    _, verdict, _ = await bob.post("/api/services/verify", spoilt, Content_Type="application/cose")
    assert (verdict["signature"], verdict["trust"], verdict["valid"]) == (False, True, False)
    await bob.post("/api/services/register", RECORD | {"name": "newer"})
    _, verdict, _ = await bob.post("/api/services/verify", cose, Content_Type="application/cose")
    assert (verdict["valid"], verdict["current"]) == (True, False)
    assert (await bob.post("/api/services/verify", b"\xff", Content_Type="application/cose"))[0] == 400
    assert (await bob.post("/api/services/verify", b"{}"))[0] == 415
    assert (await bob.get("/api/services/svc/signed", Accept="text/html"))[0] == 406


async def test_explain_tells_the_whole_story(bob: Client, eve: Client, node: Node) -> None:
    await bob.post("/api/services/register", RECORD | {"acl": {"read": ["sub:eve"]}})
    await bob.post("/api/services/register", RECORD | {"acl": {"read": ["sub:eve"]}, "name": "Second"})
    status, told, _ = await bob.get("/api/services/svc/explain")
    assert status == 200
    assert told["entry"]["signature"] == "valid"
    assert told["origin"] == node.did
    assert told["replaced"]["updated"]
    assert any("sub:eve" in text for text in told["hidden_from"])
    _, told, _ = await eve.get("/api/services/svc/explain")
    assert "hidden_from" not in told


async def test_the_node_registers_itself_once(node: Node, bob: Client) -> None:
    _, page, _ = await bob.get("/api/services?type=node")
    (service,) = page["services"]
    assert (service["id"], service["owner"], service["ttl"], service["visibility"]) == (
        node.did,
        "admin",
        0,
        "internal",
    )
    assert "url" not in service
    assert service["liveness"]["reason"] == "not monitored"
    assert (await bob.get(f"/api/services/{node.did}"))[0] == 200


async def test_two_writers_of_one_id_take_turns(bob: Client, eve: Client) -> None:
    answers = await asyncio.gather(
        *(client.post("/api/services/register", RECORD | {"name": f"n{n}"}) for n in range(20) for client in (bob, eve))
    )
    statuses = sorted(status for status, _, _ in answers)
    assert statuses.count(201) == 1
    assert statuses.count(403) == 20
    patches = await asyncio.gather(
        *(
            (bob if answers[0][0] != 403 else eve).call("PATCH", "/api/services/svc", {"metadata": {f"k{n}": n}})
            for n in range(20)
        )
    )
    assert {status for status, _, _ in patches} == {200}
    _, final, _ = await bob.get("/api/services/svc")
    assert len(final["metadata"]) == 20, "no patch was lost"


async def test_a_scope_with_a_name_reaches_no_further(node: Node, bob: Client) -> None:
    await bob.post("/api/services/register", RECORD | {"id": "one"})
    await bob.post("/api/services/register", RECORD | {"id": "two"})
    narrow = await client_of(node, "narrow", "read:service:one", "write:service:new-*")
    assert (await narrow.get("/api/services/one"))[0] == 200
    assert (await narrow.get("/api/services/two"))[0] == 403
    assert [s["id"] for s in (await narrow.get("/api/services"))[1]["services"]] == ["one"]
    assert (await narrow.post("/api/services/register", RECORD | {"id": "new-1"}))[0] == 201
    assert (await narrow.post("/api/services/register", RECORD | {"id": "old-1"}))[0] == 403
    await narrow.close()
    reader = await client_of(node, "reader", "read:service:*")
    assert (await reader.post("/api/services/register", RECORD | {"id": "x"}))[0] == 403
    await reader.close()
