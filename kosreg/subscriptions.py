"""What a watcher is told: snapshots and events, drawn from the journal at the watcher's own pace.

A `Subscription` is a filter and a place in the journal. Nothing is queued for it: whoever can take more asks for the
next frames. A watcher that fell far behind gets the newest state of each service, once, and is told how many changes
were merged; one that fell behind the journal gets a new snapshot. So a slow reader costs a list of what it is behind,
drawn once, and a watcher that keeps up two integers.

What the watcher may not see leaves no trace: not in the number of merged changes, and not in a cursor. Where a cursor
is no visible change's own it is salted, so that two of them cannot be compared (`versions`).

No socket in here: frames are JSON bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from kosreg.auth import Caller
from kosreg.journal import Change, Event
from kosreg.query import Filter
from kosreg.registry import Registry
from kosreg.service import Service
from kosreg.times import rfc3339
from kosreg.versions import NOWHERE

CHUNK = 200  # services in one snapshot frame
MERGE_ABOVE = 2_000  # changes behind from which only the newest state of each service is told
ROUND = 256  # events between two looks at whether the reader keeps up
ROUND_BYTES = 256 * 1024  # or, of events and of a snapshot's frame, so many bytes; the last record may go beyond


class Subscription:
    """One filter of one watcher, and how far it was told."""

    __slots__ = ("_ahead", "_registry", "caller", "filter", "seq", "sub")

    def __init__(self, registry: Registry, caller: Caller, sub: bytes, asked: Filter, since: str | None) -> None:
        """`sub`: the subscription's name as JSON bytes. `since`: a version to go on from; foreign: a snapshot."""
        self._registry = registry
        self.caller = caller
        self.sub = sub
        self.filter = asked
        self.seq = registry.catalog.journal.head
        self._ahead: Iterator[list[bytes]] | None = None  # frames that are due before the journal's
        if since is None:
            self._ahead = self._frames(reset=False)
            return
        seq = registry.versions.number(since)
        changes = None if seq is None or seq > self.seq else registry.catalog.journal.since(seq)
        if seq is None or changes is None or any(self._unsure(change, seq) for change in changes):
            self._ahead = self._frames(reset=True)
        else:
            self.seq = seq

    def _unsure(self, change: Change, seq: int) -> bool:
        """A restart forgot what was there between `seq` and `change`, and this watcher cannot do without."""
        return not change.knows_before(seq) and not self._registry.events(self.caller, self.filter, (change,))

    def _frames(self, *, reset: bool) -> Iterator[list[bytes]]:
        """The present state in frames; what changes meanwhile comes as events after it."""
        catalog = self._registry.catalog
        viewer = self._registry.viewer(self.caller)
        asked = self.filter
        self.seq = catalog.journal.head
        found = [s for s in asked.candidates(catalog) if viewer.sees(s) and asked.matches(s, s.status)]
        found.sort(key=lambda service: service.uid)
        seq = self.seq
        last = False
        rest = iter(found)
        service = next(rest, None)
        while not last:
            part: list[bytes] = []
            size = 0
            while service is not None and len(part) < CHUNK and size < ROUND_BYTES:
                part.append(service.json())
                size += len(part[-1])
                service = next(rest, None)
            last = service is None
            tail = b',"cursor":"' + self._registry.versions.salted(seq if last else NOWHERE).encode() + b'"'
            tail += b',"reset":true' if reset else b""
            more = b"false" if last else b"true"
            yield [
                b'{"op":"snapshot","sub":'
                + self.sub
                + b',"services":['
                + b",".join(part)
                + b"]"
                + tail
                + b',"more":'
                + more
                + b"}"
            ]

    def next_frames(self) -> list[bytes]:
        """The next frames to send, some hundred events at most; empty when everything was told."""
        if self._ahead is not None:
            ahead = next(self._ahead, None)
            if ahead is not None:
                return ahead
            self._ahead = None
        journal = self._registry.catalog.journal
        changes = journal.since(self.seq)
        if changes is None:
            forgotten = self._registry.events(self.caller, self.filter, journal.recent())
            self._ahead = self._frames(reset=True)
            return [self._lagged(len(forgotten))]
        if len(changes) > ROUND:
            self._ahead = self._catch_up(changes)
            return next(self._ahead, [])
        if not changes:
            return []
        told = self._registry.events(self.caller, self.filter, changes)
        frames: list[bytes] = []
        size = 0
        for change, event, service in told:
            frames.append(self._event(change, event, service, self._registry.versions.text(change.seq)))
            size += len(frames[-1])
            if size > ROUND_BYTES:
                self.seq = change.seq
                return frames
        self.seq = changes[-1].seq
        return frames

    def _catch_up(self, changes: Sequence[Change]) -> Iterator[list[bytes]]:
        """`changes`, all that came since, in rounds: each of them, or where they are too many the newest states."""
        registry = self._registry
        began, self.seq = self.seq, changes[-1].seq
        told = registry.events(self.caller, self.filter, changes)
        merged = len(told) > MERGE_ABOVE
        if merged and not all(change.knows_before(began) for change in changes):
            yield [self._lagged(len(told))]  # what a restart forgot cannot be merged
            yield from self._frames(reset=True)
            return
        if merged:
            newest = registry.events(self.caller, self.filter, newest_states(changes))
            yield [self._lagged(len(told) - len(newest))]
            told = newest
        frames: list[bytes] = []
        size = 0
        for change, event, service in told:
            if not merged:
                cursor = registry.versions.text(change.seq)
            else:  # a merged state skips what was before it: from the middle of them nobody can go on
                last = change is told[-1][0]
                cursor = registry.versions.salted(self.seq if last else NOWHERE)
            frames.append(self._event(change, event, service, cursor))
            size += len(frames[-1])
            if len(frames) == ROUND or size > ROUND_BYTES:
                yield frames
                frames, size = [], 0
        yield frames

    @property
    def behind(self) -> bool:
        """Whether there is more to tell now."""
        return self._ahead is not None or self.seq < self._registry.catalog.journal.head

    def _event(self, change: Change, event: str, service: Service, cursor: str) -> bytes:
        status = change.told_before if service is change.before and event == "deregistered" else change.told_after
        record = service.json() if service.status == status or not status else service.json_while(status)
        return (
            b'{"op":"event","sub":' + self.sub + b',"event":"' + event.encode() + b'","service":' + record
            + f',"cursor":"{cursor}","at":"{rfc3339(change.at)}"}}'.encode()
        )  # fmt: skip

    def _lagged(self, merged: int) -> bytes:
        return b'{"op":"lagged","sub":' + self.sub + b',"merged":' + str(merged).encode() + b"}"


def newest_states(changes: Sequence[Change]) -> list[Change]:
    """One change per service that stands for all of its changes, in the order of the last ones."""
    first: dict[str, Change] = {}
    last: dict[str, Change] = {}
    for change in changes:
        first.setdefault(change.uid, change)
        last.pop(change.uid, None)
        last[change.uid] = change
    merged: list[Change] = []
    for uid, change in last.items():
        origin = first[uid]
        if origin is change:
            merged.append(change)
            continue
        if origin.before is None and change.after is None and origin.before_known:
            continue  # it came and went
        event: Event = change.event
        if change.after is not None and origin.before is None and origin.before_known:
            event = "registered"
        elif event == "registered":
            event = "updated"  # it was there before, gone in between, and is there again
        merged.append(
            replace(
                change,
                event=event,
                before=origin.before,
                told_before=origin.told_before,
                before_known=origin.before_known,
            )
        )
    return merged
