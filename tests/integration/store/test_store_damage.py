"""Damage of every kind that a file can take: it is reported with what to do, or it harmed nothing. Never silence."""

import asyncio
import os
import random
import shutil
import sqlite3
from dataclasses import dataclass
from pathlib import Path

import pytest

from federation.trust import Anchor, Role
from kosreg.store import (
    Alias,
    AuditLink,
    DamagedStore,
    Invite,
    SchemaMismatch,
    StoredEntry,
    StoreError,
    TokenKey,
    TokenRow,
    TrustChange,
)
from tests.integration.store.kit import batch, entry, everything, open_store, opened

PAGE = 4096
FILES = ("registry.db", "registry.db-wal", "registry.db.lock")


@dataclass(frozen=True)
class Content:
    """All that a store keeps."""

    entries: list[StoredEntry]
    tokens: list[TokenRow]
    keys: list[bytes]
    secrets: dict[str, bytes]
    version_key: bytes
    note: bytes | None
    anchors: list[Anchor]
    invites: list[Invite]
    aliases: dict[str, Alias]
    audit_head: tuple[int, bytes] | None


async def content(folder: Path) -> Content:
    """As a daemon reads it at its start. Raises StoreError."""
    async with opened(folder) as store:
        return Content(
            await everything(store),
            await store.tokens(),
            [store.unseal(key.sealed) for key in await store.token_keys()],
            {name: store.unseal(sealed) for name, sealed in (await store.secrets()).items()},
            store.version_key,
            await store.get_meta("note"),
            await store.anchors(),
            await store.invites(),
            await store.aliases(),
            await store.audit_head(),
        )


async def fill(folder: Path, *, crashed: bool) -> Content:
    """A store with something in every table. `crashed`: as SIGKILL leaves it, the newest part only in the log."""
    work = folder / "work"
    work.mkdir()
    store = await open_store(work)
    for i in range(0, 120, 4):
        await store.commit(batch(*(entry(f"s{i + k}", stamp=i) for k in range(4))))
    await store.commit(batch(entry("s1", stamp=900), entry("big", size=9000)))  # overflow pages, a free one
    await store.add_token(TokenRow("j1", "alice", ("read:service:*",), 1, 2))
    await store.revoke_token("j1", 7)
    await store.add_token_key(TokenKey("k1", store.seal(b"seed"), 5))
    await store.put_secret("s1", store.seal(b"hunter2"))
    anchor = Anchor(b"p" * 32, Role.PEER, "peer", ("a.example:7481",))
    invite, link = Invite(b"i" * 16, b"P" * 32, "", 1, 2), AuditLink(1, b"record", b"h" * 32)
    await store.write_trust(TrustChange([anchor], invites=[invite], audit=[link]))
    await store.put_alias("s1", b"p" * 32, "first")
    await store.set_meta("note", b"x" * 50)
    if not crashed:
        await store.close()
    for name in FILES:
        if (work / name).exists():
            shutil.copy(work / name, folder / name)
    if crashed:
        await store.close()
    return await content(work)


async def judge(folder: Path, expected: Content) -> str:
    """ "reported" or "harmless"; fails on anything else."""
    error: StoreError | None = None
    try:
        found = await content(folder)
    except StoreError as raised:
        error = raised
    if error is not None:
        # A byte of the version of the schema, or of a table's name, looks like another release or program.
        assert isinstance(error, DamagedStore | SchemaMismatch), repr(error)
        assert isinstance(error, SchemaMismatch) or "kosreg doctor" in str(error)
        assert "registry.db" in str(error)
        return "reported"
    assert found == expected, "lost without a word"
    return "harmless"


def damaged_copy(source: Path, target: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for name in FILES:
        if (source / name).exists():
            shutil.copy(source / name, target / name)
    return target


def flip(path: Path, at: int, bits: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ bits]))


@pytest.mark.timeout(180)
@pytest.mark.parametrize("crashed", [False, True], ids=["closed", "crashed"])
async def test_flipped_bytes_are_reported_or_harmless(tmp_path: Path, crashed: bool) -> None:
    source = tmp_path / "source"
    source.mkdir()
    expected = await fill(source, crashed=crashed)
    victim = "registry.db-wal" if crashed else "registry.db"
    size = (source / victim).stat().st_size
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    spots = [chance.randrange(size) for _ in range(150)]
    if crashed:
        spots += range(0, 32, 3)
    else:  # the header, and the head of each page: that is where a tree forgets its leaves
        spots += range(0, 100, 5)
        spots += [page + chance.randrange(12) for page in range(PAGE, size, PAGE)]
    verdicts: list[str] = []
    for at in spots:
        bits = chance.randrange(1, 256)
        copy = damaged_copy(source, tmp_path / "copy")
        flip(copy / victim, at, bits)
        try:
            verdicts.append(await judge(copy, expected))
        except BaseException:
            print(f"seed {seed}: byte {at} of {victim} ^ {bits}")
            raise
    assert verdicts.count("reported") > len(verdicts) / 2


@pytest.mark.parametrize("crashed", [False, True], ids=["closed", "crashed"])
async def test_truncated_file_is_reported_or_harmless(tmp_path: Path, crashed: bool) -> None:
    source = tmp_path / "source"
    source.mkdir()
    expected = await fill(source, crashed=crashed)
    for victim in ("registry.db", "registry.db-wal"):
        path = source / victim
        if not path.exists():
            continue
        size = path.stat().st_size
        for keep in (0, 1, 99, PAGE, PAGE + 7, size // 2, size - PAGE, size - 1):
            copy = damaged_copy(source, tmp_path / "copy")
            os.truncate(copy / victim, min(max(keep, 0), size))
            verdict = await judge(copy, expected)
            assert verdict == "reported" or (crashed and victim == "registry.db"), f"{victim} cut to {keep}"


async def test_row_that_a_page_forgot_is_reported(tmp_path: Path) -> None:
    """One cell less in the head of a page: every row that is left is sound, and SQLite reads on without a word."""
    source = tmp_path / "source"
    source.mkdir()
    expected = await fill(source, crashed=False)
    leaves = [
        page
        for page in range(PAGE, (source / "registry.db").stat().st_size, PAGE)
        if (source / "registry.db").read_bytes()[page] == 0x0D  # a leaf of a table
    ]
    for page in leaves:
        copy = damaged_copy(source, tmp_path / "copy")
        with (copy / "registry.db").open("r+b") as file:
            file.seek(page + 3)
            cells = int.from_bytes(file.read(2), "big")
            file.seek(page + 3)
            file.write((cells - 1).to_bytes(2, "big"))
        assert await judge(copy, expected) == "reported"
    assert len(leaves) > 10


async def test_overwritten_header_is_reported(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    expected = await fill(source, crashed=False)
    with (source / "registry.db").open("r+b") as file:
        file.write(b"PK\x03\x04" + bytes(96))
    assert await judge(source, expected) == "reported"


async def test_deleted_log_is_reported(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    expected = await fill(source, crashed=True)
    (source / "registry.db-wal").unlink()
    assert await judge(source, expected) == "reported"


async def test_deleted_database_beside_its_log_is_reported(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    expected = await fill(source, crashed=True)
    (source / "registry.db").unlink()
    assert await judge(source, expected) == "reported"
    assert (source / "registry.db-wal").stat().st_size > 0, "SQLite would have removed it"


async def test_index_of_the_log_is_worth_nothing(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    expected = await fill(source, crashed=True)
    (source / "registry.db-shm").write_bytes(os.urandom(32768))
    assert await judge(source, expected) == "harmless"


async def test_database_that_was_moved_away_is_begun_anew_and_told(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.commit(batch(entry("a")))
        key = store.version_key
    (tmp_path / "registry.db").rename(tmp_path / "away.db")
    async with opened(tmp_path) as store:
        assert store.opened.how == "created"
        assert "is gone" in (store.opened.warning or "")
        assert store.version_key != key
    async with opened(tmp_path) as store:
        assert store.opened.warning is None


async def test_older_copy_is_reported_and_taken_once_the_lock_file_is_removed(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.commit(batch(entry("a")))
    shutil.copy(tmp_path / "registry.db", tmp_path / "backup")
    async with opened(tmp_path) as store:
        await store.commit(batch(entry("b")))
        key = store.version_key
    shutil.copy(tmp_path / "backup", tmp_path / "registry.db")
    with pytest.raises(DamagedStore, match=r"remove .*registry\.db\.lock"):
        await open_store(tmp_path)
    (tmp_path / "registry.db.lock").unlink()
    async with opened(tmp_path) as store:
        assert [row.id for row in await everything(store)] == [entry("a").id]
        assert store.version_key != key, "a cursor from the lost time must not fit"


async def test_log_of_an_earlier_time_is_reported(tmp_path: Path) -> None:
    """As when only half of a folder was restored."""
    store = await open_store(tmp_path)
    await store.commit(batch(entry("a")))
    shutil.copy(tmp_path / "registry.db-wal", tmp_path / "old-wal")
    await store.commit(batch(entry("b")))
    for name in ("registry.db", "registry.db.lock"):
        (tmp_path / "half").mkdir(exist_ok=True)
        shutil.copy(tmp_path / name, tmp_path / "half" / name)
    await store.close()
    shutil.copy(tmp_path / "old-wal", tmp_path / "half" / "registry.db-wal")
    with pytest.raises(DamagedStore):
        await open_store(tmp_path / "half")


async def test_verify_tells_all_faults_not_the_first(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.commit(batch(entry("a"), entry("b"), entry("c")))
        await store.put_secret("s", store.seal(b"x"))
        await store.add_token(TokenRow("j", "alice", (), 1, 2))
    with sqlite3.connect(tmp_path / "registry.db") as connection:
        connection.execute("UPDATE entries SET raw = x'00' WHERE name IN ('a', 'c')")
        connection.execute("UPDATE tokens SET sub = 'mallory'")
        connection.execute("UPDATE secrets SET checksum = 0")
    connection.close()
    async with opened(tmp_path, readonly=True) as store:
        faults = await store.verify()
        assert [(fault.table, fault.row) for fault in faults] == [
            ("entries", "service a"),
            ("entries", "service c"),
            ("secrets", "s"),
            ("tokens", "j"),
        ]
        with pytest.raises(DamagedStore):
            await store.tokens()


@pytest.mark.parametrize("name", ["registry.db", "registry.db-wal"])
async def test_file_that_is_moved_while_running_takes_no_more_writes(tmp_path: Path, name: str) -> None:
    async with opened(tmp_path) as store:
        await store.commit(batch(entry("a")))
        os.rename(tmp_path / name, tmp_path / "away")
        with pytest.raises(DamagedStore, match=f"{name} was moved"):
            await store.commit(batch(entry("b")))
        os.rename(tmp_path / "away", tmp_path / name)
        await store.commit(batch(entry("c")))
    async with opened(tmp_path) as store:
        assert [row.id for row in await everything(store)] == [entry("a").id, entry("c").id]


async def test_damage_that_is_met_while_running_is_reported(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        for i in range(200):
            await store.commit(batch(entry(f"s{i}")))
    async with opened(tmp_path) as store:
        size = (tmp_path / "registry.db").stat().st_size
        with (tmp_path / "registry.db").open("r+b") as file:
            file.seek(PAGE)
            file.write(b"\xff" * (size - PAGE))
        results = await asyncio.gather(
            *(store.commit(batch(entry(f"s{i}", stamp=5))) for i in range(50)), return_exceptions=True
        )
        assert any(isinstance(result, DamagedStore) for result in results)
        with pytest.raises(DamagedStore):
            await everything(store)
