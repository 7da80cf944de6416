"""The queryable view: every service that this node shows, with indexes and the journal of changes, in memory.

One id, one service: `services` holds what each bare id names. Where several origins claim an id, or did, all the claims
are kept beside it (`contested`), and `names` says which of them is shown, if any.

The catalog knows no tokens: who may see what is decided in `registry`. It has no I/O and no clock.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

from kosreg.journal import Change, Event, Journal
from kosreg.names import Claims
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
        self.contested: dict[str, Claims] = {}
        self.on_holder: Callable[[str, Claims], None] = _nobody  # told when another origin holds an id
        self.journal = Journal()
        self.by_tag = Index()
        self.by_owner = Index()
        self.by_capability = Index()

    def __len__(self) -> int:
        return len(self.services)

    def __iter__(self) -> Iterator[Service]:
        return iter(self.services.values())

    def get(self, uid: str) -> Service | None:
        """What the bare id `uid` names, or None."""
        return self.services.get(uid)

    def own(self, uid: str) -> Service | None:
        """What this node itself says under `uid`, also where another claim is shown; or None."""
        service = self.services.get(uid)
        if service is not None and not service.foreign:
            return service
        claims = self.contested.get(uid)
        if claims is None:
            return None
        return next((claim for claim in claims.by_origin.values() if not claim.foreign), None)

    def all_own(self) -> Iterator[Service]:
        """All services of this node, those too that are not shown because their agent has moved."""
        yield from (service for service in self.services.values() if not service.foreign)
        for uid, claims in self.contested.items():
            shown = self.services.get(uid)
            yield from (s for s in claims.by_origin.values() if not s.foreign and s is not shown)

    def claim(self, uid: str, origin: str) -> Service | None:
        """What the node `origin` (its DID) says under `uid`, or None."""
        service = self.services.get(uid)
        if service is not None and service.origin == origin:
            return service
        claims = self.contested.get(uid)
        return None if claims is None else claims.by_origin.get(origin)

    def claims(self, uid: str) -> Sequence[Service]:
        """All that is said under `uid`, by whomever."""
        claims = self.contested.get(uid)
        if claims is not None:
            return list(claims.by_origin.values())
        service = self.services.get(uid)
        return () if service is None else (service,)

    # -- what is shown -------------------------------------------------------------------------------------------

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

    def _enter(self, service: Service) -> None:
        old = self.services.get(service.uid)
        if old is not None:
            self._unindex(old)
        self.services[service.uid] = service
        self._index(service)

    def load(self, service: Service, at: int = 0) -> None:
        """Enter a claim without a change: at start, the claim that this node resolved first before the others."""
        claims = self._rivalry(service.uid, service.origin)
        if claims is None:
            self._enter(service)
            return
        claims.by_origin[service.origin] = service
        shown = self._winner(service.uid, claims, at)
        old = self.services.get(service.uid)
        if shown is None:
            if old is not None:
                self._unindex(self.services.pop(service.uid))
        elif shown is not old:
            self._enter(shown)

    def put(self, service: Service, at: int, former: Collection[str] = ()) -> Change | None:
        """Take in `service` (its `seq` is set) in place of what its origin said under its id before; the change in what
        is shown, if any. `former`: origins in whose place its origin stands: what they held is its own, at once."""
        uid = service.uid
        if former and (change := self._take_over(service, at, former)) is not None:
            return change
        claims = self._rivalry(uid, service.origin)
        if claims is not None:
            claims.by_origin[service.origin] = service
            return self._settle(uid, claims, service.seq, at)
        old = self.services.get(uid)
        self._enter(service)
        return self._tell(service.seq, at, uid, old, service)

    def _take_over(self, service: Service, at: int, former: Collection[str]) -> Change | None:
        uid = service.uid
        claims = self.contested.get(uid)
        if claims is None:
            old = self.services.get(uid)
            if old is None or old.origin not in former:
                return None
            self._enter(service)
            return self._tell(service.seq, at, uid, old, service)
        for origin in former:
            claims.by_origin.pop(origin, None)
        if claims.holder in former:
            claims.holder = service.origin
            self.on_holder(uid, claims)
        return None

    def remove(self, uid: str, origin: str, seq: int, at: int) -> Change | None:
        """Forget what the node `origin` said under `uid`; the change in what is shown, if any."""
        claims = self.contested.get(uid)
        if claims is not None:
            if claims.by_origin.pop(origin, None) is None:
                return None
            return self._settle(uid, claims, seq, at)
        old = self.services.get(uid)
        if old is None or old.origin != origin:
            return None
        del self.services[uid]
        self._unindex(old)
        return self._tell(seq, at, uid, old, None)

    def moved(self, service: Service, before: str, at: int, seq: int | None = None) -> Change | None:
        """Tell that the effective status of `service` is no longer `before`, if it is shown."""
        service.tail = None
        if self.services.get(service.uid) is not service:
            return None
        service.seq = self.journal.next_seq() if seq is None else seq
        event: Event = service.status  # type: ignore[assignment]  # the three statuses are three events
        change = Change(service.seq, at, event, service.uid, service, service, before, service.status)
        self.journal.add(change)
        return change

    # -- who is meant --------------------------------------------------------------------------------------------

    def _rivalry(self, uid: str, origin: str) -> Claims | None:
        """The claims on `uid`, to which `origin` brings one; None where nobody else claims it, nor did."""
        claims = self.contested.get(uid)
        if claims is not None:
            return claims
        old = self.services.get(uid)
        if old is None or old.origin == origin:
            return None
        claims = self.contested[uid] = Claims(old.origin, by_origin={old.origin: old})
        self.on_holder(uid, claims)
        return claims

    def _winner(self, uid: str, claims: Claims, at: int) -> Service | None:
        holder = claims.holder
        winner = claims.winner(at)
        if claims.holder != holder:
            self.on_holder(uid, claims)
        return winner

    def _settle(self, uid: str, claims: Claims, seq: int, at: int) -> Change | None:
        """Show what `uid` names now."""
        new = self._winner(uid, claims, at)
        old = self.services.get(uid)
        if new is old:
            return None
        if new is None:
            self._unindex(self.services.pop(uid))
        else:
            new.seq = seq
            self._enter(new)
        return self._tell(seq, at, uid, old, new)

    def settle(self, uid: str, at: int) -> Change | None:
        """Look again which of its claims `uid` names: a proof has expired, or an admin has spoken."""
        claims = self.contested.get(uid)
        return None if claims is None else self._settle(uid, claims, self.journal.next_seq(), at)

    def _tell(self, seq: int, at: int, uid: str, old: Service | None, new: Service | None) -> Change:
        event: Event = "deregistered" if new is None else "registered" if old is None else "updated"
        told = ("" if old is None else old.status, "" if new is None else new.status)
        change = Change(seq, at, event, uid, old, new, *told)
        self.journal.add(change)
        return change


def _nobody(_uid: str, _claims: Claims) -> None:
    pass
