"""Attacks by how much and by what is asked: floods, bombs, ids of nobody, nonsense to compare, secrets, silence,
addresses. What they cost the victim is bounded, in memory and in time for others."""

from __future__ import annotations

import asyncio
import os
import socket
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from crdt import cbor
from crdt.entry import MAX_LIFE_MS, Class, Entry
from crdt.ordered_set import OrderedSet, item_key
from crdt.reconcile import Initiator, finish
from federation import messages
from federation.cose import decode_entry, sign1
from federation.envelope import MAX_FRAME
from federation.identity import NodeKey, did_of, parse_did
from federation.messages import MAX_IDS, MAX_KEYS, Round
from federation.pair import MAX_ORIGINS, MAX_TREES, MAX_WANTS
from federation.partitions import PUBLIC_FACTS, internal
from federation.reconciler import LIMITS, SESSIONS
from federation.session import VERSIONS
from kosreg.times import now_ms
from tests.attacks.conftest import Site
from tests.attacks.hostile import Hostile, sign
from tests.harness import until

MIB = 1 << 20
STREAMED = 64 * MIB
FLAT = 24 * MIB  # that the victim may grow by meanwhile: what its allocator keeps, its queues, its tables


async def test_a_flood_of_entries_freezes_their_origin_alone(site: Site) -> None:
    """Twenty times what it may bring, as fast as it can; the honest facts come as fast as ever."""
    async with site.meets(scope={"classes": ["public"], "records": 200}) as hostile:
        entries = [hostile.sign(f"flood{n}") for n in range(4_000)]
        flood = asyncio.create_task(_push(hostile, entries))
        slowest = 0.0
        while not flood.done():
            began = time.monotonic()
            uid = await site.register(site.other)
            await until(lambda uid=uid: site.shows(uid), 5)
            slowest = max(slowest, time.monotonic() - began)
        await flood
        await until(lambda: refused_for(site, hostile, "over its quota", 3_000))
        assert slowest < 2.0
        told = await site.ask(f"/api/peers/{hostile.key.did}")
        assert told["quota"]["frozen"][0]["part"] == "facts"
        assert told["held"] < 1_000
        assert await site.metric("kosreg_quota", what="refused") >= 3_000
        assert hostile.closed is None


async def _push(hostile: Hostile, entries: list[Entry]) -> None:
    for start in range(0, len(entries), 50):
        await hostile.push(*entries[start : start + 50])


async def test_a_flood_of_pings_is_answered_a_few_times(site: Site) -> None:
    async with site.meets() as hostile:
        for number in range(2_000):
            ping = {"t": "ping", "n": number, "at": now_ms(), "cut": now_ms(), "digests": []}
            await hostile.socket.send(cbor.encode(ping))
        await until(lambda: refused_for(site, hostile, "pings come too often", 1_900))
        assert len(hostile.sent("pong")) < 100
        assert hostile.closed is None


async def refused_for(site: Site, hostile: Hostile, reason: str, least: int) -> bool:
    return (await site.refused(hostile.key)).get(reason, 0) >= least


async def test_a_bomb_is_not_inflated(site: Site) -> None:
    """64 MiB of zeros in 64 KiB, signed as it has to be."""
    async with site.meets() as hostile:
        packed = zlib.compress(bytes(64 * MIB))
        assert len(packed) < MAX_FRAME // 8
        channel = hostile.session.channel
        fields = {
            "id": bytes(16), "to": site.did, "from": hostile.key.public, "type": "event",
            "payload": packed, "protocol": VERSIONS[0], "timestamp": now_ms(),
        }  # fmt: skip
        before = site.memory()
        await hostile.socket.send(sign1(hostile.key, cbor.encode(fields), channel._aad))
        await hostile.is_closed("oversize")
        assert site.memory() - before < 8 * MIB
        await until(lambda: refused_for(site, hostile, "link closed: oversize", 1))


@pytest.mark.timeout(120)
async def test_64_mib_of_unknown_ids_leave_memory_flat(site: Site) -> None:
    """A stand-in for a GB: what is kept is bounded by ids, and the stream goes far beyond that."""
    async with site.meets() as hostile:
        size = MAX_IDS * 32
        await hostile.say({"t": "ihave", "ids": list(_ids(MAX_IDS))})
        await hostile.is_read()
        before, most = site.memory(), 0
        for number in range(STREAMED // size):
            await hostile.say({"t": "ihave", "ids": list(_ids(MAX_IDS))})
            if number % 200 == 0:
                most = max(most, site.memory())
        await hostile.is_read()
        assert max(most, site.memory()) - before < FLAT
        over = (await site.refused(hostile.key))["announced more than is waited for"]
        assert over > STREAMED // 32 // 2
        assert hostile.closed is None


def _ids(count: int) -> Iterator[bytes]:
    rubbish = os.urandom(32 * count)
    return (rubbish[at : at + 32] for at in range(0, len(rubbish), 32))


async def test_who_asks_without_reading_the_answers_loses_the_link(site: Site) -> None:
    async with site.meets() as hostile:
        wants = [messages.want(number, list(_ids(10)), graft=True) for number in range(20 * MAX_WANTS)]
        await hostile.say(*wants)
        await hostile.is_closed("too-much")
        await until(lambda: refused_for(site, hostile, "link closed: too-much", 1))


@pytest.mark.parametrize("what", ["origins", "trees"])
async def test_who_names_more_than_a_link_may_loses_it(site: Site, what: str) -> None:
    """Each origin, and each tree, that it says it would take has to be remembered."""
    async with site.meets() as hostile:
        rounds = MAX_ORIGINS // MAX_KEYS + 1 if what == "origins" else MAX_TREES + 1
        for _ in range(rounds):
            keys, tree = (_ids(MAX_KEYS), PUBLIC_FACTS) if what == "origins" else ((), internal(os.urandom(32)))
            await hostile.say(*messages.admits(tree, keys, (), fresh=False))
        await hostile.is_closed("too-much")
        await until(lambda: refused_for(site, hostile, "link closed: too-much", 1))


@pytest.mark.parametrize(
    "body",
    [b"", b"\x61\x00\x00\x07", b"\xff" * 40, b"\x61" + b"\x00\x00\x00" * (LIMITS.ranges + 1)],
    ids=["nothing", "no such mode", "no version", "too many ranges"],
)
async def test_what_is_no_comparison_ends_the_link(site: Site, body: bytes) -> None:
    async with site.meets() as hostile:
        await hostile.opens()
        await hostile.say(messages.sync_round(Round(PUBLIC_FACTS, 1, True, now_ms(), 0, body)))
        await hostile.is_closed("malformed")
        await until(lambda: refused_for(site, hostile, "link closed: malformed", 1))


async def test_comparisons_without_end_are_answered_a_few_times(site: Site) -> None:
    """Sessions that are good by themselves, over ids of nobody: each would cost the victim a look at all it holds."""
    async with site.meets() as hostile:
        await hostile.opens(site.did, parse_did(site.other.ready["did"]))
        items = OrderedSet(item_key(now_ms() + MAX_LIFE_MS, identity) for identity in _ids(1_000))
        _, first = finish(Initiator(items, 0, LIMITS).initiate())
        assert first is not None
        began = site.processor()
        for number in range(1_000):
            await hostile.say(messages.sync_round(Round(PUBLIC_FACTS, 1_000_000 + number, True, 0, 1_000, first)))
        await hostile.is_read()
        answers = [one for one in hostile.sent("sync.round") if not one["asks"]]
        assert 1 <= len(answers) <= SESSIONS + 30
        assert site.processor() - began < 5
        assert await refused_for(site, hostile, "began too many comparisons", 900)


async def test_what_it_may_not_see_is_not_given_by_its_id(site: Site) -> None:
    """It knows the ids, and names the federation's tree as one that it takes."""
    secret = await site.register(site.victim, "private")
    inside = await site.register(site.victim, "internal")
    await until(lambda: site.shows(inside, site.other))
    ids = [
        decode_entry(await site.ask(f"/api/services/{uid}/signed", Accept="application/cose")).id
        for uid in (secret, inside)
    ]
    async with site.meets() as hostile:
        tree = internal(site.root.public)
        await hostile.opens(site.did)
        await hostile.say(*messages.admits(tree, [site.did, hostile.key.public], (), fresh=True))
        await hostile.say(messages.want(7, [*ids, os.urandom(32)], graft=True))
        await hostile.say(messages.sync_round(Round(tree, 1, True, 0, 0, b"\x61")))
        await until(lambda: [one for one in hostile.sent("entries") if one.get("answers") == 7])
        await hostile.is_read()
        answers = [one for one in hostile.sent("entries") if one.get("answers") == 7]
        assert [one["entries"] for one in answers] == [[]]
        assert not [one for one in hostile.heard if one.get("tree") == tree.to_wire()]
        given = b"".join(cbor.encode(one) for one in hostile.heard)
        assert not any(uid.encode() in given for uid in (secret, inside))
        assert not any(identity in given for identity in ids)
        assert await site.refused(hostile.key) == {"asked for what it may not have": 1}


async def test_who_announces_and_withholds_delays_nobody_and_is_seen_to_differ(site: Site) -> None:
    """It announces an honest entry before the honest node has sent it, and never gives it."""
    async with site.meets() as hostile:
        await hostile.opens(parse_did(site.other.ready["did"]))
        wrong: list[object] = [[PUBLIC_FACTS.to_wire(), os.urandom(16)]]
        await hostile.say({"t": "ihave", "ids": list(_ids(100))})
        began = time.monotonic()
        uid = await site.register(site.other)
        await until(lambda: site.shows(uid), 2)
        assert time.monotonic() - began < 2
        for number in range(6):
            ping = {"t": "ping", "n": number, "at": now_ms(), "cut": now_ms(), "digests": wrong}
            await hostile.socket.send(cbor.encode(ping))
        await until(lambda: hostile.sent("want"))  # it was asked for what it announced, and says nothing
        told = await site.ask(f"/api/peers/{hostile.key.did}")
        assert told["sync"]["synced"] is False
        assert told["sync"]["lag_ms"] is None


@contextmanager
def canary() -> Iterator[socket.socket]:
    """An address that nobody has any reason to dial."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.setblocking(False)
        yield listening


def at(listening: socket.socket) -> str:
    return f"127.0.0.1:{listening.getsockname()[1]}"


def was_dialled(listening: socket.socket) -> bool:
    try:
        listening.accept()[0].close()
    except BlockingIOError:
        return False
    return True


async def test_addresses_of_others_are_dialled_for_nobody(site: Site) -> None:
    """Addresses that it tells for the honest node and for a key that nobody trusts. Its own are dialled as is right:
    not while it has a link, and for its key alone."""
    stranger = NodeKey(os.urandom(32))
    with canary() as own, canary() as others:
        async with site.meets(addresses=["127.0.0.1:1"]) as hostile:  # where nobody listens
            mine = says_where(hostile.key, own)
            await hostile.push(mine, says_where(stranger, others))
            await until(lambda: tells(site, hostile.key.public, at(own)))
            await until(lambda: refused_for(site, hostile, "not to be had from this peer", 1))
            false = says_where(hostile.key, others, stamp=(now_ms() + 1_000) << 16)
            assert not was_dialled(own)
            await hostile.push(false.raw.replace(hostile.key.public, parse_did(site.other.ready["did"]), 1))
            await hostile.is_closed("bad-entry")
            await until(lambda: was_dialled(own))  # so whoever is to be dialled is
            assert not await tells(site, parse_did(site.other.ready["did"]), at(others))
        assert not was_dialled(others)
        client = site.client(site.victim)
        status, _, _ = await client.get(f"/api/peers/{stranger.did}")
        await client.close()
        assert status == 404


def says_where(key: NodeKey, there: socket.socket, **fields: object) -> Entry:
    """A `node` entry: what a node says of itself."""
    body = {"name": "poisoned", "version": "1", "addresses": [at(there)]}
    return sign(key, "", kind="node", body=body, **fields)


async def tells(site: Site, key: bytes, address: str) -> bool:
    told = await site.ask(f"/api/peers/{did_of(key)}")
    return address in told.get("tells", {}).get("addresses", ())


async def test_private_class_cannot_be_asked_for_as_a_tree(site: Site) -> None:
    async with site.meets() as hostile:
        await hostile.say({"t": "admits", "tree": [int(Class.PRIVATE), None, False], "add": [], "drop": [],
                           "fresh": True, "more": False})  # fmt: skip
        await until(lambda: refused_for(site, hostile, "a tree that is not known here", 1))
