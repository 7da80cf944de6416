"""SQLite: how the file is opened and guarded, and what its errors mean.

Two files of ours stand beside those of SQLite. `registry.db.lock` is held by `flock` as long as the daemon lives (the
kernel lets it go when the process dies, however it dies) and names its pid. In it, too, stands the number of the newest
commit that was acknowledged, written (not synced) after each commit. SQLite cannot know that its log was deleted or
that a rotten page ended its replay early: it opens the older state without a word. We can: a database that is older
than the note has lost something. The note needs no sync: it is written after the commit is on disk, so a power cut
leaves it too low at worst, never too high.
"""

import contextlib
import fcntl
import os
import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from kosreg.store.errors import (
    CannotOpen,
    DamagedStore,
    StoreError,
    StoreFull,
    StoreInUse,
    StoreRefused,
    StoreUnavailable,
)

_APPLICATION_ID = 0x6B6F7372  # "kosr", for file(1)
_NOTE = b"pid %010d\ncommit %020d\n"
_NOTE_SIZE = len(_NOTE % (0, 0))
_BUSY_MS = 2000  # a backup tool that holds the file: wait so long, then say so

_DAMAGE = {"SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_IOERR_SHORT_READ", "SQLITE_IOERR_CORRUPTFS", "SQLITE_IOERR_DATA"}
_FULL = {"SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_TRUNCATE", "SQLITE_IOERR_SHMSIZE"}
_REFUSED = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.InterfaceError, sqlite3.ProgrammingError)


def path_of(url: str) -> Path:
    """The file of `sqlite:///path` (`sqlite+aiosqlite:` too) or of a bare path. Raises CannotOpen."""
    if "://" not in url:
        return Path(url)
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise CannotOpen(f"{url!r} is no database URL.", "Write store.url as sqlite:///PATH.") from error
    if parsed.get_backend_name() != "sqlite":
        raise CannotOpen(
            f"no driver for {parsed.get_backend_name()!r} is part of this release.",
            "Write store.url as sqlite:///PATH.",
        )
    if parsed.database in (None, "", ":memory:"):
        raise CannotOpen("a store in memory would forget what it acknowledged.", "Write store.url as sqlite:///PATH.")
    return Path(str(parsed.database))


class SQLite:
    """The backend of one file (see `dialect.Backend`)."""

    def __init__(self, path: Path, *, readonly: bool) -> None:
        self.path = Path(os.path.realpath(path))  # two names of one file are one lock
        self.lock_path = self.path.with_name(self.path.name + ".lock")
        self.engine: AsyncEngine = self._engine(readonly)
        self._readonly = readonly
        self._lock = -1
        self._noted = 0

    def _engine(self, readonly: bool) -> AsyncEngine:
        mode = "ro" if readonly else "rw"
        engine = create_async_engine(
            f"sqlite+aiosqlite:///file:{_quoted(self.path)}?mode={mode}&uri=true",
            pool_size=2,  # the writer's, and one for reads
            max_overflow=2,
            connect_args={"timeout": _BUSY_MS / 1000},
        )

        @event.listens_for(engine.sync_engine, "connect")
        def configure(connection: Any, _record: Any) -> None:
            cursor = connection.cursor()
            cursor.execute("PRAGMA synchronous=FULL")
            cursor.execute("PRAGMA cell_size_check=ON")
            if not readonly:
                cursor.execute("PRAGMA journal_mode=WAL")
                cursor.execute("PRAGMA wal_autocheckpoint=2000")
                cursor.execute("PRAGMA journal_size_limit=16777216")
            cursor.close()

        return engine

    async def prepare(self) -> None:
        if self._readonly:
            self._noted = _read_note(self.lock_path)[1]
            if not self.path.exists():
                raise CannotOpen(f"there is no file {self.path}.", "Start the node once, it makes the file.")
            return
        self._take_lock()
        try:
            self._look_at_files()
            await self._create_file()
        except BaseException:
            self._let_go()
            raise

    def _take_lock(self) -> None:
        try:
            lock = os.open(self.lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise CannotOpen(f"{self.lock_path} cannot be opened for writing ({error.strerror}).") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            pid, _ = _read_note(self.lock_path)
            by = f"by process {pid}" if pid else "by another process"
            raise StoreInUse(f"{self.path} is held {by}.") from error
        self._lock = lock
        self._noted = _read_note(self.lock_path)[1]
        try:
            os.pwrite(lock, _NOTE % (os.getpid(), self._noted), 0)
        except OSError as error:
            self._let_go()
            raise self._explain_os(error) from error

    def _look_at_files(self) -> None:
        log = self.path.with_name(self.path.name + "-wal")
        size = self.path.stat().st_size if self.path.exists() else None
        if size is None and self._noted and not log.exists():
            self._noted = 0  # moved away on purpose: begin anew
        elif not size and log.exists() and log.stat().st_size:
            # SQLite would delete the log, and with it what only the log holds.
            raise DamagedStore(f"{self.path} is missing or empty, but its log {log} is there.")
        elif size == 0 and self._noted:
            raise DamagedStore(f"{self.path} is empty, but {self._noted} commits were written to it.")

    async def _create_file(self) -> None:
        try:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))  # -wal and -shm take its mode
            directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as error:
            raise self._explain_os(error) from error

    def note(self, commit: int) -> None:
        if commit > self._noted:
            self._noted = commit
            # No room for it cannot be: the block was allocated at open.
            with contextlib.suppress(OSError):
                os.pwrite(self._lock, _NOTE % (os.getpid(), commit), 0)

    def noted(self) -> int:
        return self._noted

    def explain(self, error: BaseException) -> StoreError:
        if isinstance(error, StoreError):
            return error
        cause: BaseException = error
        while isinstance(cause, DBAPIError) and cause.orig is not None:
            cause = cause.orig
        name = getattr(cause, "sqlite_errorname", "") or ""
        if name in _DAMAGE or name.startswith("SQLITE_CORRUPT"):
            return DamagedStore(f"{self.path}: {cause}.")
        if name in _FULL:
            return StoreFull(f"{self.path}: {cause} (no room, over quota or over a limit on the size of files).")
        if name in ("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM") or name.startswith("SQLITE_READONLY_"):
            return CannotOpen(f"{self.path} or its directory is not writable ({cause}).")
        if isinstance(cause, (*_REFUSED, UnicodeError, OverflowError, TypeError)):
            return StoreRefused(f"{cause}.")
        if isinstance(cause, OSError):
            return self._explain_os(cause)
        return StoreUnavailable(f"{self.path}: {type(cause).__name__}: {cause}.")

    def _explain_os(self, error: OSError) -> StoreError:
        import errno

        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return StoreFull(f"{self.path}: {error.strerror}.")
        return CannotOpen(f"{error.filename or self.path}: {error.strerror}.")

    async def check(self) -> list[str]:
        async with self.engine.connect() as connection:
            rows = (await connection.execute(text("PRAGMA integrity_check(20)"))).scalars().all()
        return [] if rows == ["ok"] else [str(row) for row in rows]

    async def close(self) -> None:
        await self.engine.dispose()
        self._let_go()

    def _let_go(self) -> None:
        if self._lock >= 0:
            with contextlib.suppress(OSError):
                os.pwrite(self._lock, _NOTE % (0, self._noted), 0)
            os.close(self._lock)
            self._lock = -1


def _quoted(path: Path) -> str:
    from urllib.parse import quote

    return quote(str(path))


def _read_note(path: Path) -> tuple[int, int]:
    """(pid, commit) of a lock file; zeros where it is absent or says nothing."""
    try:
        words = path.read_bytes()[:_NOTE_SIZE].split()
        return int(words[1]), int(words[3])
    except (OSError, IndexError, ValueError):
        return 0, 0
