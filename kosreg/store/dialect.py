"""Where databases differ, seen from the store: the statements, and the seam (`Backend`) that each database fills.

All SQL is written in SQLAlchemy Core from the tables of `service_model` and compiled once, at open. Reads run through
Core. Writes run the compiled text with the driver's own `executemany`: measured with 64 clients over HTTP, a
registration costs 80 µs of CPU that way and 105 through Core (and 77 in one private call of the driver: not worth
leaning on that).

Only the upsert needs the dialect's own `insert`; PostgreSQL has the same ON CONFLICT clause.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from importlib import import_module
from typing import NamedTuple, Protocol, cast

from sqlalchemy import BigInteger, ClauseElement, Delete, Dialect, Insert, Integer, bindparam, delete, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.sql.compiler import SQLCompiler

from kosreg.service_model import (
    AliasRow,
    AnchorRow,
    AuditRow,
    Base,
    EntryRow,
    InviteRow,
    IssuedTokenRow,
    MetaRow,
    SecretRow,
    TokenKeyRow,
)
from kosreg.store.errors import StoreError

Values = tuple[object, ...]

_ENTRY_KEY = ("origin", "kind", "name", "cls", "root")


@dataclass(frozen=True, slots=True, eq=False)
class Statement:
    """Compiled once. `columns`: what the values of a row stand for, in this order. `fixed`: values of its own."""

    table: str
    sql: str
    columns: tuple[str, ...]
    fixed: dict[str, object]

    def row(self, **values: object) -> Values:
        """Values by name, in the order of `columns`. For single rows: it costs more than a tuple."""
        return tuple(values[name] if name in values else self.fixed[name] for name in self.columns)


class Op(NamedTuple):
    """A statement and the rows to run it for."""

    statement: Statement
    rows: list[Values]


class Backend(Protocol):
    """One database. `kosreg/store/sqlite.py` is the one that exists.

    What a PostgreSQL one will be: `prepare` takes an advisory lock in place of the lock file; `note` does nothing (the
    server keeps what it acknowledged); `integrity` is the server's own business; commit numbers come from a sequence as
    soon as several daemons share the database. Statements, migrations and types are ready for it (a test compiles all
    of them).
    """

    engine: AsyncEngine
    where: str  # for people: a path, or an address without its password
    warning: str | None  # what `prepare` found that the log should say

    async def prepare(self) -> None:
        """Takes the database for this process. Raises CannotOpen (StoreInUse), DamagedStore, StoreFull."""

    async def write(self, ops: Sequence[Op]) -> None:
        """Runs all in one transaction; returns when it is on disk. Raises the driver's errors: then nothing is kept."""

    async def fetch(self, statement: Statement, values: Values) -> list[Values]:
        """All rows of one query. Raises the driver's errors."""

    def note(self, commit: int) -> None:
        """Remembers, outside the database, that this commit is about to be acknowledged. Costs no sync."""

    def compare(self, newest: int) -> bool:
        """Compares the newest commit number in the database with the note. False: there is no note, nothing is known.
        Raises DamagedStore where the database is older than its note.
        """

    def explain(self, error: BaseException) -> StoreError:
        """What an error of the driver or the system means, and what to do about it."""

    async def integrity(self) -> list[str]:
        """Looks at the structure of the whole database; one text a fault."""

    async def close(self) -> None:
        """Ends all connections and lets the database go. Bounded in time."""


@dataclass(frozen=True, slots=True)
class Statements:
    """`put_…` is insert or replace by key; `add_…` fails where the key is there; `drop_…` takes the key; `load` takes
    `after`, a seq, and `most`, rows.
    """

    put_entry: Statement
    drop_entry: Statement
    put_secret: Statement
    drop_secret: Statement
    put_token_key: Statement
    drop_token_key: Statement
    put_token: Statement
    drop_token: Statement
    put_anchor: Statement
    drop_anchor: Statement
    put_invite: Statement
    drop_invite: Statement
    add_audit: Statement
    put_alias: Statement
    drop_alias: Statement
    put_meta: Statement
    drop_meta: Statement
    load: Statement

    @classmethod
    def of(cls, dialect: Dialect) -> "Statements":
        """Compiled for `dialect`, which must be SQLite's or PostgreSQL's, with positional parameters."""
        keys: dict[str, tuple[type[Base], Sequence[str]]] = {
            "entry": (EntryRow, _ENTRY_KEY),
            "secret": (SecretRow, ("service_id",)),
            "token_key": (TokenKeyRow, ("kid",)),
            "token": (IssuedTokenRow, ("jti",)),
            "anchor": (AnchorRow, ("key",)),
            "invite": (InviteRow, ("id",)),
            "audit": (AuditRow, ("seq",)),
            "alias": (AliasRow, ("uid",)),
            "meta": (MetaRow, ("key",)),
        }
        made = {"load": _compile(dialect, EntryRow, _load())}
        for field in fields(cls):
            verb, _, what = field.name.partition("_")
            if verb == "load":
                continue
            table, key = keys[what]
            clause: ClauseElement
            match verb:
                case "put":
                    clause = _upsert(dialect, table, key)
                case "add":
                    clause = insert(table)
                case _:
                    clause = _delete(table, key)
            made[field.name] = _compile(dialect, table, clause)
        return cls(**made)


def _compile(dialect: Dialect, table: type[Base], clause: ClauseElement) -> Statement:
    compiled = cast(SQLCompiler, clause.compile(dialect=dialect))
    assert compiled.positional, "rows are tuples"
    return Statement(table.__tablename__, str(compiled), tuple(compiled.positiontup or ()), dict(compiled.params))


def _load() -> ClauseElement:
    columns = (EntryRow.raw, EntryRow.id, EntryRow.seq, EntryRow.prior, EntryRow.checksum)
    after, most = bindparam("after", type_=BigInteger), bindparam("most", type_=Integer)
    return select(*columns).where(EntryRow.seq > after).order_by(EntryRow.seq).limit(most)


def _upsert(dialect: Dialect, table: type[Base], key: Sequence[str]) -> Insert:
    row = import_module(f"sqlalchemy.dialects.{dialect.name}").insert(table)  # the other one costs 25 ms to import
    rest = {c.name: row.excluded[c.name] for c in table.__table__.columns if c.name not in key}
    statement: Insert = row.on_conflict_do_update(index_elements=list(key), set_=rest)
    return statement


def _delete(table: type[Base], key: Sequence[str]) -> Delete:
    return delete(table).where(*(table.__table__.c[name] == bindparam(f"k_{name}") for name in key))
