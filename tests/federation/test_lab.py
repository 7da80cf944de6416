"""The lab itself: what it does to nodes and links is what happens to them, and nothing is left behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kosreg.client.errors import ClientError
from kosreg.lab import Lab, LabError
from tests.harness import KOSREG, until

Make = Callable[..., Lab]


def exists(pid: int) -> bool:
    """Whether the process runs (one that ended and was not waited for does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] != "Z"
    except FileNotFoundError:
        return False


async def ids(node: object) -> set[str]:
    return {service["id"] for service in await node.services()} - {node.did}  # type: ignore[attr-defined]


async def test_nodes_are_killed_frozen_restarted_wiped_and_nothing_is_left(lab: Make) -> None:
    async with lab(2, "line", join=False) as two:
        a, b = two
        await a.register(id="kept", name="Kept")
        did, url = a.did, a.url
        await two.kill(a)
        assert a.state == "down"
        with pytest.raises(LabError, match="n1 is down"):
            await a.services()
        await two.start(a)
        assert (a.did, a.url) == (did, url)
        assert await ids(a) == {"kept"}

        two.freeze(a)
        assert a.state == "frozen"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await a.services()
        two.thaw(a)
        assert await ids(a) == {"kept"}

        await two.wipe(a)
        assert a.did == did
        assert await ids(a) == set()
        await two.wipe(a, everything=True)
        assert a.did != did
        assert await two.stop(b) == 0
        pids, directory = [a.pid], two.directory
    assert not any(exists(pid) for pid in pids)
    assert not directory.exists()


async def test_a_clock_is_wrong_when_it_is_told_and_after_a_restart(lab: Make) -> None:
    async with lab(1, join=False) as one:
        node = one[0]

        async def ahead() -> float:
            service = await node.register(id=f"at-{os.urandom(4).hex()}", name="At")
            return (datetime.fromisoformat(service["created"]) - datetime.now(UTC)).total_seconds()

        assert abs(await ahead()) < 5
        await node.clock(3600)
        assert abs(await ahead() - 3600) < 5
        await one.restart(node)
        assert abs(await ahead() - 3600) < 5
        await node.clock(-600)
        assert abs(await ahead() + 600) < 5
        await node.clock(0)
        assert abs(await ahead()) < 5


async def test_a_lab_that_did_not_start_removes_nothing(
    lab: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the directory that was in its way, nor the one in which it was called."""
    here, taken = tmp_path / "here", tmp_path / "taken"
    for directory in (here, taken):
        directory.mkdir()
        (directory / "kept").touch()
    monkeypatch.chdir(here)
    for broken in (lab(1), lab(1, directory=taken), lab(1, directory=tmp_path / ("x" * 90))):
        if broken._given is not None:
            with pytest.raises(LabError):
                await broken.__aenter__()
        await broken.close()
    assert (here / "kept").exists()
    assert (taken / "kept").exists()


async def test_a_lab_says_what_it_cannot_do(lab: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LabError, match="1 to 64"):
        lab(65)
    with pytest.raises(LabError, match="is there already"):
        await lab(1, directory=tmp_path).__aenter__()
    with pytest.raises(LabError, match="too long"):
        await lab(1, directory=tmp_path / ("x" * 90)).__aenter__()
    with pytest.raises(LabError, match=r"(?s)ended with 2.*limits.calls_per_s"):
        await lab(1, settings={"limits.calls_per_s": "many"}).__aenter__()
    async with lab(3, "line", join=False) as three:
        with pytest.raises(LabError, match="no neighbours"):
            three.link(0, 2)
        with pytest.raises(LabError, match="there are n1, n2, n3"):
            three["n4"]
        with pytest.raises(LabError, match="runs; stop or kill it"):
            three[0].wipe()
        three.split([0], [1, 2])
        assert three.open_links() == [("n2", "n3")]
        three.heal()
        assert three.open_links() == [("n1", "n2"), ("n2", "n3")]


async def test_nodes_end_when_their_lab_is_killed(tmp_path: Path) -> None:
    """Even one that is frozen."""
    directory = tmp_path / "lab"
    text = (
        "import asyncio, sys\nfrom pathlib import Path\nfrom kosreg.lab import Lab\n"
        "async def main():\n"
        "    async with Lab(2, 'line', join=False, directory=Path(sys.argv[1])) as lab:\n"
        "        lab.freeze(0)\n        print(*(node.pid for node in lab), flush=True)\n"
        "        await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", text, str(directory), stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    async with asyncio.timeout(40):
        pids = [int(word) for word in (await process.stdout.readline()).split()]
    assert len(pids) == 2
    assert all(exists(pid) for pid in pids)
    process.kill()
    await process.communicate()
    await until(lambda: not any(exists(pid) for pid in pids), 15)


async def test_the_shell_runs_a_lab_and_commands_reach_it(tmp_path: Path) -> None:
    at = ["--at", str(tmp_path / "lab")]
    process = await asyncio.create_subprocess_exec(
        *KOSREG, "lab", "run", "2", "--strangers", "--json", *at, stdout=asyncio.subprocess.PIPE
    )

    async def command(*words: str) -> tuple[int, bytes]:
        run = await asyncio.create_subprocess_exec(
            *KOSREG, "lab", *words, *at, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, error = await run.communicate()
        return run.returncode or 0, out or error

    try:
        assert process.stdout is not None
        async with asyncio.timeout(40):
            nodes = json.loads(await process.stdout.readline())
        assert [node["name"] for node in nodes] == ["n1", "n2"]
        assert all(Path(node["token_file"]).read_text() for node in nodes)
        assert await command("cut", "n1", "n2") == (0, b"")
        assert b"cut" in (await command("links"))[1]
        assert await command("delay", "n1", "n2", "20ms") == (0, b"")
        assert await command("throttle", "n1", "n2", "100k") == (0, b"")
        shown = json.loads((await command("links", "--json"))[1])
        assert [(link["delay"], link["rate"], link["cut"]) for link in shown] == [(0.02, 100_000, [True, True])]
        assert await command("heal") == (0, b"")
        assert json.loads((await command("links", "--json"))[1])[0]["cut"] == [False, False]
        assert await command("kill", "n2") == (0, b"")
        assert b"down" in (await command("nodes"))[1]
        assert await command("start", "n2") == (0, b"")
        assert await command("clock", "n1", "1h") == (0, b"")
        assert (await command("differ"))[0] == 0
        assert (await command("wait"))[0] == 0
        code, text = await command("cut", "n1", "n7")
        assert (code, text) == (1, b"kosreg: there is no node 'n7'; there are n1, n2\n")
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(20):
            assert await process.wait() == 0
        assert not (tmp_path / "lab").exists()
        code, text = await command("nodes")
        assert code == 1
        assert b"start one with: kosreg lab run" in text
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_messages_are_counted_and_rules_for_dropping_are_bounded(lab: Make) -> None:
    async with lab(1, join=False) as one:
        assert await one[0].messages() == {"sent": {}, "dropped": {}}
        for _ in range(64):
            await one[0].drop("entries")
        with pytest.raises(LabError, match="64 rules at most"):
            await one[0].drop("entries")
        await one[0].keep()
        await one[0].drop("entries", to=one[0])
        with pytest.raises(ClientError):
            await one[0].call("GET", "/api/nothing")
