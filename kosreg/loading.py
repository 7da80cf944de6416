"""The way of a start: what the store holds into replica, catalog and journal.

The journal is rebuilt from the rows as far as they tell, so that watchers go on over a restart where they were. Where a
row cannot tell what was shown before it, its change says so (`before_known`), and whoever cannot do without starts from
the present state. Changes that never were a row (an alias, a change of trust) are noted once in each run, before the
first of them is shown (`reshowing`): after it, everybody starts from the present state. What lapsed while nobody
looked is told now.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from operator import itemgetter
from typing import TYPE_CHECKING, Final

import orjson

from crdt.entry import MAX_LIFE_MS, Entry
from federation.cose import decode_entry
from kosreg.foreign import did
from kosreg.journal import KEPT, Change, Event
from kosreg.names import Claims
from kosreg.reshowing import NOTE, THIS_RUN
from kosreg.service import Service
from kosreg.store import StoredEntry

if TYPE_CHECKING:
    from kosreg.klp_registry_sync import RegistrySync

SHOWN_KINDS: Final = ("service", "status")  # the kinds that what is shown is made of
UNSURE_MS = 12_000  # a status whose entry is no older at a crash may have changed again without one (STATUS_INTERVAL)
LOST = "lost"  # meta: pairs of numbers, see `_lost`
MAX_LOST = 64  # crashes remembered; whoever has slept through more of them may miss a change of status


@dataclass(slots=True)
class _Read:
    """What reading the store leaves behind."""

    count: int = 0
    floor: int = 0  # changes up to this number are not told
    newest: int = 0  # ms, of this node's own entries
    seqs: dict[str, int] = field(default_factory=dict)  # service id → the number of its newest change
    first: dict[str, bytes] = field(default_factory=dict)  # service id → the other node that came first
    recent: deque[tuple[int, Entry, bytes | None, int]] = field(default_factory=lambda: deque(maxlen=KEPT))


async def load(sync: RegistrySync, *, clean: bool, held: Callable[[], Awaitable[None]] | None) -> int:
    """See `RegistrySync.load`."""
    read = await _read(sync)
    sync.replica.loaded()
    if held is not None:
        await held()
    await _load_names(sync)
    _load_services(sync, read)
    journal = sync.catalog.journal
    journal.floor = read.floor
    for seq, entry, prior, _ in sorted(read.recent, key=itemgetter(0)):
        _load_change(sync, seq, entry, prior)
    if not clean:
        unsure = [seq for seq, _, _, at in read.recent if at > read.newest - UNSURE_MS]
        await _lose(sync, min(unsure, default=max(read.seqs.values(), default=0)) + 1)
    journal.lost = [range(*pair) for pair in await _lost(sync)]
    journal.head = max(journal.head, sync.store.first_seq)
    note = await sync.store.get_meta(NOTE) or b"0"
    if note == THIS_RUN:
        note = b"%d" % journal.head
        await sync.store.set_meta(NOTE, note)
    journal.floor = max(journal.floor, int(note))
    _tell_lapsed(sync)
    return read.count


async def _read(sync: RegistrySync) -> _Read:
    """Hot: each line of the loop costs 100,000 records some 10 ms."""
    read = _Read()
    own, load = sync.replica.origin, sync.replica.load
    seqs, recent = read.seqs, read.recent
    async for chunk in sync.store.load():
        read.count += len(chunk)
        for stored in chunk:
            entry = load(stored.raw, stored.id)
            kind, name = entry.kind, entry.name
            if kind not in SHOWN_KINDS:
                continue
            seq = shown_seq(entry, stored)
            if seq >= seqs.get(name, 0):  # of its newest change, its status included
                seqs[name] = seq
            if len(recent) == KEPT and recent[0][0] > read.floor:
                read.floor = recent[0][0]
            at = entry.stamp >> 16
            mine = entry.origin == own
            recent.append((seq, entry, stored.prior, at if mine and kind == "status" else 0))
            if not mine:
                read.first.setdefault(name, entry.origin)
            elif at > read.newest:
                read.newest = at
    return read


async def _load_names(sync: RegistrySync) -> None:
    """Who holds the ids that several origins claim, or did."""
    for alias in (await sync.store.aliases()).values():
        sync.catalog.contested[alias.uid] = Claims(did(alias.origin), alias.how)


def _load_services(sync: RegistrySync, read: _Read) -> None:
    """Every service that is shown. Where a crash took the note of who held an id, whoever stands first in the store
    does."""
    now = sync.wall_ms()
    later: list[Service] = []
    for origin in list(sync.replica.map.origins):
        for entry in sync.replica.map.shown(origin, "service", now):
            service = sync.service_of(entry, now, read.seqs[entry.name], later=True)
            if service is None:
                continue
            if service.foreign and read.first[entry.name] != origin:
                later.append(service)
            else:
                sync.catalog.load(service, now)
    for service in later:
        sync.catalog.load(service, now)


async def _lost(sync: RegistrySync) -> list[list[int]]:
    """Pairs of numbers between which changes of status were shown that a crash kept from the disk."""
    pairs: list[list[int]] = orjson.loads(await sync.store.get_meta(LOST) or b"[]")
    return pairs


async def _lose(sync: RegistrySync, first: int) -> None:
    """A crash has taken back what was shown from `first` on, without an entry of its own: note it for good."""
    pairs = [*await _lost(sync), [first, sync.store.first_seq]][-MAX_LOST:]
    await sync.store.set_meta(LOST, orjson.dumps(pairs))


def _load_change(sync: RegistrySync, seq: int, entry: Entry, prior: bytes | None) -> None:
    """The journal as the last run would have kept it, as far as rows can tell."""
    journal = sync.catalog.journal
    if seq <= journal.head:
        return  # a status shown under the number of a change that is told already
    after = sync.catalog.get(entry.name)
    told = "" if after is None else after.status
    before: Service | None = None
    known = False
    since = 0
    event: Event
    at = entry.stamp >> 16
    if entry.name in sync.catalog.contested or (after is not None and after.origin != did(entry.origin)):
        event = "deregistered" if after is None else "updated"  # another claim may have been shown before
    elif entry.kind == "status":
        if after is None:
            return
        event = after.status  # type: ignore[assignment]  # the three statuses are three events
        before, known = after, True  # where the record changed as well, its own row tells it
    elif entry.live:
        if after is None:
            return
        event = "registered" if after.created == after.updated else "updated"
        known = event == "registered" and prior is None
    else:
        if after is not None:
            return  # it moved to another class, or was registered again: that row tells it
        event = "deregistered"
        if prior:
            since, old = int.from_bytes(prior[:8], "big"), decode_entry(prior[8:])
            before = sync.service_of(old, at, seq)
            known = before is not None
    journal.add(Change(seq, at, event, entry.name, before, after, "", told, known, since))


def _tell_lapsed(sync: RegistrySync) -> None:
    """What was shown when the last run ended, and has lapsed since. (What lapsed before that is told once more.)"""
    now = sync.wall_ms()
    journal = sync.catalog.journal
    for entry in sync.replica.map:
        if entry.kind != "service" or not entry.live or not now - MAX_LIFE_MS < entry.valid_until <= now:
            continue
        after = sync.catalog.get(entry.name)
        if after is not None and after.origin == did(entry.origin):
            continue  # in another class it lives on
        before = None if after is not None else sync.service_of(entry, entry.valid_until - 1, 0)
        event: Event = "deregistered" if after is None else "updated"
        told = "" if after is None else after.status
        journal.add(Change(journal.next_seq(), now, event, entry.name, before, after, "", told, before is not None))


def shown_seq(entry: Entry, stored: StoredEntry) -> int:
    """The number under which what `stored` says was first shown."""
    prior = stored.prior
    return stored.seq if prior is None or len(prior) != 8 else int.from_bytes(prior, "big")
