"""The way of a write: replica, store and catalog joined. (The way of a delta joins here with the federation.)

    sign (replica.put: stamp, sign; nothing is merged) → commit (store.commit: group commit)
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

import orjson
import structlog

from crdt.entry import Entry, EntryError
from federation.cose import decode_entry, fact_of, restore_entry
from federation.identity import did_of
from federation.replica import Alert, Persist, Replica, Statement
from kosreg.catalog import Catalog
from kosreg.journal import KEPT, Change, Event
from kosreg.liveness import restore, status_body
from kosreg.service import Service
from kosreg.store import Batch, Row, Store, StoredEntry, StoreError

SPARE = 4  # numbers kept free behind a batch, for the changes of status that its arrival brings
GONE = 0.005  # s between two looks at a write that nobody waits for any more
UNSURE_MS = 12_000  # a status whose entry is no older at a crash may have changed again without one (STATUS_INTERVAL)
LOST = "lost"  # meta: pairs of numbers, see `RegistrySync._lost`
MAX_LOST = 64  # crashes remembered; whoever has slept through more of them may miss a change of status

log = structlog.get_logger("kosreg.sync")


@dataclass(slots=True)
class Write:
    """One change of one service, on its way to the disk. Not frozen: making a frozen one costs 2 µs more."""

    uid: str
    persist: Persist
    at: int  # ms
    service: Service | None  # what is to be shown, if anything changes in what is shown
    removes: bool  # it is shown no more
    shown: Callable[[], None] | None  # called once all of it is visible
    done: asyncio.Future[None]  # for whoever waits; who hangs up does not take the write back


class RegistrySync:
    """Owns the order in which writes become visible."""

    def __init__(self, replica: Replica, store: Store, catalog: Catalog, wall_ms: Callable[[], int]) -> None:
        self.replica = replica
        self.store = store
        self.catalog = catalog
        self.origin = did_of(replica.origin)
        self._wall_ms = wall_ms
        self._writes: dict[int, Write] = {}  # by id(batch)
        self._busy: dict[str, Write] = {}  # by service
        store.on_commit = self._committed
        store.on_failure = self._failed

    # -- writing -------------------------------------------------------------------------------------------------

    def busy(self, uid: str) -> bool:
        """Whether a write of `uid` is on its way."""
        return uid in self._busy

    async def turn(self, uid: str) -> None:
        """Wait until no write of `uid` is on its way. The caller must submit without another await."""
        while (write := self._busy.get(uid)) is not None:
            if write.done.done():  # whoever waited for it was cancelled; it is still on its way to the disk
                await asyncio.sleep(GONE)
            else:
                await asyncio.wait((write.done,))

    def sign(self, statements: Sequence[Statement]) -> Persist:
        """Stamp and sign `statements`; `commit` must follow. Raises EntryError for a body that cannot be signed."""
        return self.replica.put(statements, self._wall_ms())

    def refusal(self, statement: Statement) -> EntryError:
        """Why `statement`, which has no JSON form, cannot be signed."""
        try:
            self.replica.failed(self.sign([statement]))
        except EntryError as error:
            return error
        return EntryError("it has no JSON form", field="body")

    def commit(
        self,
        uid: str,
        persist: Persist,
        *,
        service: Service | None = None,
        removes: bool = False,
        secret: tuple[bytes | None] | None = None,
        shown: Callable[[], None] | None = None,
    ) -> asyncio.Future[None]:
        """Hand a change of `uid` to the store; the future resolves when it is on disk and shown.

        `service`: the record to show. `secret`: (sealed,) to keep, (None,) to remove, None to leave. Raises StoreError
        (busy, closed) at once; the future fails with StoreError.
        """
        rows = [Row(entry, self._prior(entry)) for entry in persist.entries]
        batch = Batch(rows, secrets=[] if secret is None else [(uid, secret[0])], spare=SPARE)
        try:
            done = self.store.commit(batch)
        except StoreError:
            self.replica.failed(persist)
            raise
        write = Write(uid, persist, persist.at, service, removes, shown, done)
        self._writes[id(batch)] = self._busy[uid] = write
        return done

    def _prior(self, entry: Entry) -> bytes | None:
        """What a restart must know of the time before `entry`.

        - Of a status, and of a renewal, the number under which it is shown already, so that who has seen it is not told
          again.
        - Of a service's tombstone, what it buries, and the number since which that was shown, so that watchers who
          resume learn whom it concerned.
        - Of a service that was here before, nothing (b""), which is not None: its former life is forgotten.
        """
        if entry.kind not in ("service", "status"):
            return None
        service = self.catalog.get(entry.name)
        if service is None:
            group = entry.live and self.replica.map.group(entry.origin, entry.kind, entry.name)
            return b"" if group and entry.kind == "service" else None
        number = service.seq.to_bytes(8, "big")
        if entry.kind == "status":
            return number
        held = self.replica.map.get(entry.key)
        if held is None or not held.live:
            return None
        if not entry.live:
            return number + held.raw
        return number if held.stamp == entry.stamp else None

    def _committed(self, batches: Sequence[Batch]) -> None:
        """What is on disk becomes visible, in its order."""
        for batch in batches:
            write = self._writes.pop(id(batch), None)
            if write is None:
                continue  # a token or a setting: nothing that is shown
            for effect in self.replica.persisted(write.persist):
                if isinstance(effect, Alert):
                    log.error("alert", alert=effect.kind, text=effect.text)
            del self._busy[write.uid]
            service = write.service
            seq = batch.seq + len(batch.rows) - 1  # that of its last row: a restart must not find a higher one
            if service is not None:
                service.seq = seq
                held = self.catalog.get(write.uid)
                if held is not None:
                    service.live_from(held)
                self.catalog.put(service, write.at)
            elif write.removes:
                self.catalog.remove(write.uid, seq, write.at)
            if write.shown is not None:
                write.shown()

    def _failed(self, batches: Sequence[Batch]) -> None:
        """What did not get to the disk is as if it had never been; the store tells the writers why."""
        for batch in batches:
            write = self._writes.pop(id(batch), None)
            if write is not None:
                self.replica.failed(write.persist)
                del self._busy[write.uid]

    # -- status entries ------------------------------------------------------------------------------------------

    def write_status(self, service: Service) -> bool | None:
        """Submit the status entry that `service` wants now; None where it has it, False where the store takes none at
        the moment."""
        uid = service.uid
        if uid in self._busy:
            return False  # its class may be changing: the status has the class of its service
        body = status_body(service)
        held = self.replica.view("status", uid, self._wall_ms())
        if body is None and held is None:
            return None
        if body is not None and held is not None and held.cls == service.cls and fact_of(held).body == body:
            return None
        try:
            future = self.commit(uid, self.sign([Statement("status", uid, service.cls, body)]))
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
            future = self.commit(entry.name, persist)
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
        recent: deque[tuple[int, StoredEntry, int]] = deque(maxlen=KEPT)  # number, row, of a status its time
        count, floor, newest = 0, 0, 0
        async for chunk in self.store.load():
            for stored in chunk:
                entry = self.replica.load(stored.raw, stored.id)
                if entry.kind in ("service", "status"):
                    seq = shown_seq(entry, stored)
                    seqs[entry.name] = max(seq, seqs.get(entry.name, 0))  # of its newest change, its status included
                    if len(recent) == KEPT:
                        floor = max(floor, recent[0][0])
                    recent.append((seq, stored, entry.stamp >> 16 if entry.kind == "status" else 0))
                    newest = max(newest, entry.stamp >> 16)
                count += 1
        self.replica.loaded()
        now = self._wall_ms()
        for uid, seq in seqs.items():
            self._load_service(uid, seq, now)
        journal = self.catalog.journal
        journal.floor = floor
        for seq, stored, _ in sorted(recent, key=lambda row: row[0]):
            self._load_change(seq, stored)
        if not clean:
            unsure = [seq for seq, _, at in recent if at > newest - UNSURE_MS]
            await self._lose(min(unsure, default=max(seqs.values(), default=0)) + 1)
        journal.lost = [range(*pair) for pair in await self._lost()]
        journal.head = max(journal.head, self.store.first_seq)
        return count

    async def _lost(self) -> list[list[int]]:
        """Pairs of numbers between which changes of status were shown that a crash kept from the disk."""
        pairs: list[list[int]] = orjson.loads(await self.store.get_meta(LOST) or b"[]")
        return pairs

    async def _lose(self, first: int) -> None:
        """A crash has taken back what was shown from `first` on, without an entry of its own: note it for good."""
        pairs = [*await self._lost(), [first, self.store.first_seq]][-MAX_LOST:]
        await self.store.set_meta(LOST, orjson.dumps(pairs))

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

    def _load_change(self, seq: int, stored: StoredEntry) -> None:
        """The journal as the last run would have kept it, as far as rows can tell."""
        if seq <= self.catalog.journal.head:
            return  # a status shown under the number of a change that is told already
        entry = restore_entry(stored.raw, stored.id, self.replica.map.origins)
        after = self.catalog.get(entry.name)
        before: Service | None = None
        known = False
        since = 0
        event: Event
        at = entry.stamp >> 16
        if entry.kind == "status":
            if after is None:
                return
            event = after.status  # type: ignore[assignment]  # the three statuses are three events
            before, known = after, True  # where the record changed as well, its own row tells it
        elif entry.live:
            if after is None:
                return
            event = "registered" if after.created == after.updated else "updated"
            known = event == "registered" and stored.prior is None
        else:
            if after is not None:
                return  # it moved to another class, or was registered again: that row tells it
            event = "deregistered"
            if stored.prior:
                since, old = int.from_bytes(stored.prior[:8], "big"), decode_entry(stored.prior[8:])
                before = Service(old.name, self.origin, old.cls, fact_of(old).body or {}, seq)
                known = True
        told = "" if after is None else after.status
        self.catalog.journal.add(Change(seq, at, event, entry.name, before, after, "", told, known, since))


def _report(future: asyncio.Future[None]) -> None:
    if not future.cancelled() and (error := future.exception()) is not None:
        log.warning("write failed", error=str(error))


def shown_seq(entry: Entry, stored: StoredEntry) -> int:
    """The number under which what `stored` says was first shown."""
    prior = stored.prior
    return stored.seq if prior is None or len(prior) != 8 else int.from_bytes(prior, "big")
