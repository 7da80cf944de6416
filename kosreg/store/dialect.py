"""Where databases differ, seen from the store: the statements, and the seam (`Backend`) that each database fills.

All SQL is SQLAlchemy Core, built once here from the tables of `service_model`; only the upsert needs the dialect's own
`insert`. PostgreSQL has the same `ON CONFLICT` clause; what it will still need is said beside `Backend`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import Delete, Insert, bindparam, delete
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncEngine

from kosreg.service_model import Base, EntryRow, IssuedTokenRow, MetaRow, SecretRow, TokenKeyRow
from kosreg.store.errors import StoreError

Params = dict[str, Any]  # the values of one row by column, as Core takes them
Op = tuple[Insert | Delete, list[Params]]

_KEY = ("origin", "kind", "name", "cls", "root")


class Backend(Protocol):
    """One database. `kosreg/store/sqlite.py` is the one that exists.

    A PostgreSQL one will have: an advisory lock in place of the lock file, `note` a no-op (the server keeps what it
    acknowledged), commit numbers from a sequence once several daemons share the database, and no `check` (checksums of
    pages are the server's).
    """

    engine: AsyncEngine

    async def prepare(self) -> None:
        """Takes the database for this process. Raises CannotOpen, StoreInUse, DamagedStore."""

    def note(self, commit: int) -> None:
        """Remembers outside the database that a commit is about to be acknowledged."""

    def noted(self) -> int:
        """The newest commit number that `note` was given, by this process or one before; 0 if not known."""

    def explain(self, error: BaseException) -> StoreError:
        """What an error of the driver means."""

    async def check(self) -> list[str]:
        """Looks for structural damage; one text a fault."""

    async def close(self) -> None:
        """Ends all connections, lets the database go."""


@dataclass(frozen=True, slots=True)
class Statements:
    """The writes, each for many rows at once. Those that delete take the columns of the key, with `k_` before the name."""

    put_entry: Insert
    purge_entry: Delete
    put_secret: Insert
    drop_secret: Delete
    put_token_key: Insert
    drop_token_key: Delete
    put_token: Insert
    drop_token: Delete
    put_meta: Insert

    @classmethod
    def of(cls, dialect: str) -> "Statements":
        """`dialect`: SQLAlchemy's name of it, "sqlite" or "postgresql"."""
        insert: Callable[[type[Base]], Any] = sqlite.insert if dialect == "sqlite" else postgresql.insert

        def put(table: type[Base], key: Sequence[str]) -> Insert:
            row = insert(table)
            rest = {c.name: row.excluded[c.name] for c in table.__table__.columns if c.name not in key}
            statement: Insert = row.on_conflict_do_update(index_elements=list(key), set_=rest)
            return statement

        def drop(table: type[Base], key: Sequence[str]) -> Delete:
            return delete(table).where(*(table.__table__.c[name] == bindparam(f"k_{name}") for name in key))

        return cls(
            put_entry=put(EntryRow, _KEY),
            purge_entry=drop(EntryRow, _KEY),
            put_secret=put(SecretRow, ("service_id",)),
            drop_secret=drop(SecretRow, ("service_id",)),
            put_token_key=put(TokenKeyRow, ("kid",)),
            drop_token_key=drop(TokenKeyRow, ("kid",)),
            put_token=put(IssuedTokenRow, ("jti",)),
            drop_token=drop(IssuedTokenRow, ("jti",)),
            put_meta=put(MetaRow, ("key",)),
        )
