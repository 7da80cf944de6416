"""The values that go into the store and come out of it. No I/O.

`Batch` is one change that is kept whole or not at all. The store numbers it when it gathers a group: row i of the batch
gets `seq = batch.seq + i`.
"""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from crdt.entry import Entry, Key
    from federation.trust import Anchor

COMMIT_SHIFT = 24  # seq = commit number << 24 | row of the group


@dataclass(slots=True)
class Row:
    """An entry to keep. `prior`: the bytes of what a tombstone buries, so that those who resume later learn whom it
    concerned.
    """

    entry: "Entry"
    prior: bytes | None = None


@dataclass(slots=True)
class Batch:
    """One change, kept whole or not at all: entries, then purged keys, then secrets (id, sealed or None to remove).

    `seq` is set by the store when the batch is gathered; 0 before. Not frozen for that one reason. `spare`: how many
    numbers behind its rows stay free, for what its arrival changes in memory.
    """

    rows: "list[Row]" = field(default_factory=list)
    purge: "list[Key]" = field(default_factory=list)
    secrets: list[tuple[str, bytes | None]] = field(default_factory=list)
    spare: int = 0
    seq: int = 0

    def weight(self) -> int:
        """Bytes that it holds while it waits, about."""
        size = 200 * (1 + len(self.rows) + len(self.purge))
        for row in self.rows:
            size += len(row.entry.raw) + (len(row.prior) if row.prior else 0)
        for _, sealed in self.secrets:
            size += 200 + (len(sealed) if sealed else 0)
        return size


@dataclass(slots=True)
class StoredEntry:
    """One entry as it came back: `id` is not yet compared with `raw`."""

    raw: bytes
    id: bytes
    seq: int
    prior: bytes | None


@dataclass(frozen=True, slots=True)
class TokenRow:
    """What was said in an issued token. `iat`, `exp`: s since 1970; `revoked_at`: ms since 1970."""

    jti: str
    sub: str
    scopes: tuple[str, ...]
    iat: int
    exp: int
    label: str = ""
    revoked_at: int | None = None


@dataclass(frozen=True, slots=True)
class TokenKey:
    """A key that signs tokens. `sealed`: by `Store.seal`; `created`: ms since 1970."""

    kid: str
    sealed: bytes
    created: int


@dataclass(frozen=True, slots=True)
class Invite:
    """An invite that this node gave out. `id`: 16 bytes; `public`: of its one-time key; `name`: what the joiner is to
    be called here, "" for its own name; `joiner`: the node key that it is bound to; times: ms since 1970;
    `federation`: the root key of the one that its joiner is certified in; None: its key alone is trusted.
    """

    id: bytes
    public: bytes
    name: str
    created: int
    expires: int
    joiner: bytes | None = None
    bound: int | None = None
    federation: bytes | None = None


@dataclass(frozen=True, slots=True)
class AuditLink:
    """One link of the audit chain: the record as it was hashed, and its SHA-256."""

    seq: int
    record: bytes
    hash: bytes


@dataclass(frozen=True, slots=True)
class Alias:
    """Which origin a bare service id means here. `how`: an admin said so, or it was seen first."""

    uid: str
    origin: bytes
    how: Literal["admin", "first"]


@dataclass(frozen=True, slots=True)
class TrustChange:
    """One change of trust, kept whole or not at all."""

    anchors: "Sequence[Anchor]" = ()
    dropped: Sequence[bytes] = ()  # keys of anchors
    invites: Sequence[Invite] = ()
    expired: Sequence[bytes] = ()  # ids of invites
    audit: Sequence[AuditLink] = ()
    meta: Mapping[str, bytes] = field(default_factory=dict)  # as for `Store.set_meta`


@dataclass(frozen=True, slots=True)
class Opened:
    """How the schema came to be, for the log: `how` is "created", "migrated" (from `previous`) or "current".

    `warning`: a text where something was found that an admin should know, though it stopped nothing.
    """

    how: str
    version: str
    previous: str | None = None
    warning: str | None = None


@dataclass(frozen=True, slots=True)
class Damage:
    """One fault that `Store.verify` found: in which table, which row (as a text), and what is wrong."""

    table: str
    row: str
    what: str


@dataclass(frozen=True, slots=True)
class StoreStats:
    """Counters since the start. `waiting` and `waiting_bytes`: what is not yet on disk. `busy_s`: time spent in
    commits.
    """

    commits: int
    rows: int
    failed: int
    waiting: int
    waiting_bytes: int
    largest_group: int
    busy_s: float


def entry_checksum(seq: int, id: bytes, raw: bytes, prior: bytes | None) -> int:
    """CRC-32 of what `load` reads of an entry; the key columns are checked against their index, and by whoever decodes
    `raw`.
    """
    crc = zlib.crc32(raw, zlib.crc32(id, zlib.crc32(b"%d" % seq)))
    return crc if prior is None else zlib.crc32(prior, crc ^ 1)


def entry_is_sound(row: Sequence[Any]) -> bool:
    """Whether (raw, id, seq, prior, checksum), as it was read, is what was written. Rot can change a column's type,
    too.
    """
    raw, id_, seq, prior, checksum = row
    try:
        return bool(entry_checksum(seq, id_, raw, prior) == checksum)
    except TypeError:
        return False


def row_checksum(values: Iterable[object]) -> int:
    """CRC-32 of the small tables' rows: all columns in the order of the table."""
    return zlib.crc32(repr(tuple(values)).encode())


def row_name(key: object) -> str:
    """The key of a small table's row, for people."""
    return key.hex() if isinstance(key, bytes) else str(key)
