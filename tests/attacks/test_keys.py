"""Attacks with a key that was stolen: the thief names an heir, goes on under the old key, or has both files."""

from __future__ import annotations

import os
from hashlib import sha256
from typing import Any

from crdt.entry import Entry
from federation.identity import NodeKey, did_of
from federation.succession import succeed
from kosreg.times import now_ms
from tests.attacks.conftest import Site
from tests.attacks.hostile import sign
from tests.harness import until


def some_key() -> NodeKey:
    return NodeKey(os.urandom(32))


def says(key: NodeKey, following: NodeKey) -> Entry:
    """The `node` entry that pins the next key."""
    return sign(key, "", kind="node", body={"version": "1", "next": sha256(following.public).digest()})


async def peer(site: Site, key: NodeKey) -> Any:
    return await site.ask(f"/api/peers/{did_of(key.public)}")


async def count(site: Site, what: str) -> float:
    return await site.metric("kosreg_successions", what=what)


async def is_more(site: Site, what: str, before: float) -> bool:
    return await count(site, what) > before


async def tells(site: Site, key: NodeKey) -> bool:
    return "tells" in await peer(site, key)


async def succeeded(site: Site, old: NodeKey, new: NodeKey) -> bool:
    return bool((await peer(site, old))["did"] == did_of(new.public))


async def test_who_has_todays_key_alone_names_no_heir_and_says_nothing_after_the_change(site: Site) -> None:
    following, later, thief = some_key(), some_key(), some_key()
    async with site.meets() as stolen:
        await stolen.push(says(stolen.key, following), before := stolen.sign())
        await until(lambda: site.shows(before.name))
        await until(lambda: tells(site, stolen.key))
        refused = await count(site, "refused")
        await stolen.push(succeed(stolen.key, thief, later.public, now_ms()))
        await until(lambda: is_more(site, "refused", refused))
        await until(lambda: site.log("alert", alert="succession"))
        assert await succeeded(site, stolen.key, stolen.key)
        assert stolen.closed is None

        await stolen.push(succeed(stolen.key, following, later.public, now_ms()))  # by its owner
        await until(lambda: succeeded(site, stolen.key, following))
        await stolen.is_closed("untrusted")
        async with await site.link(following) as heir:
            await heir.opens(stolen.key.public, following.public)
            evil = sign(stolen.key)
            good = sign(following)
            again = sign(following, before.name)
            await heir.push(good, again)
            await until(lambda: site.shows(good.name))
            await heir.push(evil)
            await heir.is_read()
            assert not await site.shows(evil.name)
            told = await site.ask(f"/api/services/{before.name}")
            assert told["origin"] == did_of(following.public)
            claims = await site.ask(f"/api/services/{before.name}@{did_of(stolen.key.public)}")
            assert claims["origin"] == did_of(following.public)


async def test_two_ends_of_one_change_freeze_all_keys_until_the_admin_speaks(site: Site) -> None:
    following, one, other = some_key(), some_key(), some_key()
    async with site.meets() as stolen:
        await stolen.push(says(stolen.key, following))
        await stolen.push(succeed(stolen.key, following, one.public, now_ms()))
        await until(lambda: succeeded(site, stolen.key, following))
        async with await site.link(following) as heir:
            await heir.push(good := sign(following))
            await until(lambda: site.shows(good.name))
            await heir.opens(stolen.key.public)
            await heir.push(succeed(stolen.key, following, other.public, now_ms() + 1))
            await heir.is_closed("untrusted")
        await until(lambda: site.log("alert", alert="fork"))
        assert (await peer(site, following))["frozen"] is True
        assert await site.shows(good.name)  # what it had said stays
        await site.ask(f"/api/peers/{did_of(following.public)}/restore", {})
        assert "frozen" not in await peer(site, following)
        async with await site.link(following) as heir:
            await heir.push(later := sign(following))
            await until(lambda: site.shows(later.name))
