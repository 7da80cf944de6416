"""How much room there is for what an origin says: a bound of its own, and one for each certificate of a chain to it.

What an origin holds here counts against every certificate of every chain that leads to it. So a key that may certify
others gets no room by certifying many: its own certificate bounds what all below it hold together. An origin has room
where one of the ways in which it is believed has room; a chain that somebody else has filled costs it nothing.

A certificate's own number of records goes before the default, and so does that of an anchor. A root without a number
has no bound of its own.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from federation.chain import Chain
from federation.grant import Certificate
from federation.identity import did_of
from federation.partitions import Usage
from federation.succession import Successions
from federation.trust import Anchor, Role

_NOTHING: Final = Usage()


@dataclass(frozen=True, slots=True)
class Bounds:
    """`records`, `bytes`, `entries_per_s`: of one origin; `keys`: what an origin may say about keys, a root excepted;
    `below_records`, `below_bytes`: of all together that are certified by way of a key that may certify others."""

    records: int = 200_000
    bytes: int = 256 * 1024 * 1024
    entries_per_s: int = 5_000
    keys: int = 4_096
    below_records: int = 1_000_000
    below_bytes: int = 1024 * 1024 * 1024


class Chained(Protocol):
    """What is asked of trust (`federation.trust.Trust`)."""

    @property
    def version(self) -> int: ...

    @property
    def successions(self) -> Successions: ...

    def anchors(self) -> Mapping[bytes, Anchor]: ...

    def chains_to(self, key: bytes) -> Iterator[Chain]: ...

    def certificates_of(self, subject: bytes) -> Mapping[bytes, Certificate]: ...


class Edge(NamedTuple):
    """`issuer` certified `subject` in the federation of `root`; an anchored root itself is certified by itself."""

    root: bytes
    issuer: bytes
    subject: bytes


class _Way(NamedTuple):
    """One way in which an origin is believed. `records`: its own number; `edges`: what it has to fit in as well."""

    records: int | None
    edges: tuple[Edge, ...]


@dataclass(slots=True)
class _Charged:
    """What an origin holds, and where it counts. `version`: of trust, as of which that is; `least`: the smallest number
    that one of the ways to it gives."""

    used: Usage = _NOTHING
    chains: tuple[Chain, ...] = ()
    edges: tuple[Edge, ...] = ()
    least: int = 0
    version: int = -1


class Budget:
    """What each origin holds, and what comes together at each certificate. `full`: those without room for more."""

    def __init__(self, trust: Chained, bounds: Bounds) -> None:
        self.bounds = bounds
        self.full: set[Edge] = set()
        self._trust = trust
        self._charged: dict[bytes, _Charged] = {}  # origins that hold something
        self._sums: dict[Edge, Usage] = {}  # where something is held

    def charge(self, origin: bytes, used: Usage) -> Usage:
        """`origin` holds `used` now. By how much that is more than before."""
        known = self._charged.get(origin)
        if known is None:
            known = self._charged[origin] = _Charged()
        if known.version != self._trust.version:
            self._place(origin, known)
        grew = used.less(known.used)
        self._add(known.edges, grew)
        known.used = used
        if used == _NOTHING:
            del self._charged[origin]
        return grew

    def refresh(self) -> None:
        """Trust has changed: chains may lead elsewhere."""
        for origin, known in self._charged.items():
            self._place(origin, known)
        for edge in self._sums:  # a certificate may say another number
            self._mark(edge)

    def has_room(self, origin: bytes, used: Usage) -> bool:
        """Whether `used` is so little that there is no need to look at each way: True for nearly all."""
        known = self._charged.get(origin)
        if known is None or used.records > known.least or used.bytes > self.bounds.bytes:
            return False
        return not self.full or self.full.isdisjoint(known.edges)

    def over(self, origin: bytes, used: Usage, grew: Usage, now_ms: int, *, times: int = 1, own: bool = True) -> str:
        """Why there is no room for `origin` to hold `used`; "" where there is. `grew`: by how much that is more than
        before: who does not grow is in nobody's way. `times`: the bounds are that much wider; `own`: its own hold, too.
        """
        first = ""
        for way in self._ways(origin, now_ms):
            why = (self._own(way, used, times) if own else "") or self._shared(way, origin, used, grew, times)
            if not why:
                return ""
            first = first or why
        return first

    def bound(self, origin: bytes, now_ms: int) -> Usage:
        """How much `origin` may hold by itself."""
        numbers = [self.bounds.records if way.records is None else way.records for way in self._ways(origin, now_ms)]
        return Usage(max(numbers, default=self.bounds.records), self.bounds.bytes)

    def _own(self, way: _Way, used: Usage, times: int) -> str:
        most = self.bounds.records if way.records is None else way.records
        if used.records > times * most:
            return f"it has {used.records:,} records here, and may have {most:,}"
        if used.bytes > times * self.bounds.bytes:
            return f"it has {used.bytes:,} bytes here, and may have {self.bounds.bytes:,}"
        return ""

    def _shared(self, way: _Way, origin: bytes, used: Usage, grew: Usage, times: int) -> str:
        known = self._charged.get(origin)
        for edge in way.edges:
            counted = known.used if known is not None and edge in known.edges else _NOTHING
            together = self._sums.get(edge, _NOTHING).plus(used.less(counted))
            records, size = self._bounds_of(edge)
            if records is not None and grew.records > 0 and together.records > times * records:
                return _crowded(edge, together.records, records, "records")
            if size is not None and grew.bytes > 0 and together.bytes > times * size:
                return _crowded(edge, together.bytes, size, "bytes")
        return ""

    def _bounds_of(self, edge: Edge) -> tuple[int | None, int | None]:
        """The records and bytes that may come together at `edge`; None: any number."""
        if edge.issuer == edge.subject:
            anchor = self._trust.anchors().get(edge.root)
            return None if anchor is None else anchor.scope.records, None
        cert = self._trust.certificates_of(edge.subject).get(edge.issuer)
        if cert is None or not cert.depth:  # nothing is below it: its own bounds hold already
            return None, None
        number = cert.scope.records
        return self.bounds.below_records if number is None else number, self.bounds.below_bytes

    def _ways(self, origin: bytes, now_ms: int) -> Iterator[_Way]:
        origin = self._trust.successions.latest(origin)
        anchor = self._trust.anchors().get(origin)
        if anchor is not None and anchor.role is Role.PEER and anchor.revoked is None:
            yield _Way(anchor.scope.records, ())
        for chain in self._trust.chains_to(origin):
            if chain.holds(now_ms):
                cert = self._trust.certificates_of(origin).get(chain.keys[-2])
                yield _Way(None if cert is None else cert.scope.records, _edges(chain))

    def _place(self, origin: bytes, known: _Charged) -> None:
        known.version = self._trust.version
        origin = self._trust.successions.latest(origin)  # what a key said that was succeeded counts where its heir does
        chains = tuple(self._trust.chains_to(origin))
        numbers = [cert.scope.records for cert in self._trust.certificates_of(origin).values()]
        if (anchor := self._trust.anchors().get(origin)) is not None:
            numbers.append(anchor.scope.records)
        known.least = min((self.bounds.records if number is None else number for number in numbers), default=0)
        if chains != known.chains:
            self._add(known.edges, _NOTHING.less(known.used))
            known.chains = chains
            known.edges = tuple({edge: None for chain in chains for edge in _edges(chain)})
            self._add(known.edges, known.used)

    def _add(self, edges: tuple[Edge, ...], more: Usage) -> None:
        for edge in edges:
            total = self._sums.get(edge, _NOTHING).plus(more)
            if total == _NOTHING:
                self._sums.pop(edge, None)
            else:
                self._sums[edge] = total
            self._mark(edge)

    def _mark(self, edge: Edge) -> None:
        records, size = self._bounds_of(edge)
        total = self._sums.get(edge, _NOTHING)
        full = (records is not None and total.records >= records) or (size is not None and total.bytes >= size)
        (self.full.add if full else self.full.discard)(edge)


def _edges(chain: Chain) -> tuple[Edge, ...]:
    """Where what its last key holds comes together with what others hold."""
    root = chain.keys[0]
    keys = chain.keys if chain.depth else chain.keys[:-1]
    pairs = zip((root, *keys), keys, strict=False)
    return tuple(Edge(root, issuer, subject) for issuer, subject in pairs)


def _crowded(edge: Edge, count: int, most: int, what: str) -> str:
    who = "the federation of" if edge.issuer == edge.subject else "all that are certified by way of"
    return f"{who} {did_of(edge.subject)} has {count:,} {what} here together, and may have {most:,}"
