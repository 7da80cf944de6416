"""A node that brings more than its quota, with real processes: frozen and shown as such on the others, which go on
among themselves, and open again by itself once it has deleted enough."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import quote

from kosreg.lab import Lab, LabNode
from tests.harness import until

Make = Callable[..., Lab]
MOST = 60
OVER, MANY = 80, 100  # less than twice MOST: what it may have while it catches up
WITHIN = 30.0


async def held_of(node: LabNode, origin: LabNode) -> set[str]:
    """The ids that a node lists of another."""
    shown = await node.services()
    return {one["id"] for one in shown if one["type"] != "node" and one["origin"] == origin.did}


async def quota(node: LabNode, origin: LabNode) -> dict[str, Any]:
    """As `peers show` tells it."""
    return dict((await node.call("GET", f"/api/peers/{quote(origin.did, safe='')}")).object()["quota"])


async def metric(node: LabNode, line: str) -> float:
    body = (await node.call("GET", "/metrics", accept="text/plain")).body.decode()
    return next(float(each.rsplit(" ", 1)[1]) for each in body.splitlines() if each.startswith(line))


def said(node: LabNode, event: str, origin: LabNode) -> int:
    """How many lines of its log say it of another node."""
    lines = [json.loads(line) for line in node.log.read_text().splitlines() if line.startswith("{")]
    return sum(line["event"] == event and line.get("peer") == origin.did for line in lines)


async def frozen(node: LabNode, origin: LabNode) -> bool:
    return "frozen" in await quota(node, origin)


async def arrived(node: LabNode, origin: LabNode, wanted: set[str]) -> bool:
    return await held_of(node, origin) == wanted


async def youngest_link_ms(node: LabNode) -> int:
    peers = (await node.call("GET", "/api/peers")).object()["peers"]
    return min(int(peer["link"]["up_ms"]) for peer in peers if "link" in peer)


async def test_who_is_over_its_quota_is_frozen_alone_and_opens_by_itself(lab: Make) -> None:
    async with lab(3, settings={"quota.records": MOST, "log.format": "json"}) as three:
        greedy, honest, watcher = three
        await three.converged()
        began = time.monotonic()
        for n in range(OVER):
            await greedy.register(id=f"g-{n}", name="G")
        for node in (honest, watcher):
            await until(partial(frozen, node, greedy), WITHIN)
        for n in range(OVER, MANY):
            await greedy.register(id=f"g-{n}", name="G")
        told = await quota(watcher, greedy)
        [facts] = told["frozen"]
        assert facts["part"] == "facts"
        then = re.fullmatch(rf"it has (\d+) records here, and may have {MOST}", facts["reason"])
        assert then is not None
        assert MOST < int(then[1]) <= told["records"], "more than then, if at all, by what was on its way"
        late = {f"g-{n}" for n in range(OVER, MANY)}
        assert told["most_records"] == MOST
        assert await metric(watcher, 'kosreg_frozen{part="facts"}') == 1
        [uid, *_] = await held_of(watcher, greedy)
        story = (await watcher.call("GET", f"/api/services/{uid}/explain")).object()
        assert facts["reason"] in story["frozen"]

        # Others go on, and what all admit is the same on all.
        for n in range(5):
            await honest.register(id=f"h-{n}", name="H")
        for node in (watcher, greedy):
            await until(partial(arrived, node, honest, {f"h-{n}" for n in range(5)}), WITHIN)
        for node in (honest, watcher):
            assert await frozen(node, greedy)
            assert not late & await held_of(node, greedy)

        for n in range(MANY - 5):
            await greedy.api.deregister(f"g-{n}")
        left = {f"g-{n}" for n in range(MANY - 5, MANY)}
        for node in (honest, watcher):
            await until(partial(arrived, node, greedy, left), WITHIN)
            assert not await frozen(node, greedy)
        await three.converged()
        assert await metric(watcher, 'kosreg_frozen{part="facts"}') == 0
        for node in (honest, watcher):
            assert await youngest_link_ms(node) >= (time.monotonic() - began) * 1000, "no link was closed"
            assert said(node, "frozen", greedy) == 1, "one line, not one an entry"
            assert said(node, "no longer frozen", greedy) == 1
