"""Peers over the API of real nodes: invite, join, trust, revoke, restore, certificates, the audit log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from crdt.entry import Class, Fact
from federation.cose import sign_entry
from federation.identity import NodeKey, did_of
from federation.joining import Denied, Redeem
from federation.trust import issue_cert
from kosreg.audit import faults
from kosreg.invites import parse_line
from kosreg.node import Node
from kosreg.peers import fingerprint
from kosreg.store import StoreFull
from kosreg.times import now_ms
from tests.harness import Client, client_of, running_node, until

ROOT, THIRD = NodeKey(b"\x61" * 32), NodeKey(b"\x62" * 32)
COSE = "application/cose"


class Side:
    """A node and its admin."""

    def __init__(self, node: Node, admin: Client) -> None:
        self.node = node
        self.admin = admin

    async def ask(self, method: str, path: str, body: Any = None, status: int | tuple[int, ...] = 200) -> Any:
        got, answer, _ = await self.admin.call(method, path, body)
        assert got in (status if isinstance(status, tuple) else (status,)), answer
        return answer

    async def invite(self, **wish: Any) -> str:
        return str((await self.ask("POST", "/api/peers/invites", wish, 201))["line"])

    async def join(self, line: str, status: int = 200) -> Any:
        return await self.ask("POST", "/api/peers/join", {"line": line}, status)

    async def peer(self, other: Side) -> Any:
        status, answer, _ = await self.admin.get(f"/api/peers/{other.node.did}")
        return answer if status == 200 else None

    async def linked(self, other: Side) -> bool:
        peer = await self.peer(other)
        return bool(peer and peer.get("link", {}).get("state") == "up" and peer.get("sync", {}).get("synced"))

    async def register(self, uid: str, **fields: Any) -> None:
        record = {"id": uid, "name": uid, "type": "agent", "ttl": 0} | fields
        await self.ask("POST", "/api/services/register", record, (200, 201))

    async def services(self) -> set[str]:
        answer = await self.ask("GET", "/api/services?limit=1000")
        return {service["id"] for service in answer["services"] if service["type"] != "node"}

    async def actions(self) -> list[str]:
        assert [fault async for fault in faults(self.node.store, self.node.key.public)] == []
        return [record["action"] for record in (await self.ask("GET", "/api/audit"))["records"]]


@pytest_asyncio.fixture
async def sides(tmp_path: Path) -> AsyncIterator[tuple[Side, Side]]:
    async with (
        running_node(tmp_path / "a", federation__listen="127.0.0.1:0", node__name="a") as a,
        running_node(tmp_path / "b", federation__listen="127.0.0.1:0", node__name="b") as b,
    ):
        clients = await client_of(a), await client_of(b)
        yield Side(a, clients[0]), Side(b, clients[1])
        for client in clients:
            await client.close()


async def joined(a: Side, b: Side) -> None:
    await b.join(await a.invite())
    await until(lambda: both(a.linked(b), b.linked(a)))


async def both(*conditions: Any) -> bool:
    return all(await asyncio.gather(*conditions))


async def test_two_nodes_join_and_each_shows_the_other(sides: tuple[Side, Side]) -> None:
    a, b = sides
    await a.register("open", visibility="public")
    await a.register("closed", visibility="internal")
    answer = await b.join(await a.invite())
    who = [
        {"did": side.node.did, "name": side.node.name, "fingerprint": fingerprint(side.node.key.public)}
        for side in (a, b)
    ]
    assert answer == {"peer": who[0], "self": who[1]}
    await until(lambda: both(a.linked(b), b.linked(a)))
    for one, other in ((a, b), (b, a)):
        peer = await one.peer(other)
        assert (peer["name"], peer["role"], peer["depth"]) == (other.node.name, "peer", 0)
        assert peer["fingerprint"] == fingerprint(other.node.key.public)
        assert peer["scope"] == {"classes": ["public"], "types": [], "tags": [], "records": None}
        assert peer["refused"] == {}
    await until(lambda: both(b.services()))
    assert await b.services() == {"open"}
    assert await a.actions() == ["invite", "invite redeemed"]
    assert await b.actions() == ["join"]


async def test_the_same_line_may_be_given_again_by_the_same_node_only(sides: tuple[Side, Side], tmp_path: Path) -> None:
    a, b = sides
    line = await a.invite(name="called so")
    first = await b.join(line)
    assert await b.join(line) == first
    assert (await a.peer(b))["name"] == "called so"
    async with running_node(tmp_path / "c", federation__listen="127.0.0.1:0", node__name="c") as node:
        client = await client_of(node)
        c = Side(node, client)
        refused = await c.join(line, 409)
        assert "another node has joined" in refused["detail"]
        for _ in range(5):
            await c.join(line, 409)
        assert await c.actions() == []
        await client.close()
    assert await a.actions() == ["invite", "invite redeemed", *["invite refused: used"] * 3]
    assert len((await a.ask("GET", "/api/peers"))["peers"]) == 1
    [invite] = (await a.ask("GET", "/api/peers/invites"))["invites"]
    assert (invite["state"], invite["joiner"]) == ("used", b.node.did)


async def test_an_invite_that_expired_is_refused_by_both_sides(
    sides: tuple[Side, Side], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = sides
    line = await a.invite(ttl=10)
    monkeypatch.setattr(a.node.peers, "_wall_ms", lambda: now_ms() + 11_000)  # the inviter's clock decides
    assert "the invite has expired" in (await b.join(line, 409))["detail"]
    monkeypatch.setattr(b.node.peers, "_wall_ms", lambda: now_ms() + 11_000)
    assert "has expired" in (await b.join(line, 422))["detail"]
    assert (await a.ask("GET", "/api/peers"))["peers"] == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "kosreg peers invite"), ("kosreg2:abc", "another release"), ("hello", "begins with kosreg1:"),
        ("kosreg1:AAAA", "not whole"),
    ],
)  # fmt: skip
async def test_a_line_that_is_no_invite_is_told_what_is_wrong(sides: tuple[Side, Side], line: str, words: str) -> None:
    assert words in (await sides[1].join(line, 422))["detail"]


async def test_a_node_does_not_join_itself(sides: tuple[Side, Side]) -> None:
    a, _ = sides
    assert "own" in (await a.join(await a.invite(), 422))["detail"]
    assert "own key" in (await a.ask("POST", "/api/peers", {"did": a.node.did}, 409))["detail"]
    assert "own key" in (await a.ask("DELETE", f"/api/peers/{a.node.did}", status=409))["detail"]


async def test_a_node_that_nobody_can_dial_gives_no_invites(tmp_path: Path) -> None:
    async with running_node(tmp_path / "c") as node:
        client = await client_of(node)
        status, answer, _ = await client.post("/api/peers/invites")
        assert status == 409
        assert "federation.listen" in answer["detail"]
        await client.close()


async def test_only_the_joiner_needs_to_dial(sides: tuple[Side, Side], tmp_path: Path) -> None:
    a, _ = sides
    async with running_node(tmp_path / "c", node__name="c") as node:
        client = await client_of(node)
        c = Side(node, client)
        await joined(a, c)
        assert (await a.peer(c))["addresses"] == []
        await client.close()


async def test_the_inviter_keeps_all_of_a_redemption_or_nothing(
    sides: tuple[Side, Side], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = sides
    line = await a.invite()
    with monkeypatch.context() as full:

        async def refuse(change: object) -> None:
            raise StoreFull("no room.")

        full.setattr(a.node.store, "write_trust", refuse)
        await b.join(line, 503)
    assert (await a.ask("GET", "/api/peers"))["peers"] == []
    assert (await a.ask("GET", "/api/peers/invites"))["invites"][0]["state"] == "open"
    assert await a.actions() == ["invite"]
    await joined_by(line, a, b)


async def joined_by(line: str, a: Side, b: Side) -> None:
    await b.join(line)
    await until(lambda: both(a.linked(b), b.linked(a)))


async def test_a_joiner_that_could_not_write_may_join_again(
    sides: tuple[Side, Side], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = sides
    line = await a.invite()
    with monkeypatch.context() as full:

        async def refuse(change: object) -> None:
            raise StoreFull("no room.")

        full.setattr(b.node.store, "write_trust", refuse)
        await b.join(line, 507)
    assert (await b.ask("GET", "/api/peers"))["peers"] == []
    await joined_by(line, a, b)
    assert await a.actions() == ["invite", "invite redeemed"]
    assert await b.actions() == ["join"]


async def test_revoke_hides_and_restore_shows_again(sides: tuple[Side, Side]) -> None:
    a, b = sides
    await joined(a, b)
    await a.register("s", visibility="public")
    await until(lambda: sees(b, {"s"}))
    await b.ask("DELETE", f"/api/peers/{a.node.did}")
    await until(lambda: sees(b, set()))
    peer = await b.peer(a)
    assert peer["revoked"]
    assert "link" not in peer
    assert peer["held"] > 0
    assert "peers restore" in (await b.join(await a.invite(), 409))["detail"]
    assert "peers restore" in (await b.ask("POST", "/api/peers", {"did": a.node.did}, 409))["detail"]
    await b.ask("POST", f"/api/peers/{a.node.did}/restore")
    await until(lambda: both(sees(b, {"s"}), b.linked(a)))
    assert await b.actions() == ["join", "revoke", "restore"]


async def test_a_peer_that_was_revoked_by_the_inviter_is_not_let_in_by_an_invite(sides: tuple[Side, Side]) -> None:
    a, b = sides
    await joined(a, b)
    await a.ask("DELETE", f"/api/peers/{b.node.did}")
    assert "revoked the trust" in (await b.join(await a.invite(), 409))["detail"]
    assert (await a.actions())[-1] == "invite refused: revoked"


async def test_purge_leaves_nothing_of_it_and_restore_brings_it_back(sides: tuple[Side, Side]) -> None:
    a, b = sides
    await joined(a, b)
    for n in range(3):
        await a.register(f"s{n}", visibility="public")
    await until(lambda: sees(b, {"s0", "s1", "s2"}))
    answer = await b.ask("DELETE", f"/api/peers/{a.node.did}?purge=true")
    assert answer["purged"] >= 3
    assert await b.services() == set()
    rows = [row async for chunk in b.node.store.load() for row in chunk]
    assert not [row for row in rows if a.node.key.public in row.raw]
    assert (await b.peer(a))["held"] == 0
    await b.ask("POST", f"/api/peers/{a.node.did}/restore")
    await until(lambda: sees(b, {"s0", "s1", "s2"}))
    assert await b.actions() == ["join", "revoke", "purge", "restore"]


async def sees(side: Side, expected: set[str]) -> bool:
    return await side.services() == expected


async def test_trust_by_hand_changes_only_what_is_said(sides: tuple[Side, Side]) -> None:
    a, _ = sides
    did = THIRD.did
    scope = {"classes": ["public", "internal"], "types": ["agent"], "tags": ["x"], "records": 5}
    wish = {"did": did, "name": "n", "addresses": ["127.0.0.1:1"], "scope": scope}
    peer = await a.ask("POST", "/api/peers", wish, 201)
    assert (peer["name"], peer["addresses"], peer["scope"]) == (
        "n",
        ["127.0.0.1:1"],
        scope | {"classes": ["internal", "public"]},
    )
    peer = await a.ask("POST", "/api/peers", {"did": THIRD.kind_did, "name": "m"}, 200)
    assert (peer["name"], peer["addresses"], peer["scope"]["records"]) == ("m", ["127.0.0.1:1"], 5)
    await a.ask("POST", "/api/peers", {"did": did, "name": "m"}, 200)
    assert await a.actions() == ["trust", "trust"]  # the last one changed nothing
    for wrong in (
        {"did": "did:key:zzz"}, {"did": did, "addresses": ["nowhere"]}, {"did": did, "role": "boss"}, {}, {"did": 1},
        {"did": did, "scope": {"classes": ["private"]}}, {"did": did, "scope": {"classes": []}},
        {"did": did, "addresses": ["a:1"] * 5}, {"did": did, "more": 1}, {"did": did, "name": "x" * 129},
    ):  # fmt: skip
        await a.ask("POST", "/api/peers", wrong, 422)


async def test_what_nobody_decided_about_is_not_found(sides: tuple[Side, Side]) -> None:
    a, _ = sides
    await a.ask("GET", f"/api/peers/{THIRD.did}", status=404)
    await a.ask("GET", "/api/peers/x", status=404)
    await a.ask("POST", f"/api/peers/{THIRD.did}/restore", status=404)


async def test_revoking_a_key_that_was_never_trusted_blocks_it_until_it_is_restored(sides: tuple[Side, Side]) -> None:
    a, _ = sides
    await a.ask("DELETE", f"/api/peers/{THIRD.did}")
    assert a.node.trust.is_revoked(THIRD.public)
    await a.ask("POST", f"/api/peers/{THIRD.did}/restore", status=204)
    assert a.node.trust.anchors() == {}
    assert await a.node.store.anchors() == []


async def test_decisions_outlive_the_node(tmp_path: Path) -> None:
    wishes = [{"did": THIRD.did, "name": "x", "addresses": ["127.0.0.1:1"]}, {"did": ROOT.did, "role": "root"}]
    async with running_node(tmp_path / "a", federation__listen="127.0.0.1:0") as node:
        client = await client_of(node)
        for wish in wishes:
            assert (await client.post("/api/peers", wish))[0] == 201
        assert (await client.call("DELETE", f"/api/peers/{THIRD.did}"))[0] == 200
        before = dict(node.trust.anchors())
        await client.close()
    async with running_node(tmp_path / "a", federation__listen="127.0.0.1:0") as node:
        assert node.trust.anchors() == before
        assert not node.trust.may_link(THIRD.public, now_ms())


async def test_certificates_are_taken_from_trusted_roots_alone(sides: tuple[Side, Side]) -> None:
    a, b = sides
    now = now_ms()
    cert = issue_cert(ROOT, b.node.key.public, now_ms=now)

    async def give(raw: bytes) -> tuple[int, Any]:
        status, answer, _ = await a.admin.call("POST", "/api/certs", raw, Content_Type=COSE)
        return status, answer

    assert (await give(cert.raw))[0] == 409
    await a.ask("POST", "/api/peers", {"did": ROOT.did, "role": "root"}, 201)
    status, answer = await give(cert.raw)
    assert (status, answer["subject"], answer["state"], answer["new"]) == (201, b.node.did, "granted", True)
    assert (await give(cert.raw))[0] == 200
    assert a.node.trust.roots_of(b.node.key.public, now) == {ROOT.public}
    assert (await a.peer(b))["role"] == "member"
    assert (await a.peer(b))["roots"] == [ROOT.did]

    assert (await give(b"nonsense"))[0] == 400
    assert (await give(cert.raw[:-1] + bytes([cert.raw[-1] ^ 1])))[0] in (200, 422)  # the good one is known
    spoilt = issue_cert(ROOT, THIRD.public, now_ms=now).raw
    assert (await give(spoilt[:-1] + bytes([spoilt[-1] ^ 1])))[0] == 422
    service = sign_entry(ROOT, Fact("service", "x", 1, Class.PUBLIC, now + 1000, {"name": "x", "type": "agent"}))
    assert (await give(service.raw))[0] == 422
    assert (await give(issue_cert(THIRD, THIRD.public, now_ms=now).raw))[0] == 409
    revoked = issue_cert(ROOT, b.node.key.public, now_ms=now + 1, state="revoked")
    assert (await give(revoked.raw))[1]["state"] == "revoked"
    assert a.node.trust.roots_of(b.node.key.public, now + 1) == frozenset()
    assert await a.actions() == ["trust", "certificate", "certificate"]


async def test_members_of_one_federation_share_internal_facts_and_outsiders_get_none(sides: tuple[Side, Side]) -> None:
    a, b = sides
    now = now_ms()
    for side in sides:
        await side.ask("POST", "/api/peers", {"did": ROOT.did, "role": "root"}, 201)
        for member in sides:
            cert = issue_cert(ROOT, member.node.key.public, now_ms=now, not_before=now - 1000)
            status, answer, _ = await side.admin.call("POST", "/api/certs", cert.raw, Content_Type=COSE)
            assert status == 201, answer
    await joined(a, b)
    await a.register("inside", visibility="internal")
    await until(lambda: sees(b, {"inside"}))
    await b.ask("DELETE", f"/api/peers/{a.node.did}")  # a local revoke wins over the root
    await until(lambda: sees(b, set()))
    assert not (await b.peer(a)).get("link")


async def test_redeeming_says_nothing_to_who_holds_no_secret(sides: tuple[Side, Side]) -> None:
    a, _ = sides
    line = parse_line(await a.invite())
    ask = Redeem(line.id, b"\0" * 64, b"t" * 32, THIRD.public, "x", ())
    assert await a.node.peers.redeem(ask) == Denied("unknown", "this node has no such invite")
    assert await a.actions() == ["invite"]


async def test_addresses_that_cannot_be_dialled_from_here_are_not_kept(
    sides: tuple[Side, Side], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, _ = sides
    line = parse_line(await a.invite())
    monkeypatch.setattr(a.node.peers, "reachable_at", lambda: ("a.example:7481",))
    proof = line.proof(b"t" * 32, "x" * 1000, ())
    told = ("127.0.0.1:7481", "nonsense", "b.example:1", "[::1]:5", "10.0.0.1:2")
    await a.node.peers.redeem(Redeem(line.id, proof.proof, b"t" * 32, THIRD.public, proof.name, told))
    anchor = a.node.trust.anchors()[THIRD.public]
    assert anchor.addresses == ("b.example:1", "10.0.0.1:2")
    assert len(anchor.name) == 128


def test_fingerprints() -> None:
    assert fingerprint(bytes(32)) == "mzuh-vlpy-mk6x-o3ep-ygfy-5h4o"
    assert did_of(bytes(32)).startswith("did:key:z6Mk")


async def test_an_invite_makes_no_node_of_a_key_that_is_trusted_as_a_root(sides: tuple[Side, Side]) -> None:
    a, b = sides
    await a.ask("POST", "/api/peers", {"did": b.node.did, "role": "root", "name": "r"}, 201)
    before = dict(a.node.trust.anchors())
    assert "root key of a federation" in (await b.join(await a.invite(), 409))["detail"]
    assert "root of a federation" in (await a.join(await b.invite(), 409))["detail"]
    assert dict(a.node.trust.anchors()) == before
    assert await a.node.store.anchors() == list(before.values())
    assert (await a.actions())[-1] == "invite refused: root"


LIKE_A_KEY = ["mzuh-vlpy", "MZUH-VLPY-MK", "mzuh-vlpy-mk6x-o3ep-ygfy-5h4o", "mzuhvlpymk6xo3epygfy5h4o", "did:key:z6"]


@pytest.mark.parametrize("name", LIKE_A_KEY)
async def test_no_peer_is_called_like_a_key_or_a_fingerprint(
    sides: tuple[Side, Side], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = sides
    for path, wish in (("/api/peers/invites", {}), ("/api/peers", {"did": THIRD.did})):
        refused = await a.ask("POST", path, wish | {"name": name}, 422)
        assert "looks like a DID or a fingerprint" in refused["detail"]
    for side in sides:
        monkeypatch.setattr(side.node.peers, "name", name)
    await b.join(await a.invite())  # what it calls itself is no reason not to join
    for one, other in ((a, b), (b, a)):
        assert (await one.peer(other))["name"] == ""


@pytest.mark.parametrize("name", ["berlin", "raspberry-pi", "a-b", "node-1.example", "x" * 128, ""])
async def test_an_ordinary_name_is_taken(sides: tuple[Side, Side], name: str) -> None:
    a, b = sides
    await a.ask("POST", "/api/peers", {"did": THIRD.did, "name": name}, 201)
    await b.join(await a.invite(name=name))
    assert (await a.peer(b))["name"] == (name or "b")
