"""Services of other nodes at this one: shown as they say, changed by nobody here, and there again after a restart."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kosreg.node import Node
from tests.foreign import Origin, admit_all, feed
from tests.harness import Client, client_of, running_node

A, B, C = Origin(0xA1), Origin(0xB1), Origin(0xC1)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with running_node(tmp_path / "n") as node:
        admit_all(node.sync)
        yield node


@pytest.fixture
async def bob(node: Node) -> AsyncIterator[Client]:
    client = await client_of(node, "bob")
    yield client
    await client.close()


async def listed(client: Client, query: str = "") -> dict[str, Any]:
    """Services of a list by id, without those that nodes write of themselves."""
    status, page, _ = await client.get(f"/api/services{query}")
    assert status == 200
    return {record["id"]: record for record in page["services"] if record["type"] != "node"}


async def test_a_foreign_service_is_shown_as_its_node_says(node: Node, bob: Client) -> None:
    await feed(node.sync, A.service("translator", tags=["text"], description="hello"))
    status, record, _ = await bob.get("/api/services/translator")
    assert status == 200
    assert (record["origin"], record["owner"], record["visibility"]) == (A.did, "bob", "public")
    assert (record["status"], record["heartbeat"]) == ("active", None)
    assert record["liveness"]["reason"] == "as its node says"
    assert await listed(bob) == {"translator": record}
    assert await listed(bob, f"?origin={A.did}&tag=text") == {"translator": record}
    assert await listed(bob, f"?origin={node.did}") == {}


async def test_what_it_says_of_its_status_is_shown(node: Node, bob: Client) -> None:
    await feed(node.sync, A.status("t", "degraded", "too hot", 1_790_000_000_000), A.service("t", ttl=1))
    _, record, _ = await bob.get("/api/services/t")
    assert (record["status"], record["liveness"]["reason"]) == ("degraded", "too hot")
    await feed(node.sync, A.status("t", None))
    _, record, _ = await bob.get("/api/services/t")
    assert (record["status"], record["liveness"].get("since")) == ("active", None)


async def test_a_watcher_is_told(node: Node, bob: Client) -> None:
    async with bob.ws(f"?origin={A.did}") as socket:
        assert (await socket.receive_json(timeout=5))["op"] == "snapshot"
        frames: list[tuple[str, str]] = []
        await feed(node.sync, A.service("t"))
        await feed(node.sync, A.status("t", "offline", "gone for lunch"))
        await feed(node.sync, A.status("t", None))
        await feed(node.sync, A.service("t", name="another"))
        await feed(node.sync, A.gone("t"))
        while len(frames) < 5:
            frame = await socket.receive_json(timeout=5)
            if frame["op"] == "event":
                frames.append((frame["event"], frame["service"]["name"]))
    assert frames == [
        ("registered", "t"), ("offline", "t"), ("active", "t"), ("updated", "another"), ("deregistered", "another"),
    ]  # fmt: skip


async def test_it_is_there_again_after_a_restart(tmp_path: Path) -> None:
    async with running_node(tmp_path / "n") as node:
        admit_all(node.sync)
        await feed(node.sync, A.service("t"), A.status("t", "degraded", "hot"), B.service("u"))
        client = await client_of(node)
        before = await listed(client)
        await client.close()
    async with running_node(tmp_path / "n") as node:
        client = await client_of(node)
        assert await listed(client) == before
        assert before["t"]["status"] == "degraded"
        await client.close()
