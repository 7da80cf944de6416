"""The tables of the store, as SQLAlchemy declares them.

Memory holds all that is queried (catalog, replica); these tables make it durable, so they have the one index that the
upsert needs and no more. `entries` has `seq` as primary key: on SQLite that is the row's own number, so a commit
appends to the end of one tree and a start reads the file from front to back in the order of commits.

Every row carries `checksum`, CRC-32 over its other columns (kosreg/store/rows.py says of which): SQLite keeps none of
its own, and a row that rotted on disk must be reported, never shown. A stamp is not a column: a foreign node's may
exceed 63 bits.
"""

from sqlalchemy import BigInteger, Integer, LargeBinary, SmallInteger, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# SQLite makes only a column of the very type INTEGER the row's own number; elsewhere a seq needs 64 bits.
_SEQ = BigInteger().with_variant(Integer(), "sqlite")


class Base(DeclarativeBase):
    """What Alembic compares the migrations with."""


class EntryRow(Base):
    """One entry: the newest of its key. Changed by upsert on the key; removed only by a purge."""

    __tablename__ = "entries"
    __table_args__ = (UniqueConstraint("origin", "kind", "name", "cls", "root", name="entries_key"),)

    seq: Mapped[int] = mapped_column(_SEQ, primary_key=True, autoincrement=False)
    origin: Mapped[bytes] = mapped_column(LargeBinary)
    kind: Mapped[str] = mapped_column(Text)
    name: Mapped[str] = mapped_column(Text)
    cls: Mapped[int] = mapped_column(SmallInteger)
    root: Mapped[bytes] = mapped_column(LargeBinary)  # b"" for none: NULLs are never equal in a key
    id: Mapped[bytes] = mapped_column(LargeBinary)
    raw: Mapped[bytes] = mapped_column(LargeBinary)
    prior: Mapped[bytes | None] = mapped_column(LargeBinary)  # what a tombstone buries
    checksum: Mapped[int] = mapped_column(BigInteger)


class SecretRow(Base):
    """`auth.token` of one service of this node, sealed with the store key."""

    __tablename__ = "secrets"

    service_id: Mapped[str] = mapped_column(Text, primary_key=True)
    sealed: Mapped[bytes] = mapped_column(LargeBinary)
    checksum: Mapped[int] = mapped_column(BigInteger)


class TokenKeyRow(Base):
    """A key that signs tokens, sealed with the store key. `created`: ms since 1970."""

    __tablename__ = "token_keys"

    kid: Mapped[str] = mapped_column(Text, primary_key=True)
    sealed: Mapped[bytes] = mapped_column(LargeBinary)
    created: Mapped[int] = mapped_column(BigInteger)
    checksum: Mapped[int] = mapped_column(BigInteger)


class IssuedTokenRow(Base):
    """What was said in a token that this node issued, never the token. `iat`, `exp`: s; `revoked_at`: ms; `scopes`: by
    blanks.
    """

    __tablename__ = "tokens"

    jti: Mapped[str] = mapped_column(Text, primary_key=True)
    sub: Mapped[str] = mapped_column(Text)
    scopes: Mapped[str] = mapped_column(Text)
    iat: Mapped[int] = mapped_column(BigInteger)
    exp: Mapped[int] = mapped_column(BigInteger)
    label: Mapped[str] = mapped_column(Text)
    revoked_at: Mapped[int | None] = mapped_column(BigInteger)
    checksum: Mapped[int] = mapped_column(BigInteger)


class AnchorRow(Base):
    """A key that an admin trusts, or revoked (`federation.trust.Anchor`). `addresses`: by blanks; `scope`: CBOR;
    `added`, `revoked`: ms.
    """

    __tablename__ = "anchors"

    key: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    role: Mapped[str] = mapped_column(Text)
    name: Mapped[str] = mapped_column(Text)
    addresses: Mapped[str] = mapped_column(Text)
    depth: Mapped[int] = mapped_column(BigInteger)
    scope: Mapped[bytes] = mapped_column(LargeBinary)
    added: Mapped[int] = mapped_column(BigInteger)
    revoked: Mapped[int | None] = mapped_column(BigInteger)
    checksum: Mapped[int] = mapped_column(BigInteger)


class InviteRow(Base):
    """An invite that this node gave out, without its secret. `public`: of its one-time key; `joiner`: the node key that
    it is bound to; `created`, `expires`, `bound`: ms.
    """

    __tablename__ = "invites"

    id: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    public: Mapped[bytes] = mapped_column(LargeBinary)
    name: Mapped[str] = mapped_column(Text)
    created: Mapped[int] = mapped_column(BigInteger)
    expires: Mapped[int] = mapped_column(BigInteger)
    joiner: Mapped[bytes | None] = mapped_column(LargeBinary)
    bound: Mapped[int | None] = mapped_column(BigInteger)
    checksum: Mapped[int] = mapped_column(BigInteger)


class AuditRow(Base):
    """One link of the audit chain (kosreg/audit.py): the record's bytes and their SHA-256. Only ever added to."""

    __tablename__ = "audit"

    seq: Mapped[int] = mapped_column(_SEQ, primary_key=True, autoincrement=False)
    record: Mapped[bytes] = mapped_column(LargeBinary)
    hash: Mapped[bytes] = mapped_column(LargeBinary)
    checksum: Mapped[int] = mapped_column(BigInteger)


class AliasRow(Base):
    """Which origin a bare service id means here. `how`: `admin` (an admin said so), or `first` (seen first)."""

    __tablename__ = "aliases"

    uid: Mapped[str] = mapped_column(Text, primary_key=True)
    origin: Mapped[bytes] = mapped_column(LargeBinary)
    how: Mapped[str] = mapped_column(Text)
    checksum: Mapped[int] = mapped_column(BigInteger)


class MetaRow(Base):
    """What the store knows of itself: whose it is, its sealed keys, the newest commit number."""

    __tablename__ = "meta"

    key: Mapped[str] = mapped_column(Text, primary_key=True)
    value: Mapped[bytes] = mapped_column(LargeBinary)
    checksum: Mapped[int] = mapped_column(BigInteger)
