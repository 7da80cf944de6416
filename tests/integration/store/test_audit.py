"""The audit chain: what is written can be checked, and whatever is done to it behind the node's back is named."""

import asyncio
import sqlite3
from pathlib import Path

import pytest

from federation.trust import Anchor, Role
from kosreg.audit import Audit, Chain, Record, beginning, faults
from kosreg.store import AuditLink, Store, StoreRefused, TrustChange
from tests.integration.store.kit import KEY, opened

NODE = KEY.public


async def fill(store: Store, count: int = 5) -> Audit:
    audit = await Audit.open(store, NODE, lambda: 1_764_000_000_000)
    for n in range(count):
        await audit.write("admin", "trust", f"did:{n}", {"name": f"n{n}"})
    return audit


async def found(folder: Path) -> list[str]:
    async with opened(folder) as store:
        return [str(fault) async for fault in faults(store, NODE)]


def change(folder: Path, *statements: str) -> None:
    with sqlite3.connect(folder / "registry.db") as database:
        for statement in statements:
            database.execute(statement)


async def test_a_log_that_nobody_touched_is_whole(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await fill(store, 0)
    assert await found(tmp_path) == []
    async with opened(tmp_path) as store:
        await fill(store)
    async with opened(tmp_path) as store:  # it goes on after a restart
        audit = await fill(store, 2)
        assert audit.head == await store.audit_head()
        assert [link.seq for link in await store.audit()] == [1, 2, 3, 4, 5, 6, 7]
    assert await found(tmp_path) == []


async def test_records_written_at_once_follow_each_other(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        audit = await fill(store, 0)
        await asyncio.gather(*(audit.write("admin", "trust", str(n), {}) for n in range(20)))
    assert await found(tmp_path) == []


async def test_a_record_and_what_it_tells_of_are_kept_together_or_not_at_all(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        audit = await fill(store, 1)
        audit.head = (0, beginning(NODE))  # its number is taken
        with pytest.raises(StoreRefused):
            await audit.write("admin", "trust", "x", {}, TrustChange([Anchor(b"k" * 32, Role.PEER)]))
        assert await store.anchors() == []
    assert await found(tmp_path) == []


@pytest.mark.parametrize("seq", [1, 3, 5])
@pytest.mark.parametrize("column", ["record", "hash"])
async def test_any_flipped_byte_is_named_and_no_other_record(tmp_path: Path, seq: int, column: str) -> None:
    async with opened(tmp_path) as store:
        await fill(store)
        link = (await store.audit(after=seq - 1, most=1))[0]
    whole = getattr(link, column)
    for at in range(0, len(whole), 7):
        spoilt = bytearray(whole)
        spoilt[at] ^= 1 << at % 8
        change(tmp_path, f"UPDATE audit SET {column} = X'{spoilt.hex()}' WHERE seq = {seq}")
        assert await found(tmp_path) == [f"record {seq}: not as it was written"]


@pytest.mark.parametrize(
    ("gone", "expected"),
    [
        ("seq = 1", ["record 1: missing"]),
        ("seq = 3", ["record 3: missing"]),
        ("seq IN (2, 3, 4)", ["records 2 to 4: missing"]),
        ("seq = 5", ["record 5: missing at the end"]),
        ("seq > 2", ["records 3 to 5: missing at the end"]),
        ("seq > 0", ["records 1 to 5: missing at the end"]),
    ],
)
async def test_missing_records_are_named(tmp_path: Path, gone: str, expected: list[str]) -> None:
    async with opened(tmp_path) as store:
        await fill(store)
    change(tmp_path, f"DELETE FROM audit WHERE {gone}")
    assert await found(tmp_path) == expected
    async with opened(tmp_path) as store:
        await fill(store, 1)  # the node goes on, and what was cut off stays known
    assert any("missing" in fault for fault in await found(tmp_path))


async def test_records_that_changed_places_are_named(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await fill(store)
    change(
        tmp_path,
        "UPDATE audit SET seq = 100 WHERE seq = 2",
        "UPDATE audit SET seq = 2 WHERE seq = 3",
        "UPDATE audit SET seq = 3 WHERE seq = 100",
    )
    text = await found(tmp_path)
    assert "record 2: stands where it does not belong: it was record 3" in text
    assert "record 3: stands where it does not belong: it was record 2" in text


async def test_a_record_that_was_written_anew_does_not_fit(tmp_path: Path) -> None:
    """Whoever can write the database can make a record whose own hash is right; its neighbours tell."""
    from hashlib import sha256

    async with opened(tmp_path) as store:
        await fill(store)
        links = await store.audit()
    for seq in (3, 5):
        record = Record.decode(links[seq - 1].record)
        raw = Record(seq, record.at, "somebody", record.action, record.subject, {}, record.previous).encode()
        digest = sha256(raw).hexdigest()
        change(tmp_path, f"UPDATE audit SET record = X'{raw.hex()}', hash = X'{digest}' WHERE seq = {seq}")
        expected = "record 4: does not follow the record before it" if seq == 3 else "record 5: not the one that was"
        assert any(fault.startswith(expected) for fault in await found(tmp_path))


async def test_a_log_of_another_node_does_not_pass(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await fill(store)
        links, head = await store.audit(), await store.audit_head()
    chain = Chain(b"o" * 32)
    text = [str(fault) for link in links for fault in chain.take(link)] + [str(fault) for fault in chain.end(head)]
    assert text == ["record 1: does not follow the record before it"]


async def test_a_lost_note_of_the_newest_record_is_named(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await fill(store)
    change(tmp_path, "DELETE FROM meta WHERE key = 'audit_head'")
    assert await found(tmp_path) == ["record 5: the note of the newest record is missing"]
    async with opened(tmp_path) as store:
        await fill(store, 1)
    assert await found(tmp_path) == []


async def test_a_record_behind_the_newest_is_named(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await fill(store, 2)
    change(tmp_path, "INSERT INTO audit SELECT 3, record, hash, checksum FROM audit WHERE seq = 2")
    text = await found(tmp_path)
    assert "record 3: was added behind the newest record" in text


def test_what_is_no_record_is_told() -> None:
    chain = Chain(NODE)
    [fault] = chain.take(AuditLink(1, b"\xa0", b""))
    assert str(fault) == "record 1: not as it was written"
