"""What a node should believe, worked out a second time and in another way: from what its admin said (`anchors`) and the
certificates that it holds, all rows of them are walked from each root on, level by level. The engine keeps chains and
renews what is below a change (`federation.chain`); here nothing is kept, and certificates are read anew.

The rules are those of docs/protocol.md: a row has no key twice and at most four certificates, each in the federation of
its root and allowed by the depth of those before it; who stands in it and has revoked somebody behind breaks it for as
long as that holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from crdt.entry import TRUST_KINDS, Class, Entry
from federation.cose import fact_of
from federation.identity import DidError, parse_did
from federation.trust import Anchor, Role

FOREVER: Final = 1 << 64
LONGEST: Final = 4  # certificates
MOST: Final = 8  # rows to one key under one root
BOTH: Final = frozenset({Class.INTERNAL, Class.PUBLIC})
Terms = tuple[tuple[str, ...], tuple[str, ...]]  # types, tags


@dataclass(frozen=True, slots=True)
class Said:
    """One certificate, as far as it can be read. `begin`, `end`: ms."""

    granted: bool
    root: bytes
    begin: int = 0
    end: int = 0
    depth: int = 0
    classes: frozenset[Class] = BOTH
    terms: Terms = ((), ())


@dataclass(frozen=True, slots=True)
class Row:
    """Keys from a root to who is believed, and what all of its certificates leave."""

    keys: tuple[bytes, ...]
    begin: int = 0
    end: int = FOREVER
    depth: int = LONGEST
    classes: frozenset[Class] = frozenset(Class)
    terms: frozenset[Terms] = frozenset()

    def holds(self, now: int) -> bool:
        return self.begin <= now < self.end

    def covers(self, other: Row) -> bool:
        """Nothing follows from `other` that does not follow from this one."""
        return (
            self.begin <= other.begin and other.end <= self.end and other.depth <= self.depth
            and other.classes <= self.classes and self.terms <= other.terms and {*self.keys} <= {*other.keys}
        )  # fmt: skip


class Beliefs:
    """Of one node, at one moment. `certs`: what it holds, of whatever kind."""

    def __init__(self, own: bytes, anchors: Mapping[bytes, Anchor], certs: Iterable[Entry]) -> None:
        self.own = own
        self.anchors = dict(anchors)
        said: dict[tuple[bytes, bytes], Entry] = {}
        for entry in certs:
            if entry.kind == "cert" and entry.cls is Class.PUBLIC:
                try:
                    both = entry.origin, parse_did(entry.name)
                except DidError:
                    continue
                if both not in said or said[both].order < entry.order:
                    said[both] = entry
        self.said = {both: read(entry) for both, entry in said.items()}
        self.rows: dict[tuple[bytes, bytes], list[Row]] = {}  # by root and key
        for anchor in anchors.values():
            if anchor.role is Role.ROOT and anchor.revoked is None:
                self._walk(anchor.key)

    # Answers

    def roots_of(self, key: bytes, now: int) -> frozenset[bytes]:
        return frozenset(root for root in self.anchors if self._holding(root, key, now))

    def may_link(self, peer: bytes, now: int) -> bool:
        anchor = self.anchors.get(peer)
        if anchor is None:
            return bool(self.roots_of(peer, now))
        return anchor.revoked is None and (anchor.role is Role.PEER or bool(self.roots_of(peer, now)))

    def admits(self, origin: bytes, cls: Class, root: bytes | None, kind: str, now: int) -> bool:
        """Whether it may hold what `origin` says in this class."""
        if origin == self.own:
            return True
        if self._revoked(origin):
            return False
        if kind in TRUST_KINDS and cls is Class.PUBLIC:
            anchor = self.anchors.get(origin)
            if (anchor is not None and anchor.role is Role.ROOT) or self.roots_of(origin, now):
                return True
        return bool(self._ways(origin, cls, root, now))

    def shows(self, origin: bytes, cls: Class, root: bytes | None, type: str, tags: frozenset[str], now: int) -> bool:
        """Whether a record of this type with these tags is shown."""
        if origin == self.own:
            return True
        return not self._revoked(origin) and any(
            all((not types or type in types) and (not some or tags & {*some}) for types, some in terms)
            for terms in self._ways(origin, cls, root, now)
        )

    # Inside

    def _revoked(self, key: bytes) -> bool:
        return key in self.anchors and self.anchors[key].revoked is not None

    def _holding(self, root: bytes, key: bytes, now: int) -> list[Row]:
        return [row for row in self.rows.get((root, key), ()) if row.holds(now)]

    def _ways(self, origin: bytes, cls: Class, root: bytes | None, now: int) -> list[frozenset[Terms]]:
        """What each way in which `origin` is believed lets through."""
        if cls is Class.PRIVATE:
            return []
        if cls is Class.INTERNAL:
            if root is None or not self._holding(root, self.own, now):
                return []
            return [self._terms(row) for row in self._holding(root, origin, now) if cls in row.classes]
        ways = []
        anchor = self.anchors.get(origin)
        if anchor is not None and anchor.role is Role.PEER and cls in anchor.scope.classes:
            ways.append(frozenset({(anchor.scope.types, anchor.scope.tags)}))
        for above in self.anchors.values():
            if cls in above.scope.classes:
                ways += [self._terms(row) for row in self._holding(above.key, origin, now) if cls in row.classes]
        return ways

    def _terms(self, row: Row) -> frozenset[Terms]:
        scope = self.anchors[row.keys[0]].scope
        return row.terms | {(scope.types, scope.tags)}

    def _walk(self, root: bytes) -> None:
        level = [Row((root,))]
        for _ in range(LONGEST):
            found = [
                longer
                for row in level
                for (issuer, subject), said in self.said.items()
                if issuer == row.keys[-1] and (longer := self._longer(row, subject, said)) is not None
            ]
            level = []
            for row in sorted(found, key=lambda row: row.keys):
                kept = self.rows.setdefault((root, row.keys[-1]), [])
                if len(kept) < MOST and not any(other.covers(row) for other in kept):
                    kept.append(row)
                    level.append(row)

    def _longer(self, row: Row, subject: bytes, said: Said) -> Row | None:
        root = row.keys[0]
        if not said.granted or said.root != root or not row.depth or subject in row.keys or self._revoked(subject):
            return None
        against = [self.said.get((key, subject)) for key in row.keys]
        ended = [word.end for word in against if word is not None and not word.granted and word.root == root]
        begin, end = max(row.begin, said.begin, *ended), min(row.end, said.end)
        if begin >= end:
            return None
        return Row(
            (*row.keys, subject), begin, end, min(row.depth - 1, said.depth), row.classes & said.classes,
            row.terms | ({said.terms} if said.terms != ((), ()) else set()),
        )  # fmt: skip


def read(entry: Entry) -> Said:
    """What a certificate says; nothing where it is taken back or cannot be read."""
    body: Any = fact_of(entry).body if entry.live else None
    try:
        granted = {"granted": True, "revoked": False}[body["state"]]
        root, begin, end, depth = body["federation"], body["not_before"], body["not_after"], body.get("depth", 0)
        scope = body.get("scope", {})
        if type(root) is not bytes or len(root) != 32 or type(scope) is not dict:
            raise ValueError
        if any(type(number) is not int or number < 0 for number in (begin, end, depth)):
            raise ValueError
        classes = frozenset(Class(cls) for cls in scope["classes"]) if "classes" in scope else BOTH
        terms = tuple(scope.get("types", ())), tuple(scope.get("tags", ()))
    except (KeyError, TypeError, ValueError):
        return Said(False, b"")
    end = min(end, entry.valid_until) if granted else entry.valid_until
    return Said(granted, root, begin, end, depth, classes, terms)
