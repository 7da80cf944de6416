"""What peers send, on its way to the disk: gathered, so that many deliveries share one commit.

    Store effect (entries that the replica judged, from a peer) → commit: parts, each of `SLICE` entries at most
           → what waits, from whichever peers, makes one arrival of some `SLICE` entries, which is one commit

An arrival is some 5 ms of the loop, and at most two of them are on their way: one that is written and one that waits.
Behind a bulk of them, own writes wait for no more than that; and the busier a node is, the more deliveries share one
commit, one look at the mesh and one message to each peer. An idle one delays nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from crdt.entry import Entry
from federation.replica import Persist
from kosreg.foreign import did
from kosreg.store import Batch, Row, StoreBusy, StoreClosed, StoreError

if TYPE_CHECKING:
    from kosreg.klp_registry_sync import RegistrySync

SPARE = 4  # numbers kept free behind a batch, for the changes of status that its arrival brings
SLICE = 128  # entries from outside in one commit: some 5 ms of this loop, and one fsync
BUSY = 0.05  # s until an arrival is offered again to a store that took no more


class FromPeer(Protocol):
    """What the mesh asks to be stored (`federation.mesh.Store`): `peer` is the key of the node that sent it."""

    @property
    def persist(self) -> Persist: ...
    @property
    def peer(self) -> bytes | None: ...


Subject = tuple[bytes, str]  # origin, service id


@dataclass(slots=True)
class Part:
    """What one peer said, or a slice of it, and who waits for it."""

    persist: Persist
    peer: bytes | None
    done: asyncio.Future[None]


@dataclass(slots=True)
class Arrival:
    """Parts that go to the disk together. No two of them speak of one subject."""

    parts: list[Part]
    subjects: set[Subject]
    rows: int = 0


class Arrivals:
    """The queue of a `RegistrySync`."""

    def __init__(self, sync: RegistrySync) -> None:
        self._sync = sync
        self._waiting: deque[Part] = deque()
        self._arriving: list[Arrival] = []  # two at most
        self._retry: asyncio.TimerHandle | None = None  # runs while the store takes no more

    async def commit(self, effect: FromPeer) -> None:
        """Commit and show what a peer sent, slice by slice; returns when all of it is on disk and shown.

        Raises StoreError, and then what was not committed is as if it had never come. All are served in the order in
        which they came; a store that is busy makes them wait, which is what slows a peer down.
        """
        loop = asyncio.get_running_loop()
        parts = [Part(persist, effect.peer, loop.create_future()) for persist in _slices(effect.persist)]
        self._waiting += parts
        self._carry()
        error: BaseException | None = None
        for part in parts:
            await asyncio.wait((part.done,))  # to the end, whatever became of those before
            error = part.done.exception() or error
        if error is not None:
            raise error

    def _carry(self) -> None:
        """Sends on what waits, as far as there is room."""
        while self._waiting and len(self._arriving) < 2 and self._retry is None:
            arrival = self._gathered()
            if arrival is None or not self._submit(arrival):
                return

    def _gathered(self) -> Arrival | None:
        """The next parts, as one arrival; None where the first speaks of a subject that is on its way already."""
        arrival = Arrival([], set())
        while self._waiting:
            part = self._waiting[0]
            subjects = {(entry.origin, entry.name) for entry in part.persist.entries}
            rows = len(part.persist.entries)
            if (arrival.parts and arrival.rows + rows > SLICE) or not all(
                subjects.isdisjoint(other.subjects) for other in (arrival, *self._arriving)
            ):
                break
            arrival.parts.append(self._waiting.popleft())
            arrival.subjects |= subjects
            arrival.rows += rows
        return arrival if arrival.parts else None

    def _submit(self, arrival: Arrival) -> bool:
        """Hand `arrival` to the store; False where it takes none at the moment."""
        rows = [Row(entry, self._prior(entry)) for part in arrival.parts for entry in part.persist.entries]
        batch = Batch(rows, spare=SPARE)
        try:
            done = self._sync.store.commit(batch)
        except StoreBusy:
            self._waiting.extendleft(reversed(arrival.parts))
            self._retry = asyncio.get_running_loop().call_later(BUSY, self._try_again)
            return False
        except StoreError as error:
            for part in arrival.parts:
                self._sync.replica.failed(part.persist)
                _end(part.done, error)
            return True
        self._sync.on_its_way(batch, arrival)
        self._arriving.append(arrival)
        done.add_done_callback(partial(self._over, arrival))
        return True

    def _try_again(self) -> None:
        self._retry = None
        self._carry()

    def _over(self, arrival: Arrival, done: asyncio.Future[None]) -> None:
        """`arrival` is on disk and shown, or it failed."""
        self._arriving.remove(arrival)
        error = StoreClosed("it was not written in time.") if done.cancelled() else done.exception()
        for part in arrival.parts:
            _end(part.done, error)
        self._carry()

    def _prior(self, entry: Entry) -> bytes | None:
        """What a restart must know of the time before `entry`, as `RegistrySync` says of own ones. (A status from
        outside is shown when it is committed, and not before.)"""
        if entry.kind != "service":
            return None
        group = self._sync.replica.map.group(entry.origin, entry.kind, entry.name)
        if not group:
            return None  # nearly all
        service = self._sync.catalog.claim(entry.name, did(entry.origin))
        held = self._sync.replica.map.get(entry.key)
        if service is None or held is None or not held.live:
            return b"" if entry.live else None
        number = service.seq.to_bytes(8, "big")
        if not entry.live:
            return number + held.raw
        return number if held.stamp == entry.stamp else b""


def _slices(persist: Persist) -> Iterator[Persist]:
    """`persist` in pieces of some `SLICE` entries; neighbours of one name, a change of class say, stay together."""
    entries = persist.entries
    begin = 0
    while begin < len(entries):
        end = begin + SLICE
        while end < min(len(entries), begin + 2 * SLICE) and entries[end].name == entries[end - 1].name:
            end += 1
        yield Persist(entries[begin:end], persist.at)
        begin = end


def _end(done: asyncio.Future[None], error: BaseException | None) -> None:
    """Tell who waits for a part, if anybody still does."""
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)
        done.exception()  # who hung up never asks
