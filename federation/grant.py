"""What a `cert` entry says: its issuer (the entry's origin) grants the subject (its name, a did:key) a place in a
federation, for a time, within a scope, and with a depth; or takes that back.

How such words become chains is `chain`'s affair, and whom that makes believed is `trust`'s. A certificate that cannot
be read grants nothing, and still ends what its issuer said of the subject before.
"""

from dataclasses import dataclass
from typing import Final, Literal

from crdt.entry import MAX_LIFE_TRUST_MS, Class, Entry, Fact, Order
from crdt.stamp import COUNTER_BITS
from federation.cose import fact_of, sign_entry
from federation.identity import KEY_BYTES, NodeKey, did_of

MAX_TERMS: Final = 100  # types, or tags, in one scope
_MEMBER: Final = frozenset({Class.INTERNAL, Class.PUBLIC})  # the classes of a certificate that names none


@dataclass(frozen=True, slots=True)
class Scope:
    """What a key may bring here. `types`, `tags`: which records are shown, () for all (held are all); `records`:
    how many it may bring (`budget`), None: the default of each node."""

    classes: frozenset[Class] = frozenset({Class.PUBLIC})
    types: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    records: int | None = None

    def shows(self, type: str, tags: frozenset[str]) -> bool:
        """Whether a record of this type with these tags is shown: one of the types, and one of the tags."""
        return (not self.types or type in self.types) and (not self.tags or not tags.isdisjoint(self.tags))


PEER_SCOPE: Final = Scope()
MEMBER_SCOPE: Final = Scope(_MEMBER)


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a `cert` entry says, once read. `federation`: the root's key; `depth`: how many further certificates may
    follow below it. Times: ms since 1970; a grant holds from `not_before` to before `until`, the sooner of not_after
    and the entry's valid_until; a revocation for as long as its entry."""

    granted: bool
    federation: bytes
    scope: Scope
    depth: int
    not_before: int
    until: int
    order: Order


def issue_cert(
    issuer: NodeKey,
    subject: bytes,
    *,
    now_ms: int,
    federation: bytes | None = None,
    not_before: int | None = None,
    not_after: int | None = None,
    state: Literal["granted", "revoked"] = "granted",
    scope: Scope = MEMBER_SCOPE,
    depth: int = 0,
    stamp: int | None = None,
) -> Entry:
    """A `cert` entry by `issuer` for `subject` (32 bytes), in the federation of that root key: by default the issuer's
    own. Times: ms since 1970; by default from now for 400 days.

    `stamp`: its order among what the issuer said of the subject; by default made of `now_ms`. Raises ValueError where
    it would hold for longer than 400 days, or never.
    """
    body = cert_body(
        issuer.public if federation is None else federation,
        now_ms=now_ms, not_before=not_before, not_after=not_after, state=state, scope=scope, depth=depth,
    )  # fmt: skip
    order = now_ms << COUNTER_BITS if stamp is None else stamp
    return sign_entry(issuer, Fact("cert", did_of(subject), order, Class.PUBLIC, now_ms + MAX_LIFE_TRUST_MS, body))


def cert_body(
    federation: bytes,
    *,
    now_ms: int,
    not_before: int | None = None,
    not_after: int | None = None,
    state: Literal["granted", "revoked"] = "granted",
    scope: Scope = MEMBER_SCOPE,
    depth: int = 0,
) -> dict[str, object]:
    """The body of a `cert` entry, as for `issue_cert`."""
    begin = now_ms if not_before is None else not_before
    end = begin + MAX_LIFE_TRUST_MS if not_after is None else not_after
    if not begin < end <= begin + MAX_LIFE_TRUST_MS:
        raise ValueError("a certificate holds for 400 days at most, and begins before it ends")
    body: dict[str, object] = {"state": state, "federation": federation, "not_before": begin, "not_after": end}
    if described := scope_body(scope):
        body["scope"] = described
    if depth:
        body["depth"] = depth
    return body


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


def read_cert(entry: Entry) -> Certificate:
    """What `entry` says; what is deleted, or cannot be read, grants nothing."""
    body = fact_of(entry).body if entry.live else None
    try:
        if body is None:
            raise ValueError("deleted")
        state = body["state"]
        if state not in ("granted", "revoked"):
            raise ValueError("state")
        return Certificate(
            granted=state == "granted",
            federation=_key(body["federation"]),
            scope=_scope(body.get("scope", {})),
            depth=_uint(body.get("depth", 0)),
            not_before=_uint(body["not_before"]),
            until=min(_uint(body["not_after"]), entry.valid_until) if state == "granted" else entry.valid_until,
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
