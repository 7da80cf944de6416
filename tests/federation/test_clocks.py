"""Clocks that are wrong: whose they are pays for it, the others go on, and the list of peers says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import pytest

from kosreg.client.stream import Frame
from kosreg.lab import Lab, LabNode
from tests.harness import until

Make = Callable[..., Lab]
WITHIN = 15.0
HOUR = 3600.0  # s
YEARS = 10 * 365 * 24 * HOUR
AHEAD = "valid_until is too far ahead"


async def shown(node: LabNode) -> dict[str, str]:
    """Id and name of what a node shows, without the nodes themselves."""
    return {service["id"]: service["name"] for service in await node.services() if service["type"] != "node"}


async def shows(node: LabNode, wanted: dict[str, str]) -> None:
    """Wait until `node` shows `wanted` and nothing else; fails with what it shows."""

    async def agreed() -> bool:
        return await shown(node) == wanted

    try:
        await until(agreed, WITHIN)
    except TimeoutError:
        raise AssertionError(f"{node.name}: {await shown(node)}") from None


async def peer(node: LabNode, other: LabNode) -> dict[str, Any]:
    """What `node` tells of `other` in its list of peers."""
    peers = (await node.call("GET", "/api/peers")).object()["peers"]
    return next(dict(peer) for peer in peers if peer["did"] == other.did)


async def offset(node: LabNode, other: LabNode, seconds: float) -> bool:
    """Whether `node` tells that the clock of `other` is off by so much, to within a minute."""
    told = (await peer(node, other)).get("link", {}).get("offset_ms")
    return told is not None and abs(told / 1000 - seconds) < 60


async def synced(node: LabNode, other: LabNode) -> bool:
    return bool((await peer(node, other)).get("sync", {}).get("synced"))


async def hidden(frames: AsyncGenerator[Frame], uid: str) -> None:
    """Wait until a WebSocket tells that `uid` is shown no more."""
    async with asyncio.timeout(WITHIN):
        async for frame in frames:
            if frame.op == "event" and (frame.value["service"]["id"], frame.value["event"]) == (uid, "deregistered"):
                return
    raise AssertionError("the WebSocket ended")


@pytest.mark.parametrize("off", [HOUR, -HOUR])
async def test_an_hour_off_is_told_and_harms_nobody(lab: Make, off: float) -> None:
    async with lab(2) as two:
        right, wrong = two
        await wrong.register(id="before", name="old", visibility="public")
        await two.converged()
        await wrong.clock(off)
        await until(lambda: offset(right, wrong, off), WITHIN)
        await until(lambda: offset(wrong, right, -off), WITHIN)

        await wrong.register(id="from-wrong", name="one", visibility="public")
        await right.register(id="from-right", name="one", visibility="public")
        await wrong.api.update("before", {"name": "new"})
        for node in two:
            await shows(node, {"before": "new", "from-wrong": "one", "from-right": "one"})

        await wrong.api.deregister("from-wrong")
        await wrong.clock(0)
        await wrong.register(id="from-wrong", name="two", visibility="public")
        await wrong.api.deregister("before")
        for node in two:
            await shows(node, {"from-right": "one", "from-wrong": "two"})
        await two.converged()
        await until(lambda: offset(right, wrong, 0), WITHIN)
        assert (await peer(right, wrong))["refused"] == {}


async def test_ten_years_for_a_minute_harm_only_their_owner(lab: Make) -> None:
    async with lab(3, "line") as three:
        far, right, wrong = three
        await wrong.register(id="before", name="old", visibility="public")
        await wrong.register(id="deleted-then", name="old", visibility="public")
        await right.register(id="of-right", name="one", visibility="public")
        await three.converged()
        link = (await peer(right, wrong))["link"]

        await until(lambda: synced(wrong, right), WITHIN)
        await wrong.maintain()  # it has heard of somebody: it stands behind what it said
        token = wrong.token_file.read_text()
        async with aclosing(wrong.watch()) as frames:
            assert (await anext(frames)).op == "snapshot"
            await wrong.clock(YEARS)
            await hidden(frames, "of-right")  # by its clock all has lapsed, and it has looked again
        await until(lambda: offset(right, wrong, YEARS), WITHIN)
        await wrong.maintain()
        assert wrong.token_file.read_text() != token
        await wrong.register(id="then", name="ahead", visibility="public")
        await wrong.register(id="before", name="ahead", visibility="public")
        await wrong.api.deregister("deleted-then")
        await until(lambda: refused(right, wrong, 3), WITHIN)
        assert (await peer(right, wrong))["link"]["state"] == "up"
        assert (await peer(right, wrong))["link"]["address"] == link["address"]
        before = {"before": "old", "deleted-then": "old", "of-right": "one"}
        assert await shown(right) == before
        assert await shown(far) == before
        await far.register(id="meanwhile", name="one", visibility="public")
        await shows(right, before | {"meanwhile": "one"})

        await wrong.clock(0)
        await wrong.maintain()
        await wrong.register(id="after", name="right", visibility="public")
        wanted = {"of-right": "one", "meanwhile": "one", "then": "ahead", "before": "ahead", "after": "right"}
        for node in three:
            await shows(node, wanted)
        await three.converged()
        await wrong.api.update("before", {"name": "right"})
        await wrong.api.deregister("then")
        del wanted["then"]
        for node in three:
            await shows(node, wanted | {"before": "right"})
        await until(lambda: offset(right, wrong, 0), WITHIN)


async def refused(node: LabNode, other: LabNode, least: int) -> bool:
    """Whether `node` has refused that many entries of `other` as too far ahead, and tells so."""
    return (await peer(node, other))["refused"].get(AHEAD, 0) >= least


async def test_a_start_ten_years_ahead_is_over_with_the_next_one(lab: Make) -> None:
    """A machine whose clock is set only after the node began, as those without a battery do."""
    async with lab(2) as two:
        right, wrong = two
        await wrong.register(id="before", name="old", visibility="public")
        await right.register(id="of-right", name="one", visibility="public")
        await two.converged()
        await wrong.clock(YEARS)
        await two.restart(wrong)
        await wrong.register(id="then", name="ahead", visibility="public")
        await wrong.clock(0)
        await two.restart(wrong)
        wanted = {"before": "old", "of-right": "one", "then": "ahead"}
        for node in two:
            await shows(node, wanted)
        await wrong.register(id="then", name="right", visibility="public")
        for node in two:
            await shows(node, wanted | {"then": "right"})
        await two.converged()
