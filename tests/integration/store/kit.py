"""What the tests of the store share: real entries, a store in a folder, and what is read back from it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from crdt.entry import Class, Entry, Fact
from federation.cose import sign_entry
from federation.identity import NodeKey
from kosreg.store import Batch, Row, Store, StoredEntry

KEY = NodeKey(b"store tests".ljust(32, b"."))
WRAP = KEY.derive("store")
FOR_EVER = 1 << 45  # ms: valid_until of all entries here


def entry(name: str, stamp: int = 1, *, cls: Class = Class.INTERNAL, live: bool = True, size: int = 300) -> Entry:
    """A signed entry of some `size` bytes."""
    body = {"name": name, "type": "tool", "description": "x" * size} if live else None
    return sign_entry(KEY, Fact("service", name, stamp, cls, FOR_EVER, body))


def batch(*entries: Entry) -> Batch:
    return Batch([Row(e) for e in entries])


def url_of(folder: Path) -> str:
    return f"sqlite:///{folder / 'registry.db'}"


async def open_store(folder: Path, *, readonly: bool = False) -> Store:
    return await Store.open(url_of(folder), KEY.public, WRAP, readonly=readonly)


@asynccontextmanager
async def opened(folder: Path, *, readonly: bool = False) -> AsyncIterator[Store]:
    store = await open_store(folder, readonly=readonly)
    try:
        yield store
    finally:
        await store.close()


async def everything(store: Store) -> list[StoredEntry]:
    return [row async for chunk in store.load() for row in chunk]


async def ids(folder: Path) -> set[bytes]:
    async with opened(folder) as store:
        return {row.id for row in await everything(store)}


async def until(condition: Callable[[], bool], within_s: float = 5.0) -> None:
    """Waits for a condition, with a deadline."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.005)
