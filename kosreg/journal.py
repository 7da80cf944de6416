"""What changed, in order: the one thing that lists, long polls and WebSockets follow.

A `Change` says what a service was and is now, in the node's own order (`seq`). The journal keeps the newest ones;
whoever follows it holds a `seq` and pulls what came since, so a slow reader costs nothing here. Who falls behind
the oldest kept change is told so (`since` gives None) and starts from the present state.

Followers are woken together by a pulse, a few ms after the first change and less often the more of them wait, so
that a burst of writes costs a thousand watchers one wake-up each and not a thousand.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Literal

from kosreg.service import Service

Event = Literal["registered", "updated", "deregistered", "offline", "degraded", "active"]

KEPT = 20_000  # changes; a `before` holds its old record alive, some 1.5 kB each
KEPT_BYTES = 64 * 1024 * 1024  # of such records, which may have 64 KiB each
PULSE = 0.002  # s from a change to the wake-up
PULSE_PER_WAITER = 0.00005  # s more for each follower: a thousand of them are woken 20 times a second


@dataclass(slots=True)
class Change:
    """One step of one service. `before` or `after` is None where there was or is none; `told_before` and
    `told_after` are the effective status on either side ("" of what is there: not known). `before_known` is False for
    what a restart has forgotten; what it remembers as `before` was shown since the number `before_since`."""

    seq: int
    at: int  # ms since 1970
    event: Event
    uid: str
    before: Service | None
    after: Service | None
    told_before: str
    told_after: str
    before_known: bool = True
    before_since: int = 0
    weighed: int = 0  # set by the journal: what it counts for this change

    def weight(self) -> int:
        """Bytes of the record that it brought, or took away; 0 for a change of status."""
        if self.after is None:
            return 0 if self.before is None else self.before.weight()
        return 0 if self.before is self.after else self.after.weight()

    def knows_before(self, seq: int) -> bool:
        """Whether `before` is what was shown at the number `seq`, as far as this change can tell."""
        return self.before_known and seq >= self.before_since


class Journal:
    """The newest changes and those who wait for more."""

    def __init__(self, head: int = 0, kept: int = KEPT) -> None:
        self._changes: deque[Change] = deque()
        self._bytes = 0  # of the records that the changes brought or took
        self._kept = kept
        self.head = head  # the seq of the newest change
        self.floor = head  # what came after this seq is here
        self.lost: list[range] = []  # numbers of what crashes took back: nobody can go on from them
        self.closed = False
        self._waiters: set[asyncio.Future[None]] = set()
        self._pulse: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._changes)

    def add(self, change: Change) -> None:
        """Append `change`; its seq must be above the head."""
        assert change.seq > self.head, "changes come in the order of their numbers"
        self.head = change.seq
        self._changes.append(change)
        change.weighed = change.weight()  # once: a head that is made later has another length
        self._bytes += change.weighed
        while len(self._changes) > self._kept or self._bytes > KEPT_BYTES:
            oldest = self._changes.popleft()
            self._bytes -= oldest.weighed
            self.floor = max(self.floor, oldest.seq)
        if self._waiters:
            self._arm()

    def recent(self) -> deque[Change]:
        """All that is kept, oldest first. Not to be changed."""
        return self._changes

    def next_seq(self) -> int:
        """The number for a change that no commit gave one."""
        return self.head + 1

    def since(self, seq: int) -> list[Change] | None:
        """The changes after `seq`, oldest first; None where some of them are not known (any more)."""
        if seq >= self.head:
            return []
        if seq < self.floor or any(seq in numbers for numbers in self.lost):
            return None
        newest_first = []
        for change in reversed(self._changes):  # followers are nearly always close behind
            if change.seq <= seq:
                break
            newest_first.append(change)
        newest_first.reverse()
        return newest_first

    async def wait(self, seq: int, within: float | None) -> bool:
        """Until something came after `seq`; False when `within` (s) is up first."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(future)
        if self.head > seq:
            self._arm()  # not at once: under a stream of writes, that would be a wake-up for each
        try:
            await asyncio.wait_for(future, within)
        except TimeoutError:
            pass
        finally:
            self._waiters.discard(future)
        return self.head > seq

    def _arm(self) -> None:
        if self._pulse is None:
            delay = PULSE + PULSE_PER_WAITER * len(self._waiters)
            self._pulse = asyncio.get_running_loop().call_later(delay, self._wake)

    def _wake(self) -> None:
        self._pulse = None
        waiting, self._waiters = self._waiters, set()
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def close(self) -> None:
        """Wake everybody, for the end: nothing more comes."""
        self.closed = True
        if self._pulse is not None:
            self._pulse.cancel()
        self._wake()
