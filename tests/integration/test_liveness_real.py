"""Who is alive, over real HTTP: a real daemon, its clocks, its restarts and its silence. Waits are for conditions."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from crdt.entry import Entry
from federation.cose import decode_entry, fact_of
from federation.identity import load_or_create
from kosreg.node import Node
from kosreg.store import Store
from tests.harness import Client, Daemon, client_of, running_daemon, running_node, until

SLACK = float(os.environ.get("KOSREG_TEST_SLACK", "1"))  # how much slower than promised a busy machine may be
PROMISED = 1.0  # s after its ttl within which a service is offline


async def register(client: Client, uid: str, **fields: Any) -> None:
    status, answer, _ = await client.post("/api/services/register", {"id": uid, "name": uid, "type": "agent"} | fields)
    assert status in (200, 201), answer


async def beat(client: Client, uid: str, **fields: Any) -> dict[str, Any]:
    status, answer, _ = await client.post(f"/api/services/{uid}/heartbeat", fields or None)
    assert status == 200, answer
    return dict(answer)


async def status_of(client: Client, uid: str) -> str:
    status, answer, _ = await client.get(f"/api/services/{uid}")
    return str(answer["status"]) if status == 200 else str(status)


async def event(ws: aiohttp.ClientWebSocketResponse, within: float = 10) -> tuple[str, str, float]:
    """(event, id, when it came) of the next event."""
    async with asyncio.timeout(within):
        while True:
            value = await ws.receive_json()
            if value["op"] == "event":
                return value["event"], value["service"]["id"], time.monotonic()


@asynccontextmanager
async def beating(client: Client, *uids: str, every: float = 0.3) -> AsyncIterator[list[float]]:
    """Services that beat all the time, as agents do: also while the node does not answer. The times of the answers."""
    answered: list[float] = []

    async def go(uid: str) -> None:
        while True:
            with_deadline = aiohttp.ClientTimeout(total=10)
            async with client.session.post(
                f"{client.url}/api/services/{uid}/heartbeat",
                headers={"Authorization": f"Bearer {client.token}"},
                timeout=with_deadline,
            ) as answer:
                assert answer.status == 200
            answered.append(time.monotonic())
            await asyncio.sleep(every)  # what an agent does between two beats

    tasks = [asyncio.create_task(go(uid)) for uid in uids]
    try:
        yield answered
        for task in tasks:
            assert not task.done(), task.exception()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("ttl", [1, 2])
async def test_offline_within_a_second_after_its_ttl_and_active_with_the_next_beat(bob: Client, ttl: int) -> None:
    async with bob.ws("?type=agent") as ws:
        await ws.receive(timeout=5)
        before = time.monotonic()
        await register(bob, "svc", ttl=ttl)
        assert (await event(ws))[:2] == ("registered", "svc")
        for _ in range(2):
            last = time.monotonic()
            what, uid, at = await event(ws)
            assert (what, uid) == ("offline", "svc")
            assert ttl <= at - before, "too early"
            assert at - last < ttl + PROMISED * SLACK
            assert await status_of(bob, "svc") == "offline"
            before = time.monotonic()
            assert (await beat(bob, "svc"))["status"] == "active"
            assert (await event(ws))[:2] == ("active", "svc")


async def test_ttl_zero_is_never_judged_and_says_so(bob: Client, node: Node) -> None:
    await register(bob, "judged", ttl=1)
    await register(bob, "device", ttl=0)
    await register(bob, "was-judged", ttl=1)
    await register(bob, "was-judged", ttl=0)
    await register(bob, "says-offline", ttl=0, status="offline")

    async def offline() -> bool:
        return await status_of(bob, "judged") == "offline"

    await until(offline)
    never_judged = [await status_of(bob, uid) for uid in ("device", "was-judged", "says-offline")]
    assert never_judged == ["active", "active", "offline"]
    _, record, _ = await bob.get("/api/services/device")
    assert record["liveness"]["reason"] == "not monitored"
    _, own, _ = await bob.get(f"/api/services/{node.did}")
    assert (own["status"], own["liveness"]["reason"], own["owner"]) == ("active", "not monitored", "admin")


async def test_the_node_is_no_service_of_anybody_else(bob: Client, node: Node) -> None:
    for method, path in (("DELETE", ""), ("POST", "/heartbeat"), ("PATCH", "")):
        body = {"name": "mine"} if method == "PATCH" else None
        assert (await bob.call(method, f"/api/services/{node.did}{path}", body))[0] == 403
    record = {"id": node.did, "name": "mine", "type": "node"}
    assert (await bob.post("/api/services/register", record))[0] == 403


async def test_a_plain_batch_brings_back_what_was_offline(bob: Client) -> None:
    await register(bob, "svc", ttl=1)

    async def offline() -> bool:
        return await status_of(bob, "svc") == "offline"

    await until(offline)
    assert (await bob.post("/api/heartbeats", {"beats": [{"id": "svc"}]}))[1]["ok"] == 1
    assert await status_of(bob, "svc") == "active"


async def test_heartbeats_write_nothing(node: Node, bob: Client) -> None:
    for n in range(10):
        await register(bob, f"s{n}", ttl=30)
    stats = node.store.stats()
    before = (stats.rows, stats.commits)
    for _ in range(50):
        beats = [{"id": f"s{n}", "load": 0.5} for n in range(10)]
        status, answer, _ = await bob.post("/api/heartbeats", {"beats": beats})
        assert (status, answer["ok"]) == (200, 10)
        for n in range(10):
            await beat(bob, f"s{n}", status="active")
    async with bob.ws("?subscribe=0") as ws:
        for n in range(100):
            await ws.send_json({"op": "heartbeat", "id": n, "service_id": f"s{n % 10}", "load": 0.1})
            assert (await ws.receive_json(timeout=5))["op"] == "ok"
    assert node.registry.beats >= 1_100
    stats = node.store.stats()
    assert (stats.rows, stats.commits) == before


async def test_at_most_one_status_entry_in_ten_seconds_and_the_last_state_wins(tmp_path: Path) -> None:
    """Written by the real store; what is shown does not wait."""
    async with running_node(tmp_path / "n") as node:
        bob = await client_of(node, "bob")
        await register(bob, "flapping", ttl=60)
        rows = node.store.stats().rows
        async with bob.ws("?type=agent") as ws:
            await ws.receive(timeout=5)
            began, n = time.monotonic(), 0
            while time.monotonic() < began + 2.5:  # longer than an entry waits that the store did not take at once
                n += 1
                status = "degraded" if n % 2 else "active"
                assert (await beat(bob, "flapping", status=status))["status"] == status
                assert (await event(ws))[:2] == (status, "flapping")
            await beat(bob, "flapping", status="degraded")
        await until(lambda: node.store.stats().rows == rows + 1)
        token = bob.token
        await bob.close()
    async with running_node(tmp_path / "n") as node:
        bob = Client(node.server.url, token)
        assert await status_of(bob, "flapping") == "degraded", "a clean end writes what waited"
        await bob.close()


async def test_a_short_reap_after_deregisters_with_an_event_and_spares_who_beats(tmp_path: Path) -> None:
    async with running_node(tmp_path / "n", liveness__reap_after=2) as node:
        bob = await client_of(node, "bob")
        async with bob.ws("?type=agent") as ws:
            await ws.receive(timeout=5)
            await register(bob, "dead", ttl=1)
            await register(bob, "alive", ttl=1)
            await register(bob, "device", ttl=0, status="offline")
            seen: list[tuple[str, str]] = []
            async with beating(bob, "alive"):
                while ("deregistered", "dead") not in seen:
                    what, uid, _ = await event(ws)
                    seen.append((what, uid))
        assert [what for what, uid in seen if uid == "dead"] == ["registered", "offline", "deregistered"]
        assert [what for what, uid in seen if uid in ("alive", "device")] == ["registered"] * 2
        assert await status_of(bob, "dead") == "404"
        status, problem, _ = await bob.post("/api/services/dead/heartbeat")
        assert status == 404
        assert "register again" in problem["detail"]
        await register(bob, "dead", ttl=1)
        assert await status_of(bob, "dead") == "active"
        await bob.close()


# -- restarts ------------------------------------------------------------------------------------------------------


async def restart(daemon: Daemon, client: Client, how: Callable[[], Any]) -> None:
    """End the daemon by `how`, start it, and let `client` find it again."""
    await asyncio.to_thread(how)
    await daemon.start()
    client.url = daemon.url


@asynccontextmanager
async def bob_at(daemon: Daemon) -> AsyncIterator[Client]:
    token = await asyncio.to_thread(daemon.cli, "token", "issue", "bob")
    client = Client(daemon.url, token.stdout.decode().strip())
    try:
        yield client
    finally:
        await client.close()


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_what_a_restart_makes_of_each_status(tmp_path: Path, how: str) -> None:
    async with running_daemon(tmp_path / "node") as daemon, bob_at(daemon) as bob:
        await register(bob, "dead", ttl=1)
        await register(bob, "declared", ttl=1, status="degraded")

        async def both_offline() -> bool:
            return [await status_of(bob, uid) for uid in ("dead", "declared")] == ["offline", "offline"]

        await until(both_offline)
        await register(bob, "active", ttl=2)
        await register(bob, "degraded", ttl=60, status="degraded")
        await register(bob, "device", ttl=0, status="offline")
        await until(lambda: statuses_on_disk(daemon, {"dead", "declared", "degraded", "device"}))
        # within 10 s of its registration, that "declared" went offline is no entry yet: a kill takes it back
        await restart(daemon, bob, getattr(daemon, how))
        started = time.monotonic()
        expected = {"dead": "offline", "active": "active", "degraded": "degraded", "device": "offline"}
        assert {uid: await status_of(bob, uid) for uid in expected} == expected
        assert await status_of(bob, "declared") in ("offline", "offline" if how == "stop" else "degraded")
        _, record, _ = await bob.get("/api/services/active")
        assert (record["heartbeat"], record["liveness"]["reason"]) == (None, "waiting for a first heartbeat")
        async with bob.ws("?type=agent") as ws:
            await ws.receive(timeout=5)
            what, uid, at = await event(ws)
            while uid != "active":
                what, uid, at = await event(ws)
            assert what == "offline"
            assert at - started > 2 - 1.5, "a full ttl from the start, which was a little before we knew of it"
        assert (await beat(bob, "dead"))["status"] == "active"
        assert (await beat(bob, "declared"))["status"] == "degraded", "what was declared survives expiry and restart"
        assert (await beat(bob, "device"))["status"] == "offline", "nobody judges it, so its word stands"
        assert daemon.stop() == 0


async def statuses_on_disk(daemon: Daemon, wanted: set[str]) -> bool:
    """Whether the store holds a status entry for each of `wanted`: what is shown does not wait for it."""
    key, _ = load_or_create(daemon.data_dir)
    store = await Store.open(str(daemon.data_dir / "registry.db"), key.public, key.derive("store"), readonly=True)
    try:
        entries: list[Entry] = [decode_entry(row.raw) async for chunk in store.load() for row in chunk]
    finally:
        await store.close()
    assert all(fact_of(entry).kind == entry.kind for entry in entries)
    return wanted <= {entry.name for entry in entries if entry.kind == "status" and entry.live}


# -- silence that is ours ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [1.2, 3])
async def test_a_daemon_that_stood_still_calls_nobody_dead(tmp_path: Path, seconds: float) -> None:
    """SIGSTOP and SIGCONT: agents go on beating, and get their answers late."""
    async with running_daemon(tmp_path / "node") as daemon, bob_at(daemon) as bob:
        uids = [f"s{n}" for n in range(6)]
        for n, uid in enumerate(uids):
            await register(bob, uid, ttl=1 + n % 3)
        assert daemon.process is not None
        async with bob.ws("?type=agent") as ws, beating(bob, *uids) as answered:
            await ws.receive(timeout=5)
            await until(lambda: len(answered) > 2 * len(uids))
            daemon.process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(seconds)  # the fault, not a wait for anything
            daemon.process.send_signal(signal.SIGCONT)
            went_on = time.monotonic()
            await until(lambda: answered[-1] > went_on + 2.5, 20)  # longer than the shortest ttl
            await ws.send_json({"op": "ping", "id": 1})
            async with asyncio.timeout(5):
                told = await ws.receive_json()
            assert told["op"] == "ok", f"told of {told}"
        assert {await status_of(bob, uid) for uid in uids} == {"active"}

        async def all_offline() -> bool:
            return {await status_of(bob, uid) for uid in uids} == {"offline"}

        await until(all_offline, 10)  # and now that they are silent, it does
        assert daemon.stop() == 0
