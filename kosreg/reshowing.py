"""What changes in the view without a row of the store: time, trust, an admin's word about an id, a proof that ends.

Rows tell a later start what was shown when. These changes are told by no row, so before the first of them in a run a
note is kept (`NOTE`): after the next start, watchers that were told nothing since begin with the present state instead
of going on from where they were. (What lapses needs no note while its row is there.)

Here, too, is kept who holds the ids that several origins claim (`names`), a row each in the table of aliases.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final

import structlog

from federation.identity import parse_did
from kosreg.foreign import did
from kosreg.names import ADMIN, FIRST, Claims
from kosreg.service import ForeignService
from kosreg.store import StoreError

if TYPE_CHECKING:
    from kosreg.klp_registry_sync import RegistrySync

NOTE: Final = "shown_without_rows"  # meta: the number up to which changes were told by no row
THIS_RUN: Final = b"this run"  # its value while the run goes on whose last such change is not known yet
SLICE: Final = 500  # services looked at between two turns of the loop

log = structlog.get_logger("kosreg.sync")


class Reshowing:
    """Beside `RegistrySync`, whose catalog and store it works on."""

    def __init__(self, sync: RegistrySync) -> None:
        self._sync = sync
        self._catalog = sync.catalog
        self._store = sync.store
        self._noted = False
        self._holders: dict[str, Claims | None] = {}  # ids whose row is to be written, or (None) dropped
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._again = False
        sync.catalog.on_holder = self._keep_holder

    # -- time ----------------------------------------------------------------------------------------------------

    def lapse(self, since: int) -> int:
        """Show no more what nobody renewed since `since` (ms), and look again at ids whose proofs may have ended; the
        time it looked at. Own entries stay in the store."""
        sync, catalog = self._sync, self._catalog
        now = sync.wall_ms()
        if now < since:  # the clock was ahead: what lapsed by it is not past yet
            self.trust_changed()
        for change in sync.replica.lapse(since, now):
            origin, uid = did(change.origin), change.name
            if change.kind == "service":
                if change.after is None:
                    catalog.remove(uid, origin, catalog.journal.next_seq(), now)
                else:  # in another class it lives on
                    self._show(change.origin, uid, now)
            elif change.kind == "status":
                held = catalog.claim(uid, origin)
                if isinstance(held, ForeignService):
                    sync.show_status(held, now, None)
        self._forget()
        if any(len(claims.by_origin) > 1 for claims in catalog.contested.values()):
            self._run("names", self._settle_names())
        return now

    async def foreign_lapse(self, since: int) -> int:
        """The same for what others say, every few seconds: nothing but what has lapsed is looked at. (Of own entries
        the round renews first what somebody stands behind.)"""
        sync, catalog = self._sync, self._catalog
        now = sync.wall_ms()
        if now < since:
            self.trust_changed()
            return now
        ended = sync.replica.ended(since, now)
        for number, (key, kind, uid) in enumerate(ended, 1):
            held = catalog.claim(uid, did(key))
            if isinstance(held, ForeignService):
                if kind == "status":
                    sync.show_status(held, now, None)
                elif kind == "service":
                    self._show(key, uid, now)
            if number % SLICE == 0:
                await asyncio.sleep(0)
        return now

    async def _settle_names(self) -> None:
        """Proofs may have ended."""
        now = self._sync.wall_ms()
        for uid, claims in list(self._catalog.contested.items()):
            if claims.winner(now) is not self._catalog.get(uid):
                await self.note()
                self._catalog.settle(uid, now)

    # -- trust ---------------------------------------------------------------------------------------------------

    def trust_changed(self) -> None:
        """Show what may be shown now, and no more what may not: soon, and in slices."""
        self._again = True
        if "trust" not in self._tasks:
            self._run("trust", self._look_again())

    async def _look_again(self) -> None:
        while self._again:
            self._again = False
            replica = self._sync.replica
            for origin in list(replica.map.origins):
                await asyncio.sleep(0)
                names = [entry.name for entry in replica.map.of(origin) if entry.kind == "service" and entry.live]
                for start in range(0, len(names), SLICE):
                    await asyncio.sleep(0)
                    await self._look_at(origin, names[start : start + SLICE])

    async def _look_at(self, origin: bytes, names: list[str]) -> None:
        sync, now = self._sync, self._sync.wall_ms()
        changed = []
        for uid in names:
            entry = sync.replica.map.view(origin, "service", uid, now)
            held = self._catalog.claim(uid, did(origin))
            if origin == sync.replica.origin:  # what lapsed of it may be renewed in the next round, before it is hidden
                if held is None and entry is not None and not sync.busy(uid):
                    changed.append(uid)
            elif (held is not None) != (entry is not None and sync.shows(entry)):
                changed.append(uid)
        if changed:
            await self.note()
        for uid in changed:
            self._show(origin, uid, now)

    def _show(self, origin: bytes, uid: str, now: int) -> None:
        """Show what `origin` says under `uid`, or no more, under a number of no row."""
        catalog = self._catalog
        entry = self._sync.replica.map.view(origin, "service", uid, now)
        seq = catalog.journal.next_seq()
        service = None if entry is None else self._sync.service_of(entry, now, seq)
        if service is not None:
            held = catalog.claim(uid, service.origin)
            if held is not None and not service.foreign:
                service.live_from(held)
            catalog.put(service, now, self._sync.former(origin))
            if held is None and not service.foreign:
                self._sync.on_adopted(service)
        else:
            catalog.remove(uid, did(origin), seq, now)

    # -- names ---------------------------------------------------------------------------------------------------

    async def name(self, uid: str, origin: str) -> None:
        """An admin says that the bare id `uid` means the node `origin` (its DID). Raises StoreError."""
        await self.note()
        await self._store.put_alias(uid, parse_did(origin), ADMIN)
        claims = self._catalog.contested.get(uid)
        if claims is None:
            by_origin = {claim.origin: claim for claim in self._catalog.claims(uid)}
            claims = self._catalog.contested[uid] = Claims(origin, ADMIN, by_origin)
        claims.holder, claims.how, claims.key = origin, ADMIN, None
        self._catalog.settle(uid, self._sync.wall_ms())

    async def unname(self, uid: str) -> bool:
        """Take the admin's word back; False where there is none. An id with one claim is that one's then; one with
        several stays where it is, until who holds it ends. Raises StoreError."""
        claims = self._catalog.contested.get(uid)
        if claims is None or claims.how != ADMIN:
            return False
        await self.note()
        shown = self._catalog.get(uid)
        if len(claims.by_origin) > 1:
            holder = claims.holder if shown is None else shown.origin
            await self._store.put_alias(uid, parse_did(holder), FIRST)
            claims.holder, claims.how = holder, FIRST
            self._catalog.settle(uid, self._sync.wall_ms())
            return True
        await self._store.drop_alias(uid)
        claims.how = FIRST
        claims.holder = next(iter(claims.by_origin), claims.holder)
        self._catalog.settle(uid, self._sync.wall_ms())
        if len(claims.by_origin) < 2:
            self._catalog.contested.pop(uid, None)
        return True

    def _forget(self) -> None:
        """Drop what is no longer in dispute: nobody but the holder claims the id, or nobody does and even the holder's
        tombstone is gone."""
        for uid, claims in list(self._catalog.contested.items()):
            alone = claims.by_origin.keys() == {claims.holder}
            over = not claims.by_origin and not self._sync.replica.map.group(parse_did(claims.holder), "service", uid)
            if claims.how == FIRST and (alone or over):
                del self._catalog.contested[uid]
                self._keep_holder(uid, None)

    def _keep_holder(self, uid: str, claims: Claims | None) -> None:
        self._holders[uid] = claims
        if "holders" not in self._tasks:
            self._run("holders", self._write_holders())

    async def _write_holders(self) -> None:
        """One after the other, so that the last word about an id is the one that stays."""
        while self._holders:
            uid, claims = next(iter(self._holders.items()))
            del self._holders[uid]
            if claims is None:
                await self._store.drop_alias(uid)
            else:
                await self._store.put_alias(uid, parse_did(claims.holder), claims.how)

    # -- inside --------------------------------------------------------------------------------------------------

    async def note(self) -> None:
        """A change is about to be shown that no row tells. Raises StoreError."""
        if not self._noted:
            await self._store.set_meta(NOTE, THIS_RUN)
            self._noted = True

    async def purged(self) -> None:
        """Rows were dropped that told how something ended: note it."""
        if not self._noted:
            await self._store.set_meta(NOTE, b"%d" % self._catalog.journal.head)

    def _run(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Do `work` beside everything else; not twice at a time."""
        if name in self._tasks:
            work.close()
            return
        task = self._tasks[name] = asyncio.create_task(work, name=f"reshowing {name}")
        task.add_done_callback(lambda done: self._done(name, done))

    def _done(self, name: str, task: asyncio.Task[None]) -> None:
        del self._tasks[name]
        if not task.cancelled() and (error := task.exception()) is not None:
            if isinstance(error, StoreError):
                log.warning("write failed", error=str(error))
            else:
                log.error("task failed", task=str(task), exc_info=error)

    async def settled(self) -> None:
        """Until what was begun is done."""
        while self._tasks:
            await asyncio.wait(tuple(self._tasks.values()))
            await asyncio.sleep(0)

    async def stop(self) -> None:
        """End what is under way."""
        for task in tuple(self._tasks.values()):
            task.cancel()
        await self.settled()
