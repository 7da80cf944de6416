"""A node that was off for so long that its own entries have lapsed."""

from __future__ import annotations

from pathlib import Path

import pytest

from crdt.entry import DAY_MS, MAX_LIFE_MS
from kosreg.times import now_ms
from tests.foreign import Origin, believe
from tests.harness import client_of, running_node, until


@pytest.mark.parametrize("peers", [False, True])
async def test_what_nobody_beats_is_shown_again_at_a_node_without_peers(tmp_path: Path, peers: bool) -> None:
    async with running_node(tmp_path / "n") as node:
        bob = await client_of(node, "bob")
        node.sync.wall_ms = lambda: now_ms() - MAX_LIFE_MS - 10 * DAY_MS
        for uid, ttl in (("printer", 0), ("agent", 60), ("gone", 0)):
            assert (await bob.post("/api/services/register", {"id": uid, "name": uid, "type": "device", "ttl": ttl}))[
                0
            ] == 201
        assert (await bob.call("DELETE", "/api/services/gone"))[0] == 204
        await bob.close()
        if peers:
            await believe(node, Origin(0xA1))
    async with running_node(tmp_path / "n") as node:
        rounds = node.maintenance
        if peers:
            await rounds.round()
            await node.sync.reshowing.settled()
            assert node.catalog.own("printer") is None, "somebody else may know better"
        else:
            await until(lambda: node.catalog.own("printer"))
            entry = node.replica.view("service", "printer", now_ms())
            assert entry is not None
            assert entry.valid_until > now_ms() + MAX_LIFE_MS - DAY_MS
        assert node.catalog.own("agent") is None
        assert node.catalog.own("gone") is None
