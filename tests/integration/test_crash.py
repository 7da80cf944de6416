"""A real daemon under load, killed at any moment or told to stop: what was acknowledged is there, nothing is half done.

Each client owns some services and does one thing at a time, so of each service exactly two states are possible after a
kill: the one that was acknowledged last, and the one that was asked for when the node died.

`make soak-kill` runs it with KOSREG_TEST_KILLS=50.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from crdt.entry import Entry
from federation.cose import decode_entry, fact_of
from federation.identity import load_or_create
from kosreg.store import Store
from kosreg.versions import Versions
from tests.harness import KOSREG, Client, Daemon, running_daemon, running_node, until

ROUNDS = int(os.environ.get("KOSREG_TEST_KILLS", "3"))
CLIENTS = 8
SERVICES = 6  # of each client


@dataclass(frozen=True)
class State:
    """What a client may read of one of its services, and the secret that it cannot read."""

    number: int  # in metadata: tells one write from another
    visibility: str
    secret: str | None
    status: str  # as it registered
    region: str | None = None


@dataclass
class Owned:
    """One service as its owner knows it: the state that was acknowledged, and what was asked for and not answered."""

    uid: str
    acked: State | None = None
    asked: State | None = None
    open: bool = False  # `asked` was sent, and there was no answer
    status_sure: bool = True  # its status was not changed by anything but registrations


@dataclass
class Load:
    """Clients that register, patch and delete until the node is gone."""

    url: str
    token: str
    chance: random.Random
    owned: dict[str, list[Owned]] = field(default_factory=dict)
    acks: int = 0
    unanswered: int = 0
    refused: list[Any] = field(default_factory=list)
    numbers: int = 0
    versions: list[str] = field(default_factory=list)

    async def one_client(self, name: str) -> None:
        services = self.owned.setdefault(name, [Owned(f"{name}-{n}") for n in range(SERVICES)])
        client = Client(self.url, self.token)
        try:
            while True:
                await self._one_step(client, self.chance.choice(services))
                if self.chance.random() < 0.05:
                    _, page, _ = await client.get("/api/services?limit=1")
                    self.versions.append(page["version"])
        except (aiohttp.ClientError, ConnectionError, KeyError):
            pass  # the node is gone
        finally:
            await client.close()

    async def _one_step(self, client: Client, service: Owned) -> None:
        self.numbers += 1
        method, path, body, wanted = self._choose(service)
        service.asked, service.open = wanted, True
        self.unanswered += 1
        status, answer, _ = await client.call(method, path, body)
        self.unanswered -= 1
        if status == 503:  # the node is stopping: it was refused, so nothing has changed
            service.open = False
            return
        if status not in (200, 201, 204):
            self.refused.append((method, path, body, status, answer))
        service.acked, service.open = wanted, False
        self.acks += 1

    def _choose(self, service: Owned) -> tuple[str, str, Any, State | None]:
        """A request, and the state after it."""
        chance, held = self.chance, service.acked
        path = f"/api/services/{service.uid}"
        visibility = chance.choice(["private", "internal", "public"])
        roll = chance.random()
        if held is None or roll < 0.4:
            secret = chance.choice([None, f"secret-{self.numbers}"])
            status = chance.choice(["active", "degraded"]) if held is None else held.status
            state = State(self.numbers, visibility, secret, status)
            body = {
                "id": service.uid, "name": service.uid, "type": "agent", "ttl": 0, "visibility": visibility,
                "metadata": {"number": self.numbers}, "auth": {"type": "api_key", "token": secret},
            }  # fmt: skip
            if held is None:
                body["status"] = status
            return "POST", "/api/services/register", body, state
        if roll < 0.6:
            return "DELETE", path, None, None
        patch: dict[str, Any] = {"metadata": {"number": self.numbers}, "visibility": visibility}
        state = replace(held, number=self.numbers, visibility=visibility)
        if roll < 0.7:
            patch["auth"] = {"token": f"secret-{self.numbers}"}
            state = replace(state, secret=f"secret-{self.numbers}")
        return "PATCH", path, patch, state


@dataclass
class OnDisk:
    """What the store holds, read from beside the daemon."""

    entries: list[Entry]
    secrets: dict[str, str]
    versions: Versions


async def on_disk(data_dir: Path) -> OnDisk:
    key, _ = load_or_create(data_dir)
    store = await Store.open(str(data_dir / "registry.db"), key.public, key.derive("store"), readonly=True)
    try:
        entries = [decode_entry(row.raw) async for chunk in store.load() for row in chunk]
        secrets = {uid: store.unseal(sealed).decode() for uid, sealed in (await store.secrets()).items()}
        return OnDisk(entries, secrets, Versions(store.version_key))
    finally:
        await store.close()


def shown(record: dict[str, Any], secret: str | None) -> State:
    return State(record["metadata"]["number"], record["visibility"], secret, record["status"])


async def everything(client: Client) -> dict[str, dict[str, Any]]:
    """All services by id."""
    found: dict[str, dict[str, Any]] = {}
    cursor = ""
    while True:
        status, page, _ = await client.get(f"/api/services?type=agent&limit=1000{cursor}")
        assert status == 200
        found |= {record["id"]: record for record in page["services"]}
        if page["next_cursor"] is None:
            return found
        cursor = f"&cursor={page['next_cursor']}"


async def check(daemon: Daemon, load: Load, where: str) -> None:
    """Nothing lost, nothing half there; then what was open is what is there."""
    client = daemon.admin()
    try:
        found = await everything(client)
    finally:
        await client.close()
    disk = await on_disk(daemon.data_dir)
    for service in (service for services in load.owned.values() for service in services):
        record = found.pop(service.uid, None)
        secret = disk.secrets.pop(service.uid, None)
        is_now = None if record is None else shown(record, secret)
        assert record is not None or secret is None, f"{where}: a secret without its service: {service}"
        possible = [service.acked, service.asked] if service.open else [service.acked]
        assert is_now in possible, f"{where}: {is_now} is none of {possible}"
        service.acked, service.open = is_now, False
    assert not found, f"{where}: services that nobody registered"
    assert not disk.secrets, f"{where}: secrets of nobody"
    live = [entry for entry in disk.entries if entry.live]
    kinds = {kind: {e.name: e for e in live if e.kind == kind} for kind in ("service", "status")}
    assert len(live) == len(kinds["service"]) + len(kinds["status"]), f"{where}: live in two classes"
    for name, status in kinds["status"].items():
        assert status.cls == kinds["service"][name].cls, f"{where}: a status in another class than its service"
        assert fact_of(status).body is not None


@asynccontextmanager
async def under_load(daemon: Daemon, load: Load) -> AsyncIterator[list[asyncio.Task[None]]]:
    load.url, load.token = daemon.url, daemon.admin_token()
    async with asyncio.timeout(60):
        tasks = [asyncio.create_task(load.one_client(f"c{n}")) for n in range(CLIENTS)]
        try:
            yield tasks
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@dataclass
class Watch:
    """A watcher over all restarts: its view, and where it goes on."""

    view: dict[str, int] = field(default_factory=dict)
    cursor: str | None = None
    cursors: list[str] = field(default_factory=list)
    complete: bool = False

    async def follow(self, client: Client) -> None:
        """Apply frames until the connection ends."""
        since = "" if self.cursor is None else f"&since={self.cursor}"
        try:
            async with client.ws(f"?type=agent{since}") as ws:
                filling = False
                async for message in ws:
                    value = json.loads(message.data)
                    if value["op"] == "snapshot":
                        self.view = self.view if filling else {}
                        self.view |= {s["id"]: s["metadata"]["number"] for s in value["services"]}
                        filling = value["more"]
                    elif value["event"] == "deregistered":
                        self.view.pop(value["service"]["id"], None)
                    else:
                        self.view[value["service"]["id"]] = value["service"]["metadata"]["number"]
                    self.cursor = value["cursor"]
                    self.cursors.append(value["cursor"])
        except (aiohttp.ClientError, ConnectionError):
            pass  # the node is gone


async def watch_and_compare(daemon: Daemon, watch: Watch, load: Load) -> None:
    """Go on from the last cursor; when all was told, the view is what is there."""
    client = daemon.admin()
    following = asyncio.create_task(watch.follow(client))
    try:
        expected = {s.uid: s.acked.number for owned in load.owned.values() for s in owned if s.acked is not None}
        await until(lambda: watch.view == expected, 10)
    except TimeoutError:
        raise AssertionError(f"the watcher holds {watch.view}, there is {expected}") from None
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await client.close()


async def highest(daemon: Daemon, texts: list[str]) -> int:
    """The highest number among versions."""
    versions = (await on_disk(daemon.data_dir)).versions
    opened = [versions.number(text) for text in texts]
    assert None not in opened, "a version of another key"
    return max((number for number in opened if number is not None and number < 1 << 63), default=0)


@pytest.mark.timeout(60 + 30 * ROUNDS)
async def test_what_was_acknowledged_survives_sigkill_at_any_moment(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    daemon = Daemon(tmp_path / "node")
    load, watch = Load("", "", chance), Watch()
    acks = 0
    try:
        for round_ in range(ROUNDS):
            where = f"seed {seed}, round {round_}"
            if round_ % 3 == 2:
                await kill_while_starting(daemon, chance)
            await daemon.start()  # without help
            await check(daemon, load, where)
            await watch_and_compare(daemon, watch, load)
            before = await highest(daemon, [*load.versions, *watch.cursors])
            load.versions.clear()
            watch.cursors.clear()
            admin = daemon.admin()
            following = asyncio.create_task(watch.follow(admin))
            async with under_load(daemon, load):
                enough = load.acks + chance.randrange(1, 400)
                await until(lambda enough=enough: load.acks >= enough, 30)  # type: ignore[misc]
                daemon.kill()
            await following
            await admin.close()
            assert not load.refused, f"{where}: {load.refused[:3]}"
            acks = load.acks
        await daemon.start()
        await check(daemon, load, f"seed {seed}, at the end")
        await watch_and_compare(daemon, watch, load)
        first = await highest(daemon, watch.cursors[-1:])
        assert first > before
        assert await verify(daemon) == []
    finally:
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.kill()
    assert acks > 20 * ROUNDS


async def verify(daemon: Daemon) -> list[Any]:
    key, _ = load_or_create(daemon.data_dir)
    store = await Store.open(str(daemon.data_dir / "registry.db"), key.public, key.derive("store"), readonly=True)
    try:
        return list(await store.verify())
    finally:
        await store.close()


async def kill_while_starting(daemon: Daemon, chance: random.Random) -> None:
    (daemon.data_dir / "run.json").unlink(missing_ok=True)
    process = await asyncio.create_subprocess_exec(
        *KOSREG, "run", "--data-dir", str(daemon.data_dir), "--federation", "off", "--api", "127.0.0.1:0",
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        await asyncio.wait_for(process.wait(), chance.uniform(0.2, 2.5))  # the moment of the kill: any
        raise AssertionError(f"the daemon ended by itself with {process.returncode}")
    except TimeoutError:
        process.kill()
        await process.wait()


@pytest.mark.timeout(60)
async def test_sigkill_while_a_node_is_made(tmp_path: Path) -> None:
    chance = random.Random()
    for n in range(max(3, ROUNDS // 5)):
        daemon = Daemon(tmp_path / str(n))
        await kill_while_starting(daemon, chance)
        await daemon.start()
        client = daemon.admin()
        assert (await client.get("/api/node"))[0] == 200
        await client.close()
        assert daemon.stop() == 0
        assert not [file.name for file in daemon.data_dir.iterdir() if file.name == "run.json"]


@pytest.mark.timeout(90)
async def test_sigterm_under_load_answers_what_came_and_keeps_what_it_acknowledged(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "node")
    load = Load("", "", random.Random())
    await daemon.start()
    try:
        admin = daemon.admin()
        _, page, _ = await admin.get("/api/services?type=device")
        path = f"/api/services?type=device&wait=50&since={page['version']}"
        polls = [asyncio.create_task(admin.get(path)) for _ in range(5)]
        async with admin.ws("?type=device") as ws, admin.ws("?subscribe=0") as silent:
            await ws.receive(timeout=5)

            async def polling() -> bool:
                _, text, _ = await admin.get("/metrics")
                return b"kosreg_requests_in_flight 6.0" in text

            await until(polling)
            goodbyes = [asyncio.create_task(socket.receive(timeout=40)) for socket in (ws, silent)]
            async with under_load(daemon, load):
                await until(lambda: load.acks > 200, 30)
                began = time.monotonic()
                code = await asyncio.to_thread(daemon.stop)
                took = time.monotonic() - began
            for goodbye in goodbyes:
                message = await goodbye
                assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1012)
        assert [(await poll)[0] for poll in polls] == [304] * 5
        await admin.close()
        assert code == 0
        assert took < 5
        assert not (daemon.data_dir / "run.json").exists()
        assert not load.refused
        for service in (service for services in load.owned.values() for service in services):
            service.open = False  # what came too late was not begun: whatever was done was answered
        await daemon.start()
        await check(daemon, load, "after SIGTERM")
        assert daemon.stop() == 0
    finally:
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.kill()


@pytest.mark.timeout(60)
async def test_clients_that_neither_read_nor_finish_do_not_hold_up_the_end(tmp_path: Path) -> None:
    async with running_daemon(tmp_path / "node") as daemon:
        admin = daemon.admin()
        host, port = daemon.url.removeprefix("http://").split(":")
        token = daemon.admin_token()
        writers = []
        for text in (
            "",
            "GET /api/services HTTP/1.1\r\nHost: localhost",
            f"POST /api/services/register HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
            "Content-Length: 1000\r\n\r\n{",
        ):
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(text.encode())
            writers.append(writer)
        async with admin.ws("?type=agent") as ws:
            await ws.receive(timeout=5)
            ws._conn.protocol.pause_reading()
            for n in range(300):
                big = {
                    "id": "big",
                    "name": f"n{n}",
                    "type": "agent",
                    "description": "x" * 8000,
                    "metadata": {"n": "y" * 50_000},
                }
                status, _, _ = await admin.post("/api/services/register", big)
                assert status in (200, 201)
            began = time.monotonic()
            assert await asyncio.to_thread(daemon.stop) == 0
            assert time.monotonic() - began < 5
            ws._conn.protocol.resume_reading()
        for writer in writers:
            writer.close()
        await admin.close()


async def test_each_start_has_an_admin_token_of_its_own(tmp_path: Path) -> None:
    tokens = []
    for _ in range(2):
        async with running_daemon(tmp_path / "node") as daemon:
            tokens.append(daemon.admin_token())
            assert (daemon.data_dir / "admin.token").stat().st_mode & 0o777 == 0o600
            for token, expected in zip(tokens, [401, 200][-len(tokens) :], strict=True):
                client = Client(daemon.url, token)
                assert (await client.get("/api/node"))[0] == expected
                await client.close()
            assert daemon.stop() == 0
    assert tokens[0] != tokens[1]


async def test_a_second_daemon_on_the_same_data_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    async with running_daemon(tmp_path / "node") as daemon:
        before = {
            name: (daemon.data_dir / name).read_bytes() for name in ("node.key", "next.key", "admin.token", "run.json")
        }
        second = await asyncio.create_subprocess_exec(
            *KOSREG, "run", "--data-dir", str(daemon.data_dir), "--federation", "off", "--api", "127.0.0.1:0",
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        out, err = await asyncio.wait_for(second.communicate(), 30)
        assert second.returncode == 1
        assert out == b""
        assert daemon.process is not None
        assert f"process {daemon.process.pid}".encode() in err
        assert len(err.strip().splitlines()) == 1, err
        for name, content in before.items():
            assert (daemon.data_dir / name).read_bytes() == content, name
        client = daemon.admin()
        assert (await client.get("/api/node"))[0] == 200
        await client.close()
        assert daemon.stop() == 0


async def test_sigint_ends_it_like_sigterm_and_a_second_signal_changes_nothing(tmp_path: Path) -> None:
    async with running_daemon(tmp_path / "node") as daemon:
        assert daemon.process is not None
        for _ in range(3):
            daemon.process.send_signal(signal.SIGINT)
        daemon.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(daemon.process.wait, 10) == 0
        assert not (daemon.data_dir / "run.json").exists()


async def test_it_ends_within_five_seconds_though_another_program_holds_the_store(tmp_path: Path) -> None:
    async with running_daemon(tmp_path / "node") as daemon:
        assert daemon.process is not None
        with contextlib.closing(sqlite3.connect(daemon.data_dir / "registry.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")  # every write of the daemon waits for it
            daemon.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(daemon.process.wait, 5)
        assert not (daemon.data_dir / "run.json").exists()


async def test_it_ends_within_five_seconds_though_the_disk_hangs(tmp_path: Path) -> None:
    async with running_node(tmp_path / "node") as node:

        async def hang(ops: object) -> None:
            await asyncio.Event().wait()

        node.store._backend.write = hang  # type: ignore[method-assign, assignment]  # no disk that hangs can be had here
        async with asyncio.timeout(5):
            await node.stop()
