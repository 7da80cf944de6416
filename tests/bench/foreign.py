"""What it costs to take in entries of other nodes, beside the check of their signatures.

`python -m tests.bench.foreign [COUNT]` prints µs of CPU an entry (the store's thread included), how long a slice holds
the loop, and bytes of memory a service (its entry, which the replica holds, not included).
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path
from typing import Any

from crdt.entry import Entry
from federation.cose import fact_of
from federation.effects import Store as StoreEffect
from federation.identity import NodeKey
from federation.replica import Persist, Replica
from kosreg.catalog import Catalog
from kosreg.foreign import did, service_of
from kosreg.klp_registry_sync import RegistrySync
from kosreg.service import Service
from kosreg.store import Store
from kosreg.times import now_ms
from tests.foreign import Origin

KEY = NodeKey(b"\x07" * 32)
BLOCK = 500  # entries handed over at once


class Timed(RegistrySync):
    """Notes how long each slice holds the loop."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.held: list[float] = []

    def _arrived(self, *what: Any) -> None:
        began = time.thread_time()
        super()._arrived(*what)
        self.held.append(time.thread_time() - began)


async def take_in(entries: list[Entry], directory: Path) -> str:
    """Commit and show `entries`; what it cost."""
    store = await Store.open(str(directory / "registry.db"), KEY.public, KEY.derive("store"))
    sync = Timed(Replica(KEY, lambda entry: True), store, Catalog(), now_ms)
    await sync.load(clean=True)
    cpu, wall = time.process_time(), time.perf_counter()
    for start in range(0, len(entries), BLOCK):
        part = tuple(entries[start : start + BLOCK])
        await sync.commit_foreign(StoreEffect(Persist(part, now_ms()), b"\x01" * 32))
    cpu, wall = (time.process_time() - cpu) / len(entries), (time.perf_counter() - wall) / len(entries)
    assert len(sync.catalog) == len(entries)
    await store.close()
    return f"{cpu * 1e6:.1f} µs of CPU an entry, {wall * 1e6:.1f} µs of time; held for {max(sync.held) * 1e3:.1f} ms"


def memory(entries: list[Entry], *, foreign: bool) -> int:
    """Bytes that one shown service takes."""
    tracemalloc.start()
    origin = did(entries[0].origin)
    services: list[Service | None] = [
        service_of(entry, origin) if foreign else Service(entry.name, origin, entry.cls, fact_of(entry).body or {})
        for entry in entries
    ]
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return size // len(services)


def main(count: int) -> None:
    """Run and print."""
    origin = Origin(0xA1)
    entries = [
        origin.service(
            f"service-{number}", tags=["text", "llm"], url=f"http://host-{number}:9000/x", protocol="http",
            capabilities=["translate"], description="Translates what it is given. " * 4,
        )
        for number in range(count)
    ]  # fmt: skip
    print(f"{count:,} entries of {len(entries[0].raw)} bytes")
    with tempfile.TemporaryDirectory() as directory:
        print(asyncio.run(take_in(entries, Path(directory))))
    print(f"{memory(entries, foreign=True)} bytes a foreign service, {memory(entries, foreign=False)} an own one")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
