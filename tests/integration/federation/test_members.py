"""Invites into a federation: who joins becomes a member, by a certificate of whoever invited it, and no node's key is
trusted. Certificates, revocations and their end, over the API of real nodes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from crdt.entry import DAY_MS, MAX_LIFE_TRUST_MS, Entry
from federation.identity import NodeKey
from federation.joining import Denied, Redeem
from federation.trust import Anchor, Role, issue_cert
from kosreg.invites import InviteError, parse_line
from kosreg.store import StoreFull
from kosreg.times import now_ms
from tests.harness import client_of, running_node, until
from tests.integration.federation.test_peers import COSE, Side, both, sees

ROOT, OTHER_ROOT, THIRD = (NodeKey(bytes([number]) * 32) for number in (0x71, 0x72, 0x73))


@pytest_asyncio.fixture
async def three(tmp_path: Path) -> AsyncIterator[tuple[Side, Side, Side]]:
    """The first has a certificate of depth 1."""
    async with AsyncExitStack() as stack:
        sides = []
        for name in ("a", "b", "c"):
            node = await stack.enter_async_context(
                running_node(tmp_path / name, federation__listen="127.0.0.1:0", node__name=name)
            )
            client = await client_of(node)
            stack.push_async_callback(client.close)
            sides.append(Side(node, client))
        await anchored(sides[0])
        assert await give(sides[0], cert(sides[0], depth=1)) == 201
        yield sides[0], sides[1], sides[2]


async def anchored(side: Side, root: NodeKey = ROOT, name: str = "acme") -> None:
    await side.ask("POST", "/api/peers", {"did": root.did, "role": "root", "name": name}, 201)


def cert(of: Side, root: NodeKey = ROOT, now: int | None = None, **more: Any) -> Entry:
    now = now_ms() if now is None else now
    return issue_cert(root, of.node.key.public, now_ms=now, not_before=now - 1000, **more)


async def give(side: Side, entry: Entry) -> int:
    status, _, _ = await side.admin.call("POST", "/api/certs", entry.raw, Content_Type=COSE)
    return status


async def invited(side: Side, **more: Any) -> str:
    return await side.invite(federation=ROOT.did, **more)


async def certificates(side: Side) -> dict[tuple[str, str], Any]:
    told = await side.ask("GET", f"/api/federations/{ROOT.did}/certificates")
    return {(one["issuer"], one["subject"]): one for one in told["certificates"]}


def _spoilt(raw: bytes) -> bytes:
    return raw[:-1] + bytes([raw[-1] ^ 1])


async def federation(side: Side) -> Any:
    [told] = (await side.ask("GET", "/api/federations"))["federations"]
    return told


def roles(side: Side) -> set[Role]:
    return {anchor.role for anchor in side.node.trust.anchors().values()}


async def test_who_is_invited_into_a_federation_becomes_a_member(three: tuple[Side, Side, Side]) -> None:
    a, b, c = three
    await a.register("inside", visibility="internal")
    answers = [await side.join(await invited(a)) for side in (b, c)]
    assert [answer["federation"] for answer in answers] == [ROOT.did] * 2
    await until(lambda: both(sees(b, {"inside"}), sees(c, {"inside"})))
    await b.register("of-b", visibility="internal")
    await until(lambda: both(*(sees(side, {"inside", "of-b"}) for side in three)))  # b and c know each other's key not
    assert [roles(side) for side in three] == [{Role.ROOT}] * 3
    assert [(peer["name"], peer["role"]) for peer in [await b.peer(a), await a.peer(c)]] == [
        ("a", "member"), ("c", "member"),
    ]  # fmt: skip
    for side, depth in ((a, 1), (b, 0), (c, 0)):
        told = await federation(side)
        assert (told["did"], told["name"], told["member"], told["internal"]) == (ROOT.did, "acme", True, True)
        assert (told["depth"], told["members"]) == (depth, 3)
        said = await certificates(side)
        assert said.keys() == {(ROOT.did, a.node.did), (a.node.did, b.node.did), (a.node.did, c.node.did)}
        assert all(one["holds"] and one["state"] == "granted" for one in said.values())
    assert await a.actions() == ["trust", "certificate", "invite", "invite redeemed", "invite", "invite redeemed"]
    assert await b.actions() == ["join"]
    refused = await b.ask("POST", "/api/peers/invites", {"federation": ROOT.did}, 409)
    assert "--key FILE" in refused["detail"]


async def test_the_links_of_members_outlive_the_nodes(tmp_path: Path) -> None:
    async with running_node(tmp_path / "a", federation__listen="127.0.0.1:0", node__name="a") as node:
        a = Side(node, await client_of(node))
        await anchored(a)
        await give(a, cert(a, depth=1))
        async with running_node(tmp_path / "b", federation__listen="127.0.0.1:0", node__name="b") as other:
            b = Side(other, await client_of(other))
            line = await invited(a)
            await b.join(line)
            assert (await b.join(line))["federation"] == ROOT.did  # whatever was lost of the answer
            assert await a.actions() == ["trust", "certificate", "invite", "invite redeemed"]
            await until(lambda: both(a.linked(b), b.linked(a)))
            await b.admin.close()
        async with running_node(tmp_path / "b", federation__listen="127.0.0.1:0", node__name="b") as other:
            b = Side(other, await client_of(other))
            await until(lambda: both(a.linked(b), b.linked(a)))
            await b.ask("DELETE", f"/api/peers/{a.node.did}")
            assert not (await b.peer(a)).get("link")
            await b.ask("POST", f"/api/peers/{a.node.did}/restore", status=(200, 204))
            await until(lambda: both(a.linked(b), b.linked(a)))
            await b.admin.close()
        await a.admin.close()


async def test_the_inviter_finishes_what_a_full_disk_cut_off(
    three: tuple[Side, Side, Side], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, _ = three
    line = await invited(a)
    with monkeypatch.context() as full:

        def refuse(*_: object, **__: object) -> None:
            raise StoreFull("no room.")

        full.setattr(a.node.sync, "commit", refuse)
        await b.join(line, 503)
    assert (a.node.did, b.node.did) not in await certificates(a)
    await b.join(line)
    assert (await certificates(a))[a.node.did, b.node.did]["holds"]
    assert await a.actions() == ["trust", "certificate", "invite", "invite redeemed"]


async def test_what_the_root_revokes_is_hidden_from_all_and_no_delegate_lets_it_in_again(
    three: tuple[Side, Side, Side],
) -> None:
    a, b, c = three
    for side in (b, c):
        await side.join(await invited(a))
    await b.register("of-b", visibility="public")
    await until(lambda: both(*(sees(side, {"of-b"}) for side in three)))
    assert await give(a, cert(b, state="revoked")) == 201
    await until(lambda: both(sees(a, set()), sees(c, set())), 2)
    assert "revoked in that federation" in (await b.join(await invited(a), 409))["detail"]
    assert (await a.actions())[-1] == "invite refused: revoked"
    assert not (await certificates(a))[a.node.did, b.node.did]["holds"]
    assert await give(a, cert(b, now=now_ms() + 1)) == 201
    await until(lambda: both(sees(a, {"of-b"}), sees(c, {"of-b"})), 10)


async def test_revoking_a_delegate_hides_whoever_it_certified(three: tuple[Side, Side, Side]) -> None:
    a, b, c = three
    for side in (b, c):
        await side.join(await invited(a))
    for side in (b, c):
        assert await give(side, cert(c)) == 201  # the root certifies c itself, too
    await b.register("of-b", visibility="public")
    await c.register("of-c", visibility="public")
    await until(lambda: both(*(sees(side, {"of-b", "of-c"}) for side in three)))
    assert await give(c, cert(a, state="revoked")) == 201
    await until(lambda: sees(c, {"of-c"}), 2)
    assert not c.node.trust.may_link(b.node.key.public, now_ms())


async def test_an_invite_into_a_federation_needs_its_root_and_a_depth(three: tuple[Side, Side, Side]) -> None:
    a, b, _ = three
    for wish, status, words in (
        ({"federation": OTHER_ROOT.did}, 409, "no root"), ({"federation": "acme"}, 422, "/federation"),
    ):  # fmt: skip
        assert words in (await a.ask("POST", "/api/peers/invites", wish, status))["detail"]
    line = await invited(a)
    assert await give(a, cert(a)) == 201  # now at depth 0
    assert "may not certify others" in (await b.join(line, 409))["detail"]
    assert roles(b) == set()
    assert (await a.ask("GET", "/api/peers/invites"))["invites"][0]["state"] == "open"


async def test_one_node_certifies_a_key_in_one_federation(three: tuple[Side, Side, Side]) -> None:
    a, b, _ = three
    await anchored(a, OTHER_ROOT, "other")
    await give(a, cert(a, OTHER_ROOT, depth=1))
    await b.join(await invited(a))
    assert "in another federation" in (await b.join(await a.invite(federation=OTHER_ROOT.did), 409))["detail"]
    assert (await certificates(a))[a.node.did, b.node.did]["holds"]


async def test_a_joiner_takes_no_root_for_a_node_and_no_word_for_a_certificate(
    three: tuple[Side, Side, Side], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, c = three
    await c.ask("POST", "/api/peers", {"did": ROOT.did}, 201)
    assert "key of a node" in (await c.join(await invited(a), 409))["detail"]
    line = await invited(a)
    for given, words in (
        ((), "do not lead"), ((b"x",), "cannot be read"), ((cert(c).raw,), "do not lead"),
        ((_spoilt(cert(b).raw),), "not by the key"), ((cert(b, OTHER_ROOT).raw,), "do not lead"),
        ((cert(b, now=now_ms() - 2 * DAY_MS, not_after=now_ms() - DAY_MS).raw,), "clock"),
    ):  # fmt: skip
        with monkeypatch.context() as patch:

            async def certify(peer: bytes, root: bytes, given: tuple[bytes, ...] = given) -> tuple[bytes, ...]:
                return given

            patch.setattr(a.node.federation.members, "certify", certify)
            patch.setattr(a.node.peer_node._greeter, "_trusted", lambda *_: None)
            assert words in (await b.join(line, 409))["detail"]
        assert roles(b) == set()


@pytest.mark.parametrize(
    "grant", [{"federation": b"short"}, {"federation": ROOT.did}, {"x": 1}, {"federation": ROOT.public, "name": 1}]
)
async def test_a_grant_that_cannot_be_read_is_no_invite(three: tuple[Side, Side, Side], grant: dict[str, Any]) -> None:
    line = replace(parse_line(await invited(three[0])), grant=grant)
    with pytest.raises(InviteError, match="cannot be read"):
        parse_line(line.encode())


async def test_only_a_root_or_its_delegates_bring_certificates(three: tuple[Side, Side, Side]) -> None:
    a, b, _ = three
    by_b = issue_cert(b.node.key, THIRD.public, now_ms=now_ms(), federation=ROOT.public)
    assert await give(a, by_b) == 409
    assert await give(a, cert(b, depth=1)) == 201
    assert await give(a, by_b) == 201
    assert a.node.trust.roots_of(THIRD.public, now_ms() + 1) == {ROOT.public}
    own = issue_cert(a.node.key, THIRD.public, now_ms=now_ms(), federation=ROOT.public)
    assert await give(a, own) == 409  # what this node says it says itself


async def test_a_delegate_renews_what_it_certified_while_that_counts(
    three: tuple[Side, Side, Side], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, c = three
    for side in (b, c):
        await side.join(await invited(a))
    members = a.node.federation.members
    assert await members.renew() == 0
    later = now_ms() + MAX_LIFE_TRUST_MS // 2 + DAY_MS
    for clock in ((members, "_wall_ms"), (a.node.sync, "wall_ms")):
        monkeypatch.setattr(*clock, lambda: later)
    assert await give(a, cert(c, state="revoked")) == 201
    before = {key: one["until"] for key, one in (await certificates(a)).items()}
    assert await members.renew() == 1
    assert await members.renew() == 0
    after = {key: one["until"] for key, one in (await certificates(a)).items()}
    assert {key for key in after if after[key] != before[key]} == {(a.node.did, b.node.did)}
    monkeypatch.setattr(members, "_wall_ms", lambda: later + MAX_LIFE_TRUST_MS)
    assert await members.renew() == 0  # its own certificate is over: the root has to come out


async def test_redeeming_an_invite_with_a_key_that_is_a_member_writes_nothing_anew(
    three: tuple[Side, Side, Side],
) -> None:
    a, b, _ = three
    assert await give(a, cert(b)) == 201
    await b.join(await invited(a))
    assert (a.node.did, b.node.did) not in await certificates(a)
    assert roles(b) == {Role.ROOT}


async def test_the_invites_federation_outlives_the_node(tmp_path: Path) -> None:
    async with running_node(tmp_path / "a", federation__listen="127.0.0.1:0") as node:
        a = Side(node, await client_of(node))
        await anchored(a)
        await give(a, cert(a, depth=1))
        line = parse_line(await invited(a))
        await a.invite()
        await a.admin.close()
    async with running_node(tmp_path / "a", federation__listen="127.0.0.1:0") as node:
        kept = {invite.id: invite.federation for invite in node.peers.invites.all()}
        assert kept.pop(line.id) == ROOT.public
        assert list(kept.values()) == [None]
        ask = Redeem(line.id, line.proof(b"t" * 32, "x", ()).proof, b"t" * 32, THIRD.public, "x", ())
        assert not isinstance(await node.peers.redeem(ask), Denied)
        assert node.trust.anchors().keys() == {ROOT.public}
        assert node.trust.anchors()[ROOT.public] == Anchor(
            ROOT.public, Role.ROOT, "acme", added=node.trust.anchors()[ROOT.public].added
        )
