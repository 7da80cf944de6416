"""The way of a write and the way of a delta: replica, store and catalog joined. (The way of a start: `loading`.)

    sign (replica.put: stamp, sign; nothing is merged) → commit (store.commit: group commit)
           → committed, in the order of the commits: replica.persisted (merge) → catalog, journal, watchers
           → the writer's future resolves, the handler answers

Durable, then visible: nobody is shown what a crash could still take back, and a commit that fails leaves nothing to
undo. Two writes of one service take turns (`turn`), so the second sees what the first did.

    Store effect (entries that the replica judged, from a peer) → `arrivals`, which gathers what several peers sent
           → committed: replica.persisted (merge) → catalog, journal, watchers → on_merged (pushed on to other peers)
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import cast

import structlog

from crdt.entry import Class, Entry, EntryError
from federation.cose import body_of, fact_of
from federation.effects import Landed
from federation.identity import did_of, parse_did
from federation.replica import Alert, Changed, Persist, Replica, Statement
from federation.succession import Successions
from kosreg.arrivals import SPARE, Arrival, Arrivals, FromPeer, Part, Subject
from kosreg.catalog import Catalog
from kosreg.foreign import did, service_of, set_status
from kosreg.homes import Homes
from kosreg.liveness import restore, status_body
from kosreg.loading import SHOWN_KINDS, load
from kosreg.reshowing import Reshowing
from kosreg.service import ForeignService, Service
from kosreg.store import Batch, Row, Store, StoreError

GONE = 0.005  # s between two looks at a write that nobody waits for any more

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


class Yielded(StoreError):
    """This node may sign nothing."""

    title = "this node is quiet"
    hint = (
        "If this is the node that the key belongs to, stop the other one and run `kosreg doctor --claim` here; if it "
        "is a copy, stop it, and start it with a data directory of its own."
    )


class RegistrySync:
    """Owns the order in which writes become visible.

    `root`: the federation that internal means here (32 bytes), None while there is none. `on_merged`: called with
    what is on disk and shown since the last call. `shows`: whether an entry of another node may be shown (trust may
    have changed since it was taken). `on_adopted`: told of an own service that came back from outside.
    """

    def __init__(self, replica: Replica, store: Store, catalog: Catalog, wall_ms: Callable[[], int]) -> None:
        self.replica = replica
        self.store = store
        self.catalog = catalog
        self.origin = did_of(replica.origin)
        self.wall_ms = wall_ms
        self.root: bytes | None = None
        self.on_merged: Callable[[Sequence[Landed]], None] = _nobody
        self.shows: Callable[[Entry], bool] = _all
        self.on_adopted: Callable[[Service], None] = _adopted
        self.yielded = False  # another node has this node's key, and speaks for it
        self.successions = Successions()  # who succeeds whom, as trust knows it
        self.not_shown = 0  # entries of services from outside that are no record
        self._writes: dict[int, Write | Arrival] = {}  # by id(batch)
        self._busy: dict[str, Write] = {}  # by service
        self.arrivals = Arrivals(self)
        self.reshowing = Reshowing(self)
        self.homes = Homes(self)
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
        if self.root is not None:
            for statement in statements:
                if statement.cls == Class.INTERNAL:
                    statement.root = self.root
        return self.replica.put(statements, self.wall_ms())

    def in_place(self, entry: Entry) -> bool:
        """Whether an own internal entry is in the federation that internal means now; true of the other classes."""
        return entry.cls != Class.INTERNAL or entry.root == self.root

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
        if self.yielded:
            self.replica.failed(persist)
            raise Yielded("another node runs with its key, and speaks for it.")
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
        if entry.kind not in SHOWN_KINDS:
            return None
        service = self.catalog.own(entry.name)
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
        landed: list[Landed] = []
        for batch in batches:
            write = self._writes.pop(id(batch), None)
            if write is None:
                continue  # a token or a setting: nothing that is shown
            if isinstance(write, Arrival):
                self._arrived(write, batch)
                landed += ((part.persist.entries, part.peer) for part in write.parts)
                continue
            self._merge(write.persist)
            del self._busy[write.uid]
            service = write.service
            seq = batch.seq + len(batch.rows) - 1  # that of its last row: a restart must not find a higher one
            if service is not None:
                service.seq = seq
                held = self.catalog.own(write.uid)
                if held is not None:
                    service.live_from(held)
                self.catalog.put(service, write.at)
            elif write.removes:
                self.catalog.remove(write.uid, self.origin, seq, write.at)
            if write.shown is not None:
                write.shown()
            landed.append((write.persist.entries, None))
        if landed:
            self.on_merged(landed)

    def _merge(self, persist: Persist) -> list[Changed]:
        changes = []
        for effect in self.replica.persisted(persist):
            if isinstance(effect, Alert):
                log.error("alert", alert=effect.kind, text=effect.text)
            else:
                changes.append(effect)
        return changes

    def _failed(self, batches: Sequence[Batch]) -> None:
        """What did not get to the disk is as if it had never been; the store tells the writers why."""
        for batch in batches:
            write = self._writes.pop(id(batch), None)
            if isinstance(write, Arrival):
                for part in write.parts:
                    self.replica.failed(part.persist)
            elif write is not None:
                self.replica.failed(write.persist)
                del self._busy[write.uid]

    # -- start ---------------------------------------------------------------------------------------------------

    async def load(self, *, clean: bool, held: Callable[[], Awaitable[None]] | None = None) -> int:
        """Read the store into replica and catalog; the number of entries. Raises Damaged and StoreError.

        `clean`: the node ended cleanly, so that every status it showed is an entry. `held`: called when all is in the
        replica, and nothing is shown yet: who sets `shows` in it has nothing shown that trust does not cover.
        """
        return await load(self, clean=clean, held=held)

    # -- from outside --------------------------------------------------------------------------------------------

    async def commit_foreign(self, effect: FromPeer) -> None:
        """Commit and show what a peer sent; returns when all of it is on disk and shown. Raises StoreError."""
        await self.arrivals.commit(effect)

    def on_its_way(self, batch: Batch, arrival: Arrival) -> None:
        """`batch`, which the store has, is of `arrival`."""
        self._writes[id(batch)] = arrival

    def _arrived(self, arrival: Arrival, batch: Batch) -> None:
        """Hot. Entries from outside are on disk: show what they change, each under the number of its last row."""
        first = batch.seq
        for part in arrival.parts:
            persist = part.persist
            touched: dict[Subject, list[Changed]] = {}
            for change in self._merge(persist):
                if change.kind in SHOWN_KINDS:
                    touched.setdefault((change.origin, change.name), []).append(change)
            for entry in persist.entries:
                if not entry.live and entry.kind == "service" and self.successions.former(entry.origin):
                    touched.setdefault((entry.origin, entry.name), [])  # it may take back what an old key said
            if len(touched) == 1:
                self._show(*next(iter(touched.items())), first + len(persist.entries) - 1, part)
            elif touched:
                rows = {(e.origin, e.name): row for row, e in enumerate(persist.entries) if e.kind in SHOWN_KINDS}
                for subject in sorted(touched, key=rows.__getitem__):
                    self._show(subject, touched[subject], first + rows[subject], part)
            for entry in persist.entries:
                entry.body = None  # it is shown: 100,000 bodies are too many to keep
            first += len(persist.entries)

    def _show(self, subject: Subject, changes: list[Changed], seq: int, part: Part) -> None:
        """Show what `subject` says now, of which `changes` tell."""
        origin, uid = subject
        at = part.persist.at
        held = self.catalog.claim(uid, did(origin))
        record = next((change for change in changes if change.kind == "service"), None)
        if record is not None or held is None:
            entry = self.replica.map.view(origin, "service", uid, at) if record is None else record.after
            service = None if entry is None else self.service_of(entry, at, seq)
            if service is None:
                said = self.replica.map.group(origin, "service", uid)  # or else it is a status that came first
                for claimant in (did(origin), *(self.former(origin) if said else ())):
                    if self.catalog.remove(uid, claimant, seq, at) is not None:
                        break  # one number, one change
                return
            if held is None or held.head != service.head:
                if isinstance(service, ForeignService):
                    service.came, service.peer = at, part.peer
                elif held is not None:
                    service.live_from(held)
                self.catalog.put(service, at, self.former(origin))
                if not service.foreign:
                    self.on_adopted(service)
                return
        if isinstance(held, ForeignService):
            self.show_status(held, at, seq)

    def former(self, origin: bytes) -> list[str]:
        """The DIDs in whose place `origin` stands."""
        return [did(key) for key in self.successions.former(origin)]

    def show_status(self, service: ForeignService, at: int, seq: int | None) -> None:
        """Show the status that the node of `service` says now (`at`), as the change `seq`, or the next."""
        before = service.status
        set_status(service, self.replica.map.view(parse_did(service.origin), "status", service.uid, at))
        if service.status != before:
            self.catalog.moved(service, before, at, seq)

    def service_of(self, entry: Entry, now_ms: int, seq: int, *, later: bool = False) -> Service | None:
        """The service that `entry` says, with its status as an entry has it; None where it may not or cannot be
        shown. `later`: the head of an own one is made when somebody looks."""
        status = self.replica.map.view(entry.origin, "status", entry.name, now_ms)
        if entry.origin == self.replica.origin:
            body = cast("dict[str, object]", body_of(entry) or {})
            service = Service(entry.name, self.origin, entry.cls, body, seq, entry if later else None)
            service.former = self.successions.former(entry.origin)
            if status is not None:
                restore(service, cast("dict[str, object]", fact_of(status).body or {}))
            return service
        if entry.cls == Class.PRIVATE or not self.shows(entry):
            return None
        foreign = service_of(entry, did(entry.origin), seq)
        if foreign is None:
            self.not_shown += 1
            return None
        foreign.former = self.successions.former(entry.origin)
        foreign.away = self.homes.away(foreign.origin)
        if status is not None:
            set_status(foreign, status)
        return foreign

    # -- status entries ------------------------------------------------------------------------------------------

    def write_status(self, service: Service) -> bool | None:
        """Submit the status entry that `service` wants now; None where it has it, False where the store takes none at
        the moment."""
        uid = service.uid
        if uid in self._busy:
            return False  # its class may be changing: the status has the class of its service
        body = status_body(service)
        held = self.replica.view("status", uid, self.wall_ms())
        if body is None and held is None:
            return None
        same_class = held is not None and held.cls == service.cls and self.in_place(held)
        if body is not None and held is not None and same_class and fact_of(held).body == body:
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
        now = self.wall_ms()
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
        """Show no more what nobody renewed since `since` (ms); the time it looked at."""
        return self.reshowing.lapse(since)


def _nobody(_landed: Sequence[Landed]) -> None:
    pass


def _all(_entry: Entry) -> bool:
    return True


def _adopted(_service: Service) -> None:
    pass


def _report(future: asyncio.Future[None]) -> None:
    if not future.cancelled() and (error := future.exception()) is not None:
        log.warning("write failed", error=str(error))
