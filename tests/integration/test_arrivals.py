"""What peers send at the same time goes to the disk together, in order, and each peer's fate is its own."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from crdt.entry import Entry
from federation.effects import Landed
from kosreg.arrivals import SLICE
from kosreg.node import Node
from kosreg.store import StoreClosed, StoreError
from tests.foreign import Origin, believe, feed
from tests.harness import running_node

A, B = Origin(0xA1), Origin(0xB1)
ONE, TWO = b"\x01" * 32, b"\x02" * 32  # peers


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with running_node(tmp_path / "n") as node:
        await believe(node, A, B)
        yield node


def names(entries: Sequence[Entry]) -> list[str]:
    return [entry.name for entry in entries]


async def test_what_waits_shares_commits_and_is_told_at_once(node: Node) -> None:
    told: list[Sequence[Landed]] = []
    node.sync.on_merged = told.append
    before = node.store.stats().commits
    await asyncio.gather(*(feed(node.sync, A.service(f"s{n}"), peer=ONE if n % 2 else TWO) for n in range(100)))
    assert node.store.stats().commits - before <= 3  # the first goes at once, and 100 fit into the next
    assert len(told) <= 3
    parts = [part for landed in told for part in landed]
    assert [(names(entries), peer) for entries, peer in parts] == [
        ([f"s{n}"], ONE if n % 2 else TWO) for n in range(100)
    ]
    assert all(f"s{n}" in node.catalog.services for n in range(100))
    numbers = [node.catalog.services[f"s{n}"].seq for n in range(100)]
    assert numbers == sorted(set(numbers))


async def test_one_arrival_is_no_larger_than_a_slice(node: Node) -> None:
    told: list[Sequence[Landed]] = []
    node.sync.on_merged = told.append
    await asyncio.gather(*(feed(node.sync, *(A.service(f"s{k}-{n}") for n in range(50))) for k in range(6)))
    sizes = [sum(len(entries) for entries, _ in landed) for landed in told]
    assert sum(sizes) == 300
    # two arrivals that were on their way may end in one commit
    assert max(sizes) <= 2 * SLICE


async def test_two_that_speak_of_one_service_keep_their_order(node: Node) -> None:
    said = [A.service("t", description=str(n)) for n in range(10)]
    await asyncio.gather(*(feed(node.sync, entry, peer=ONE if n % 2 else TWO) for n, entry in enumerate(said)))
    assert b'"description":"9"' in node.catalog.services["t"].head
    await asyncio.gather(feed(node.sync, A.gone("t")), feed(node.sync, A.service("t", description="again")))
    assert b'"description":"again"' in node.catalog.services["t"].head


async def test_what_buries_a_service_is_written_after_what_it_buries(node: Node, tmp_path: Path) -> None:
    await feed(node.sync, A.service("t", description="1"))
    newest, tombstone = A.service("t", description="2"), A.gone("t")
    await asyncio.gather(feed(node.sync, newest), feed(node.sync, tombstone))
    with contextlib.closing(sqlite3.connect(tmp_path / "n" / "registry.db")) as other:
        [(prior,)] = other.execute("SELECT prior FROM entries WHERE id = ?", (tombstone.id,)).fetchall()
    assert prior.endswith(newest.raw)  # what watchers who resume after a restart are told of


async def test_a_disk_that_fails_fails_those_that_wait_and_they_may_come_again(node: Node, tmp_path: Path) -> None:
    first, second = A.service("a"), B.service("b")
    with contextlib.closing(sqlite3.connect(tmp_path / "n" / "registry.db")) as other:
        other.execute("BEGIN IMMEDIATE")  # another program's write lock, for longer than anybody waits
        results = await asyncio.gather(
            feed(node.sync, first, peer=ONE), feed(node.sync, second, peer=TWO), return_exceptions=True
        )
        other.rollback()
    assert all(isinstance(result, StoreError) for result in results)
    assert not any(node.sync.replica.is_in_flight(entry) for entry in (first, second))
    await asyncio.gather(feed(node.sync, first, peer=ONE), feed(node.sync, second, peer=TWO))
    assert {"a", "b"} <= node.catalog.services.keys()


async def test_a_store_that_takes_no_more_answers_all_that_wait(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as closing:
        closing.setattr(node.store._writer, "_closing", True)
        results = await asyncio.gather(*(feed(node.sync, A.service(f"s{n}")) for n in range(5)), return_exceptions=True)
    assert all(isinstance(result, StoreClosed) for result in results)
    await feed(node.sync, A.service("s0"))
    assert "s0" in node.catalog.services


async def test_a_store_that_is_full_of_waiting_writes_makes_peers_wait(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kosreg.store.writer.MAX_WAITING", 1)
    await asyncio.gather(*(feed(node.sync, *(A.service(f"s{k}-{n}") for n in range(100))) for k in range(4)))
    assert sum(uid.startswith("s") for uid in node.catalog.services) == 400
