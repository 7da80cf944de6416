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
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from typing import Any

from nacl.exceptions import CryptoError
from nacl.secret import SecretBox
from sqlalchemy import func, select

from federation.identity import did_of
from kosreg.service_model import Base, EntryRow, IssuedTokenRow, MetaRow, SecretRow, TokenKeyRow
from kosreg.store.dialect import Backend, Op, Statement, Statements
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
    TrustChange,
    entry_is_sound,
    row_checksum,
    row_name,
)
from kosreg.store.schema import HEAD, upgrade, version_of
from kosreg.store.sqlite import SQLite, path_of
from kosreg.store.trust_tables import AUDIT_HEAD, TrustTables
from kosreg.store.verify import Verifier
from kosreg.store.writer import LAST_COMMIT, Writer, meta_values, secret_op, with_checksum

CHUNK = 2_000  # entries: some 4 ms of the reading thread; 2 MB as a rule, 128 MB if all were as large as may be

_ORIGIN, _STORE_KEY, _VERSION_KEY = "origin", "store_key", "version_key"
_VERSION_KEY_SIZE = 16  # AES-128


def _nobody(_batches: list[Batch]) -> None:
    pass


class Store(TrustTables):
    """An open store. Made by `open`; every method runs in the loop that opened it.

    origin: 32 bytes, whose it is. version_key: 16 bytes, made once with the store. opened: how the schema came to be.
    on_commit: called in the loop with the batches of each commit, in order, before their futures resolve; on_failure:
    the same for batches that were not written. One of the two is called once for each batch, whoever still waits.
    """

    def __init__(self, backend: Backend, origin: bytes, opened: Opened, *, readonly: bool) -> None:
        self.origin = origin
        self.opened = opened
        self.readonly = readonly
        self.version_key = b""
        self.on_commit: Callable[[list[Batch]], None] = _nobody
        self.on_failure: Callable[[list[Batch]], None] = _nobody
        self.first_seq = 0
        self._backend = backend
        self._statements = Statements.of(backend.engine.dialect)
        self._box: SecretBox
        self._writer: Writer | None = None

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
        async with backend.engine.connect() as connection:
            if readonly:
                version = await connection.run_sync(version_of, backend.where)
                if version != HEAD:
                    raise CannotOpen(
                        f"{backend.where}: its schema is {version}, this release reads {HEAD}.", "Start the node once."
                    )
                opened = Opened("current", HEAD)
            else:
                opened = await connection.run_sync(upgrade, backend.where)
                await connection.commit()
        store = cls(backend, origin, replace(opened, warning=backend.warning), readonly=readonly)
        last = await store._identify(wrap_key)
        if not readonly:
            writer = Writer(
                backend,
                store._statements,
                last,
                lambda batches: store.on_commit(batches),
                lambda batches: store.on_failure(batches),
            )
            try:
                await writer.submit(None, [], 0, 0)  # takes this run's number, and shows that writing works
            except BaseException:
                await writer.close(0)
                raise
            store._writer = writer
            store.first_seq = writer.last << COMMIT_SHIFT
        return store

    async def _identify(self, wrap_key: bytes) -> int:
        """Whose store it is, its keys, its newest commit number."""
        meta: dict[str, bytes] = dict(await self._all(MetaRow))
        newest: int = (await self._read(select(func.max(EntryRow.seq))))[0][0] or 0
        last = max(newest >> COMMIT_SHIFT, int(meta.get(LAST_COMMIT, b"0")))
        known = self._backend.compare(last)
        if not meta and not last and not self.readonly:
            meta = await self._first(wrap_key)
        if not {_ORIGIN, _STORE_KEY, _VERSION_KEY} <= meta.keys():
            raise self._damaged("it does not say whose it is")
        if meta[_ORIGIN] != self.origin:
            raise ForeignStore(
                f"{self._backend.where} was written by {did_of(meta[_ORIGIN])}, this node is {did_of(self.origin)}."
            )
        try:
            self._box = SecretBox(SecretBox(wrap_key).decrypt(meta[_STORE_KEY]))
        except CryptoError as error:
            raise self._damaged("its own key does not open with the key of this node") from error
        self.version_key = self.unseal(meta[_VERSION_KEY])
        if last and not known and not self.readonly:
            # A copy that came without its note may be older than what was told to clients: no cursor of theirs may fit.
            self.version_key = os.urandom(_VERSION_KEY_SIZE)
            values = meta_values(_VERSION_KEY, self.seal(self.version_key))
            await self._backend.write([Op(self._statements.put_meta, [values])])
        return last

    async def _first(self, wrap_key: bytes) -> dict[str, bytes]:
        store_key = os.urandom(SecretBox.KEY_SIZE)
        meta: dict[str, bytes] = {
            _ORIGIN: self.origin,
            _STORE_KEY: bytes(SecretBox(wrap_key).encrypt(store_key)),
            _VERSION_KEY: bytes(SecretBox(store_key).encrypt(os.urandom(_VERSION_KEY_SIZE))),
        }
        await self._backend.write([Op(self._statements.put_meta, [meta_values(k, v) for k, v in meta.items()])])
        return meta

    async def close(self, within_s: float = 3.0) -> None:
        """Writes what waits (for `within_s` seconds at most), then closes. What is left fails with StoreClosed.
        Idempotent.
        """
        if self._writer is not None:
            await self._writer.close(within_s)
        await self._backend.close()

    async def change_key(self, origin: bytes, wrap_key: bytes, batch: Batch, change: TrustChange) -> None:
        """In one commit: from now on it is the store of `origin`, whose `wrap_key` unlocks it; and `batch`, and
        `change`. Then it is to be closed. Raises StoreError."""
        sealed = bytes(SecretBox(wrap_key).encrypt(self._box.encode()))
        values = [meta_values(_ORIGIN, origin), meta_values(_STORE_KEY, sealed)]
        ops = [*self._trust_ops(change), Op(self._statements.put_meta, values)]
        rows = len(batch.rows) + sum(len(op.rows) for op in ops)
        await self._submit(batch, ops, rows, batch.weight() + 400 * rows)

    async def metas(self, beginning: str) -> dict[str, bytes]:
        """The numbers of the node whose names begin so."""
        return {key: value for key, value in await self._all(MetaRow) if key.startswith(beginning)}

    # --- entries --------------------------------------------------------------------------------------------

    def commit(self, batch: Batch) -> "asyncio.Future[None]":
        """Queues the batch; the future resolves when it is on disk, or has a StoreError. First come, first written.

        Raises StoreBusy (too much waits) or StoreClosed at once. A waiter that is cancelled does not call its batch
        back.
        """
        rows = len(batch.rows) + len(batch.purge) + len(batch.secrets)
        return self._submit(batch, [], rows, batch.weight())

    async def load(self) -> AsyncGenerator[list[StoredEntry], None]:
        """All entries in the order of their `seq`, in chunks. Raises DamagedStore; never leaves a row out.

        The structure of the file is checked meanwhile on another thread (it costs no time where there are two cores),
        so the last chunk is not the end: whoever loads must run the iterator out before believing what it got.
        """
        load = self._statements.load
        checking = asyncio.ensure_future(self._backend.integrity())
        try:
            after = -1
            while True:
                rows: Any = await self._checked(self._backend.fetch(load, load.row(after=after, most=CHUNK)))
                chunk = []
                for row in rows:
                    if not entry_is_sound(row):
                        raise self._damaged(f"the entry with seq {row[2]} is not as it was written")
                    chunk.append(StoredEntry(*row[:4]))
                if chunk:
                    after = chunk[-1].seq
                    yield chunk
                if len(rows) < CHUNK:
                    break
            faults = await self._checked(checking)
            if faults:
                raise self._damaged("; ".join(faults[:3]))
        finally:
            await asyncio.wait([checking])  # a thread cannot be called back; its answer must not be left unheard
            checking.exception()

    # --- secrets --------------------------------------------------------------------------------------------

    def seal(self, data: bytes) -> bytes:
        """Encrypts with the store's own key (XSalsa20-Poly1305)."""
        return bytes(self._box.encrypt(data))

    def unseal(self, sealed: bytes) -> bytes:
        """Raises DamagedStore if it was not sealed by this store."""
        try:
            return self._box.decrypt(sealed)
        except CryptoError as error:
            raise self._damaged("a secret does not open") from error

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
        await self._put(self._statements.put_token_key, key.kid, key.sealed, key.created)

    async def drop_token_key(self, kid: str) -> None:
        await self._submit(None, [Op(self._statements.drop_token_key, [(kid,)])], 1, 400)

    async def token_keys(self) -> list[TokenKey]:
        """Oldest first."""
        return sorted((TokenKey(*row) for row in await self._all(TokenKeyRow)), key=lambda k: (k.created, k.kid))

    async def add_token(self, token: TokenRow) -> None:
        """Keeps what an issued token says (again, with the same jti: replaces)."""
        scopes = " ".join(token.scopes)
        values = (token.jti, token.sub, scopes, token.iat, token.exp, token.label, token.revoked_at)
        await self._put(self._statements.put_token, *values)

    async def revoke_token(self, jti: str, at: int) -> bool:
        """Marks it revoked at `at` (ms). False where no such token is kept. A second time keeps the first `at`."""
        for token in await self.tokens():
            if token.jti == jti:
                if token.revoked_at is None:
                    await self.add_token(replace(token, revoked_at=at))
                return True
        return False

    async def drop_token(self, jti: str) -> None:
        """Forgets a token; for those that expired."""
        await self._submit(None, [Op(self._statements.drop_token, [(jti,)])], 1, 400)

    async def tokens(self) -> list[TokenRow]:
        """Oldest first."""
        rows = [TokenRow(r[0], r[1], tuple(r[2].split()), *r[3:]) for r in await self._all(IssuedTokenRow)]
        return sorted(rows, key=lambda t: (t.iat, t.jti))

    # --- the node's own numbers -----------------------------------------------------------------------------

    async def get_meta(self, key: str) -> bytes | None:
        return next((value for name, value in await self._all(MetaRow) if name == key), None)

    async def set_meta(self, key: str, value: bytes) -> None:
        """`key` must not be one of the store's own."""
        if key in (_ORIGIN, _STORE_KEY, _VERSION_KEY, LAST_COMMIT, AUDIT_HEAD):
            raise ValueError(f"{key} is the store's own")
        await self._submit(None, [Op(self._statements.put_meta, [meta_values(key, value)])], 1, 400 + len(value))

    # --- looking after it -----------------------------------------------------------------------------------

    async def verify(self) -> list[Damage]:
        """Reads everything and says all that is wrong with it; an empty list: sound. Also while it is in use."""
        return await Verifier(self._backend, self.unseal).run()

    def stats(self) -> StoreStats:
        return self._writer.stats() if self._writer else StoreStats(0, 0, 0, 0, 0, 0, 0.0)

    # --- within ---------------------------------------------------------------------------------------------

    def _submit(self, batch: Batch | None, ops: list[Op], rows: int, weight: int) -> "asyncio.Future[None]":
        if self._writer is None:
            raise StoreClosed("it was opened for reading.")
        return self._writer.submit(batch, ops, rows, weight)

    async def _put(self, statement: Statement, *values: object) -> None:
        await self._submit(None, [Op(statement, [with_checksum(*values)])], 1, 1000)

    async def _all(self, table: type[Base]) -> list[tuple[Any, ...]]:
        """All rows of a small table, without their checksum. Raises DamagedStore."""
        rows = await self._read(select(*table.__table__.columns))
        return [
            tuple(row[:-1])
            for row in rows
            if self._sound(table.__tablename__, row_name(row[0]), row[-1], tuple(row[:-1]))
        ]

    def _sound(self, table: str, key: str, checksum: int, values: tuple[Any, ...]) -> bool:
        if row_checksum(values) != checksum:
            raise self._damaged(f"the row {key!r} of {table} is not as it was written")
        return True

    def _damaged(self, what: str) -> DamagedStore:
        return DamagedStore(f"{self._backend.where}: {what}.")

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
