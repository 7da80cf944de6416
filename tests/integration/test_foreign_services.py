"""Services of other nodes at this one: shown as they say, changed by nobody here, and there again after a restart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from crdt.entry import MAX_LIFE_MS, Class
from federation.identity import NodeKey
from federation.trust import Anchor, Role, Scope
from kosreg.node import Node
from kosreg.owner_proof import make_proof
from kosreg.record import proof_text
from kosreg.store import TrustChange
from kosreg.times import now_ms
from tests.foreign import Origin, believe, feed
from tests.harness import Client, client_of, running_node, until

A, B, C = Origin(0xA1), Origin(0xB1), Origin(0xC1)
SQUATTER, AGENT = NodeKey(b"\x66" * 32), NodeKey(b"\x77" * 32)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with running_node(tmp_path / "n") as node:
        await believe(node, A, B, C)
        yield node


@pytest.fixture
async def bob(node: Node) -> AsyncIterator[Client]:
    client = await client_of(node, "bob")
    yield client
    await client.close()


async def listed(client: Client, query: str = "") -> dict[str, Any]:
    """Services of a list by id, without those that nodes write of themselves."""
    status, page, _ = await client.get(f"/api/services{query}")
    assert status == 200
    return {record["id"]: record for record in page["services"] if record["type"] != "node"}


async def test_a_foreign_service_is_shown_as_its_node_says(node: Node, bob: Client) -> None:
    await feed(node.sync, A.service("translator", tags=["text"], description="hello"))
    status, record, _ = await bob.get("/api/services/translator")
    assert status == 200
    assert (record["origin"], record["owner"], record["visibility"]) == (A.did, "bob", "public")
    assert (record["status"], record["heartbeat"]) == ("active", None)
    assert record["liveness"]["reason"] == "as its node says"
    assert await listed(bob) == {"translator": record}
    assert await listed(bob, f"?origin={A.did}&tag=text") == {"translator": record}
    assert await listed(bob, f"?origin={node.did}") == {}


async def test_what_it_says_of_its_status_is_shown(node: Node, bob: Client) -> None:
    await feed(node.sync, A.status("t", "degraded", "too hot", 1_790_000_000_000), A.service("t", ttl=1))
    _, record, _ = await bob.get("/api/services/t")
    assert (record["status"], record["liveness"]["reason"]) == ("degraded", "too hot")
    await feed(node.sync, A.status("t", None))
    _, record, _ = await bob.get("/api/services/t")
    assert (record["status"], record["liveness"].get("since")) == ("active", None)


async def test_a_watcher_is_told(node: Node, bob: Client) -> None:
    async with bob.ws(f"?origin={A.did}") as socket:
        assert (await socket.receive_json(timeout=5))["op"] == "snapshot"
        frames: list[tuple[str, str]] = []
        await feed(node.sync, A.service("t"))
        await feed(node.sync, A.status("t", "offline", "gone for lunch"))
        await feed(node.sync, A.status("t", None))
        await feed(node.sync, A.service("t", name="another"))
        await feed(node.sync, A.gone("t"))
        while len(frames) < 5:
            frame = await socket.receive_json(timeout=5)
            if frame["op"] == "event":
                frames.append((frame["event"], frame["service"]["name"]))
    assert frames == [
        ("registered", "t"), ("offline", "t"), ("active", "t"), ("updated", "another"), ("deregistered", "another"),
    ]  # fmt: skip


async def test_it_is_there_again_after_a_restart(tmp_path: Path) -> None:
    async with running_node(tmp_path / "n") as node:
        await believe(node, A, B, C)
        await feed(node.sync, A.service("t"), A.status("t", "degraded", "hot"), B.service("u"))
        client = await client_of(node)
        before = await listed(client)
        await client.close()
    async with running_node(tmp_path / "n") as node:
        client = await client_of(node)
        assert await listed(client) == before
        assert before["t"]["status"] == "degraded"
        await client.close()


async def ids(client: Client) -> dict[str, str]:
    """The origin of each service in a list."""
    return {uid: record["origin"] for uid, record in (await listed(client)).items()}


@pytest.mark.parametrize("who", ["bob", "admin"])
async def test_only_its_node_changes_it(node: Node, who: str) -> None:
    await feed(node.sync, A.service("t", owner=who))
    client = await client_of(node, who)
    for method, path, body in [
        ("PATCH", "/api/services/t", {"name": "mine"}), ("DELETE", "/api/services/t", None),
        ("POST", "/api/services/t/heartbeat", None), ("POST", "/api/services/t/heartbeat", {"status": "degraded"}),
    ]:  # fmt: skip
        status, problem, _ = await client.call(method, path, body)
        assert (status, problem["origin"]) == (409, A.did), (method, path)
        assert A.did in problem["detail"]
    for beats in ([{"id": "t"}], [{"id": "t", "load": 0.5}]):
        status, answer, _ = await client.post("/api/heartbeats", {"beats": beats})
        assert (status, answer) == (200, {"ok": 0, "unknown": [], "forbidden": ["t"]})
    status, record, _ = await client.get("/api/services/t")
    assert (record["name"], record["heartbeat"], record["status"]) == ("t", None, "active")
    await client.close()


async def test_a_namesake_of_its_owner_has_no_rights(node: Node, bob: Client) -> None:
    await feed(
        node.sync,
        A.service("closed", acl={"read": []}),
        A.service("theirs", acl={"read": ["sub:bob"]}),
        A.service("other", acl={"read": [f"sub:bob@{A.did}"]}),
        A.service("ours", acl={"read": [f"sub:bob@{node.did}"]}),
        A.service("all", acl={"read": ["*"]}),
    )
    assert sorted(await listed(bob)) == ["all", "ours"]
    for uid in ("closed", "theirs", "other"):
        assert (await bob.get(f"/api/services/{uid}"))[0] == 404
        assert (await bob.call("DELETE", f"/api/services/{uid}"))[0] == 404
        assert (await bob.get(f"/api/services/{uid}@{A.did}"))[0] == 404
    admin = await client_of(node)
    assert len(await listed(admin)) == 5
    await admin.close()


async def test_our_own_goes_before_and_leaves_the_other_behind(node: Node, bob: Client) -> None:
    await feed(node.sync, A.service("t"))
    status, record, _ = await bob.post("/api/services/register", {"id": "t", "name": "mine", "type": "tool"})
    assert (status, record["origin"]) == (201, node.did)
    assert await ids(bob) == {"t": node.did}
    assert (await bob.get(f"/api/services/t@{A.did}"))[1]["name"] == "t"
    assert (await bob.get(f"/api/services/t@{node.did}"))[1]["name"] == "mine"
    assert (await bob.post("/api/services/t/heartbeat"))[0] == 200
    await feed(node.sync, A.service("t", name="again"))
    assert await ids(bob) == {"t": node.did}
    assert (await bob.call("DELETE", "/api/services/t"))[0] == 204
    assert await ids(bob) == {"t": A.did}  # it was there first
    assert (await bob.get("/api/services/t"))[1]["name"] == "again"


async def test_a_squatter_never_receives_a_name(tmp_path: Path) -> None:
    async with running_node(tmp_path / "n") as node:
        await believe(node, A, B, C)
        client = await client_of(node)
        await feed(node.sync, A.service("t"))
        await feed(node.sync, B.service("t", owner_proof=B.proof(SQUATTER, "t", 99)))
        assert await ids(client) == {"t": A.did}
        await feed(node.sync, A.gone("t"))
        assert await ids(client) == {}
        status, problem, _ = await client.get("/api/services/t")
        assert (status, [c["origin"] for c in problem["candidates"]]) == (409, [B.did])
        assert (await client.get("/api/services/t/explain"))[0] == 409
        await node.sync.reshowing.settled()
        await client.close()
    async with running_node(tmp_path / "n") as node:
        await believe(node, A, B, C)
        client = await client_of(node)
        assert await ids(client) == {}
        await feed(node.sync, B.gone("t"))
        await feed(node.sync, B.service("t"))
        assert await ids(client) == {}
        await feed(node.sync, A.service("t", name="back"))
        assert await ids(client) == {"t": A.did}
        await client.close()


async def test_an_agent_that_moves_is_served_from_where_it_went(tmp_path: Path) -> None:
    async with running_node(tmp_path / "n") as node:
        await believe(node, A, B, C)
        client = await client_of(node)
        await feed(node.sync, A.service("t", name="at A", owner_proof=A.proof(AGENT, "t", 1)))
        await feed(node.sync, C.service("t", name="squat", owner_proof=C.proof(SQUATTER, "t", 9)))
        async with client.ws("?q=at") as socket:
            assert (await socket.receive_json(timeout=5))["op"] == "snapshot"
            await feed(node.sync, B.service("t", name="at B", owner_proof=B.proof(AGENT, "t", 2)))
            event = await socket.receive_json(timeout=5)
        assert (event["event"], event["service"]["origin"]) == ("updated", B.did)
        _, story, _ = await client.get("/api/services/t/explain")
        states = {claim["origin"]: claim["state"] for claim in story["claims"]}
        assert states == {A.did: "moved", B.did: "shown", C.did: "not shown"}
        await feed(node.sync, A.gone("t"))
        assert await ids(client) == {"t": B.did}
        await node.sync.reshowing.settled()
        await client.close()
    async with running_node(tmp_path / "n") as node:
        client = await client_of(node)
        assert await ids(client) == {"t": B.did}
        await client.close()


async def test_an_agent_that_moves_away_from_here_and_back(node: Node, bob: Client) -> None:
    def record(move: int) -> dict[str, Any]:
        proof = make_proof(AGENT, "t", node.key.public, move, now_ms() + 60_000)
        return {"id": "t", "name": "here", "type": "agent", "ttl": 60, "owner_proof": proof_text(proof)}

    assert (await bob.post("/api/services/register", record(1)))[0] == 201
    await feed(node.sync, A.service("t", name="there", owner_proof=A.proof(AGENT, "t", 2)))
    assert await ids(bob) == {"t": A.did}
    assert (await bob.post("/api/services/t/heartbeat"))[0] == 200  # our own copy is still ours
    _, story, _ = await bob.get(f"/api/services/t@{node.did}/explain")
    assert {claim["origin"]: claim["state"] for claim in story["claims"]}[node.did] == "moved"
    assert (await bob.post("/api/services/register", record(3)))[0] == 200
    assert await ids(bob) == {"t": node.did}


async def test_a_proof_for_something_else_is_refused(node: Node, bob: Client) -> None:
    good = make_proof(AGENT, "t", node.key.public, 1, now_ms() + 60_000)
    for proof, hint in [
        (b"\x00\x01", "no proof"), (make_proof(AGENT, "u", node.key.public, 1, now_ms() + 60_000), "'u'"),
        (A.proof(AGENT, "t", 1), A.did), (make_proof(AGENT, "t", node.key.public, 1, 5), "expired"),
        (good[:-1] + bytes([good[-1] ^ 1]), "no proof"),
    ]:  # fmt: skip
        record = {"id": "t", "name": "t", "type": "agent", "owner_proof": proof_text(proof)}
        status, problem, _ = await bob.post("/api/services/register", record)
        assert (status, problem["errors"][0]["pointer"]) == (422, "/owner_proof")
        assert hint in problem["errors"][0]["detail"]
    assert (await bob.post("/api/services/register", record | {"owner_proof": proof_text(good)}))[0] == 201
    assert (await bob.call("PATCH", "/api/services/t", {"owner_proof": "AAAA"}))[0] == 422
    assert (await bob.call("PATCH", "/api/services/t", {"name": "x"}))[0] == 200


async def test_an_admin_says_what_an_id_means(tmp_path: Path) -> None:
    async with running_node(tmp_path / "n") as node:
        await believe(node, A, B, C)
        admin, bob = await client_of(node), await client_of(node, "bob")
        await feed(node.sync, A.service("t"), B.service("t"))
        assert await ids(bob) == {"t": A.did}
        assert (await bob.call("PUT", "/api/services/t/alias", {"origin": B.did}))[0] == 403
        assert (await admin.call("PUT", "/api/services/t/alias", {"origin": "did:key:z6MkNo"}))[0] == 422
        status, answer, _ = await admin.call("PUT", "/api/services/t/alias", {"origin": B.did})
        assert (status, answer["origin"]) == (200, B.did)
        assert await ids(bob) == {"t": B.did}
        await bob.close()
        await admin.close()
    async with running_node(tmp_path / "n") as node:
        await believe(node, A, B, C)
        admin = await client_of(node)
        assert await ids(admin) == {"t": B.did}
        assert "an admin said" in (await admin.get("/api/services/t/explain"))[1]["named_by"]
        await feed(node.sync, B.gone("t"))
        assert await ids(admin) == {}
        assert (await admin.call("DELETE", "/api/services/t/alias"))[1]["origin"] == A.did
        assert (await admin.call("DELETE", "/api/services/t/alias"))[0] == 404
        assert await ids(admin) == {"t": A.did}
        await admin.close()


async def test_what_is_no_record_is_held_and_not_shown(node: Node, bob: Client) -> None:
    bad: list[dict[str, Any] | None] = [
        {}, {"name": "n"}, {"name": 7, "type": "agent"}, {"name": "n", "type": "spaceship"},
        {"name": "n", "type": "agent", "tags": "text"}, {"name": "n", "type": "agent", "created": 2**63},
        {"name": "n", "type": "agent", "metadata": {"x": b"bytes"}}, {"name": "n", "type": "agent", "acl": 5},
        {"name": "n", "type": "agent", "url": "javascript:alert(1)"}, {"name": "n\n", "type": "agent"},
    ]  # fmt: skip
    entries = [A.entry("service", f"bad-{number}", body) for number, body in enumerate(bad)]
    entries += [A.entry("service", 'x","y":"', {"name": "n", "type": "agent"}), A.service("good", future={"a": 1})]
    await feed(node.sync, *entries, A.entry("status", "good", {"status": ["?"]}), A.entry("unheard-of", "x", {}))
    assert list(await ids(bob)) == ["good"]
    assert len(node.replica.map) == len(entries) + 2 + 2  # and what this node says of itself: a record and a node entry
    assert (await bob.get("/api/services/good"))[1]["status"] == "active"


async def test_what_its_node_lets_lapse_is_shown_no_more(tmp_path: Path) -> None:
    async with running_node(tmp_path / "n") as node:
        await believe(node, A, B, C)
        client = await client_of(node)
        then = now_ms()
        await feed(node.sync, A.service("short", life=300), A.service("long"))
        async with client.ws() as socket:
            cursor = (await socket.receive_json(timeout=5))["cursor"]
            await until(lambda: now_ms() > then + 400)
            node.sync.lapse(then)
            event = await socket.receive_json(timeout=5)
        assert (event["event"], event["service"]["id"]) == ("deregistered", "short")
        assert list(await ids(client)) == ["long"]
        await client.close()
    async with running_node(tmp_path / "n") as node:  # nor is it forgotten by a start that it is gone
        client = await client_of(node)
        async with client.ws(f"?since={cursor}") as socket:
            event = await socket.receive_json(timeout=5)
        assert (event["event"], event["service"]["id"]) == ("deregistered", "short")
        assert list(await ids(client)) == ["long"]
        await client.close()


async def test_what_lapses_is_shown_no_more_within_seconds(node: Node, bob: Client) -> None:
    async with bob.ws(f"?origin={A.did}") as socket:
        assert (await socket.receive_json(timeout=5))["op"] == "snapshot"
        await feed(node.sync, A.service("long"), A.entry("status", "long", {"status": "offline"}, life=1500))
        await feed(node.sync, A.service("short", life=1500))
        seen: list[tuple[str, str]] = []
        while len(seen) < 4:
            frame = await socket.receive_json(timeout=10)
            if frame["op"] == "event":
                seen.append((frame["event"], frame["service"]["id"]))
    assert sorted(seen[:2]) == [("registered", "long"), ("registered", "short")]
    assert sorted(seen[2:]) == [("active", "long"), ("deregistered", "short")]
    assert list(await ids(bob)) == ["long"]


async def test_a_clock_that_is_put_right_shows_again_what_had_lapsed_by_it(node: Node, bob: Client) -> None:
    await feed(node.sync, A.service("a"))
    wall_ms = node.sync.wall_ms
    node.sync.wall_ms = lambda: wall_ms() + 2 * MAX_LIFE_MS
    await until(lambda: node.catalog.get("a") is None)
    node.sync.wall_ms = wall_ms
    await until(lambda: node.catalog.get("a") is not None)
    assert list(await ids(bob)) == ["a"]


async def test_trust_that_ends_hides_and_comes_back(node: Node, bob: Client) -> None:
    await feed(node.sync, A.service("a"), B.service("b"))
    node.sync.shows = lambda entry: entry.origin != A.key.public
    node.sync.reshowing.trust_changed()
    await node.sync.reshowing.settled()
    assert list(await ids(bob)) == ["b"]
    await feed(node.sync, A.service("a2"))
    assert list(await ids(bob)) == ["b"]
    node.sync.shows = lambda entry: True
    node.sync.reshowing.trust_changed()
    await node.sync.reshowing.settled()
    assert list(await ids(bob)) == ["a", "a2", "b"]


async def limited(node: Node, origin: Origin, scope: Scope) -> None:
    """The admin of `node` trusts `origin` in this much, from now on."""
    anchor = Anchor(origin.key.public, Role.PEER, scope=scope)
    await node.store.write_trust(TrustChange(anchors=[anchor]))
    node.trust.put(anchor)
    node.federation.trust_changed()
    await node.sync.reshowing.settled()


async def test_types_and_tags_of_a_scope_say_what_is_shown_and_all_is_held(node: Node, bob: Client) -> None:
    public = frozenset({Class.PUBLIC})
    await feed(
        node.sync, A.service("tool", type="tool"), A.service("agent"), A.service("tagged", tags=["x", "y"]),
        B.service("other"),
    )  # fmt: skip
    assert list(await ids(bob)) == ["agent", "other", "tagged", "tool"]
    await limited(node, A, Scope(public, types=("tool",)))
    assert list(await ids(bob)) == ["other", "tool"]
    assert node.replica.map.count(A.key.public) == 3
    await feed(node.sync, A.service("agent"), A.service("tool", type="agent"), A.service("tool-2", type="tool"))
    assert list(await ids(bob)) == ["other", "tool-2"], "what comes is judged as well, and what becomes another type"
    await limited(node, A, Scope(public, tags=("y", "z")))
    assert list(await ids(bob)) == ["other", "tagged"]
    await limited(node, A, Scope(public))
    assert list(await ids(bob)) == ["agent", "other", "tagged", "tool", "tool-2"]


async def test_a_scope_narrows_after_a_start_as_well(tmp_path: Path) -> None:
    async with running_node(tmp_path / "n") as node:
        await believe(node, A)
        await feed(node.sync, A.service("tool", type="tool"), A.service("agent"))
        await limited(node, A, Scope(types=("tool",)))
    async with running_node(tmp_path / "n") as node:
        assert node.catalog.get("tool") is not None
        assert node.catalog.get("agent") is None


async def test_explain_tells_admins_alone_what_a_scope_leaves_out(node: Node, bob: Client) -> None:
    await feed(node.sync, A.service("agent"))
    await limited(node, A, Scope(types=("tool",)))
    admin = await client_of(node)
    for uid in ("agent", f"agent@{A.did}"):
        status, problem, _ = await admin.get(f"/api/services/{uid}/explain")
        assert status == 404
        assert f"is held of {A.did}, and not shown" in problem["detail"]
        status, told, _ = await bob.get(f"/api/services/{uid}/explain")
        assert status == 404
        assert "held" not in told["detail"]
    await admin.close()


async def test_explain_says_whence_it_came(node: Node) -> None:
    admin = await client_of(node)
    await feed(node.sync, A.service("t"), peer=B.key.public)
    _, story, _ = await admin.get("/api/services/t/explain")
    assert story["received"]["path"] == f"received from {B.did} over a link"
    assert (story["origin"], story["entry"]["signature"]) == (A.did, "valid")
    node.registry.peer_name = {B.key.public: "berta"}.__getitem__
    _, story, _ = await admin.get("/api/services/t/explain")
    assert story["received"]["path"] == f"received from berta ({B.did}) over a link"
    status, raw, _ = await admin.get("/api/services/t/signed", Accept="application/cose")
    assert status == 200
    node.registry.admits = lambda key, cls, root, kind: node.trust.admits(key, cls, root, kind, now_ms())
    status, verdict, _ = await admin.call("POST", "/api/services/verify", raw, Content_Type="application/cose")
    assert (verdict["signature"], verdict["current"], verdict["trust"]) == (True, True, True)
    status, problem, _ = await admin.get("/api/services/t/signed", Accept="application/jose+json")
    assert status == 406
    assert A.did in problem["detail"]
    assert "Ask for application/cose" in problem["detail"]
    assert (await admin.get("/api/services/t/signed", Accept="application/cose"))[1] == raw, "which is what can be had"
    await admin.close()


async def test_lists_and_polls_follow_what_comes_and_goes(node: Node, bob: Client) -> None:
    _, page, headers = await bob.get("/api/services?tag=x")
    poll = asyncio.create_task(bob.get(f"/api/services?tag=x&since={page['version']}&wait=20"))
    await feed(node.sync, A.service("hidden", tags=["x"], acl={"read": []}), A.service("other"))
    await feed(node.sync, *(A.service(f"t{n}", tags=["x"]) for n in range(300)))
    status, page, _ = await asyncio.wait_for(poll, 10)
    assert (status, page["total"] > 0) == (200, True)
    _, page, fresh = await bob.get("/api/services?tag=x&limit=299&fields=id,origin")
    assert (page["total"], len(page["services"])) == (300, 299)
    assert fresh["ETag"] != headers["ETag"]
    assert page["services"][0] == {"id": "t0", "origin": A.did}
    _, rest, _ = await bob.get(f"/api/services?tag=x&limit=299&fields=id,origin&cursor={page['next_cursor']}")
    assert len(rest["services"]) == 1
    await feed(node.sync, *(A.gone(f"t{n}") for n in range(300)))
    assert (await bob.get("/api/services?tag=x"))[1]["total"] == 0


async def test_own_entries_that_come_back_are_our_own_again(tmp_path: Path) -> None:
    async with running_node(tmp_path / "n") as node:
        bob = await client_of(node, "bob")
        await bob.post("/api/services/register", {"id": "t", "name": "t", "type": "agent", "ttl": 2})
        await bob.post("/api/services/t/heartbeat", {"status": "degraded"})
        await node.store.set_meta("settled", b"")
        said = list(node.replica.map)
        await bob.close()
    (tmp_path / "n" / "registry.db").unlink()
    for rest in (tmp_path / "n").glob("registry.db*"):
        rest.unlink()
    async with running_node(tmp_path / "n") as node:
        bob = await client_of(node, "bob")
        await feed(node.sync, *said)
        _, record, _ = await bob.get("/api/services/t")
        assert (record["origin"], record["status"]) == (node.did, "degraded")
        assert (await bob.post("/api/services/t/heartbeat", {"status": "active"}))[0] == 200
        await until(lambda: node.catalog.services["t"].status == "offline")  # and is judged here again
        assert (await bob.call("DELETE", "/api/services/t"))[0] == 204
        await bob.close()


@pytest.mark.parametrize("odd", [{"metadata": {"raw": b"\x00"}}, {"tags": 7}, {"name": b"x"}, {"owner": 1}])
async def test_an_own_entry_from_outside_that_is_no_record_breaks_no_list(tmp_path: Path, odd: dict[str, Any]) -> None:
    """Somebody else has the key, or a later version signed it: now and after a restart the others are listed."""
    async with running_node(tmp_path / "n") as node:
        elsewhere = Origin(1)
        elsewhere.key = node.replica.key
        await feed(node.sync, elsewhere.service("odd", **odd), elsewhere.service("good"))
        admin = await client_of(node)
        assert "good" in await listed(admin)
        await admin.close()
    async with running_node(tmp_path / "n") as node:
        admin = await client_of(node)
        assert "good" in await listed(admin)
        assert (await admin.get("/api/services?sort=name&fields=id,name,metadata"))[0] == 200
        await admin.close()
