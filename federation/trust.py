"""Whom this node believes: anchors, certificates, and "may this origin say this here?".

An anchor is a key that an admin trusts: a peer's node key, or the root key of a federation. A certificate is a `cert`
entry: its origin grants the subject (the entry's name, a did:key) membership in a federation, for a time and within a
scope. A key is certified under a root while a chain of valid certificates leads to it from that root; here a chain is
one certificate, by the root itself (`_chain` is the place where longer ones will be followed).

What is believed of whom:

- own facts: always. PRIVATE: nobody else's, ever.
- PUBLIC: a peer anchor whose scope has it; a key certified under an anchored root, where the scopes of both the anchor
  and the certificate have it; an anchored root itself, in the kinds that speak of trust.
- INTERNAL under a root: only while this node and the origin are both certified under it, and the origin's certificate
  has the class. Membership decides here, not the classes of the anchor.
- A key that is revoked here is believed in nothing and certified under nothing, whatever others say of it.

Values in, answers out: the time comes in, signatures were checked by whoever took the entry in (`Replica`), and a
certificate that cannot be read grants nothing. `version` tells whoever keeps answers when to ask again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Final, Literal

from crdt.entry import MAX_LIFE_TRUST_MS, TRUST_KINDS, Class, Entry, Fact, Order
from crdt.stamp import COUNTER_BITS
from federation.cose import fact_of, sign_entry
from federation.identity import KEY_BYTES, DidError, NodeKey, did_of, parse_did

MAX_ADDRESSES: Final = 4  # an anchor's, as of a `node` entry
MAX_TERMS: Final = 100  # types, or tags, in one scope
_MEMBER: Final = frozenset({Class.INTERNAL, Class.PUBLIC})  # the classes of a certificate that names none


class Role(Enum):
    """What an anchored key is."""

    PEER = "peer"
    ROOT = "root"


@dataclass(frozen=True, slots=True)
class Scope:
    """What an anchor may bring here. `types`, `tags`: which records are shown, () for all (held are all); `records`:
    how many, None without a bound (kept and shown, not yet enforced)."""

    classes: frozenset[Class] = frozenset({Class.PUBLIC})
    types: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    records: int | None = None


MEMBER_SCOPE: Final = Scope(_MEMBER)


@dataclass(frozen=True, slots=True)
class Anchor:
    """A key that an admin trusts, or revoked. `key`: 32 bytes; `name`: what the admin calls it; `addresses`: HOST:PORT;
    `depth`: how many further certificates may follow below it; `added`, `revoked`: ms since 1970. A revoked anchor
    stays, so that it can be restored."""

    key: bytes
    role: Role
    name: str = ""
    addresses: tuple[str, ...] = ()
    depth: int = 0
    scope: Scope = Scope()
    added: int = 0
    revoked: int | None = None


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a `cert` entry says, once read. Times: ms since 1970; it holds from `not_before` to before `until`, the
    sooner of not_after and the entry's valid_until."""

    granted: bool
    federation: bytes
    scope: Scope
    depth: int
    not_before: int
    until: int
    order: Order

    def holds(self, now_ms: int) -> bool:
        """Whether it grants membership at `now_ms`."""
        return self.granted and self.not_before <= now_ms < self.until


class Trust:
    """All that this node's admin and its roots have said about keys. `own`: this node's key, 32 bytes; `version`: goes
    up whenever an answer may have changed."""

    def __init__(self, own: bytes) -> None:
        self.own = own
        self.version = 0
        self._anchors: dict[bytes, Anchor] = {}
        self._certs: dict[bytes, dict[bytes, Certificate]] = {}  # by subject, then by issuer
        self._now = 0  # when time was last looked at
        self._steady = (0, 0)  # from, to (ms): time alone changes no answer inside

    # What the admin says

    def put(self, anchor: Anchor) -> None:
        """Adds an anchor, or replaces the one with its key."""
        if self._anchors.get(anchor.key) != anchor:
            self._anchors[anchor.key] = anchor
            self._moved()

    def drop(self, key: bytes) -> None:
        """Forgets the anchor `key`, its revocation too."""
        if self._anchors.pop(key, None) is not None:
            self._moved()

    def anchors(self) -> Mapping[bytes, Anchor]:
        """By key, revoked ones too. To read."""
        return MappingProxyType(self._anchors)

    def keys(self) -> set[bytes]:
        """All keys of which anything counts here: anchors, and whom roots have certified. `admits` is False for
        others."""
        certified = (key for key, issued in self._certs.items() if any(map(self._is_root, issued)))
        return {*self._anchors, *certified}

    # What certificates say

    def learn(self, entry: Entry) -> bool:
        """Takes in an entry whose signature was checked; others than `cert` are passed by. True where `version` moved.

        The order of calls does not matter: of what one key said about another the newest counts.
        """
        if entry.kind != "cert" or entry.cls is not Class.PUBLIC:
            return False
        try:
            subject = parse_did(entry.name)
        except DidError:
            return False
        issued = self._certs.setdefault(subject, {})
        known = issued.get(entry.origin)
        if known is not None and known.order >= entry.order:
            return False
        issued[entry.origin] = _read(entry)
        counts = self._is_root(entry.origin)  # else it changes no answer, and any peer can sign as many as it likes
        if counts:
            self._moved()
        return counts

    def unlearn(self, issuer: bytes) -> None:
        """Forgets all certificates by `issuer`: its entries were purged."""
        for subject in [subject for subject, issued in self._certs.items() if issuer in issued]:
            del self._certs[subject][issuer]
            if not self._certs[subject]:
                del self._certs[subject]
        self._moved()

    def certificates_of(self, subject: bytes) -> Mapping[bytes, Certificate]:
        """What is known about `subject`, by issuer, whether it counts here or not. To read."""
        return MappingProxyType(self._certs.get(subject, {}))

    def expire(self, now_ms: int) -> bool:
        """Looks at the clock: True (and `version` moved) where time alone changed an answer since the last look.

        Cheap while nothing begins or ends; else it reads all certificates.
        """
        since, self._now = self._now, now_ms
        if self._steady[0] <= now_ms < self._steady[1]:
            return False
        begin, end = 0, 1 << 64
        changed = False
        for subject, issued in self._certs.items():
            for issuer, cert in issued.items():
                if not cert.granted or not self._is_root(issuer):
                    continue
                for edge in (cert.not_before, cert.until):
                    if edge <= now_ms:
                        begin = max(begin, edge)
                    else:
                        end = min(end, edge)
                changed = changed or (cert.holds(since) != cert.holds(now_ms) and not self.is_revoked(subject))
        self._steady = begin, end
        self.version += changed
        return changed

    # Answers

    def is_revoked(self, key: bytes) -> bool:
        """Whether an admin of this node revoked `key`."""
        anchor = self._anchors.get(key)
        return anchor is not None and anchor.revoked is not None

    def roots_of(self, key: bytes, now_ms: int) -> frozenset[bytes]:
        """The roots anchored here under which `key` (this node's own too) is certified at `now_ms`."""
        return frozenset(root for root in self._certs.get(key, ()) if self._chain(root, key, now_ms) is not None)

    def may_link(self, peer: bytes, now_ms: int) -> bool:
        """Whether `peer` may have a link to this node at `now_ms`."""
        anchor = self._anchors.get(peer)
        if anchor is not None and anchor.revoked is not None:
            return False
        return (anchor is not None and anchor.role is Role.PEER) or bool(self.roots_of(peer, now_ms))

    def admits(self, origin: bytes, cls: Class, root: bytes | None, kind: str, now_ms: int) -> bool:
        """Whether facts of `origin` in this class (INTERNAL: under `root`) may be held here at `now_ms`."""
        if origin == self.own:
            return True
        if cls is Class.PRIVATE or self.is_revoked(origin):
            return False
        if cls is Class.INTERNAL:
            if root is None or self._chain(root, self.own, now_ms) is None:
                return False
            scope = self._chain(root, origin, now_ms)
            return scope is not None and Class.INTERNAL in scope.classes
        anchor = self._anchors.get(origin)
        if anchor is not None:
            if anchor.role is Role.PEER and Class.PUBLIC in anchor.scope.classes:
                return True
            if anchor.role is Role.ROOT and kind in TRUST_KINDS:
                return True
        for issuer in self._certs.get(origin, ()):
            scope = self._chain(issuer, origin, now_ms)
            if scope is not None and Class.PUBLIC in scope.classes & self._anchors[issuer].scope.classes:
                return True
        return False

    # Inside

    def _chain(self, root: bytes, key: bytes, now_ms: int) -> Scope | None:
        """The scope that a chain of valid certificates from `root`, anchored here, gives `key`; None without one."""
        cert = self._certs.get(key, {}).get(root)
        if cert is None or not cert.holds(now_ms) or cert.federation != root:
            return None
        return cert.scope if self._is_root(root) and not self.is_revoked(key) else None

    def _is_root(self, key: bytes) -> bool:
        anchor = self._anchors.get(key)
        return anchor is not None and anchor.role is Role.ROOT and anchor.revoked is None

    def _moved(self) -> None:
        self.version += 1
        self._steady = (0, 0)


def issue_cert(
    root_key: NodeKey,
    subject: bytes,
    *,
    now_ms: int,
    not_before: int | None = None,
    not_after: int | None = None,
    state: Literal["granted", "revoked"] = "granted",
    scope: Scope = MEMBER_SCOPE,
    depth: int = 0,
    stamp: int | None = None,
) -> Entry:
    """A `cert` entry by `root_key` for `subject` (32 bytes). Times: ms since 1970; by default from now for 400 days.

    `stamp`: its order among what the root said of the subject; by default made of `now_ms`. Raises ValueError where it
    would hold for longer than 400 days, or never.
    """
    begin = now_ms if not_before is None else not_before
    end = begin + MAX_LIFE_TRUST_MS if not_after is None else not_after
    if not begin < end <= begin + MAX_LIFE_TRUST_MS:
        raise ValueError("a certificate holds for 400 days at most, and begins before it ends")
    body: dict[str, object] = {"state": state, "federation": root_key.public, "not_before": begin, "not_after": end}
    if described := scope_body(scope):
        body["scope"] = described
    if depth:
        body["depth"] = depth
    order = now_ms << COUNTER_BITS if stamp is None else stamp
    return sign_entry(root_key, Fact("cert", did_of(subject), order, Class.PUBLIC, now_ms + MAX_LIFE_TRUST_MS, body))


def scope_body(scope: Scope) -> dict[str, object]:
    """The scope as a certificate carries it: what is at its default (public and internal, all types and tags, any
    number) is left out."""
    body: dict[str, object] = {}
    if scope.classes != _MEMBER:
        body["classes"] = sorted(int(cls) for cls in scope.classes)
    if scope.types:
        body["types"] = list(scope.types)
    if scope.tags:
        body["tags"] = list(scope.tags)
    if scope.records is not None:
        body["records"] = scope.records
    return body


def _read(entry: Entry) -> Certificate:
    """What `entry` says; what is deleted, or cannot be read, grants nothing."""
    body = fact_of(entry).body if entry.live else None
    try:
        if body is None:
            raise ValueError("deleted")
        return Certificate(
            granted=body["state"] == "granted",
            federation=_key(body["federation"]),
            scope=_scope(body.get("scope", {})),
            depth=_uint(body.get("depth", 0)),
            not_before=_uint(body["not_before"]),
            until=min(_uint(body["not_after"]), entry.valid_until),
            order=entry.order,
        )
    except (KeyError, ValueError):
        return Certificate(False, b"", Scope(frozenset()), 0, 0, 0, entry.order)


def _scope(value: object) -> Scope:
    if type(value) is not dict:
        raise ValueError("a scope is a map")
    classes = value.get("classes")
    return Scope(
        classes=_MEMBER if classes is None else frozenset(Class(_uint(cls)) for cls in _list(classes)),
        types=tuple(_text(term) for term in _list(value.get("types", []))),
        tags=tuple(_text(term) for term in _list(value.get("tags", []))),
        records=None if "records" not in value else _uint(value["records"]),
    )


def _list(value: object) -> list[object]:
    if type(value) is not list or len(value) > MAX_TERMS:
        raise ValueError(f"a list of at most {MAX_TERMS}")
    return value


def _text(value: object) -> str:
    if type(value) is not str:
        raise ValueError("text")
    return value


def _uint(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("an unsigned integer")
    return value


def _key(value: object) -> bytes:
    if type(value) is not bytes or len(value) != KEY_BYTES:
        raise ValueError(f"{KEY_BYTES} bytes")
    return value
