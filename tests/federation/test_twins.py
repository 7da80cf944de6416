"""A copied data directory: two nodes with one key. The first goes on, the copy is quiet, each says so once."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kosreg.lab import Lab
from tests.harness import Daemon, until


def events(log: Path, event: str) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in log.read_text().splitlines() if line.startswith("{"))
    return [line for line in lines if line.get("event") == event]


def twin_alerts(log: Path) -> list[dict[str, Any]]:
    return [line for line in events(log, "alert") if line.get("alert") == "twin"]


@pytest.mark.timeout(90)
async def test_a_copied_node_yields_to_the_first_and_nothing_flaps(lab: Callable[..., Lab], tmp_path: Path) -> None:
    async with lab(3, "mesh") as three:
        first, *others = three
        await first.register(id="s", name="S", visibility="public")
        await three.converged()
        await first.stop()
        taken = tmp_path / "copy"
        shutil.copytree(first.directory, taken)
        await three.start(first)
        for other in others:
            await until(lambda other=other: status(other, "s", "active"), 15)
        seen = {other.name: len(events(other.log, "node unreachable")) for other in others}

        copy = Daemon(taken, "--federation", "127.0.0.1:0")
        await copy.start()
        try:
            await until(lambda: twin_alerts(copy.log), 20)
            await until(lambda: twin_alerts(first.log), 20)
            client = copy.admin()
            status_, body, _ = await client.post("/api/services/register", {"id": "t", "name": "T", "type": "agent"})
            assert status_ == 503
            assert "kosreg doctor --claim" in body["detail"]
            assert (await client.get("/api/services/s"))[0] == 200  # reads go on
            assert (await client.get("/api/node"))[1]["links"] == 0
            found = json.loads(copy.cli("doctor", "--json").stdout)
            assert not found["ok"]
            assert any("another node runs with this node's key" in one["detail"] for one in found["checks"])
            await client.close()

            await first.register(id="more", name="More", visibility="public")
            for other in others:
                await until(lambda other=other: status(other, "more", "active"), 15)
            await asyncio.sleep(3)  # whatever goes on between the two would have been seen by then
            assert len(twin_alerts(first.log)) == len(twin_alerts(copy.log)) == 1
            assert seen == {other.name: len(events(other.log, "node unreachable")) for other in others}
        finally:
            copy.kill()


async def status(node: Any, uid: str, word: str) -> bool:
    return any(service["id"] == uid and service["status"] == word for service in await node.services())
