"""Real nodes that trust each other: what one says, the others show, and no more than they may."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import pytest

from kosreg.client.errors import ApiError
from kosreg.client.stream import Frame
from kosreg.lab import Lab, LabNode
from tests.harness import until

Make = Callable[..., Lab]
WITHIN = 10.0


async def names(node: LabNode) -> set[str]:
    """The ids that a node lists, without the nodes themselves."""
    return {service["id"] for service in await node.services() if service["type"] != "node"}


async def event(frames: AsyncGenerator[Frame], uid: str) -> dict[str, Any]:
    """The next event of a WebSocket about `uid`."""
    async with asyncio.timeout(WITHIN):
        async for frame in frames:
            if frame.op == "event" and frame.value["service"]["id"] == uid:
                return dict(frame.value)
    raise AssertionError("the WebSocket ended")


async def test_federation_sync_between_nodes(lab: Make) -> None:
    """The seed's fourth."""
    async with lab(2) as two:
        a, b = two
        await two.converged()
        async with aclosing(b.watch()) as frames:
            assert (await anext(frames)).op == "snapshot"

            await a.register(id="translator-1", name="Translator", tags=["llm"], capabilities=["translate"])
            told = await event(frames, "translator-1")
            assert told["event"] == "registered"
            assert told["service"]["origin"] == a.did

            found = await b.services(tag="llm", capability="translate")
            assert [(service["id"], service["name"], service["origin"]) for service in found] == [
                ("translator-1", "Translator", a.did)
            ]
            await a.api.update("translator-1", {"description": "into any language"})
            assert (await event(frames, "translator-1"))["event"] == "updated"
            assert (await b.api.get("translator-1"))["description"] == "into any language"

            await a.api.deregister("translator-1")
            assert (await event(frames, "translator-1"))["event"] == "deregistered"
            assert await b.services(tag="llm") == []
            with pytest.raises(ApiError) as refused:
                await b.api.get("translator-1")
            assert refused.value.status == 404


async def test_two_federations_exchange_public_records_only(lab: Make) -> None:
    """Two roots that trust each other, linked at one place: certificates of depth 0, issued from Python."""
    federations = {"red": [0, 1], "blue": [2, 3]}
    async with lab(4, "line", federations=federations) as four:
        red, border_red, border_blue, blue = four
        await four.ally("red", "blue")
        for node in four:
            for visibility in ("private", "internal", "public"):
                await node.register(id=f"{visibility}-of-{node.name}", name="S", visibility=visibility)

        def may_see(node: LabNode) -> set[str]:
            mine = {red.name, border_red.name} if node in (red, border_red) else {border_blue.name, blue.name}
            return {
                f"private-of-{node.name}",
                *(f"internal-of-{name}" for name in mine),
                *(f"public-of-{other.name}" for other in four),
            }

        for node in four:
            await until(lambda node=node: _sees(node, may_see(node)), WITHIN)
        await four.converged()
        for node in four:
            assert await names(node) == may_see(node)
            held = await node.hook(held={"cut": 0})
            dids = {other.did: other for other in four}
            origins = {dids[part[0]] for part, _, _ in held["held"]["held"] if part[0] in dids and part[1] < 2}
            assert origins == ({red, border_red} if node in (red, border_red) else {border_blue, blue})


async def _sees(node: LabNode, wanted: set[str]) -> bool:
    return wanted <= await names(node)
