"""Who is alive, with real processes: what each node shows of the services of one that is killed, frozen, cut or ended.

The table of {kill, freeze, vanish, restart} for 2, 3 and 10 nodes; the same on a virtual clock is in
`tests/sim/test_alive.py`, with links that are only partly cut.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager

import pytest

from kosreg.lab import Lab, LabNode

UID = "s-of-n1"
Told = dict[str, list[tuple[str, str]]]


async def shown(node: LabNode, uid: str = UID) -> tuple[str, str]:
    """(status, reason) of a service as `node` shows it."""
    record = (await node.call("GET", f"/api/services/{uid}")).object()
    return record["status"], record["liveness"]["reason"]


async def reads(nodes: list[LabNode], status: str, within: float) -> float:
    """Until all of `nodes` show `status`; the seconds that it took."""
    began = time.monotonic()

    async def one(node: LabNode) -> None:
        while (await shown(node))[0] != status:
            await asyncio.sleep(0.05)

    async with asyncio.timeout(within):
        await asyncio.gather(*(one(node) for node in nodes))
    return time.monotonic() - began


@asynccontextmanager
async def watched(nodes: list[LabNode]) -> AsyncIterator[Told]:
    """(event, reason) that the watchers on `nodes` are told of the service, in order, by node."""
    told: Told = {node.name: [] for node in nodes}
    ready = {node.name: asyncio.Event() for node in nodes}

    async def follow(node: LabNode) -> None:
        async with aclosing(node.watch()) as frames:
            async for frame in frames:
                ready[node.name].set()
                if frame.op == "event" and frame.value["service"]["id"] == UID:
                    told[node.name].append((frame.value["event"], frame.value["service"]["liveness"]["reason"]))

    tasks = [asyncio.create_task(follow(node)) for node in nodes]
    try:
        await asyncio.gather(*(event.wait() for event in ready.values()))
        yield told
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def have(told: Told, count: int) -> None:
    """Until each watcher was told `count` things."""
    async with asyncio.timeout(5):
        while any(len(events) < count for events in told.values()):
            await asyncio.sleep(0.02)


@pytest.mark.timeout(150)
@pytest.mark.parametrize("size", [2, 3, 10])
async def test_all_others_say_what_became_of_a_node(lab: Callable[..., Lab], size: int) -> None:
    async with lab(size, "mesh") as nodes:
        first, *others = nodes
        for node in nodes:
            await node.register(id=f"s-of-{node.name}", name="S", visibility="public")
        await nodes.converged()
        await reads(others, "active", 5)

        async with watched(others) as told:
            await nodes.kill(first)
            await reads(others, "offline", 5)
            assert {await shown(node) for node in others} == {("offline", "node unreachable")}
            await nodes.start(first)
            await reads(others, "active", 15)
            await have(told, 2)
        assert {tuple(events) for events in told.values()} == {
            (("offline", "node unreachable"), ("active", "as its node says"))
        }

        async with watched(others) as told:
            nodes.freeze(first)
            await asyncio.sleep(3)
            nodes.thaw(first)
            await reads([first], "active", 5)
            await nodes.restart(first)  # in good order
            await reads(others, "active", 15)
            await have(told, 2)
        assert {tuple(events) for events in told.values()} == {
            (("degraded", "node restarting"), ("active", "as its node says"))
        }

        nodes.isolate(first)  # its packets are lost, and nobody is told
        await reads(others, "offline", 10)
        there = (await first.call("GET", f"/api/services/s-of-{others[0].name}")).object()
        if size == 2:  # of two nobody can say whose the cut is
            await asyncio.wait_for(until_status(first, others[0], "offline"), 5)
        else:
            await asyncio.wait_for(until_status(first, others[0], "degraded"), 5)
            there = (await first.call("GET", f"/api/services/s-of-{others[0].name}")).object()
            assert there["liveness"]["reason"] == "this node is isolated"
            assert (await first.call("GET", "/api/node")).object()["isolated"] is True
        nodes.heal()
        await reads(others, "active", 40)
        await asyncio.wait_for(until_status(first, others[0], "active"), 40)


@pytest.mark.timeout(150)
async def test_of_two_halves_each_calls_the_services_of_the_other_offline(lab: Callable[..., Lab]) -> None:
    async with lab(10, "mesh") as nodes:
        for node in nodes:
            await node.register(id=f"s-of-{node.name}", name="S", visibility="public")
        await nodes.converged()
        here, there = list(nodes)[:5], list(nodes)[5:]
        nodes.split(here, there)
        async with asyncio.timeout(12):
            await asyncio.gather(
                *(until_status(one, other, "offline") for one in here for other in there),
                *(until_status(other, one, "offline") for one in here for other in there),
            )
        for part in (here, there):
            for one in part:
                assert (await one.call("GET", "/api/node")).object()["isolated"] is False
                for other in part:
                    assert await shown(one, f"s-of-{other.name}") in (
                        ("active", "as its node says"), ("active", "not monitored"),
                    )  # fmt: skip
        nodes.heal()
        async with asyncio.timeout(40):
            await asyncio.gather(
                *(until_status(one, other, "active") for one in here for other in there),
                *(until_status(other, one, "active") for one in here for other in there),
            )


async def until_status(node: LabNode, of: LabNode, status: str) -> None:
    while (await shown(node, f"s-of-{of.name}"))[0] != status:
        await asyncio.sleep(0.05)


@pytest.mark.timeout(60)
async def test_all_services_of_a_dead_node_are_offline_in_lists_and_to_watchers(lab: Callable[..., Lab]) -> None:
    count = 300
    async with lab(2, "mesh") as two:
        first, other = two
        await asyncio.gather(*(first.register(id=f"s{n}", name="S", visibility="public") for n in range(count)))
        await two.converged()
        told: dict[str, tuple[str, str]] = {}
        ready = asyncio.Event()

        async def follow() -> None:
            async with aclosing(other.watch({"type": "service"})) as frames:
                async for frame in frames:
                    ready.set()
                    if frame.op == "event":
                        service = frame.value["service"]
                        told[service["id"]] = frame.value["event"], service["liveness"]["reason"]

        watching = asyncio.create_task(follow())
        await ready.wait()
        await two.kill(first)
        async with asyncio.timeout(5):
            while len(told) < count:
                await asyncio.sleep(0.02)
        assert set(told.values()) == {("offline", "node unreachable")}
        assert len(await other.services(type="service", status="offline")) == count
        assert await other.services(type="service", status="active") == []
        explained = (await other.call("GET", "/api/services/s1/explain")).object()
        assert explained["node"]["state"] == "unreachable"
        assert explained["status"]["declared"] == "active"

        await two.start(first)
        async with asyncio.timeout(15):
            while set(told.values()) != {("active", "as its node says")}:
                await asyncio.sleep(0.02)
        assert len(await other.services(type="service", status="active")) == count
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
