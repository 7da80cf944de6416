"""Agents that move between nodes, and ids that several nodes claim."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from federation.identity import NodeKey, parse_did
from kosreg.client.errors import ApiError
from kosreg.client.stream import Frame
from kosreg.lab import Lab, LabNode
from kosreg.owner_proof import make_proof
from kosreg.record import proof_text
from tests.harness import KOSREG, until

Make = Callable[..., Lab]
WITHIN = 15.0
SOON = 1.0  # s in which an agent that moved is found everywhere
AGENT = NodeKey(b"\x41" * 32)
SQUATTER = NodeKey(b"\x42" * 32)


def proof(agent: NodeKey, uid: str, node: LabNode, move: int) -> str:
    """That the agent lives at `node` since its `move`-th move."""
    not_after = time.time_ns() // 1_000_000 + 3_600_000
    return proof_text(make_proof(agent, uid, parse_did(node.did), move, not_after))


async def live_at(node: LabNode, agent: NodeKey, move: int, uid: str = "t") -> None:
    """Register the agent at `node`; its name is the name of the node."""
    await node.register(id=uid, name=node.name, visibility="public", owner_proof=proof(agent, uid, node, move))


async def origin_of(node: LabNode, uid: str = "t") -> str | None:
    """Which node `uid` means at `node`; None where it means none."""
    try:
        return str((await node.api.get(uid))["origin"])
    except ApiError as error:
        if error.status not in (404, 409):
            raise
        return None


async def means(node: LabNode, origin: LabNode | None, uid: str = "t") -> None:
    """Wait until `uid` means the service of `origin` at `node`."""
    wanted = None if origin is None else origin.did

    async def agreed() -> bool:
        return await origin_of(node, uid) == wanted

    await until(agreed, WITHIN)


async def claimed_by(node: LabNode, *origins: LabNode, uid: str = "t") -> None:
    """Wait until `node` holds the claims of all `origins` on `uid`."""
    for origin in origins:
        await means(node, origin, f"{uid}@{origin.did}")


async def moved(frames: AsyncGenerator[Frame], origin: LabNode) -> float:
    """When (monotonic) the WebSocket told that `t` is served from `origin`."""
    async with asyncio.timeout(WITHIN):
        async for frame in frames:
            if frame.op == "event" and frame.value["service"]["id"] == "t":
                service = frame.value["service"]
                if service["origin"] == origin.did and frame.value["event"] != "deregistered":
                    return time.monotonic()
    raise AssertionError("the WebSocket ended")


@pytest.mark.parametrize("alive", [True, False])
async def test_an_agent_that_moves_is_served_from_there_everywhere_within_a_second(lab: Make, alive: bool) -> None:
    async with lab(4) as four:
        home, new, squat, reader = four
        await live_at(home, AGENT, 1)
        for node in four:
            await means(node, home)
        await live_at(squat, SQUATTER, 99)
        await claimed_by(reader, home, squat)
        await claimed_by(new, home, squat)
        assert await origin_of(reader) == home.did
        if not alive:
            await four.kill(home)
        watchers = [new, reader]
        async with contextlib.AsyncExitStack() as stack:
            frames = [await stack.enter_async_context(contextlib.aclosing(node.watch())) for node in watchers]
            for some in frames:
                assert (await anext(some)).op == "snapshot"
            await live_at(new, AGENT, 2)
            began = time.monotonic()
            took = [await moved(some, new) - began for some in frames]
        assert max(took) < SOON
        for node in four.up:
            if node is not squat:
                await means(node, new)
                assert (await node.api.get("t"))["name"] == new.name

        if not alive:
            await four.start(home)
            await claimed_by(home, home, new, squat)
            for node in (home, new, reader):
                await means(node, new)  # who comes back does not get its agent back
        await new.api.deregister("t")
        await until(lambda: _is_gone(reader, "t", new), WITHIN)
        assert await origin_of(reader) != squat.did


def _problem(error: ApiError) -> dict[str, Any]:
    return dict(json.loads(error.body))


async def _is_gone(node: LabNode, uid: str, origin: LabNode) -> bool:
    return await origin_of(node, f"{uid}@{origin.did}") is None


async def test_a_squatter_never_receives_the_name(lab: Make) -> None:
    """Not by being first again, not by living longer, not by the highest move of another key."""
    async with lab(3) as three:
        home, squat, reader = three
        await live_at(home, AGENT, 1)
        await means(reader, home)
        await live_at(squat, SQUATTER, 2**40)
        await claimed_by(reader, home, squat)
        assert await origin_of(reader) == home.did

        await home.api.deregister("t")
        await until(lambda: _is_gone(reader, "t", home), WITHIN)
        with pytest.raises(ApiError) as ambiguous:
            await reader.api.get("t")
        assert ambiguous.value.status == 409
        problem = _problem(ambiguous.value)
        assert [claim["origin"] for claim in problem["candidates"]] == [squat.did]
        assert squat.did in problem["detail"]
        await three.restart(reader)
        await claimed_by(reader, squat)
        assert await origin_of(reader) is None
        with pytest.raises(ApiError) as stolen:  # the proof of another place
            await squat.register(id="u", name="u", owner_proof=proof(AGENT, "u", home, 3))
        assert stolen.value.status == 422

        await live_at(home, AGENT, 2)
        await means(reader, home)


async def test_who_claims_an_id_is_told_and_an_admin_may_choose(lab: Make) -> None:
    async with lab(3) as three:
        home, other, reader = three
        await live_at(home, AGENT, 1)
        await means(reader, home)
        await live_at(other, SQUATTER, 5)
        await claimed_by(reader, home, other)

        story = await _explain(reader)
        assert story["origin"] == home.did
        assert home.did in story["named_by"]
        claims = {claim["origin"]: claim for claim in story["claims"]}
        assert {origin: claim["state"] for origin, claim in claims.items()} == {
            home.did: "shown",
            other.did: "not shown",
        }
        assert (claims[home.did]["owner_key"], claims[home.did]["move"]) == (AGENT.did, 1)
        assert (claims[other.did]["owner_key"], claims[other.did]["move"]) == (SQUATTER.did, 5)

        await _cli(reader, "services", "alias", "t", other.did)
        await means(reader, other)
        assert "an admin said" in (await _explain(reader))["named_by"]
        await three.restart(reader)
        await claimed_by(reader, home, other)
        assert await origin_of(reader) == other.did
        assert await origin_of(home) == home.did  # it is the word of one node's admin
        await _cli(reader, "services", "alias", "t", home.did)
        await means(reader, home)
        await _cli(reader, "services", "alias", "t", "--remove")
        assert await origin_of(reader) == home.did

        await live_at(other, AGENT, 2)  # the same agent now
        await means(reader, other)
        states = {claim["origin"]: claim["state"] for claim in (await _explain(reader))["claims"]}
        assert states == {home.did: "moved", other.did: "shown"}


async def _explain(node: LabNode) -> dict[str, Any]:
    return dict((await node.call("GET", "/api/services/t/explain")).object())


async def _cli(node: LabNode, *words: str) -> None:
    run = await asyncio.create_subprocess_exec(
        *KOSREG, *words, "--data-dir", str(node.directory),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await run.communicate()
    assert run.returncode == 0, out.decode()


async def test_only_its_origin_changes_a_record(lab: Make) -> None:
    """For admins too, and also where the origin is gone."""
    async with lab(2) as two:
        home, other = two
        await home.register(id="t", name="mine", ttl=60, visibility="public")
        await means(other, home)
        for alive in (True, False):
            if not alive:
                await two.kill(home)
            for address in ("t", f"t@{home.did}"):
                for method, path, body in (
                    ("PATCH", f"/api/services/{address}", {"name": "yours"}),
                    ("POST", f"/api/services/{address}/heartbeat", {}),
                    ("DELETE", f"/api/services/{address}", None),
                ):
                    kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
                    with pytest.raises(ApiError) as refused:
                        await other.call(method, path, body, content_type=kind)
                    assert refused.value.status == 409, (method, address)
                    problem = _problem(refused.value)
                    assert problem["origin"] == home.did
                    assert home.did in problem["detail"]
        assert (await other.api.get("t"))["name"] == "mine"
        await two.start(home)
        assert (await home.api.get("t"))["name"] == "mine"
