"""What a watcher is told: snapshots and events, drawn from the journal at the watcher's own pace.

A `Subscription` is a filter and a place in the journal. Nothing is queued for it: whoever can take more asks for the
next frames. A watcher that fell far behind gets the newest state of each service, once, and is told how many changes
were merged; one that fell behind the journal gets a new snapshot. So a slow reader costs two integers.

No socket in here: frames are JSON bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import orjson

from kosreg.auth import Caller
from kosreg.catalog import Service
from kosreg.journal import Change, Event
from kosreg.query import Filter
from kosreg.registry import Registry
from kosreg.times import rfc3339

CHUNK = 200  # services in one snapshot frame
MERGE_ABOVE = 2_000  # changes behind from which only the newest state of each service is told
ROUND = 256  # events between two looks at whether the reader keeps up


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
        if seq is None or changes is None or any(self._unsure(change) for change in changes):
            self._ahead = self._frames(reset=True)
        else:
            self.seq = seq

    def _unsure(self, change: Change) -> bool:
        """A restart forgot what was there before `change`, and this filter cannot do without."""
        if change.before_known:
            return False
        after = change.after
        viewer = self._registry.viewer(self.caller)
        return not (after is not None and viewer.sees(after) and self.filter.matches(after, change.told_after))

    def _frames(self, *, reset: bool) -> Iterator[list[bytes]]:
        """The present state in frames; what changes meanwhile comes as events after it."""
        catalog = self._registry.catalog
        viewer = self._registry.viewer(self.caller)
        asked = self.filter
        self.seq = catalog.journal.head
        found = [s for s in asked.candidates(catalog) if viewer.sees(s) and asked.matches(s, s.status)]
        found.sort(key=lambda service: service.uid)
        tail = b',"cursor":"' + self._registry.versions.text(self.seq).encode() + b'"'
        tail += b',"reset":true' if reset else b""
        for start in range(0, max(len(found), 1), CHUNK):
            part = b",".join(service.json() for service in found[start : start + CHUNK])
            more = b"true" if start + CHUNK < len(found) else b"false"
            yield [
                b'{"op":"snapshot","sub":'
                + self.sub
                + b',"services":['
                + part
                + b"]"
                + tail
                + b',"more":'
                + more
                + b"}"
            ]

    def next_frames(self) -> list[bytes]:
        """The next frames to send, some hundred events at most; empty when everything was told."""
        if self._ahead is not None:
            frames = next(self._ahead, None)
            if frames is not None:
                return frames
            self._ahead = None
        journal = self._registry.catalog.journal
        changes = journal.since(self.seq)
        if changes is None:
            behind = min(journal.head - self.seq, len(journal))
            self._ahead = self._frames(reset=True)
            return [self._lagged(behind)]
        if len(changes) > MERGE_ABOVE:
            self.seq = changes[-1].seq
            newest = newest_states(changes)
            self._ahead = (self._events(newest[at : at + ROUND]) for at in range(0, len(newest), ROUND))
            return [self._lagged(len(changes) - len(newest))]
        changes = changes[:ROUND]
        if changes:
            self.seq = changes[-1].seq
        return self._events(changes)

    @property
    def behind(self) -> bool:
        """Whether there is more to tell now."""
        return self._ahead is not None or self.seq < self._registry.catalog.journal.head

    def _events(self, changes: Sequence[Change]) -> list[bytes]:
        told = self._registry.events(self.caller, self.filter, changes)
        return [self._event(change, event, service) for change, event, service in told]

    def _event(self, change: Change, event: str, service: Service) -> bytes:
        cursor = self._registry.versions.text(change.seq)
        return (
            b'{"op":"event","sub":' + self.sub + b',"event":"' + event.encode() + b'","service":' + service.json()
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


def sub_name(value: object) -> bytes:
    """The name of a subscription as JSON bytes: its key, and how it is shown."""
    return orjson.dumps(value)
