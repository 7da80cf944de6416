"""Checksums and weights of rows, and what an error says."""

import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kosreg.store import (
    CannotOpen,
    DamagedStore,
    StoreBusy,
    StoreError,
    StoreFull,
    StoreRefused,
    StoreUnavailable,
)
from kosreg.store.rows import entry_checksum, entry_is_sound, row_checksum
from kosreg.store.sqlite import SQLite


@given(st.integers(0, 1 << 62), st.binary(min_size=32, max_size=32), st.binary(), st.none() | st.binary(), st.data())
def test_any_flipped_bit_of_an_entry_is_seen(
    seq: int, id: bytes, raw: bytes, prior: bytes | None, data: st.DataObject
) -> None:
    checksum = entry_checksum(seq, id, raw, prior)
    assert entry_is_sound((raw, id, seq, prior, checksum))
    whole = [bytearray(id), bytearray(raw), bytearray(prior or b"")]
    part = whole[data.draw(st.sampled_from([i for i, part in enumerate(whole) if part]))]
    part[data.draw(st.integers(0, len(part) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    flipped = (bytes(whole[1]), bytes(whole[0]), seq, None if prior is None else bytes(whole[2]), checksum)
    assert not entry_is_sound(flipped)
    assert not entry_is_sound((raw, id, seq ^ 1, prior, checksum))


@pytest.mark.parametrize("row", [("text", b"", 1, None, 0), (b"", None, 1, None, 0), (b"", b"", "x", None, 0)])
def test_entry_whose_types_rotted_is_not_sound(row: tuple[object, ...]) -> None:
    assert not entry_is_sound(row)


def test_prior_of_nothing_is_not_no_prior() -> None:
    assert entry_checksum(1, b"i", b"r", None) != entry_checksum(1, b"i", b"r", b"")


def test_row_checksum_tells_columns_apart() -> None:
    assert len({row_checksum(v) for v in [("ab", "c"), ("a", "bc"), (b"ab", "c"), ("abc",), ("ab", "c", None)]}) == 5


def test_every_error_says_what_to_do() -> None:
    def tree(kind: type[StoreError]) -> list[type[StoreError]]:
        return [kind, *(below for one in kind.__subclasses__() for below in tree(one))]

    for kind in tree(StoreError):
        error = kind("what it was.")
        assert error.todo.endswith(".")
        assert str(error) == f"{error.title}: what it was. {error.todo}"
    assert [kind.retry for kind in (StoreFull, StoreBusy, StoreUnavailable)] == [True] * 3


def _sqlite_error(name: str) -> sqlite3.Error:
    error = sqlite3.OperationalError("said SQLite")
    error.sqlite_errorname = name
    return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (_sqlite_error("SQLITE_CORRUPT"), DamagedStore),
        (_sqlite_error("SQLITE_CORRUPT_INDEX"), DamagedStore),
        (_sqlite_error("SQLITE_NOTADB"), DamagedStore),
        (_sqlite_error("SQLITE_IOERR_SHORT_READ"), DamagedStore),
        (_sqlite_error("SQLITE_ERROR"), DamagedStore),
        (_sqlite_error("SQLITE_FULL"), StoreFull),
        (_sqlite_error("SQLITE_IOERR_WRITE"), StoreFull),
        (_sqlite_error("SQLITE_IOERR_FSYNC"), StoreUnavailable),
        (_sqlite_error("SQLITE_BUSY"), StoreUnavailable),
        (_sqlite_error("SQLITE_READONLY_DBMOVED"), CannotOpen),
        (OSError(28, "No space left on device"), StoreFull),
        (OSError(122, "Disk quota exceeded"), StoreFull),
        (OSError(13, "Permission denied"), CannotOpen),
        (UnicodeEncodeError("utf-8", "x", 0, 1, "surrogates not allowed"), StoreRefused),
        (UnicodeDecodeError("utf-8", b"x", 0, 1, "invalid start byte"), DamagedStore),
        (OverflowError("too large"), StoreRefused),
        (sqlite3.IntegrityError("NOT NULL"), StoreRefused),
        (MemoryError(), StoreUnavailable),
    ],
    ids=lambda value: getattr(value, "sqlite_errorname", None) or getattr(value, "__name__", type(value).__name__),
)
def test_errors_of_the_driver_and_the_system_are_told_apart(
    tmp_path: Path, error: Exception, kind: type[StoreError]
) -> None:
    found = SQLite(tmp_path / "registry.db", readonly=False).explain(error)
    assert type(found) is kind
    if kind is not StoreRefused:
        assert "registry.db" in found.detail
