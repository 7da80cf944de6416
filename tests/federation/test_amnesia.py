"""Nodes that forgot: a lost disk, an old backup put back, a peer that was away for longer than entries live."""

from __future__ import annotations

import shutil
from collections.abc import Callable

from kosreg.lab import Lab, LabNode
from tests.harness import until

Make = Callable[..., Lab]
WITHIN = 15.0
DAY = 86_400.0  # s


async def shown(node: LabNode) -> dict[str, str]:
    """Id and name of what a node shows, without the nodes themselves."""
    return {service["id"]: service["name"] for service in await node.services() if service["type"] != "node"}


async def all_show(nodes: Lab | list[LabNode], wanted: dict[str, str]) -> None:
    """Wait until each of `nodes` shows `wanted` and nothing else; fails with what they show."""

    async def agreed() -> bool:
        return all([await shown(node) == wanted for node in nodes])

    try:
        await until(agreed, WITHIN)
    except TimeoutError:
        raise AssertionError({node.name: await shown(node) for node in nodes}) from None


async def put(node: LabNode, *ids: str, name: str = "old", visibility: str = "public") -> None:
    for uid in ids:
        await node.register(id=uid, name=name, visibility=visibility)


async def test_who_lost_its_disk_gets_its_own_back_and_goes_on(lab: Make) -> None:
    async with lab(3, "line") as three:
        lost, *_ = three
        await put(lost, "kept", "changed", "deleted")
        await put(lost, "internal", visibility="internal")
        await put(lost, "dead", "dead-for-good")
        for uid in ("dead", "dead-for-good"):
            await lost.api.deregister(uid)
        before = {"kept": "old", "changed": "old", "deleted": "old", "internal": "old"}
        await all_show(three, before)
        await three.converged()

        await three.wipe(lost)
        await all_show(three, before)
        await three.converged()

        await lost.api.update("changed", {"name": "new"})
        await lost.api.deregister("deleted")
        await put(lost, "dead", "fresh", name="new")
        await all_show(three, {"kept": "old", "changed": "new", "internal": "old", "dead": "new", "fresh": "new"})
        await three.converged()


async def test_what_it_said_before_it_met_anybody_wins(lab: Make) -> None:
    async with lab(2) as two:
        lost, other = two
        await put(lost, "again", "withdrawn", "forgotten")
        await put(lost, "narrowed")
        await all_show([other], {"again": "old", "withdrawn": "old", "forgotten": "old", "narrowed": "old"})

        two.isolate(lost)
        await two.wipe(lost)
        await put(lost, "again", "withdrawn", "fresh", name="new")
        await put(lost, "narrowed", name="new", visibility="private")
        await lost.api.deregister("withdrawn")
        assert await shown(lost) == {"again": "new", "fresh": "new", "narrowed": "new"}

        two.heal()
        await all_show([other], {"again": "new", "fresh": "new", "forgotten": "old"})
        await all_show([lost], {"again": "new", "fresh": "new", "forgotten": "old", "narrowed": "new"})
        await two.converged()


async def test_an_old_backup_does_not_fight_what_came_after_it(lab: Make) -> None:
    async with lab(3, "line") as three:
        restored, middle, far = three
        await put(restored, "kept", "changed", "deleted", "again")
        await all_show(three, dict.fromkeys(("kept", "changed", "deleted", "again"), "old"))
        backup = restored.directory.with_name("backup")
        await three.stop(restored)
        shutil.copytree(restored.directory, backup)

        await three.start(restored)
        await restored.api.update("changed", {"name": "newer"})
        await restored.api.deregister("deleted")
        await restored.api.deregister("again")
        await put(restored, "later", name="newer")
        await three.converged()
        past = {"kept": "old", "changed": "newer", "later": "newer"}
        await all_show(three, past)

        await three.kill(restored)
        shutil.rmtree(restored.directory)
        shutil.copytree(backup, restored.directory)
        await three.start(restored)
        await all_show(three, past)
        await three.converged()
        log = restored.log.read_text() + middle.log.read_text() + far.log.read_text()
        assert "equivocation" not in log

        await restored.api.update("changed", {"name": "newest"})
        await restored.api.deregister("later")
        await put(restored, "again", name="newest")
        await all_show(three, {"kept": "old", "changed": "newest", "again": "newest"})
        await three.converged()


async def test_an_old_backup_with_a_late_clock_says_the_last_word(lab: Make) -> None:
    """Its stamps start below its own past, which it does not know until it meets somebody."""
    async with lab(2) as two:
        restored, other = two
        await put(restored, "changed", "deleted", "moved")
        await two.converged()
        backup = restored.directory.with_name("backup")
        await two.stop(restored)
        shutil.copytree(restored.directory, backup)
        await restored.clock(600)
        await two.start(restored)
        await put(restored, "changed", "deleted", "later", name="newer")
        await all_show([other], {"changed": "newer", "deleted": "newer", "moved": "old", "later": "newer"})

        await two.kill(restored)
        shutil.rmtree(restored.directory)
        shutil.copytree(backup, restored.directory)
        await restored.clock(-1800)
        two.isolate(restored)
        await two.start(restored)
        assert await shown(restored) == {"changed": "old", "deleted": "old", "moved": "old"}
        await restored.api.update("changed", {"name": "newest"})
        await restored.api.deregister("deleted")
        two.heal()
        await all_show(two, {"changed": "newest", "moved": "old", "later": "newer"})
        await two.converged()


async def test_who_was_away_longer_than_entries_live_brings_nothing_back(lab: Make) -> None:
    """No tombstone is left by then: its author is gone for ever. The one that was away still has what it buried."""
    async with lab(3) as three:
        author, stayed, away = three
        await put(author, "deleted", "left")
        await put(stayed, "mine")
        await put(away, "own")
        await all_show(three, dict.fromkeys(("deleted", "left", "mine", "own"), "old"))
        three.isolate(away, "reset")
        await author.api.deregister("deleted")
        await until(lambda: _lacks(stayed, "deleted"), WITHIN)
        await three.kill(author)
        await three.stop(stayed)

        for node in (stayed, away):
            await node.clock(40 * DAY)
        await three.start(stayed)
        await until(lambda: _holds(stayed, author, 0), WITHIN)  # purged: its first round does it
        await away.maintain()
        assert await _holds(away, author, 2)  # its clock has jumped: it drops nothing yet

        three.heal()
        await put(stayed, "new", name="new")
        await put(away, "newer", name="new")
        news = {"new": "new", "newer": "new"}
        await until(lambda: _all_of(news, [stayed, away]), WITHIN)  # they speak with each other
        for node in (stayed, away):
            await until(lambda node=node: _synced(node), WITHIN)
            await node.maintain()  # they have heard of somebody; what nobody beats has lapsed all the same
        await all_show([stayed, away], news)
        await put(away, "own", name="again")
        await all_show([stayed, away], news | {"own": "again"})
        assert await _holds(stayed, author, 0)


async def _holds(node: LabNode, author: LabNode, count: int) -> bool:
    """Whether `node` holds `count` public services of `author`, tombstones and what lapsed counted."""
    partition = [author.did, 2, None, False]
    return len((await node.hook(entries={"partition": partition, "cut": 0}))["entries"]) == count


async def _lacks(node: LabNode, uid: str) -> bool:
    return uid not in await shown(node)


async def _all_of(wanted: dict[str, str], nodes: list[LabNode]) -> bool:
    return all([wanted.items() <= (await shown(node)).items() for node in nodes])


async def _synced(node: LabNode) -> bool:
    peers = (await node.call("GET", "/api/peers")).object()["peers"]
    return any(peer.get("sync", {}).get("synced") for peer in peers)
