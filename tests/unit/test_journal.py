"""The journal keeps the newest changes, bounded in number and in bytes, and says so where it cannot tell."""

from __future__ import annotations

import asyncio

import pytest

from crdt.entry import Class, Fact
from federation.cose import sign_entry
from federation.identity import NodeKey
from kosreg import journal as module
from kosreg.journal import Change, Journal
from kosreg.service import Service


def service(uid: str, size: int = 10) -> Service:
    return Service(uid, "did:key:z6Mk", 1, {"name": uid, "type": "agent", "description": "x" * size})


def put(journal: Journal, after: Service | None, before: Service | None = None) -> int:
    seq = journal.next_seq()
    event = "deregistered" if after is None else "registered"
    uid = (after or before).uid  # type: ignore[union-attr]
    journal.add(Change(seq, 0, event, uid, before, after, "", ""))  # type: ignore[arg-type]
    return seq


def test_it_keeps_so_many_changes_and_no_more() -> None:
    journal = Journal(kept=3)
    numbers = [put(journal, service(f"s{n}")) for n in range(5)]
    assert [change.seq for change in journal.recent()] == numbers[2:]
    assert journal.since(numbers[1]) == list(journal.recent())
    assert journal.since(numbers[0]) is None
    assert journal.since(numbers[-1]) == []


def test_it_keeps_so_many_bytes_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """20,000 updates of one record of 60 KiB would be 1.2 GB."""
    monkeypatch.setattr(module, "KEPT_BYTES", 100_000)
    journal = Journal()
    held = service("big", 30_000)
    put(journal, held)
    for _ in range(10):
        held, before = service("big", 30_000), held
        put(journal, held, before)
    assert len(journal) == 3
    put(journal, None, held)
    assert len(journal) == 3
    for n in range(100):
        put(journal, service(f"s{n}"))
    assert len(journal) > 90
    assert journal.since(journal.floor) == list(journal.recent())
    moved = service("moving", 30_000)
    put(journal, moved)
    before_moves = len(journal)
    for _ in range(50):
        put(journal, moved, moved)
    assert len(journal) == before_moves + 50, "a change of status holds no record of its own"


def test_a_head_that_is_made_later_leaves_the_count_of_bytes_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    body = {"name": "late", "type": "agent", "description": "x" * 1000}
    entry = sign_entry(NodeKey(b"\x01" * 32), Fact("service", "late", 1, Class.INTERNAL, 9, body))
    late = Service("late", "did:key:z6Mk", Class.INTERNAL, body, 0, entry)
    size = service("small").weight()
    monkeypatch.setattr(module, "KEPT_BYTES", len(entry.raw) + size)
    journal = Journal()
    put(journal, late)
    assert late.weight() == len(entry.raw)
    assert late.head == Service("late", "did:key:z6Mk", Class.INTERNAL, body).head
    assert late.weight() == len(late.head) > len(entry.raw) + 100
    for _ in range(50):
        put(journal, service("small"))
    assert len(journal) == (len(entry.raw) + size) // size


def test_numbers_that_a_crash_took_back_lead_nowhere() -> None:
    journal = Journal()
    put(journal, service("a"))
    journal.lost = [range(5, 9)]
    journal.head = 20
    assert journal.since(1) is not None
    assert journal.since(5) is None
    assert journal.since(8) is None
    assert journal.since(9) is not None


async def test_followers_are_woken_by_a_change_and_by_the_end() -> None:
    journal = Journal()
    async with asyncio.timeout(5):
        waiting = [asyncio.create_task(journal.wait(journal.head, None)) for _ in range(3)]
        await asyncio.sleep(0)
        put(journal, service("a"))
        assert await asyncio.gather(*waiting) == [True] * 3
        waiting = [asyncio.create_task(journal.wait(journal.head, None)) for _ in range(3)]
        await asyncio.sleep(0)
        journal.close()
        assert await asyncio.gather(*waiting) == [False] * 3
    assert await journal.wait(journal.head, 0.01) is False
