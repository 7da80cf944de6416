"""What can go wrong with the store, and what to do about it.

Each error knows what it says to the person at the end (`title`, `detail`, `hint`); the API, the command line and the
log all use that text. `retry` tells the caller whether the same call may work later without anybody touching the
machine.
"""

from typing import ClassVar


class StoreError(Exception):
    """The store could not do what was asked. Nothing of the refused write is kept."""

    title: ClassVar[str] = "the store failed"
    hint: ClassVar[str] = "See the log of the node."
    retry: ClassVar[bool] = False

    def __init__(self, detail: str, hint: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.todo = hint or self.hint

    def __str__(self) -> str:
        return f"{self.title}: {self.detail} {self.todo}"


class CannotOpen(StoreError):
    """The file, its directory or the URL cannot be used."""

    title = "the store cannot be opened"
    hint = "Check the path and its owner and permissions."


class StoreInUse(CannotOpen):
    """Another daemon has it open."""

    title = "the store is in use"
    hint = "Stop the other node first, or give this one a data directory of its own (--data-dir)."


class ForeignStore(CannotOpen):
    """It belongs to another node key."""

    title = "the store belongs to another node"
    hint = "Use the node.key that was beside it, or move the store away to begin an empty one."


class SchemaMismatch(CannotOpen):
    """Its schema is newer than this release, or it is another program's database."""

    title = "the store has another schema"
    hint = "Install the kosreg release that wrote it, or a newer one."


class DamagedStore(StoreError):
    """What is on disk is not what was written."""

    title = "the store is damaged"
    hint = "Run `kosreg doctor`; restore a backup of the file, or move it away to begin an empty one."


class StoreFull(StoreError):
    """No room. Reads go on; writes work again once there is room."""

    title = "the store is full"
    hint = "Free some room on the disk; the node goes on by itself."
    retry = True


class StoreBusy(StoreError):
    """Too much is waiting to be written."""

    title = "the store is busy"
    hint = "Try again in a moment."
    retry = True


class StoreUnavailable(StoreError):
    """A write failed for a reason that may pass: the disk answered with an error, or another program holds the file."""

    title = "the store cannot write"
    hint = "Try again; if it stays so, see the log of the node and of the kernel."
    retry = True


class StoreRefused(StoreError):
    """This one write can never be stored (a text that is no Unicode, a number too big)."""

    title = "the store refused the row"
    hint = "Nothing of it was kept; other writes are not affected."


class StoreClosed(StoreError):
    """The store was closed, or is read-only."""

    title = "the store is closed"
    hint = "The node is stopping; try again when it is back."
    retry = True
