"""Which federation this node belongs to, and what follows: the class of its own internal entries.

A node belongs to a federation while a root that its admin anchored certifies it. Internal means internal to *that*
federation, so the root is a part of each internal entry's class. Joining the first one is a change of class for every
internal entry: each gets a tombstone in the old class, which no other node has seen, and is signed anew in the new one.
Which one it is, is kept, since a second certificate must not move everything; where the kept one no longer holds, and
another does, the entries move there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from crdt.entry import Class, Entry
from federation.cose import fact_of
from federation.identity import did_of
from federation.replica import Statement
from federation.trust import Trust
from kosreg.klp_registry_sync import RegistrySync
from kosreg.store import Store

ROOT = "federation_root"  # meta: 32 bytes
KINDS = ("service", "status")
SLICE = 100  # entries moved between two turns of the loop

log = structlog.get_logger("kosreg.own_federation")


class OwnFederation:
    """`root`: of the federation that internal means here, 32 bytes; None while there is none."""

    def __init__(self, trust: Trust, sync: RegistrySync, store: Store, wall_ms: Callable[[], int]) -> None:
        self.root: bytes | None = None
        self._trust = trust
        self._sync = sync
        self._store = store
        self._wall_ms = wall_ms
        self._turn = asyncio.Lock()

    async def load(self) -> None:
        """Read what was kept."""
        self.root = self._sync.root = await self._store.get_meta(ROOT) or None

    async def look(self) -> None:
        """See whether it is another federation now, or the first, and move the internal entries there. Raises
        StoreError; the next call goes on."""
        async with self._turn:
            roots = self._trust.roots_of(self._trust.own, self._wall_ms())
            if roots and self.root not in roots:
                root = min(roots)
                await self._store.set_meta(ROOT, root)
                self.root = self._sync.root = root
                log.info("federation", root=did_of(root))
            if self.root is not None:
                await self._move(self.root)

    async def _move(self, root: bytes) -> None:
        replica = self._sync.replica
        stray = [
            (entry.kind, entry.name)
            for entry in replica.map.of(replica.origin)
            if entry.live and entry.cls is Class.INTERNAL and entry.root != root and entry.kind in KINDS
        ]
        for number, (kind, name) in enumerate(stray, 1):
            while self._sync.busy(name):
                await self._sync.turn(name)
            entry = replica.view(kind, name, self._wall_ms())
            if entry is not None and entry.cls is Class.INTERNAL and entry.root != root:
                await self._sync.commit(name, self._sync.sign([_again(entry)]))
            if number % SLICE == 0:
                await asyncio.sleep(0)
        if stray:
            log.info("internal entries moved", entries=len(stray))


def _again(entry: Entry) -> Statement:
    return Statement(entry.kind, entry.name, entry.cls, fact_of(entry).body)
