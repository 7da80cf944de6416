"""The durable half of the node: entries, secrets, tokens, and the node's own numbers, in one database.

Memory holds all that is queried; this makes it survive. `commit` is the only way in for entries: it returns at once
with a future that resolves when the batch is on disk (see writer.py). `load` gives them back at the start, in the order
in which they were committed. It knows the shape of an entry (crdt.entry), nothing of what entries mean.

Numbers: every commit has one, used once and never again, across restarts and after a purge; row i of a group has `seq =
commit << 24 | i`. An opening takes a number too, so `first_seq` is above all that an earlier run may have handed out in
memory.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

from nacl.exceptions import CryptoError
from nacl.secret import SecretBox
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from kosreg.service_model import Base, EntryRow, IssuedTokenRow, MetaRow, SecretRow, TokenKeyRow
from kosreg.store.dialect import Backend, Op, Params, Statements
from kosreg.store.errors import CannotOpen, DamagedStore, ForeignStore, StoreClosed, StoreError
from kosreg.store.rows import (
    COMMIT_SHIFT,
    Batch,
    Damage,
    Opened,
    StoredEntry,
    StoreStats,
    TokenKey,
    TokenRow,
    entry_checksum,
    row_checksum,
)
from kosreg.store.schema import HEAD, upgrade, version_of
from kosreg.store.sqlite import SQLite, path_of
from kosreg.store.writer import LAST_COMMIT, Writer, meta_params, secret_op

CHUNK = 5_000  # entries: some 10 ms of the reading thread, 4 MB

_ORIGIN, _STORE_KEY, _VERSION_KEY = "origin", "store_key", "version_key"


def _nobody(_batches: list[Batch]) -> None:
    pass


class Store:
    """An open store. Made by `open`; every method runs in the loop that opened it.

    origin: 32 bytes, whose it is. version_key: 16 bytes, made once with the store. opened: how the schema came to be.
    on_commit: called in the loop with the batches of each commit, in order, before their futures resolve.
    """

    def __init__(self, backend: Backend, origin: bytes, opened: Opened, *, readonly: bool) -> None:
        self.origin = origin
        self.opened = opened
        self.readonly = readonly
        self.version_key = b""
        self.on_commit: Callable[[list[Batch]], None] = _nobody
        self.first_seq = 0
        self._backend = backend
        self._statements = Statements.of(backend.engine.dialect.name)
        self._box: SecretBox
        self._writer: Writer | None = None
        self._write_connection: AsyncConnection | None = None

    # --- open and close -------------------------------------------------------------------------------------

    @classmethod
    async def open(cls, url: str, origin: bytes, wrap_key: bytes, readonly: bool = False) -> "Store":
        """Opens or creates the store of `origin` (32 bytes) at `sqlite:///PATH`.

        `wrap_key`: 32 bytes that unlock the store's own key. `readonly`: for a look from outside, also while a daemon
        runs. Raises a StoreError that says what to do: CannotOpen (StoreInUse, ForeignStore, SchemaMismatch),
        DamagedStore, StoreFull.
        """
        backend = SQLite(path_of(url), readonly=readonly)
        try:
            await backend.prepare()
            return await cls._open(backend, origin, wrap_key, readonly)
        except BaseException as error:
            await backend.close()
            if isinstance(error, Exception):
                raise backend.explain(error) from error
            raise

    @classmethod
    async def _open(cls, backend: Backend, origin: bytes, wrap_key: bytes, readonly: bool) -> "Store":
        connection = await backend.engine.connect()
        try:
            if readonly:
                version = await connection.run_sync(version_of)
                if version != HEAD:
                    raise CannotOpen(f"its schema is {version}, this release reads {HEAD}.", "Start the node once.")
                opened = Opened("current", HEAD)
            else:
                opened = await connection.run_sync(upgrade)
                await connection.commit()
            store = cls(backend, origin, opened, readonly=readonly)
            last = await store._identify(connection, wrap_key)
            await connection.rollback()
            if not readonly:
                store._write_connection = connection
                store._writer = Writer(backend, connection, store._statements, last, lambda b: store.on_commit(b))
                await store._writer.submit(None, [], 0, 0)  # takes this run's number, and shows that writing works
                store.first_seq = store._writer.last << COMMIT_SHIFT
            else:
                await connection.close()
        except BaseException:
            await connection.close()
            raise
        return store

    async def _identify(self, connection: AsyncConnection, wrap_key: bytes) -> int:
        """Whose store it is, its keys, its newest commit number."""
        rows = (await connection.execute(select(MetaRow.key, MetaRow.value, MetaRow.checksum))).tuples()
        meta = {k: v for k, v, checksum in rows if self._sound("meta", k, checksum, (k, v))}
        newest = (await connection.execute(select(func.max(EntryRow.seq)))).scalar() or 0
        if not meta and not newest and not self.readonly:
            meta = await self._first(connection, wrap_key)
        if _ORIGIN not in meta or _STORE_KEY not in meta or _VERSION_KEY not in meta:
            raise DamagedStore("it does not say whose it is.")
        if meta[_ORIGIN] != self.origin:
            raise ForeignStore(f"it was written by {meta[_ORIGIN].hex()}, this node is {self.origin.hex()}.")
        try:
            self._box = SecretBox(SecretBox(wrap_key).decrypt(meta[_STORE_KEY]))
            self.version_key = self._box.decrypt(meta[_VERSION_KEY])
        except CryptoError as error:
            raise DamagedStore("its key does not open with the key of this node.") from error
        last = max(newest >> COMMIT_SHIFT, int(meta.get(LAST_COMMIT, b"0")))
        noted = self._backend.noted()
        if last < noted:
            raise DamagedStore(f"its newest commit is {last}, but {noted} was acknowledged: a part of it is gone.")
        return last

    async def _first(self, connection: AsyncConnection, wrap_key: bytes) -> dict[str, bytes]:
        store_key = os.urandom(SecretBox.KEY_SIZE)
        meta: dict[str, bytes] = {
            _ORIGIN: self.origin,
            _STORE_KEY: bytes(SecretBox(wrap_key).encrypt(store_key)),
            _VERSION_KEY: bytes(SecretBox(store_key).encrypt(os.urandom(16))),
        }
        await connection.execute(self._statements.put_meta, [meta_params(k, v) for k, v in meta.items()])
        await connection.commit()
        return meta

    async def close(self, within_s: float = 3.0) -> None:
        """Writes what waits (for `within_s` seconds at most), then closes. What is left fails with StoreClosed.
        Idempotent.
        """
        if self._writer is not None:
            await self._writer.close(within_s)
        if self._write_connection is not None:
            connection, self._write_connection = self._write_connection, None
            await connection.close()
        await self._backend.close()

    # --- entries --------------------------------------------------------------------------------------------

    def commit(self, batch: Batch) -> "asyncio.Future[None]":
        """Queues the batch; the future resolves when it is on disk, or has a StoreError. First come, first written.

        Raises StoreBusy (too much waits) or StoreClosed at once. A waiter that is cancelled does not call its batch
        back.
        """
        rows = len(batch.rows) + len(batch.purge) + len(batch.secrets)
        return self._submit(batch, [], rows, batch.weight())

    async def load(self) -> AsyncIterator[list[StoredEntry]]:
        """All entries in the order of their `seq`, in chunks. Raises DamagedStore, never leaves a row out."""
        columns = (EntryRow.raw, EntryRow.id, EntryRow.seq, EntryRow.prior, EntryRow.checksum)
        after = -1
        while True:
            query = select(*columns).where(EntryRow.seq > after).order_by(EntryRow.seq).limit(CHUNK)
            rows = await self._read(query)
            chunk = []
            for raw, id_, seq, prior, checksum in rows:
                if entry_checksum(seq, id_, raw, prior) != checksum:
                    raise DamagedStore(f"the entry with seq {seq} is not as it was written.")
                chunk.append(StoredEntry(raw, id_, seq, prior))
            if chunk:
                yield chunk
                after = chunk[-1].seq
            if len(chunk) < CHUNK:
                return

    # --- secrets --------------------------------------------------------------------------------------------

    def seal(self, data: bytes) -> bytes:
        """Encrypts with the store's own key (XSalsa20-Poly1305)."""
        return bytes(self._box.encrypt(data))

    def unseal(self, sealed: bytes) -> bytes:
        """Raises DamagedStore if it was not sealed by this store."""
        try:
            return self._box.decrypt(sealed)
        except CryptoError as error:
            raise DamagedStore("a secret does not open.") from error

    async def put_secret(self, service_id: str, sealed: bytes | None) -> None:
        """Keeps or (None) removes the secret of one service. With an entry: use `Batch.secrets`, so that both are kept
        or none.
        """
        await self._submit(None, [secret_op(self._statements, service_id, sealed)], 1, 400 + len(sealed or b""))

    async def secrets(self) -> dict[str, bytes]:
        """Sealed secrets by service id."""
        return {row[0]: row[1] for row in await self._all(SecretRow)}

    # --- tokens ---------------------------------------------------------------------------------------------

    async def add_token_key(self, key: TokenKey) -> None:
        """Keeps a key (again, with the same kid: replaces)."""
        await self._put(self._statements.put_token_key, TokenKeyRow, (key.kid, key.sealed, key.created))

    async def drop_token_key(self, kid: str) -> None:
        await self._submit(None, [(self._statements.drop_token_key, [{"k_kid": kid}])], 1, 400)

    async def token_keys(self) -> list[TokenKey]:
        """Oldest first."""
        return sorted((TokenKey(*row) for row in await self._all(TokenKeyRow)), key=lambda k: (k.created, k.kid))

    async def add_token(self, token: TokenRow) -> None:
        """Keeps what an issued token says (again, with the same jti: replaces)."""
        scopes = " ".join(token.scopes)
        values = (token.jti, token.sub, scopes, token.iat, token.exp, token.label, token.revoked_at)
        await self._put(self._statements.put_token, IssuedTokenRow, values)

    async def revoke_token(self, jti: str, at: int) -> bool:
        """Marks it revoked at `at` (ms). False where no such token is kept. A second time keeps the first `at`."""
        for token in await self.tokens():
            if token.jti == jti:
                if token.revoked_at is None:
                    values = (token.jti, token.sub, token.scopes, token.iat, token.exp, token.label, at)
                    await self.add_token(TokenRow(*values))
                return True
        return False

    async def drop_token(self, jti: str) -> None:
        """Forgets a token; for those that expired."""
        await self._submit(None, [(self._statements.drop_token, [{"k_jti": jti}])], 1, 400)

    async def tokens(self) -> list[TokenRow]:
        """Oldest first."""
        rows = [TokenRow(r[0], r[1], tuple(r[2].split()), *r[3:]) for r in await self._all(IssuedTokenRow)]
        return sorted(rows, key=lambda t: (t.iat, t.jti))

    # --- the node's own numbers -----------------------------------------------------------------------------

    async def get_meta(self, key: str) -> bytes | None:
        return next((value for name, value in await self._all(MetaRow) if name == key), None)

    async def set_meta(self, key: str, value: bytes) -> None:
        """`key` must not be one of the store's own."""
        if key in (_ORIGIN, _STORE_KEY, _VERSION_KEY, LAST_COMMIT):
            raise ValueError(f"{key} is the store's own")
        await self._submit(None, [(self._statements.put_meta, [meta_params(key, value)])], 1, 400 + len(value))

    # --- looking after it -----------------------------------------------------------------------------------

    async def verify(self) -> list[Damage]:
        """Reads everything, also the structure of the file. An empty list: sound."""
        return [Damage("file", "", text) for text in await self._checked(self._backend.check())]

    def stats(self) -> StoreStats:
        return self._writer.stats() if self._writer else StoreStats(0, 0, 0, 0, 0, 0, 0.0)

    # --- within ---------------------------------------------------------------------------------------------

    def _submit(self, batch: Batch | None, ops: list[Op], rows: int, weight: int) -> "asyncio.Future[None]":
        if self._writer is None:
            raise StoreClosed("it was opened for reading.")
        return self._writer.submit(batch, ops, rows, weight)

    async def _put(self, statement: Any, table: type[Base], values: tuple[Any, ...]) -> None:
        names = [c.name for c in table.__table__.columns]
        row: Params = dict(zip(names, (*values, row_checksum(values)), strict=True))
        await self._submit(None, [(statement, [row])], 1, 1000)

    async def _all(self, table: type[Base]) -> list[tuple[Any, ...]]:
        """All rows of a small table, without their checksum. Raises DamagedStore."""
        rows = await self._read(select(*table.__table__.columns))
        return [
            tuple(row[:-1]) for row in rows if self._sound(table.__tablename__, str(row[0]), row[-1], tuple(row[:-1]))
        ]

    def _sound(self, table: str, key: str, checksum: int, values: tuple[Any, ...]) -> bool:
        if row_checksum(values) != checksum:
            raise DamagedStore(f"the row {key!r} of {table} is not as it was written.")
        return True

    async def _read(self, query: Any) -> Any:
        async def run() -> Any:
            async with self._backend.engine.connect() as connection:
                return (await connection.execute(query)).all()

        return await self._checked(run())

    async def _checked(self, reading: Any) -> Any:
        try:
            return await reading
        except StoreError:
            raise
        except Exception as error:
            raise self._backend.explain(error) from error
