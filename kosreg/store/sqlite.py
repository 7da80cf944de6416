"""SQLite: how the file is opened and guarded, how a commit gets on disk, and what the errors mean.

Beside the files of SQLite stands one of ours. `registry.db.lock` is held by `flock` as long as the daemon lives (the
kernel lets it go when the process dies, however it dies) and names its pid. In it stands, too, the number of the newest
commit that was acknowledged, written (not synced) after each commit. SQLite cannot know that its log was deleted, or
that a rotten page ended the replay of the log early: it opens the older state without a word. We can: a database that
is older than the note has lost something. The note needs no sync: it is written when the commit is on disk, so a power
cut leaves it too low, never too high.
"""

import asyncio
import contextlib
import errno
import fcntl
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import structlog
from sqlalchemy import URL, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from kosreg.store.dialect import Op, Statement, Values
from kosreg.store.errors import (
    CannotOpen,
    DamagedStore,
    StoreError,
    StoreFull,
    StoreInUse,
    StoreRefused,
    StoreUnavailable,
)
from kosreg.store.schema import not_ours

if TYPE_CHECKING:
    import aiosqlite

log = structlog.get_logger("kosreg.store")

_NOTE = b"pid %010d\ncommit %020d\n"
_BUSY_S = 2.0  # another program (a backup tool) holds the file: wait so long, then say so
_CLOSE_S = 1.0

# Pages of the log before they are moved to the database: 16 MB. 1,000 (SQLite's own) costs 15 % more a row, 8,000 saves
# nothing more and makes the longest commit longer.
_CHECKPOINT_PAGES = 4000

_DAMAGE = {"SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_IOERR_SHORT_READ", "SQLITE_IOERR_CORRUPTFS", "SQLITE_IOERR_DATA"}
# SQLITE_FULL is ENOSPC; a quota or a limit on the size of a file comes as a failed write.
_FULL = {"SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_TRUNCATE", "SQLITE_IOERR_SHMSIZE"}
_NOT_OURS = {"SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_AUTH", "SQLITE_READONLY"}
# What passes, or is at least not the file's fault. All else that SQLite says of our few fixed statements ("no such
# column", "could not decode") means that the file is not what was written.
_PASSING = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_NOMEM", "SQLITE_INTERRUPT", "SQLITE_PROTOCOL", "SQLITE_IOERR")
_REFUSED = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    UnicodeEncodeError,
    OverflowError,
    TypeError,
)


def path_of(url: str) -> Path:
    """The file of `sqlite:///path` (`sqlite+aiosqlite:` too) or of a bare path. Raises CannotOpen."""
    hint = "Write store.url as sqlite:///PATH."
    if "://" not in url:
        return Path(url)
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise CannotOpen(f"{url!r} is no database URL.", hint) from error
    if parsed.get_backend_name() != "sqlite":
        raise CannotOpen(f"this release has no driver for {parsed.get_backend_name()!r}.", hint)
    if parsed.database in (None, "", ":memory:"):
        raise CannotOpen("a store in memory would forget what it acknowledged.", hint)
    return Path(str(parsed.database))


class SQLite:
    """The backend of one file (see `dialect.Backend`)."""

    def __init__(self, path: Path, *, readonly: bool) -> None:
        self.path = Path(os.path.realpath(path))  # two names of one file are one lock
        self.lock_path = self.path.with_name(self.path.name + ".lock")
        self._log_path = self.path.with_name(self.path.name + "-wal")
        self._inodes: dict[Path, int] = {}
        self.where = str(self.path)
        self.warning: str | None = None
        self.engine: AsyncEngine = _engine(self.path, readonly)
        self._readonly = readonly
        self._lock = -1
        self._noted = 0
        self._connection: AsyncConnection | None = None  # the writer's
        self._driver: aiosqlite.Connection | None = None
        self._closing: asyncio.Task[None] | None = None

    # --- the file -------------------------------------------------------------------------------------------

    async def prepare(self) -> None:
        if self._readonly:
            self._noted = _read_note(self.lock_path)[1]
            if not self.path.exists():
                raise CannotOpen(f"there is no file {self.path}.", "Start the node once: it makes the file.")
            return
        try:
            self._take_lock()
            self._look_at_files()
            self._create_file()
        except OSError as error:
            raise self._explain_os(error) from error

    def _take_lock(self) -> None:
        lock = os.open(self.lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            pid, _ = _read_note(self.lock_path)
            raise StoreInUse(f"{self.path} is held by {f'process {pid}' if pid else 'another process'}.") from error
        self._lock = lock
        self._noted = _read_note(self.lock_path)[1]
        os.pwrite(lock, _NOTE % (os.getpid(), self._noted), 0)

    def _look_at_files(self) -> None:
        """What SQLite would take for a new database although there was one."""
        log = self._log_path
        size = self.path.stat().st_size if self.path.exists() else None
        if not size and log.exists() and log.stat().st_size:
            raise DamagedStore(f"{self.path} is missing or empty, but its log {log.name} is there.")
        if size == 0 and self._noted:
            raise DamagedStore(f"{self.path} is empty, but {self._noted} commits were written to it.")
        if size is None and self._noted:
            # Moved away on purpose, as the hint of DamagedStore says; or lost, and then an empty store is all there is.
            self.warning = f"{self.path} is gone; {self._noted} commits were written to it. An empty one is begun."
            self._noted = 0
        if size:
            self._look_inside()

    def _look_inside(self) -> None:
        """Refuses another program's database before anything is set in it: its journal mode would stay changed."""
        with contextlib.suppress(sqlite3.Error), contextlib.closing(_look(self.path)) as connection:
            tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            if tables and "alembic_version" not in tables:
                raise not_ours(self.where, tables)

    def _create_file(self) -> None:
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))  # SQLite gives its log the same mode
        directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)  # the name must survive a power cut, too
        finally:
            os.close(directory)

    def note(self, commit: int) -> None:
        self._noted = max(self._noted, commit)
        with contextlib.suppress(OSError):  # it only ever makes loss visible: no reason to refuse what is on disk
            os.pwrite(self._lock, _NOTE % (os.getpid(), self._noted), 0)

    def compare(self, newest: int) -> bool:
        if newest < self._noted:
            raise DamagedStore(
                f"{self.path}: its newest commit is {newest}, but {self._noted} was acknowledged; the rest is gone, "
                "or its log.",
                "Run `kosreg doctor`; restore a backup. "
                f"An older copy that you put back on purpose is taken once you remove {self.lock_path}.",
            )
        return self._noted > 0

    # --- reading and writing --------------------------------------------------------------------------------

    async def write(self, ops: Sequence[Op]) -> None:
        driver = self._driver or await self._connect_writer()
        self._still_there()
        try:
            for op in ops:
                await driver.executemany(op.statement.sql, op.rows)
            await driver.commit()
        except Exception:
            await self._undo(driver)
            raise

    def _still_there(self) -> None:
        """A file that was moved or removed goes on taking writes from whoever has it open, and nobody ever reads them.
        Raises DamagedStore. Costs 3 µs a commit.
        """
        if not self._inodes:  # the first commit of this run is over: the log is there, too, and stays to the end
            self._inodes = {path: _inode(path) for path in (self.path, self._log_path) if path.exists()}
        for path, inode in self._inodes.items():
            if _inode(path) != inode:
                raise DamagedStore(
                    f"{path} was moved, replaced or removed while the node has it open.",
                    "Stop the node, put the file back, start it again. Nothing is written meanwhile.",
                )

    async def _connect_writer(self) -> "aiosqlite.Connection":
        self._connection = await self.engine.connect()
        self._driver = await _driver_of(self._connection)
        return self._driver

    async def _undo(self, driver: "aiosqlite.Connection") -> None:
        """After a failed write: the same connection if it still answers, else a new one for the next write."""
        try:
            await driver.rollback()
        except Exception:
            connection, self._connection, self._driver = self._connection, None, None
            if connection is not None:
                await connection.invalidate()
                await connection.close()

    async def fetch(self, statement: Statement, values: Values) -> list[Values]:
        async with self.engine.connect() as connection:
            driver = await _driver_of(connection)
            return cast(list[Values], await driver.execute_fetchall(statement.sql, values))

    async def integrity(self) -> list[str]:
        async with self.engine.connect() as connection:
            rows = (await connection.execute(text("PRAGMA integrity_check(20)"))).scalars().all()
        return [] if rows == ["ok"] else [str(row) for row in rows]

    async def close(self) -> None:
        """Waits for a thread that hangs in the disk for `_CLOSE_S` at most. It may yet write, so until it is done, or
        the process is, the lock stays.
        """
        self._closing = self._closing or asyncio.create_task(self._disconnect(), name="store closing")
        done, _ = await asyncio.wait([self._closing], timeout=_CLOSE_S)
        if done and (error := self._closing.exception()) is not None:
            log.warning("the store closed with an error", error=str(self.explain(error)))

    async def _disconnect(self) -> None:
        connection, self._connection, self._driver = self._connection, None, None
        try:
            if connection is not None:
                await connection.close()
            await self.engine.dispose()
        finally:
            self._let_go()

    def _let_go(self) -> None:
        if self._lock >= 0:
            with contextlib.suppress(OSError):
                os.pwrite(self._lock, _NOTE % (0, self._noted), 0)
            os.close(self._lock)
            self._lock = -1

    # --- errors ---------------------------------------------------------------------------------------------

    def explain(self, error: BaseException) -> StoreError:
        if isinstance(error, StoreError):
            return error
        cause: BaseException = error
        while isinstance(cause, DBAPIError) and cause.orig is not None:
            cause = cause.orig
        name = str(getattr(cause, "sqlite_errorname", ""))
        if name in _DAMAGE or name.startswith("SQLITE_CORRUPT_"):
            return DamagedStore(f"{self.path}: {cause}.")
        if name in _FULL:
            return StoreFull(f"{self.path}: {cause} (no room, over quota, or over a limit on the size of files).")
        if name in _NOT_OURS or name.startswith(("SQLITE_READONLY_", "SQLITE_CANTOPEN_")):
            return CannotOpen(f"{self.path} or its directory cannot be written ({cause}).")
        if isinstance(cause, _REFUSED):
            return StoreRefused(f"{cause}.")
        if isinstance(cause, OSError):
            return self._explain_os(cause)
        odd = isinstance(cause, sqlite3.Error) and not name.startswith(_PASSING)
        if odd or isinstance(cause, UnicodeDecodeError):
            return DamagedStore(f"{self.path}: {cause}.")
        return StoreUnavailable(f"{self.path}: {type(cause).__name__}: {cause}.")

    def _explain_os(self, error: OSError) -> StoreError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return StoreFull(f"{self.path}: {error.strerror}.")
        return CannotOpen(f"{error.filename or self.path}: {error.strerror}.")


def _engine(path: Path, readonly: bool) -> AsyncEngine:
    # `rw`, not `rwc`: the file is made by us, with its mode; one that vanishes meanwhile must not be made again, empty.
    query = {"mode": "ro" if readonly else "rw", "uri": "true"}
    engine = create_async_engine(
        URL.create("sqlite+aiosqlite", database=path.as_uri(), query=query),
        pool_size=2,  # the writer's, and one for reads
        max_overflow=2,
        connect_args={"timeout": _BUSY_S},
    )

    @event.listens_for(engine.sync_engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA cell_size_check=ON")
        if not readonly:
            cursor.execute("PRAGMA journal_mode=WAL")
            mode = cursor.fetchone()[0]
            cursor.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
            cursor.execute("PRAGMA journal_size_limit=67108864")
            if mode != "wal":
                raise CannotOpen(f"{path}: this file system cannot hold a write-ahead log.", "Use a local disk.")
        cursor.close()

    return engine


async def _driver_of(connection: AsyncConnection) -> "aiosqlite.Connection":
    return cast("aiosqlite.Connection", (await connection.get_raw_connection()).driver_connection)


def _look(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=_BUSY_S)


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0


def _read_note(path: Path) -> tuple[int, int]:
    """(pid, commit) of a lock file; zeros where it is absent or says nothing."""
    try:
        words = path.read_bytes()[:100].split()
        return int(words[1]), int(words[3])
    except (OSError, IndexError, ValueError):
        return 0, 0
