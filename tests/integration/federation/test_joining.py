"""An invite is redeemed inside the handshake, and certificates open a link between nodes that never met."""

from __future__ import annotations

import pytest

from federation.identity import NodeKey, verify
from federation.joining import JOIN_PREFIX, Denied, Join, JoinError, Redeem, Welcome
from federation.trust import Anchor, Role, issue_cert
from tests.harness import until
from tests.integration.federation.nodes import HIGH, LOW, THIRD, running, wall_ms

ONE_TIME = NodeKey(b"\x07" * 32)
ROOT = NodeKey(b"\x09" * 32)


def proof_of(transcript: bytes) -> Join:
    return Join(b"id", ONE_TIME.sign(JOIN_PREFIX + transcript), "edge", ("edge:7481",))


async def test_an_invite_is_redeemed_once_and_then_there_is_a_link() -> None:
    asked: list[Redeem] = []

    async def redeem(ask: Redeem) -> Welcome | Denied:
        asked.append(ask)
        if ask.id != b"id" or not verify(ONE_TIME.public, JOIN_PREFIX + ask.transcript, ask.proof):
            return Denied("unknown", "there is no such invite")
        home.trusts(ask.peer)
        return Welcome("home", (home.address,), (b"cert",))

    async with running(LOW, redeem=redeem) as home, running(HIGH, listens=False) as edge:
        welcome = await edge.node.join(["127.0.0.1:1", home.address], home.key, proof_of)
        assert welcome == Welcome("home", (home.address,), (b"cert",))
        assert (asked[0].peer, asked[0].name, asked[0].addresses) == (edge.key, "edge", ("edge:7481",))
        assert not home.mesh.opens  # a join is no link
        assert not edge.mesh.opens
        again = await edge.node.join([home.address], home.key, proof_of)
        assert again == welcome
        edge.trusts(home)
        edge.keeps(home)
        await until(lambda: edge.linked(home) and home.linked(edge))


async def test_a_join_that_is_denied_says_why() -> None:
    async def redeem(ask: Redeem) -> Welcome | Denied:
        return Denied("used", "by another node")

    async with running(LOW, redeem=redeem) as home, running(HIGH) as edge:
        with pytest.raises(JoinError, match="used: by another node") as caught:
            await edge.node.join([home.address], home.key, proof_of)
        assert caught.value.final
        with pytest.raises(JoinError) as caught:
            await edge.node.join(["127.0.0.1:1"], home.key, proof_of)
        assert (caught.value.code, caught.value.final) == ("unreachable", False)
        with pytest.raises(JoinError) as caught:
            await edge.node.join([home.address], THIRD.public, proof_of)
        assert caught.value.code == "wrong-key"


async def test_a_proof_is_worth_nothing_on_another_connection() -> None:
    seen: list[bytes] = []

    async def redeem(ask: Redeem) -> Welcome | Denied:
        seen.append(ask.transcript)
        return Denied("unknown")

    async with running(LOW, redeem=redeem) as home, running(HIGH) as edge:
        for _ in range(2):
            with pytest.raises(JoinError):
                await edge.node.join([home.address], home.key, proof_of)
        assert len(set(seen)) == 2


async def test_a_redemption_that_fails_here_is_told_as_our_fault() -> None:
    async def redeem(ask: Redeem) -> Welcome | Denied:
        raise RuntimeError("the disk is full")

    async with running(LOW, redeem=redeem) as home, running(HIGH) as edge:
        with pytest.raises(JoinError, match="internal"):
            await edge.node.join([home.address], home.key, proof_of)
        assert "refused internal" in home.codes()


async def test_two_nodes_of_one_federation_link_by_their_certificates() -> None:
    certs = {key.public: issue_cert(ROOT, key.public, now_ms=wall_ms()) for key in (LOW, HIGH)}
    root = Anchor(ROOT.public, Role.ROOT)
    async with (
        running(LOW, chain_of={ROOT.public: (certs[LOW.public].raw,)}.__getitem__) as a,
        running(HIGH, chain_of={ROOT.public: (certs[HIGH.public].raw,)}.__getitem__) as b,
    ):
        a.trust.put(root)
        a.keeps(b)
        await until(lambda: "refused untrusted" in a.codes())
        b.trust.put(root)
        await until(lambda: a.linked(b) and b.linked(a))
        assert a.trust.roots_of(b.key, wall_ms()) == {ROOT.public}


async def test_a_certificate_that_the_root_did_not_sign_is_refused() -> None:
    good = issue_cert(ROOT, LOW.public, now_ms=wall_ms()).raw
    spoilt = good[:-1] + bytes((good[-1] ^ 1,))
    other = issue_cert(ROOT, THIRD.public, now_ms=wall_ms()).raw  # of somebody else
    for raw, code in ((spoilt, "signature"), (b"garbage", "malformed"), (other, "untrusted")):
        async with running(LOW, chain_of={ROOT.public: (raw,)}.__getitem__) as a, running(HIGH) as b:
            a.trust.put(Anchor(ROOT.public, Role.ROOT))
            b.trust.put(Anchor(ROOT.public, Role.ROOT))
            a.trusts(b)
            a.keeps(b)
            await until(lambda code=code, a=a: f"refused {code}" in a.codes())  # type: ignore[misc]


async def test_a_node_that_a_delegate_certified_shows_the_whole_chain() -> None:
    """Nobody else knows the delegate; a chain that it may not make, or that has a gap, opens nothing."""
    now, root = wall_ms(), Anchor(ROOT.public, Role.ROOT)
    first, deep = (issue_cert(ROOT, THIRD.public, now_ms=now, depth=depth).raw for depth in (0, 1))
    second = issue_cert(THIRD, LOW.public, now_ms=now, federation=ROOT.public).raw
    direct = issue_cert(ROOT, HIGH.public, now_ms=now).raw
    for certs, code in (((first, second), "untrusted"), ((second,), "untrusted"), ((deep, second), None)):
        async with (
            running(LOW, chain_of={ROOT.public: certs}.__getitem__) as a,
            running(HIGH, chain_of={ROOT.public: (direct,)}.__getitem__) as b,
        ):
            a.trust.put(root)
            b.trust.put(root)
            a.keeps(b)
            if code is not None:
                await until(lambda a=a, code=code: f"refused {code}" in a.codes())  # type: ignore[misc]
                assert b.trust.certificates_of(LOW.public) == {}
            else:
                await until(lambda a=a, b=b: a.linked(b) and b.linked(a))  # type: ignore[misc]
