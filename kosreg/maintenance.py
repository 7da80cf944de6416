"""What a node does every ten minutes: renew what somebody stands behind, hide what lapsed, drop what is long over. What
others let lapse is hidden within seconds.

- A service is renewed if it has beaten since the start; one that nobody beats (`ttl` 0) if this node has heard from a
  peer since then, or has none: who wakes up with a year-old disk must not keep alive what was deleted elsewhere.
  Without peers that is so, too, where its entry lapsed while the node was off.
- What others let lapse is dropped a day later, and so are tokens that expired, but not within an hour of a jump of the
  wall clock: a clock that is wrong for a minute would empty the map.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog

from crdt.entry import Entry
from federation.replica import is_far_ahead
from kosreg.paths import ADMIN_TOKEN
from kosreg.store import Batch, StoreError
from kosreg.times import now_ms

if TYPE_CHECKING:
    from kosreg.node import Node

EVERY = 600.0  # s between two rounds
LOOK = 2.0  # s between two looks at what others let lapse
SLICE = 200  # entries renewed between two turns of the loop
JUMP = 60.0  # s by which the two clocks may part in one round
SETTLED = 3600.0  # s after a jump before anything is dropped
PURGED = 1000  # keys dropped in one commit

log = structlog.get_logger("kosreg.maintenance")


class Maintenance:
    """The rounds of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._looked = self._glanced = now_ms()
        self._heard = False  # of a peer, since the start
        self._parted = time.time() - time.monotonic()
        self._jumped: float | None = None  # monotonic

    async def run(self) -> None:
        """Round after round."""
        while True:
            await self.round()
            for _ in range(int(EVERY / LOOK)):
                await asyncio.sleep(LOOK)
                self._glanced = await self._node.sync.reshowing.foreign_lapse(self._glanced)

    async def round(self) -> None:
        """One of them."""
        node = self._node
        try:
            await self._renew()
            self._looked = node.sync.lapse(self._looked)
            await node.auth.renew(node.data_dir / ADMIN_TOKEN)
            if self._is_settled():
                await self._purge()
                await node.auth.purge()
        except (StoreError, OSError) as error:  # a full disk, say: the next round does it
            log.warning("maintenance failed", error=str(error))

    def _is_settled(self) -> bool:
        """Whether the wall clock has gone on as it should for a while."""
        parted = time.time() - time.monotonic()
        if abs(parted - self._parted) > JUMP:
            self._jumped = time.monotonic()
        self._parted = parted
        return self._jumped is None or time.monotonic() - self._jumped >= SETTLED

    async def _renew(self) -> None:
        now = now_ms()
        mesh = self._node.mesh
        views = [mesh.view(peer, now) for peer in mesh.pairs]
        self._heard = self._heard or any(view is not None and view.synced for view in views)
        done = 0
        after = None
        while batch := self._node.replica.due_for_renewal(now, after):
            after = batch[-1]
            done += await self._renew_some(batch)
        if done:
            log.info("renewed", entries=done)

    async def _renew_some(self, batch: list[Entry]) -> int:
        done = 0
        late: list[str] = []  # of a machine that was suspended, say: on disk before anybody looks at what has lapsed
        for entry in batch:
            if not self._somebody_stands_behind(entry):
                continue
            done += self._node.sync.renew(entry)  # what the store does not take now is still due in the next round
            if entry.valid_until <= now_ms():
                late.append(entry.name)
            if done % SLICE == 0:
                await asyncio.sleep(0)
        for uid in late:
            await self._node.sync.turn(uid)
        if any(self._node.catalog.own(uid) is None for uid in late):
            self._node.sync.reshowing.trust_changed()  # it looks for what may be shown and is not
        return done

    def _somebody_stands_behind(self, entry: Entry) -> bool:
        if is_far_ahead(entry, now_ms()):  # signed by a clock that was ahead: nobody takes it, until it is signed again
            return True
        if entry.kind not in ("service", "status"):
            return True
        service = self._node.catalog.own(entry.name)
        if service is None:
            return not self._node.federation.has_peers() and self._slept(entry)
        if service.ttl > 0:
            return bool(service.beat_ms)  # nobody has beaten since the start: it may be a ghost
        return self._heard or not self._node.federation.has_peers()

    def _slept(self, entry: Entry) -> bool:
        """Whether it is of a service that nobody beats, and lapsed only because this node was off for a month."""
        now = now_ms()
        if entry.valid_until > now:
            return False  # it is not shown for another reason
        sync = self._node.sync
        for held in sync.replica.map.group(entry.origin, "service", entry.name):
            if held.live:
                service = sync.service_of(held, now, 0)
                return service is not None and service.ttl == 0
        return False

    async def _purge(self) -> None:
        replica = self._node.replica
        lapsed = replica.purge(now_ms())
        self._node.trust.forget(lapsed)
        gone = [entry for entry in lapsed if not replica.is_in_flight(entry)]  # that takes its place
        for start in range(0, len(gone), PURGED):
            await self._node.store.commit(Batch(purge=[entry.key for entry in gone[start : start + PURGED]]))
        if gone:
            await self._node.sync.reshowing.purged()
            log.info("purged", entries=len(gone))
