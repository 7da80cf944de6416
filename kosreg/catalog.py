"""The queryable view: every service that this node shows, with indexes and the journal of changes, in memory.

The catalog knows no tokens: who may see what is decided in `registry`. It has no I/O and no clock.
"""

from __future__ import annotations

from collections.abc import Iterator

from kosreg.journal import Change, Event, Journal
from kosreg.service import Service

NO_SERVICES: frozenset[Service] = frozenset()


class Index:
    """word → services. One service a word is kept bare: a set for each rare word would cost 216 bytes."""

    __slots__ = ("_of",)

    def __init__(self) -> None:
        self._of: dict[str, Service | set[Service]] = {}

    def add(self, word: str, service: Service) -> None:
        """Enter `service` under `word`."""
        held = self._of.get(word)
        if held is None:
            self._of[word] = service
        elif isinstance(held, set):
            held.add(service)
        elif held is not service:
            self._of[word] = {held, service}

    def discard(self, word: str, service: Service) -> None:
        """Take `service` out again; a word without services goes."""
        held = self._of.get(word)
        if held is service:
            del self._of[word]
        elif isinstance(held, set):
            held.discard(service)
            if not held:
                del self._of[word]

    def get(self, word: str) -> set[Service] | frozenset[Service]:
        """The services under `word`."""
        held = self._of.get(word)
        if held is None:
            return NO_SERVICES
        return held if isinstance(held, set) else frozenset((held,))


class Catalog:
    """All services by id, their indexes and the journal of changes."""

    def __init__(self) -> None:
        self.services: dict[str, Service] = {}
        self.journal = Journal()
        self.by_tag = Index()
        self.by_owner = Index()
        self.by_capability = Index()

    def __len__(self) -> int:
        return len(self.services)

    def __iter__(self) -> Iterator[Service]:
        return iter(self.services.values())

    def get(self, uid: str) -> Service | None:
        """The service under `uid`, or None."""
        return self.services.get(uid)

    def _index(self, service: Service) -> None:
        for tag in service.tags:
            self.by_tag.add(tag, service)
        for capability in service.capabilities:
            self.by_capability.add(capability, service)
        self.by_owner.add(service.owner, service)

    def _unindex(self, service: Service) -> None:
        for tag in service.tags:
            self.by_tag.discard(tag, service)
        for capability in service.capabilities:
            self.by_capability.discard(capability, service)
        self.by_owner.discard(service.owner, service)

    def load(self, service: Service) -> None:
        """Enter a service without a change: at start."""
        old = self.services.get(service.uid)
        if old is not None:
            self._unindex(old)
        self.services[service.uid] = service
        self._index(service)

    def put(self, service: Service, at: int) -> Change:
        """Show `service` (its `seq` is set) in place of what is shown under its id."""
        old = self.services.get(service.uid)
        self.load(service)
        event: Event = "registered" if old is None else "updated"
        change = Change(
            service.seq, at, event, service.uid, old, service, "" if old is None else old.status, service.status
        )
        self.journal.add(change)
        return change

    def remove(self, uid: str, seq: int, at: int) -> Change | None:
        """Show `uid` no more; None where it was not shown."""
        old = self.services.pop(uid, None)
        if old is None:
            return None
        self._unindex(old)
        change = Change(seq, at, "deregistered", uid, old, None, old.status, "")
        self.journal.add(change)
        return change

    def moved(self, service: Service, before: str, at: int) -> Change:
        """Tell that the effective status of `service`, which is shown, is no longer `before`."""
        service.seq = self.journal.next_seq()
        service.tail = None
        event: Event = service.status  # type: ignore[assignment]  # the three statuses are three events
        change = Change(service.seq, at, event, service.uid, service, service, before, service.status)
        self.journal.add(change)
        return change
