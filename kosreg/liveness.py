"""Heartbeats in, status out: who is alive at this node.

A heartbeat moves two fields of a `Service` and nothing else: no write, no signature, no timer. A wheel of buckets, a
quarter of a second wide, holds each monitored service once; when its bucket comes, the service is either past its
ttl or goes to the bucket of its new deadline. So 100,000 services need one timer, and a beat does not touch it.

Only a change of the effective status is told (`catalog.moved`) and becomes an entry, at most one per service in
`STATUS_INTERVAL`: the entry waits, what the node shows does not.

After a start, a suspend, a clock jump or a stall of this process every service gets a full ttl: its silence was ours.
A short stall moves the deadlines by as much.

The clocks and the way to write come in as arguments: `write_status` submits the entry and says whether the store
took it (None: there is nothing to write), `reap` deregisters.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from kosreg.catalog import Catalog
from kosreg.service import Service

WIDTH = 0.25  # s, a bucket; an expiry is seen at most two of them late
FAR = 60.0  # s; nothing is put further ahead, so that what was removed is soon forgotten
SLICE = 500  # services judged between two turns of the event loop
STATUS_INTERVAL = 10.0  # s between two status entries of one service
EAGER = 100  # status entries that are submitted at once between two ticks; the others at the tick
RETRY = 1.0  # s until a status entry is tried again that the store did not take
NOBODY: tuple[int, list[str]] = (0, [])
NEVER_MS = 1 << 62  # a reap_after of 0
STALL = 2.0  # s by which a tick may be late, or the two clocks apart, before the silence counts as ours
HICCUP = 0.5  # s late from which the deadlines move: who beats every third of a ttl of 1 s has 0.67 s to spare
REAPING = 500  # services deregistered at the same time: they share a commit

log = structlog.get_logger("kosreg.liveness")


def status_body(service: Service) -> dict[str, Any] | None:
    """The body of the status entry that `service` wants now; None while it is simply active."""
    status = service.status
    if status == "active":
        return None
    body: dict[str, Any] = {"since": service.since, "reason": service.reason or "", "status": status}
    if service.declared not in (status, "active"):
        body["declared"] = service.declared  # so that it survives the expiry
    return body


def restore(service: Service, body: dict[str, Any]) -> None:
    """Set the live fields of `service` from its status entry: at start."""
    status = body.get("status", "active")
    service.expired = status == "offline" and service.ttl > 0
    service.declared = body.get("declared", "active" if service.expired else status)
    service.reason = body.get("reason")
    service.since = body.get("since", 0)


class Liveness:
    """The wheel, the status entries that wait, and the rules of status."""

    def __init__(
        self,
        catalog: Catalog,
        *,
        monotonic: Callable[[], float],
        wall_ms: Callable[[], int],
        reap_after: float,
        write_status: Callable[[Service], bool | None],
        reap: Callable[[Service], Awaitable[None]],
    ) -> None:
        self._catalog = catalog
        self._monotonic = monotonic
        self._wall_ms = wall_ms
        self._reap_after_ms = int(reap_after * 1000) or NEVER_MS
        self._write_status = write_status
        self._reap = reap
        self._buckets: dict[int, tuple[int, list[str]]] = {}  # number → (the number, ids): one int for all of them
        self._next = math.floor(monotonic() / WIDTH)  # the first bucket that was not looked at
        self._written: dict[str, float] = {}  # id → when its last status entry was written (monotonic)
        self._waiting: list[tuple[float, str]] = []  # heap of (due, id): status entries that wait
        self._waiting_ids: set[str] = set()
        self._eager = 0  # status entries submitted at once since the last tick
        self._reaping: set[asyncio.Task[None]] = set()
        self._graced = monotonic()  # when everybody last got a full ttl
        self.graces = 0  # how often everybody got a full ttl
        self.expiries = 0

    # -- what a service or its owner says ------------------------------------------------------------------------

    def beat(self, service: Service, now: float, now_ms: int, status: str | None = None) -> None:
        """A heartbeat of `service`, with the status it declares, if any."""
        service.beat_s = now
        service.beat_ms = now_ms
        service.tail = None
        if service.expired or (status is not None and status != service.declared):
            self._declare(service, status, now_ms)

    def _declare(self, service: Service, status: str | None, now_ms: int) -> None:
        if status == "offline" and service.ttl > 0:
            status = None  # who beats is not offline
        before = service.status
        service.expired = False
        if status is not None:
            service.declared = status
        self._settle(service, before, now_ms, f"declared {service.declared}")
        self.watch(service, self._monotonic())

    def declare(self, service: Service, status: str) -> None:
        """What an update says of the status, without being a heartbeat of the service."""
        if status == "offline" and service.ttl > 0:
            return
        before = service.status
        service.declared = status
        self._settle(service, before, self._wall_ms(), service.reason if service.expired else f"declared {status}")

    def begin(self, service: Service, status: str | None) -> None:
        """`service` is about to be registered, and declares `status`: it is so from the first, not a moment later."""
        if status is not None and not (status == "offline" and service.ttl > 0) and status != service.declared:
            service.declared = status
            service.reason, service.since = f"declared {status}", self._wall_ms()

    def installed(self, service: Service, *, beat: bool, status: str | None) -> None:
        """`service` was registered or updated: its record is new, its live fields are those of the one before."""
        now, now_ms = self._monotonic(), self._wall_ms()
        if service.expired and service.ttl == 0:
            self._declare(service, status, now_ms)  # nobody beats any more: it is never judged
        if beat:
            self.beat(service, now, now_ms, status)
        elif status is not None:
            self.declare(service, status)
        if service.beat_s == 0.0:
            service.beat_s = now
        self.watch(service, now)

    def _settle(self, service: Service, before: str, now_ms: int, reason: str | None) -> None:
        """Tell and note what became of the effective status."""
        after = service.status
        if after == "active":
            service.reason, service.since = None, 0
        elif after != before:
            service.reason, service.since = reason, now_ms
        service.tail = None
        service.digest = None
        if after != before:
            self._catalog.moved(service, before, now_ms)
        self.note(service)

    # -- the wheel -----------------------------------------------------------------------------------------------

    def watch(self, service: Service, now: float) -> None:
        """See that the wheel looks at `service` no later than it must."""
        if service.ttl == 0:
            return
        if service.expired:
            due = now + max(0.0, (service.since + self._reap_after_ms - self._wall_ms()) / 1000)
            due = max(due, self._graced + service.ttl)
        else:
            due = service.beat_s + service.ttl
        self._look(service, due, now)

    def _look(self, service: Service, due: float, now: float) -> None:
        """Put `service` into the bucket of `due`, unless it is in an earlier one."""
        bucket = max(math.ceil(min(due, now + FAR) / WIDTH), self._next)
        if service.bucket == 0 or bucket < service.bucket or service.bucket < self._next:
            held = self._buckets.get(bucket)
            if held is None:
                held = self._buckets[bucket] = (bucket, [])
            service.bucket = held[0]
            held[1].append(service.uid)

    def start(self) -> None:
        """Everybody gets a full ttl from now."""
        self.grace()
        now = self._monotonic()
        for service in self._catalog.all_own():
            self.watch(service, now)

    def grace(self) -> None:
        """A full ttl for each service: to beat, or, if it is offline, before it may be deregistered."""
        now = self._graced = self._monotonic()
        for service in self._catalog.all_own():
            if not service.expired:
                service.beat_s = now

    def _wait_longer(self, seconds: float) -> None:
        """What was sent while this process stood still has not been read yet: move the deadlines."""
        for service in self._catalog.all_own():
            service.beat_s += seconds

    async def tick(self) -> None:
        """Look at the buckets whose time has come, and write the status entries that are due."""
        now = self._monotonic()
        last = math.floor(now / WIDTH)
        done = self._eager = 0
        while self._next <= last:
            bucket, self._next = self._next, self._next + 1
            for uid in self._buckets.pop(bucket, NOBODY)[1]:
                service = self._catalog.own(uid)
                if service is None or service.bucket != bucket:
                    continue  # removed, or watched elsewhere
                service.bucket = 0
                self._judge(service, now)
                done += 1
                if done % SLICE == 0:
                    await asyncio.sleep(0)
        while self._waiting and self._waiting[0][0] <= now:
            self._write(self._pop(), now)
            done += 1
            if done % SLICE == 0:
                await asyncio.sleep(0)
        if self._written:
            self._forget(now)

    def _judge(self, service: Service, now: float) -> None:
        if service.ttl == 0:
            return  # it had a ttl when it was put into this bucket
        now_ms = self._wall_ms()
        if service.expired:
            if now_ms >= service.since + self._reap_after_ms and now >= self._graced + service.ttl:
                if len(self._reaping) < REAPING:
                    task = asyncio.create_task(self._deregister(service), name="reap")
                    self._reaping.add(task)
                    task.add_done_callback(self._reaping.discard)
                else:
                    self._look(service, now + WIDTH, now)
                return
        elif now >= service.beat_s + service.ttl:
            before = service.status
            service.expired = True
            self.expiries += 1
            self._settle(service, before, now_ms, f"no heartbeat within its ttl of {service.ttl} s")
        self.watch(service, now)

    async def _deregister(self, service: Service) -> None:
        """Reap `service`, beside the wheel: a commit may take long, and judging must not wait for it."""
        try:
            await self._reap(service)
        except Exception as error:  # the store does not take it, a full disk say: later
            log.warning("reaping failed", service=service.uid, error=str(error))
            if self._catalog.own(service.uid) is service and service.expired:
                now = self._monotonic()
                self._look(service, now + RETRY, now)

    # -- status entries ------------------------------------------------------------------------------------------

    def note(self, service: Service) -> None:
        """The status entry of `service` may no longer be true: write it when its interval allows.

        At once, as a rule: then all that is committed later is no more durable than the status that was shown before.
        """
        uid = service.uid
        if uid in self._waiting_ids:
            return
        now = self._monotonic()
        due = self._written.get(uid, -math.inf) + STATUS_INTERVAL
        if due <= now and self._eager < EAGER:
            self._eager += 1
            self._write(uid, now)
        else:
            self._wait(uid, due)

    def _wait(self, uid: str, due: float) -> None:
        heapq.heappush(self._waiting, (due, uid))
        self._waiting_ids.add(uid)

    def _pop(self) -> str:
        _, uid = heapq.heappop(self._waiting)
        self._waiting_ids.discard(uid)
        return uid

    def _write(self, uid: str, now: float) -> None:
        service = self._catalog.own(uid)
        if service is None:
            return
        taken = self._write_status(service)
        if taken:
            self.wrote(uid)
        elif taken is False:
            self._wait(uid, now + RETRY)

    def wrote(self, uid: str) -> None:
        """A status entry of `uid` was submitted now."""
        self._written.pop(uid, None)  # to the end: they stand in the order of writing
        self._written[uid] = self._monotonic()

    def _forget(self, now: float) -> None:
        """Drop the times that no longer hold anything back; they stand in the order of writing."""
        for uid, when in list(self._written.items())[:SLICE]:
            if when + STATUS_INTERVAL > now:
                break
            del self._written[uid]

    def flush(self) -> None:
        """Write every status entry that waits: at a clean end."""
        while self._waiting:
            service = self._catalog.own(self._pop())
            if service is not None:
                self._write_status(service)

    async def run(self) -> None:
        """Tick until cancelled, and give grace where the silence was ours."""
        mono, wall = self._monotonic(), self._wall_ms()
        try:
            while True:
                await asyncio.sleep(WIDTH)
                now, now_wall = self._monotonic(), self._wall_ms()
                late = now - mono - WIDTH
                drift = (now_wall - wall) / 1000 - (now - mono)
                if late > STALL or abs(drift) > STALL:
                    self.graces += 1
                    self.grace()
                    log.warning("grace", late_s=round(late, 3), clock_drift_s=round(drift, 3))
                elif late > HICCUP:
                    self._wait_longer(late)
                mono, wall = now, now_wall
                await self.tick()
        finally:
            for task in tuple(self._reaping):
                task.cancel()
            await asyncio.gather(*self._reaping, return_exceptions=True)
