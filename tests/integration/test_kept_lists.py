"""A list that was asked for before is true at once after whatever happens, for each kind of caller.

The oracle is each service got by itself, which is kept nowhere.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from kosreg.node import Node
from tests.harness import Client, client_of, running_node, until

IDS = ("a-all", "a-bob", "a-own", "b-all", "b-brief")
SEEN = {
    "admin": ["a-all", "a-bob", "a-own", "b-all", "b-brief"],
    "ann": ["a-all", "a-bob", "a-own", "b-all", "b-brief"],
    "bob": ["a-all", "a-bob", "b-all", "b-brief"],
    "cid": ["a-all", "b-all", "b-brief"],
    "dan": ["a-all"],  # may read a-* alone
}
LIST = "/api/services?tag=here"


class World:
    """A node, five kinds of callers, and five services of ann's."""

    def __init__(self, node: Node, clients: dict[str, Client]) -> None:
        self.node = node
        self.clients = clients
        self.ann = clients["ann"]

    async def list(self, who: str) -> list[dict[str, object]]:
        status, answer, _ = await self.clients[who].get(LIST)
        assert status == 200
        services: list[dict[str, object]] = answer["services"]
        assert answer["total"] == len(services)
        return services

    async def one_by_one(self, who: str) -> list[dict[str, object]]:
        answers = [await self.clients[who].get(f"/api/services/{uid}") for uid in IDS]
        return [answer for status, answer, _ in answers if status == 200]

    async def check(self, seen: dict[str, list[str]]) -> None:
        """Twice: the first answer is joined, the second one kept."""
        for _ in range(2):
            for who in self.clients:
                services = await self.list(who)
                assert [service["id"] for service in services] == seen[who], who
                assert services == await self.one_by_one(who), who


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running_node(tmp_path / "n") as node:
        clients = {who: await client_of(node, who) for who in ("admin", "ann", "bob", "cid")}
        clients["dan"] = await client_of(node, "dan", "read:service:a-*")
        world = World(node, clients)
        more = {
            "a-all": {}, "a-bob": {"acl": {"read": ["sub:bob"]}}, "a-own": {"visibility": "private"},
            "b-all": {}, "b-brief": {},
        }  # fmt: skip
        for uid, fields in more.items():
            record = {"id": uid, "name": uid, "type": "agent", "tags": ["here"], "ttl": 600, **fields}
            assert (await world.ann.post("/api/services/register", record))[0] == 201
        try:
            yield world
        finally:
            for client in clients.values():
                await client.close()


async def beat(world: World) -> None:
    assert (await world.ann.post("/api/services/a-all/heartbeat", {"load": 0.25}))[0] == 200


async def beats(world: World) -> None:
    before = (await world.ann.get("/api/services/a-all"))[1]["heartbeat"]

    async def later() -> bool:
        body = {"beats": [{"id": uid} for uid in IDS]}
        assert (await world.ann.post("/api/heartbeats", body))[1]["ok"] == len(IDS)
        return bool((await world.ann.get("/api/services/a-all"))[1]["heartbeat"] > before)

    await until(later)


async def same_again(world: World) -> None:
    record = {"id": "a-all", "name": "a-all", "type": "agent", "tags": ["here"], "ttl": 600}
    assert (await world.ann.post("/api/services/register", record))[0] == 200


async def degrade(world: World) -> None:
    assert (await world.ann.post("/api/services/a-bob/heartbeat", {"status": "degraded"}))[0] == 200


async def expire(world: World) -> None:
    assert (await world.ann.call("PATCH", "/api/services/b-brief", {"ttl": 1}))[0] == 200
    for who in world.clients:
        await world.list(who)  # kept as it is before it expires

    async def offline() -> bool:
        return bool((await world.ann.get("/api/services/b-brief"))[1]["status"] == "offline")

    await until(offline)


async def rename(world: World) -> None:
    assert (await world.ann.call("PATCH", "/api/services/b-all", {"name": "other"}))[0] == 200


async def open_acl(world: World) -> None:
    assert (await world.ann.call("PATCH", "/api/services/a-bob", {"acl": {"read": ["*"]}}))[0] == 200


async def close_acl(world: World) -> None:
    assert (await world.ann.call("PATCH", "/api/services/a-all", {"acl": {"read": ["sub:cid"]}}))[0] == 200


async def hide(world: World) -> None:
    assert (await world.ann.call("PATCH", "/api/services/b-all", {"visibility": "private"}))[0] == 200


async def show(world: World) -> None:
    assert (await world.ann.call("PATCH", "/api/services/a-own", {"visibility": "public"}))[0] == 200


async def delete(world: World) -> None:
    assert (await world.ann.call("DELETE", "/api/services/a-all"))[0] == 204


def without(uid: str, *who: str) -> dict[str, list[str]]:
    """Who sees what when `uid` is gone for `who`."""
    return {name: [u for u in seen if u != uid or name not in who] for name, seen in SEEN.items()}


def beside(uid: str, *who: str) -> dict[str, list[str]]:
    """Who sees what when `uid` has come for `who`."""
    return {name: sorted({*seen, uid}) if name in who else seen for name, seen in SEEN.items()}


@pytest.mark.parametrize(
    ("happens", "seen"),
    [
        (beat, SEEN),
        (beats, SEEN),
        (same_again, SEEN),
        (degrade, SEEN),
        (expire, SEEN),
        (rename, SEEN),
        (open_acl, beside("a-bob", "cid", "dan")),
        (close_acl, without("a-all", "bob", "dan")),
        (hide, without("b-all", "bob", "cid")),
        (show, beside("a-own", "bob", "cid", "dan")),
        (delete, without("a-all", *SEEN)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_what_happens_shows_in_the_very_next_list(
    world: World, happens: Callable[[World], Awaitable[None]], seen: dict[str, list[str]]
) -> None:
    await world.check(SEEN)
    await happens(world)
    await world.check(seen)
