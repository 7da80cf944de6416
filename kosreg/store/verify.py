"""Reads a whole store and says what is wrong with it, without stopping at the first fault. For `kosreg doctor` and
tests.

Three nets, each for what the others cannot see: the database's own check of its trees and indexes, the checksum of
every row, the seal of every secret and key.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import select

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
from kosreg.store.dialect import Backend
from kosreg.store.errors import DamagedStore
from kosreg.store.rows import Damage, entry_is_sound, row_checksum, row_name

_CHUNK = 1_000  # entries
_SMALL: Final = (SecretRow, TokenKeyRow, IssuedTokenRow, AnchorRow, InviteRow, AuditRow, AliasRow, MetaRow)
_SEALED: Final[dict[type[Base], int]] = {SecretRow: 1, TokenKeyRow: 1}  # which column is


class Verifier:
    """One pass over one store. `unseal` raises DamagedStore."""

    def __init__(self, backend: Backend, unseal: Callable[[bytes], bytes]) -> None:
        self._backend = backend
        self._unseal = unseal
        self._found: list[Damage] = []

    async def run(self) -> list[Damage]:
        """All that is wrong; empty if all is well. Raises StoreError where it cannot be read for another reason."""
        with self._noting("file", ""):
            self._found.extend(Damage("file", "", fault) for fault in await self._backend.integrity())
        with self._noting("entries", "those that follow"):
            await self._entries()
        for table in _SMALL:
            with self._noting(table.__tablename__, "those that follow"):
                await self._small(table, _SEALED.get(table))
        return self._found

    @contextmanager
    def _noting(self, table: str, row: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            fault = self._backend.explain(error)
            if not isinstance(fault, DamagedStore):
                raise fault from error
            self._found.append(Damage(table, row, fault.detail))

    async def _entries(self) -> None:
        after = -1
        while True:
            query = select(EntryRow.__table__).where(EntryRow.seq > after).order_by(EntryRow.seq).limit(_CHUNK)
            rows = await self._read(query)
            for row in rows:
                if not entry_is_sound((row.raw, row.id, row.seq, row.prior, row.checksum)):
                    self._found.append(Damage("entries", f"{row.kind} {row.name}", "not as it was written"))
                after = row.seq
            if len(rows) < _CHUNK:
                return

    async def _small(self, table: type[Base], sealed: int | None) -> None:
        for row in await self._read(select(table.__table__)):
            values = tuple(row)
            if row_checksum(values[:-1]) != values[-1]:
                self._found.append(Damage(table.__tablename__, row_name(values[0]), "not as it was written"))
            elif sealed is not None:
                with self._noting(table.__tablename__, row_name(values[0])):
                    self._unseal(values[sealed])

    async def _read(self, query: Any) -> Any:
        async with self._backend.engine.connect() as connection:
            return (await connection.execute(query)).all()
