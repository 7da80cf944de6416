"""The way of a write: replica, store and catalog joined. (The way of a delta joins here with the federation.)

    submit → replica.put (stamp, sign; nothing is merged) → store.commit (group commit)
           → committed, in the order of the commits: replica.persisted (merge) → catalog, journal, watchers
           → the writer's future resolves, the handler answers

Durable, then visible: nobody is shown what a crash could still take back, and a commit that fails leaves nothing to
undo. Two writes of one service take turns (`turn`), so the second sees what the first did.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import structlog

from crdt.entry import Entry
from federation.cose import decode_entry, fact_of
from federation.identity import did_of
from federation.replica import Alert, Persist, Replica, Statement
from kosreg.catalog import Catalog, Service
from kosreg.journal import KEPT, Change, Event
from kosreg.liveness import restore, status_body
from kosreg.store import Batch, Row, Store, StoredEntry, StoreError

SPARE = 4  # numbers kept free behind a batch, for the changes of status that its arrival brings
UNSURE_MS = 10_000  # a status that changed this long before a crash may have changed again without an entry

log = structlog.get_logger("kosreg.sync")

Installed = Callable[[Service], None]


@dataclass(frozen=True, slots=True)
class Write:
    """One change of one service, on its way to the disk."""

    persist: Persist
    uid: str
    service: Service | None  # what is to be shown; None: it is deregistered, or nothing that is shown changes
    at: int  # ms
    removes: bool
    installed: Installed | None
    future: asyncio.Future[None]


class RegistrySync:
    """Owns the order in which writes become visible."""

    def __init__(self, replica: Replica, store: Store, catalog: Catalog, wall_ms: Callable[[], int]) -> None:
        self.replica = replica
        self.store = store
        self.catalog = catalog
        self.origin = did_of(replica.origin)
        self._wall_ms = wall_ms
        self._writes: dict[int, Write] = {}  # by id(batch)
        self._busy: dict[str, asyncio.Future[None]] = {}
        store.on_commit = self._committed

    # -- writing -------------------------------------------------------------------------------------------------

    def busy(self, uid: str) -> bool:
        """Whether a write of `uid` is on its way."""
        return uid in self._busy

    async def turn(self, uid: str) -> None:
        """Wait until no write of `uid` is on its way. The caller must submit without another await."""
        while (future := self._busy.get(uid)) is not None:
            await asyncio.wait((future,))

    def submit(
        self,
        uid: str,
        statements: Sequence[Statement],
        *,
        service: Service | None = None,
        removes: bool = False,
        secret: tuple[bytes | None] | None = None,
        installed: Installed | None = None,
        keep_turn: bool = True,
    ) -> asyncio.Future[None]:
        """Sign `statements` and hand them to the store; the future resolves when they are on disk and shown.

        `secret`: (sealed,) to keep, (None,) to remove, None to leave. `installed` is called with the new service
        once it is shown. Raises EntryError (a body that cannot be signed) and StoreError (busy, closed) at once; the
        future fails with StoreError.
        """
        now = self._wall_ms()
        persist = self.replica.put(statements, now)
        return self._commit(persist, uid, now, service, removes, secret, installed, keep_turn)

    def _commit(
        self,
        persist: Persist,
        uid: str,
        now: int,
        service: Service | None,
        removes: bool,
        secret: tuple[bytes | None] | None,
        installed: Installed | None,
        keep_turn: bool,
    ) -> asyncio.Future[None]:
        rows = [Row(entry, None if entry.live else self._buried(entry)) for entry in persist.entries]
        batch = Batch(rows, spare=SPARE)
        if secret is not None:
            batch.secrets.append((uid, secret[0]))
        try:
            future = self.store.commit(batch)
        except StoreError:
            self.replica.failed(persist)
            raise
        self._writes[id(batch)] = Write(persist, uid, service, now, removes, installed, future)
        if keep_turn:
            self._busy[uid] = future
        future.add_done_callback(lambda _: self._ended(batch, uid, future))
        return future

    def _buried(self, tombstone: Entry) -> bytes | None:
        """What a tombstone replaces, kept beside it so that watchers who resume later learn whom it concerned."""
        if tombstone.kind != "service":
            return None
        held = self.replica.map.get(tombstone.key)
        return held.raw if held is not None and held.live else None

    def _ended(self, batch: Batch, uid: str, future: asyncio.Future[None]) -> None:
        write = self._writes.pop(id(batch), None)
        if write is not None:  # it was not committed
            self.replica.failed(write.persist)
        if self._busy.get(uid) is future:
            del self._busy[uid]

    def _committed(self, batches: Sequence[Batch]) -> None:
        """What is on disk becomes visible, in its order."""
        for batch in batches:
            write = self._writes.pop(id(batch), None)
            if write is None:
                continue  # a token or a setting: nothing that is shown
            for effect in self.replica.persisted(write.persist):
                if isinstance(effect, Alert):
                    log.error("alert", alert=effect.kind, text=effect.text)
            if self._busy.get(write.uid) is write.future:
                del self._busy[write.uid]
            self._show(write, batch)

    def _show(self, write: Write, batch: Batch) -> None:
        if write.removes:
            self.catalog.remove(write.uid, batch.seq, write.at)
            return
        service = write.service
        if service is None:
            return
        service.seq = batch.seq
        held = self.catalog.get(write.uid)
        if held is not None:
            service.live_from(held)
        self.catalog.put(service, write.at)
        if write.installed is not None:
            write.installed(service)

    # -- status entries ------------------------------------------------------------------------------------------

    def write_status(self, service: Service) -> bool:
        """Submit the status entry that `service` wants now; False where the store takes none at the moment."""
        uid = service.uid
        if uid in self._busy:
            return False  # its class may be changing: the status has the class of its service
        body = status_body(service)
        held = self.replica.view("status", uid, self._wall_ms())
        if body is None and held is None:
            return True
        if body is not None and held is not None and held.cls == service.cls and fact_of(held).body == body:
            return True
        try:
            future = self.submit(uid, [Statement("status", uid, service.cls, body)])
        except StoreError:
            return False
        future.add_done_callback(_report)
        return True

    # -- renewal -------------------------------------------------------------------------------------------------

    def renew(self, entry: Entry) -> bool:
        """Submit a renewal of `entry`: the same fact, valid for longer. False where the store takes none."""
        now = self._wall_ms()
        if entry.name in self._busy:
            return False
        persist = self.replica.renew(entry, now)
        if persist is None:
            return True
        try:
            future = self._commit(persist, entry.name, now, None, False, None, None, True)
        except StoreError:
            return False
        future.add_done_callback(_report)
        return True

    def lapse(self, since: int) -> int:
        """Show no more what nobody renewed since `since` (ms); the time it looked at. Own entries stay in the store."""
        now = self._wall_ms()
        for change in self.replica.lapse(since, now):
            if change.kind == "service" and change.after is None:
                self.catalog.remove(change.name, self.catalog.journal.next_seq(), now)
        return now

    # -- start ---------------------------------------------------------------------------------------------------

    async def load(self, *, clean: bool) -> int:
        """Read the store into replica and catalog; the number of entries. Raises Damaged and StoreError.

        `clean`: the node ended cleanly, so that every status it showed is an entry.
        """
        seqs: dict[str, int] = {}
        recent: deque[tuple[int, StoredEntry]] = deque(maxlen=KEPT)
        count, floor, newest = 0, 0, 0
        async for chunk in self.store.load():
            for stored in chunk:
                entry = self.replica.load(stored.raw, stored.id)
                if entry.kind in ("service", "status"):
                    seqs[entry.name] = stored.seq  # of its newest change, its status included
                    if len(recent) == KEPT:
                        floor = recent[0][0]
                    recent.append((stored.seq, stored))
                    newest = max(newest, entry.stamp >> 16)
                count += 1
        self.replica.loaded()
        now = self._wall_ms()
        for uid, seq in seqs.items():
            self._load_service(uid, seq, now)
        journal = self.catalog.journal
        journal.floor = floor
        unsure = None if clean else newest - UNSURE_MS
        doubtful: list[Service] = []
        for seq, stored in recent:
            self._load_change(seq, stored, unsure, doubtful)
        journal.head = max(journal.head, self.store.first_seq)
        for service in doubtful:
            self.catalog.moved(service, service.status, now)
        return count

    def _load_service(self, uid: str, seq: int, now: int) -> None:
        entry = self.replica.view("service", uid, now)
        if entry is None:
            return
        fact = fact_of(entry)
        service = Service(uid, self.origin, entry.cls, fact.body or {}, seq)
        status = self.replica.view("status", uid, now)
        if status is not None:
            restore(service, cast("dict[str, object]", fact_of(status).body or {}))
        self.catalog.load(service)

    def _load_change(self, seq: int, stored: StoredEntry, unsure: int | None, doubtful: list[Service]) -> None:
        """The journal as the last run would have kept it, as far as rows can tell."""
        entry = decode_entry(stored.raw)
        after = self.catalog.get(entry.name)
        before: Service | None = None
        known = False
        event: Event
        at = entry.stamp >> 16
        if entry.kind == "status":
            if after is None:
                return
            event = after.status  # type: ignore[assignment]  # the three statuses are three events
            if unsure is not None and at > unsure:
                doubtful.append(after)
        elif entry.live:
            if after is None:
                return
            known = after.created == after.updated
            event = "registered" if known else "updated"
        else:
            if after is not None:
                return  # it moved to another class, or was registered again: that row tells it
            event = "deregistered"
            if stored.prior is not None:
                old = decode_entry(stored.prior)
                before = Service(old.name, self.origin, old.cls, fact_of(old).body or {}, seq)
                known = True
        told = "" if after is None else after.status
        self.catalog.journal.add(Change(seq, at, event, entry.name, before, after, "active", told, known))


def _report(future: asyncio.Future[None]) -> None:
    if not future.cancelled() and (error := future.exception()) is not None:
        log.warning("write failed", error=str(error))
