"""A disk without room, for real: writes are refused with StoreFull, reads go on, and it works again by itself."""

import asyncio
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kosreg.store import Store, StoreFull
from tests.integration.store.kit import batch, entry, everything, ids, open_store, opened

ROOT = Path(__file__).parents[3]


async def fill_up(store: Store, most: int = 5000) -> set[bytes]:
    """Commits until the store is full; the ids of what was acknowledged."""
    kept: set[bytes] = set()
    for i in range(most):
        one = entry(f"fill{i}", size=2000)
        try:
            await store.commit(batch(one))
        except StoreFull:
            return kept
        kept.add(one.id)
    pytest.fail("the disk never was full")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no right to mount a small disk; the test with a file size limit covers most of it")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


async def test_full_disk_refuses_writes_and_recovers_by_itself(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(1 << 20))
    async with opened(small_disk) as store:
        kept = await fill_up(store)
        assert kept
        assert {row.id for row in await everything(store)} == kept
        with pytest.raises(StoreFull, match="room") as caught:
            await store.commit(batch(entry("still full", size=2000)))
        assert caught.value.retry
        assert await store.verify() == []
        ballast.unlink()
        await store.commit(batch(entry("room again", size=2000)))
        kept.add(entry("room again", size=2000).id)
    assert await ids(small_disk) == kept


async def test_close_on_a_full_disk_loses_nothing(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(1 << 20))
    async with opened(small_disk) as store:
        kept = await fill_up(store)
    ballast.unlink()
    assert await ids(small_disk) == kept


async def test_full_disk_at_the_start_is_said(small_disk: Path) -> None:
    ballast = os.open(small_disk / "ballast", os.O_WRONLY | os.O_CREAT)
    room = os.fstatvfs(ballast)
    os.posix_fallocate(ballast, 0, room.f_bavail * room.f_frsize)
    os.close(ballast)
    with pytest.raises(StoreFull):
        await open_store(small_disk)
    (small_disk / "ballast").unlink()
    async with opened(small_disk) as store:
        await store.commit(batch(entry("a")))


def test_limit_on_the_size_of_files_refuses_writes_and_recovers(tmp_path: Path) -> None:
    """Needs no rights: a process may limit itself. In one of its own, as the limit is for all its files."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.integration.store.test_store_full", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.endswith("recovered\n")
    assert run.stdout.count("store cannot write") == 1  # said once, not at every refused write
    assert run.stdout.count("store writes again") == 1


async def _limited(folder: Path) -> None:
    async with opened(folder) as store:
        await store.commit(batch(entry("before")))
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
        kept = await fill_up(store)
        assert kept
        kept.add(entry("before").id)
        assert {row.id for row in await everything(store)} == kept
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        await store.commit(batch(entry("room again")))
        kept.add(entry("room again").id)
    assert await ids(folder) == kept
    os.write(1, b"recovered\n")


if __name__ == "__main__":
    asyncio.run(_limited(Path(sys.argv[1])))
