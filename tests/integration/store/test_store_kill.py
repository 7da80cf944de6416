"""SIGKILL at any moment under load: what was acknowledged is there, nothing is half there, it opens without help."""

import asyncio
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from federation.cose import decode_entry
from kosreg.store import StoreInUse
from tests.integration.store.child import names
from tests.integration.store.kit import batch, entry, everything, ids, open_store, opened

ROOT = Path(__file__).parents[3]
ROUNDS = 10


@asynccontextmanager
async def child(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.integration.store.child", *arguments),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 24,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def read(lines: list[bytes]) -> tuple[dict[int, int], set[int]]:
    """(rows by number of those tried, numbers of those acknowledged); a line that the kill cut short is no news."""
    tried: dict[int, int] = {}
    acknowledged: set[int] = set()
    for line in lines:
        words = line.split()
        if line.endswith(b"\n") and words[0] == b"try":
            tried[int(words[1])] = int(words[2])
        elif line.endswith(b"\n"):
            acknowledged.add(int(words[1]))
    return tried, acknowledged


@pytest.mark.timeout(240)
async def test_what_was_acknowledged_survives_sigkill(tmp_path: Path) -> None:
    tried: dict[int, int] = {}
    acknowledged: set[int] = set()
    chance = random.Random()
    for round_ in range(ROUNDS):
        async with child("write", str(tmp_path), str(round_ * 1_000_000 + 1)) as process:
            assert process.stdout is not None
            lines = [await asyncio.wait_for(process.stdout.readline(), 20)]  # it is under way
            kill_after = chance.randrange(1, 4000)
            while len(lines) < kill_after:
                lines.append(await asyncio.wait_for(process.stdout.readline(), 20))
            process.kill()
            rest, _ = await process.communicate()
            assert process.returncode == -signal.SIGKILL
        now_tried, now_acknowledged = read(lines + rest.splitlines(keepends=True))
        tried |= now_tried
        acknowledged |= now_acknowledged

        async with opened(tmp_path) as store:
            rows = await everything(store)
            secrets = await store.secrets()
            assert await store.verify() == []
        stamps = {e.name: e.stamp for e in (decode_entry(row.raw) for row in rows)}
        where = f"round {round_}, killed after {kill_after} lines"
        for number, count in tried.items():
            there = [stamps.get(name, 0) >= number for name in names(number)]
            assert len(there) == count
            assert all(there) or not any(there), f"half there: {number}, {where}"
            assert all(there) or number not in acknowledged, f"lost: {number}, {where}"
            if number % 5 == 0:
                assert (f"s{number}" in secrets) == all(there), f"secret and entry differ: {number}, {where}"
        assert len({row.seq for row in rows}) == len(rows)
    assert len(acknowledged) > 100


@pytest.mark.timeout(120)
async def test_sigkill_while_the_store_is_made(tmp_path: Path) -> None:
    chance = random.Random()
    for round_ in range(ROUNDS):
        folder = tmp_path / str(round_)
        os.mkdir(folder)
        async with child("hold", str(folder)) as process:
            assert process.stdout is not None
            assert await asyncio.wait_for(process.stdout.readline(), 20) == b"opening\n"
            await asyncio.sleep(chance.uniform(0, 0.25))  # any moment of the making; nothing is waited for
            process.kill()
        async with opened(folder) as store:
            await store.commit(batch(entry("a")))
        assert await ids(folder) == {entry("a").id}


async def test_second_daemon_is_refused_and_told_who_holds_the_store(tmp_path: Path) -> None:
    async with child("hold", str(tmp_path)) as process:
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), 20) == b"opening\n"
        assert await asyncio.wait_for(process.stdout.readline(), 20) == b"ready\n"
        with pytest.raises(StoreInUse, match=f"held by process {process.pid}"):
            await open_store(tmp_path)
        async with opened(tmp_path, readonly=True) as store:
            assert await everything(store) == []
        process.kill()
        await process.wait()
        async with opened(tmp_path):  # the lock died with its process
            pass
