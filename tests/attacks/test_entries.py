"""Attacks by what is signed, and by what is not: forged, spoilt, old, double, too long, above one's certificate."""

from __future__ import annotations

import os

import pytest

from crdt.entry import MAX_LIFE_MS, Class, Entry
from federation.closing import SessionError
from federation.cose import decode_entry
from federation.identity import NodeKey, did_of, parse_did
from federation.trust import issue_cert
from kosreg.times import now_ms
from tests.attacks.conftest import Site
from tests.attacks.hostile import forged, link, sign, spoilt
from tests.harness import until
from tests.integration.cli.conftest import Node

YEAR_2100 = 4_102_444_800_000
SPOILT = {"the signature does not hold": 1, "link closed: bad-entry": 1}


async def entry_of(site: Site, uid: str) -> Entry:
    return decode_entry(await site.ask(f"/api/services/{uid}/signed", Accept="application/cose"))


async def test_another_keys_word_is_not_taken_and_costs_the_link(site: Site) -> None:
    """A tombstone above all that the honest node said of a service, with the honest key in it."""
    async with site.meets() as hostile:
        uid = await site.register(site.other)
        await until(lambda: site.shows(uid))
        before = await site.metric("kosreg_link_events", what="down", code="bad-entry")
        await hostile.push(forged(await entry_of(site, uid), hostile.key))
        await hostile.is_closed("bad-entry")
        await until(lambda: site.refused(hostile.key))
        assert await site.refused(hostile.key) == SPOILT
        assert await site.metric("kosreg_link_events", what="down", code="bad-entry") == before + 1
        assert await site.log("link down", peer=did_of(hostile.key.public), code="bad-entry")
        assert await site.shows(uid)
        assert await site.shows(uid, site.other)


async def test_a_spoilt_copy_that_comes_first_does_not_keep_the_good_one_out(site: Site) -> None:
    origin = NodeKey(os.urandom(32))
    await site.trusts(origin)
    good = sign(origin)
    async with site.meets() as hostile:
        await hostile.push(hostile.sign("in-one-message"), spoilt(good))
        await hostile.is_closed("bad-entry")
        await until(lambda: site.refused(hostile.key))
        assert await site.refused(hostile.key) == SPOILT
        assert not await site.shows("in-one-message"), "of a message with a spoilt entry something was taken"
        assert not await site.shows(good.name)
        async with await site.link(origin) as other:
            await other.push(good)
            await until(lambda: site.shows(good.name))


async def test_old_words_bring_nothing_back(site: Site) -> None:
    async with site.meets() as hostile:
        uid = await site.register(site.other)
        await until(lambda: site.shows(uid))
        old = await entry_of(site, uid)
        await site.ask(f"/api/services/{uid}", method="DELETE", node=site.other)
        await until(lambda: gone(site, uid))
        before = await site.metric("kosreg_peer_entries", what="older")
        await hostile.push(old, old)
        await hostile.is_read()
        assert await site.metric("kosreg_peer_entries", what="older") == before + 2
        assert not await site.shows(uid)
        assert hostile.closed is None  # it may be late news


async def gone(site: Site, uid: str) -> bool:
    return not await site.shows(uid)


async def test_two_words_with_one_stamp_are_told_and_one_of_them_is_shown_everywhere(site: Site) -> None:
    async with site.meets() as hostile:
        await site.ask("/api/peers", {"did": did_of(hostile.key.public)}, node=site.other)
        one = hostile.sign("double", body={"id": "double", "name": "one", "type": "agent"})
        two = hostile.sign("double", body={"id": "double", "name": "two", "type": "agent"}, stamp=one.stamp)
        before = await site.metric("kosreg_equivocations")
        async with link(await site.address(site.other), parse_did(site.other.ready["did"]), hostile.key) as elsewhere:
            await hostile.push(one)
            await elsewhere.push(two)
            shown = "one" if (one.valid_until, one.id) > (two.valid_until, two.id) else "two"
            for node in (site.victim, site.other):
                await until(lambda node=node: named(site, node, shown))
        assert await site.metric("kosreg_equivocations") >= before + 1
        assert await site.log("alert", alert="equivocation")


async def named(site: Site, node: Node, name: str) -> bool:
    client = site.client(node)
    try:
        status, answer, _ = await client.get("/api/services/double")
    finally:
        await client.close()
    return status == 200 and answer["name"] == name


async def test_what_is_to_live_until_2100_is_not_taken(site: Site) -> None:
    async with site.meets() as hostile:
        long = hostile.sign(valid_until=YEAR_2100)
        short = hostile.sign(valid_until=now_ms() - 2 * 24 * 3_600_000)
        good = hostile.sign()
        await hostile.push(long, short, good)
        await until(lambda: site.shows(good.name))
        assert await site.refused(hostile.key) == {
            "valid_until is too far ahead": 1,
            "lapsed more than a day ago": 1,
        }
        assert not await site.shows(long.name)
        assert not await site.shows(short.name)
        assert await site.metric("kosreg_peer_refusals", reason="valid_until is too far ahead") >= 1


async def test_an_own_entry_above_which_nothing_can_be_said_needs_the_key(site: Site) -> None:
    """With the victim's key in it and the highest stamp of all."""
    async with site.meets() as hostile:
        top = sign(hostile.key, "victims", stamp=(1 << 63) - 1)
        await hostile.push(top.raw.replace(hostile.key.public, site.did, 1))
        await hostile.is_closed("bad-entry")
        uid = await site.register(site.victim)
        assert await site.shows(uid)


async def member(site: Site, key: NodeKey) -> bytes:
    """Certified by the root, with a depth of 0: a member that may let nobody in."""
    cert = issue_cert(site.root, key.public, now_ms=now_ms(), depth=0)
    await site.ask("/api/certs", cert.raw, Content_Type="application/cose")
    return cert.raw


async def test_a_certificate_by_a_root_takes_the_roots_key(site: Site) -> None:
    """Forged for itself, with a depth."""
    async with site.meets() as hostile:
        mine = issue_cert(hostile.key, hostile.key.public, now_ms=now_ms(), federation=site.root.public, depth=3)
        await hostile.push(mine.raw.replace(hostile.key.public, site.root.public, 1))
        await hostile.is_closed("bad-entry")
        await until(lambda: site.refused(hostile.key))
        assert await site.refused(hostile.key) == SPOILT
        assert (await site.ask(f"/api/peers/{did_of(hostile.key.public)}"))["roots"] == []


async def test_a_member_lets_nobody_in_and_gives_itself_no_depth(site: Site) -> None:
    friend, root = NodeKey(os.urandom(32)), site.root.public
    async with site.meets() as hostile:
        shown = await member(site, hostile.key)
        itself = issue_cert(hostile.key, hostile.key.public, now_ms=now_ms(), federation=root, depth=3)
        cert = issue_cert(hostile.key, friend.public, now_ms=now_ms(), federation=root, depth=2)
        before = await site.metric("kosreg_peer_refusals", reason="not to be had from this peer")
        word = sign(friend)
        await hostile.push(itself, cert)
        await hostile.is_read()
        await hostile.push(word)
        await until(lambda: site.refused(hostile.key))
        assert await site.refused(hostile.key) == {"not to be had from this peer": 1}
        assert await site.metric("kosreg_peer_refusals", reason="not to be had from this peer") == before + 1
        assert not await site.shows(word.name)
        refused = await site.metric("kosreg_link_events", what="refused", code="untrusted")
        with pytest.raises(SessionError, match="does not trust this key"):
            async with await site.link(friend, {root: (shown, cert.raw)}):
                pass
        await until(lambda: counted(site, refused + 1))
        assert (await site.ask(f"/api/peers/{did_of(hostile.key.public)}"))["roots"] == [did_of(root)]


async def counted(site: Site, least: float) -> bool:
    return await site.metric("kosreg_link_events", what="refused", code="untrusted") >= least


async def test_what_is_private_or_of_a_federation_is_not_taken_from_outside(site: Site) -> None:
    """A peer that is in no federation says something internal to one, and something private."""
    async with site.meets() as hostile:
        internal = hostile.sign(cls=Class.INTERNAL, root=site.root.public)
        private = hostile.sign(cls=Class.PRIVATE)
        await hostile.push(internal, private)
        await hostile.is_read()
        assert await site.refused(hostile.key) == {"not to be had from this peer": 2}
        assert not await site.shows(internal.name)
        assert not await site.shows(private.name)


async def test_a_certificate_that_has_been_taken_back_is_worth_nothing_though_it_is_shown(site: Site) -> None:
    """A member that is put out replays its certificate, in its hello and as an entry."""
    key, root = NodeKey(os.urandom(32)), site.root.public
    granted = await member(site, key)
    async with await site.link(key, {root: (granted,)}) as hostile:
        word = hostile.sign(valid_until=now_ms() + MAX_LIFE_MS)
        await hostile.push(word)
        await until(lambda: site.shows(word.name))
        revoked = issue_cert(site.root, key.public, now_ms=now_ms() + 1, state="revoked")
        async with site.unharmed():
            await site.ask("/api/certs", revoked.raw, Content_Type="application/cose")
            await until(lambda: hostile.closed)
            await until(lambda: gone(site, word.name))
            with pytest.raises(SessionError, match="does not trust this key"):
                async with await site.link(key, {root: (granted,)}):
                    pass
            async with site.meets() as accomplice:
                await accomplice.push(granted)
                await accomplice.is_read()
            assert not await site.shows(word.name)


async def test_who_is_not_trusted_gets_no_link(site: Site) -> None:
    before = await site.metric("kosreg_link_events", what="refused", code="untrusted")
    with pytest.raises(SessionError, match="does not trust this key"):
        async with site.meets(trusted=False):
            pass
    await until(lambda: counted(site, before + 1))


def test_hostile_is_what_it_says() -> None:
    """The forger forges: the same bytes with the right key would be taken."""
    key, other = NodeKey(os.urandom(32)), NodeKey(os.urandom(32))
    entry = sign(key)
    false = decode_entry(forged(entry, other))
    assert (false.origin, false.key) == (entry.origin, entry.key)
    assert false.order > entry.order
