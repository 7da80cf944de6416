"""The tables of trust on a real file: what goes in comes back, what belongs together is kept together or not at all."""

import asyncio
import sqlite3
from pathlib import Path

import pytest

from crdt.entry import Class
from federation.trust import Anchor, Role, Scope
from kosreg.store import Alias, AuditLink, DamagedStore, Invite, Opened, StoreRefused, TrustChange
from kosreg.store.schema import HEAD
from tests.integration.store.kit import batch, entry, everything, opened

PEER, OTHER = b"p" * 32, b"o" * 32
ANCHORS = [
    Anchor(PEER, Role.PEER, added=1),
    Anchor(
        OTHER, Role.ROOT, "näme", ("a.example:7481", "[::1]:1"), 3,
        Scope(frozenset({Class.PUBLIC, Class.INTERNAL}), ("agent", "tool"), ("x y",), 10), 2, 1 << 45,
    ),
]  # fmt: skip
INVITES = [Invite(b"i" * 16, b"P" * 32, "", 1, 2), Invite(b"j" * 16, b"Q" * 32, "n", 2, 3, PEER, 4)]


def link(seq: int) -> AuditLink:
    return AuditLink(seq, b"record %d" % seq, bytes([seq]) * 32)


async def test_what_is_written_comes_back_as_it_was(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.write_trust(TrustChange(ANCHORS, invites=INVITES, audit=[link(1), link(2)]))
    async with opened(tmp_path) as store:
        assert await store.anchors() == ANCHORS
        assert await store.invites() == INVITES
        assert await store.audit() == [link(1), link(2)]
        assert await store.audit_head() == (2, link(2).hash)
        assert await store.verify() == []
        await store.write_trust(TrustChange(dropped=[PEER], expired=[b"i" * 16]))
        assert await store.anchors() == ANCHORS[1:]
        assert await store.invites() == INVITES[1:]


async def test_a_change_is_kept_whole_or_not_at_all(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.write_trust(TrustChange(audit=[link(1)]))
        both = TrustChange(ANCHORS[:1], invites=INVITES, audit=[link(1)])  # this number is taken
        with pytest.raises(StoreRefused):
            await store.write_trust(both)
        assert (await store.anchors(), await store.invites()) == ([], [])
        assert await store.audit_head() == (1, link(1).hash)


async def test_a_refused_change_costs_its_neighbours_in_the_group_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.write_trust(TrustChange(audit=[link(1)]))
        results = await asyncio.gather(
            store.commit(batch(entry("a"))),
            store.write_trust(TrustChange(ANCHORS[:1], audit=[link(1)])),
            store.write_trust(TrustChange(ANCHORS[1:], audit=[link(2)])),
            return_exceptions=True,
        )
        assert [type(result) for result in results] == [type(None), StoreRefused, type(None)]
        assert await store.anchors() == ANCHORS[1:]
        assert len(await everything(store)) == 1


async def test_audit_is_read_in_pieces(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        assert await store.audit_head() is None
        await store.write_trust(TrustChange(audit=[link(n) for n in range(1, 6)]))
        assert await store.audit(after=1, most=2) == [link(2), link(3)]


async def test_the_head_of_the_audit_is_not_to_be_set_by_hand(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        with pytest.raises(ValueError, match="own"):
            await store.set_meta("audit_head", b"")


async def test_aliases_are_kept_replaced_and_dropped(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.put_alias("a", PEER, "first")
        await store.put_alias("b", PEER, "first")
        await store.put_alias("a", OTHER, "admin")
        await store.drop_alias("b")
    async with opened(tmp_path) as store:
        assert await store.aliases() == {"a": Alias("a", OTHER, "admin")}


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("anchors", "scope = X'00'"), ("invites", "joiner = X'00'"), ("aliases", "how = 'admin'"),
        ("audit", "record = X'00'"),
    ],
)  # fmt: skip
async def test_a_row_that_rotted_is_found_and_never_used(tmp_path: Path, table: str, change: str) -> None:
    async with opened(tmp_path) as store:
        await store.write_trust(TrustChange(ANCHORS[:1], invites=INVITES[:1], audit=[link(1)]))
        await store.put_alias("a", PEER, "first")
    with sqlite3.connect(tmp_path / "registry.db") as database:
        database.execute(f"UPDATE {table} SET {change}")
    async with opened(tmp_path) as store:
        [damage] = await store.verify()
        assert damage.table == table
        if table != "audit":  # whose chain tells more than the checksum does
            with pytest.raises(DamagedStore, match=table):
                await getattr(store, table)()


async def test_a_store_of_the_release_before_is_brought_up_to_date(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.commit(batch(entry("a")))
    with sqlite3.connect(tmp_path / "registry.db") as database:
        for table in ("anchors", "invites", "audit", "aliases"):
            database.execute(f"DROP TABLE {table}")
        database.execute("UPDATE alembic_version SET version_num = '0001'")
    async with opened(tmp_path) as store:
        assert store.opened == Opened("migrated", HEAD, "0001")
        assert len(await everything(store)) == 1
        await store.write_trust(TrustChange(ANCHORS))
        assert await store.anchors() == ANCHORS
