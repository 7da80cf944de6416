"""A node changes its key, and others follow: real processes and sockets."""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from federation.identity import did_of, load
from kosreg.lab.ports import Port
from tests.harness import KOSREG, Client, Daemon, running_daemon, until
from tests.integration.federation.dying_key import DONE, UNDONE


def told(daemon: Daemon, *arguments: str) -> Any:
    done = daemon.cli(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


async def ask(daemon: Daemon, path: str) -> Any:
    """What its API answers to an admin."""
    admin = daemon.admin()
    try:
        status, answer, _ = await admin.get(path)
    finally:
        await admin.close()
    assert status == 200, answer
    return answer


async def services(daemon: Daemon) -> dict[str, tuple[str, str]]:
    """Each that is listed, but nodes: its origin and its status."""
    found = (await ask(daemon, "/api/services?limit=1000"))["services"]
    ids = [one["id"] for one in found]
    assert len(ids) == len(set(ids)), "an id stands twice in the list"
    return {one["id"]: (one["origin"], one["status"]) for one in found if one["type"] != "node"}


async def lists(daemon: Daemon, expected: dict[str, tuple[str, str]]) -> bool:
    return await services(daemon) == expected


def register(daemon: Daemon, uid: str, *more: str) -> None:
    done = daemon.cli("services", "register", "--id", uid, "--name", uid, "--type", "agent", "--ttl", "0", *more)
    assert done.returncode == 0, done.stderr


async def test_a_node_alone_changes_its_key_while_it_runs_and_while_it_does_not(tmp_path: Path) -> None:
    async with running_daemon(tmp_path / "a", "--name", "a") as a:
        register(a, "one")
        register(a, "two", "--visibility", "private")
        register(a, "gone")
        told(a, "services", "rm", "gone", "--yes")
        agent = json.loads(a.cli("token", "issue", "agent-1", "--json").stdout)["token"]
        first = told(a, "key", "show")
        assert first["former"] == []
        changed = told(a, "key", "rotate", "--yes")
        assert changed["old"] == first["did"]
        second = told(a, "key", "show")
        assert (second["did"], second["former"]) == (changed["new"], [first["did"]])
        assert second["next"] != first["next"]
        assert await services(a) == {"one": (second["did"], "active"), "two": (second["did"], "active")}
        client = Client(a.url, agent)
        status, _, _ = await client.get("/api/services")
        await client.close()
        assert status == 200  # tokens are good still
        a.stop()
        third = told(a, "key", "rotate", "--yes")["new"]
        await a.start()
        shown = told(a, "key", "show")
        assert (shown["did"], shown["former"]) == (third, [second["did"], first["did"]])
        assert await services(a) == {"one": (third, "active"), "two": (third, "active")}
        verdict = told(a, "audit", "verify")
        assert verdict["ok"]
        records = told(a, "audit", "list", "--all")["records"]
        assert [(one["action"], one["subject"]) for one in records] == [
            ("key changed", second["did"]), ("key changed", third),
        ]  # fmt: skip
        assert load(a.data_dir / "node.key").did == third
        for name in ("node.key", "next.key"):
            assert stat.S_IMODE(os.stat(a.data_dir / name).st_mode) == 0o600
        assert not (a.data_dir / "after.key").exists()
        assert did_of(load(a.data_dir / "next.key").public) != third
        assert told(a, "services", "get", f"one@{first['did']}")["id"] == "one"


@pytest.fixture
def port() -> Iterator[Callable[[], Port]]:
    """Makes ports that nobody else is given: restarts must not change where a node is."""
    ports: list[Port] = []

    def make() -> Port:
        ports.append(Port())
        return ports[-1]

    yield make
    for one in ports:
        one.close()


async def linked(daemon: Daemon, did: str) -> bool:
    found = {one["did"]: one for one in (await ask(daemon, "/api/peers"))["peers"]}
    peer = found.get(did, {})
    return peer.get("link", {}).get("state") == "up" and bool(peer.get("sync", {}).get("synced"))


async def joined(inviter: Daemon, other: Daemon, *more: str) -> None:
    line = inviter.cli("peers", "invite", *more).stdout
    done = other.cli("peers", "join", "-", stdin=line)
    assert done.returncode == 0, done.stderr


@pytest.mark.timeout(180)
async def test_peers_follow_without_an_admin_also_one_that_was_off(tmp_path: Path, port: Callable[[], Port]) -> None:
    async with (
        running_daemon(tmp_path / "a", "--federation", port().address, "--name", "a") as a,
        running_daemon(tmp_path / "b", "--federation", port().address, "--name", "b") as b,
        running_daemon(tmp_path / "c", "--federation", port().address, "--name", "c") as c,
    ):
        await joined(a, b)
        await joined(a, c)
        for uid in ("one", "two", "gone"):
            register(a, uid, "--visibility", "public")
        first = (await ask(a, "/api/key"))["did"]
        before = {uid: (first, "active") for uid in ("one", "two", "gone")}
        for other in (b, c):
            await until(lambda other=other: lists(other, before))
            await until(lambda other=other: tells(other, first))
        c.stop()
        told(a, "services", "rm", "gone", "--yes")
        second = told(a, "key", "rotate", "--yes")["new"]
        await until(lambda: linked(b, second), 20)
        await until(lambda: lists(b, {uid: (second, "active") for uid in ("one", "two")}), 20)
        third = told(a, "key", "rotate", "--yes")["new"]
        register(a, "three", "--visibility", "public")
        expected = {uid: (third, "active") for uid in ("one", "two", "three")}
        await until(lambda: lists(b, expected), 20)
        await c.start()
        await until(lambda: linked(c, third), 20)
        await until(lambda: lists(c, expected), 20)
        for other in (b, c):
            assert (await ask(other, f"/api/services/one@{first}"))["origin"] == third
            [peer] = (await ask(other, "/api/peers"))["peers"]
            assert (peer["did"], peer["name"], peer["former"]) == (third, "a", [second, first])
            assert (await ask(other, f"/api/peers/{first}"))["did"] == third
            assert told(other, "audit", "verify")["ok"]
            actions = [one["action"] for one in (await ask(other, "/api/audit"))["records"]]
            assert actions[0] == "join"
            assert set(actions[1:]) == {"key succeeded"}
        for other in (b, c):  # what was inherited survives their own restarts
            other.stop()
            await other.start()
            assert await services(other) == expected
            await until(lambda other=other: linked(other, third), 20)
            successions = (await ask(other, "/api/key"))["successions"]
            assert {one["new"] for one in successions} == {second, third}


async def tells(daemon: Daemon, did: str) -> bool:
    """Whether it holds the node entry of that peer: then the next key is pinned."""
    return "tells" in await ask(daemon, f"/api/peers/{did}")


@pytest.mark.parametrize("step", [*UNDONE, *DONE])
async def test_a_change_that_was_cut_off_is_undone_or_brought_to_its_end(tmp_path: Path, step: str) -> None:
    async with running_daemon(tmp_path / "a", "--name", "a") as a:
        for number in range(4):
            register(a, f"s{number}")
        told(a, "services", "rm", "s3", "--yes")
        first = (await ask(a, "/api/key"))["did"]
        a.stop()
        a.program = [sys.executable, "-m", "tests.integration.federation.dying_key", step]
        await a.start()
        admin = a.admin()
        status, answer, _ = await admin.post("/api/key/rotate")
        await admin.close()
        assert status == 202
        assert a.process is not None
        assert a.process.wait(20) == -signal.SIGKILL
        a.program = KOSREG
        await a.start()
        now = (await ask(a, "/api/key"))["did"]
        assert now == (first if step in UNDONE else answer["new"])
        assert await services(a) == {f"s{number}": (now, "active") for number in range(3)}
        assert not (a.data_dir / "after.key").exists()
        assert told(a, "audit", "verify")["ok"]
        checks = told(a, "doctor")["checks"]
        assert [one["state"] for one in checks if one["check"] == "store"] == ["good"]
        again = told(a, "key", "rotate", "--yes")
        assert again["old"] == now
        assert await services(a) == {f"s{number}": (again["new"], "active") for number in range(3)}


@pytest.mark.timeout(180)
async def test_a_delegate_keeps_its_members_and_watchers_see_no_gap(tmp_path: Path, port: Callable[[], Port]) -> None:
    root = str(tmp_path / "root.key")
    async with (
        running_daemon(tmp_path / "a", "--federation", port().address, "--name", "a") as a,
        running_daemon(tmp_path / "b", "--federation", port().address, "--name", "b") as b,
        running_daemon(tmp_path / "c", "--federation", port().address, "--name", "c") as c,
    ):
        assert a.cli("federation", "create", "acme", "--key", root).returncode == 0
        for other in (b, c):  # each certified by a
            await joined(a, other, "--federation", "acme")
        first = (await ask(a, "/api/key"))["did"]
        for daemon, uid in ((a, "of-a"), (b, "of-b"), (c, "of-c")):
            register(daemon, uid, "--visibility", "internal")
        dids = {daemon: (await ask(daemon, "/api/key"))["did"] for daemon in (a, b, c)}
        expected = {uid: (dids[daemon], "active") for daemon, uid in ((a, "of-a"), (b, "of-b"), (c, "of-c"))}
        for daemon in (a, b, c):
            await until(lambda daemon=daemon: lists(daemon, expected), 20)
        await until(lambda: tells(b, first))
        await until(lambda: tells(c, first))

        admin = b.admin()
        async with admin.ws() as watching:
            second = told(a, "key", "rotate", "--yes")["new"]
            expected["of-a"] = (second, "active")
            for daemon in (a, b, c):
                await until(lambda daemon=daemon: lists(daemon, expected), 30)
            seen = []
            while not watching.closed:
                try:
                    seen.append(await watching.receive_json(timeout=0.5))
                except (TimeoutError, TypeError):
                    break
        await admin.close()
        told_of_it = [
            one for one in seen if one["op"] == "event" and one.get("service", {}).get("id", one.get("id")) == "of-a"
        ]
        assert told_of_it, seen
        assert "deregistered" not in [one["event"] for one in told_of_it], seen
        assert told_of_it[-1]["service"]["origin"] == second

        for other in (b, c):
            [acme] = (await ask(other, "/api/federations"))["federations"]
            assert (acme["member"], acme["members"]) == (True, 3)
        [acme] = (await ask(a, "/api/federations"))["federations"]
        assert acme["depth"] == 1  # it may certify others still
        register(c, "later", "--visibility", "internal")
        expected["later"] = (dids[c], "active")
        for daemon in (a, b):
            await until(lambda daemon=daemon: lists(daemon, expected), 20)
