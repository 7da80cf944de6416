"""What a verified token says: a subject and its scopes.

A scope is `action:resource:name`, split at the first two colons only, since names may hold colons (`did:key:z6Mk…`). A
trailing `*` in a part matches any rest. `admin` is matched by the word alone, never by a pattern: `*:service:*` reads,
writes and executes, and what is to be an administrator has to say so (`admin:*:*`, which may everything).

Which actions there are on what is one table, `KNOWN`. What is not in it cannot be issued; in a token of an outside
issuer or of another release it is passed over, since others may use the same claim for more than kosreg.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

ADMIN_SCOPE: Final = "admin:*:*"
DEFAULT_SCOPES: Final = ("read:service:*", "write:service:*", "execute:service:*")
MAX_SCOPES: Final = 64

KNOWN: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        "read": frozenset({"service", "node", "metrics"}),
        "write": frozenset({"service"}),
        "execute": frozenset({"service"}),
    }
)

SUBJECT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}", re.ASCII)
"""A subject of this node. No `@`: that is how those of outside issuers are told apart (`SUB@ISS`)."""

_WORD: Final = re.compile(r"[a-z][a-z0-9_.-]{0,63}\*?|\*", re.ASCII)
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/-]{0,255}\*?|\*", re.ASCII)


class ScopeError(ValueError):
    """A text that is no scope, or one that means nothing here."""


@dataclass(frozen=True, slots=True)
class Scope:
    """One `action:resource:name`; each part a word, a prefix with a trailing `*`, or `*`."""

    action: str
    resource: str
    name: str

    @classmethod
    def parse(cls, text: str) -> Scope:
        """Raises ScopeError, whose text says what is wrong and what a scope looks like."""
        parts = text.split(":", 2)
        if len(parts) != 3:
            raise ScopeError(f"{text[:80]!r} is no scope. Write action:resource:name, such as read:service:*")
        action, resource, name = parts
        if not (_WORD.fullmatch(action) and _WORD.fullmatch(resource) and _NAME.fullmatch(name)):
            raise ScopeError(
                f"{text[:80]!r} is no scope: each part of action:resource:name is a word, a beginning with *, or *"
            )
        scope = cls(action, resource, name)
        if action == "admin":
            if text != ADMIN_SCOPE:
                raise ScopeError(f"{text[:80]!r} is no scope: of admin there is only {ADMIN_SCOPE}")
        elif not any(scope.reaches(a, r) for a, resources in KNOWN.items() for r in resources):
            known = ", ".join(f"{a}:{r}:*" for a, rs in KNOWN.items() for r in sorted(rs))
            raise ScopeError(f"{text[:80]!r} is unknown. There are {known} and {ADMIN_SCOPE}")
        return scope

    def reaches(self, action: str, resource: str) -> bool:
        """Whether it holds for this action on some of this resource."""
        if action == "admin":
            return self.action == "admin"
        return _matches(self.action, action) and _matches(self.resource, resource)

    def narrowed(self, allowed: Scope) -> Scope | None:
        """What both allow, or None. Exact: of two prefixes one holds the other, or they share nothing."""
        if allowed.is_admin:
            return self
        if self.is_admin:
            return None
        action = _both(self.action, allowed.action)
        resource = _both(self.resource, allowed.resource)
        name = _both(self.name, allowed.name)
        return None if action is None or resource is None or name is None else Scope(action, resource, name)

    @property
    def is_admin(self) -> bool:
        return self.action == "admin"

    def __str__(self) -> str:
        return f"{self.action}:{self.resource}:{self.name}"


def parse_scopes(texts: Iterable[str]) -> tuple[Scope, ...]:
    """All of them, each once; raises ScopeError for the first that is wrong, or for too many."""
    unique = dict.fromkeys(texts)
    if len(unique) > MAX_SCOPES:
        raise ScopeError(f"a token takes at most {MAX_SCOPES} scopes. Use fewer, with * where they share a beginning")
    return tuple(Scope.parse(text) for text in unique)


def understood(texts: Iterable[str]) -> tuple[Scope, ...]:
    """Those of `texts` that mean something here, at most `MAX_SCOPES`."""
    found: dict[Scope, None] = {}
    for text in texts:
        try:
            found[Scope.parse(text)] = None
        except ScopeError:
            continue
        if len(found) == MAX_SCOPES:
            break
    return tuple(found)


def limited_to(scopes: Iterable[Scope], allowed: Iterable[Scope]) -> tuple[Scope, ...]:
    """What of `scopes` is within `allowed`."""
    bounds = tuple(allowed)
    both = {scope.narrowed(bound): None for scope in scopes for bound in bounds}
    return tuple(scope for scope in both if scope is not None)


def covers(patterns: frozenset[str] | None, name: str) -> bool:
    """Whether `name` is among what `Caller.names` gave."""
    return patterns is None or any(_matches(pattern, name) for pattern in patterns)


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever holds a valid token. Made by `Auth.verify`, which also sees to it that it is still valid.

    `sub`: the subject, `SUB@ISS` where an outside issuer vouches for it. `exp`: s since 1970. `iss`: whoever signed.
    `digest`: first 16 bytes of the token's SHA-256, to tell tokens apart where the text must not be kept.
    """

    sub: str
    scopes: tuple[Scope, ...]
    jti: str
    exp: int
    iss: str
    digest: bytes
    outside: bool = False
    admin: bool = False
    _names: dict[tuple[str, str], frozenset[str] | None] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def may(self, action: str, resource: str, name: str = "*") -> bool:
        """Whether the token allows `action` on the `resource` called `name`; with `*`: on at least one of them.

        A route asks without a name; whoever then picks the records asks with each name, or filters by `names`.
        """
        patterns = self.names(action, resource)
        if patterns is None:
            return True
        return bool(patterns) if name == "*" else covers(patterns, name)

    def names(self, action: str, resource: str) -> frozenset[str] | None:
        """The names that it may do this to: None for all, else words and prefixes with a trailing `*` (maybe none)."""
        if self.admin:
            return None
        key = (action, resource)
        if key in self._names:
            return self._names[key]
        found: frozenset[str] | None = frozenset(s.name for s in self.scopes if s.reaches(action, resource))
        if found is not None and "*" in found:
            found = None
        self._names[key] = found  # bounded: callers ask for the few actions and resources of the code
        return found


def _matches(pattern: str, value: str) -> bool:
    return pattern == value or (pattern.endswith("*") and value != "admin" and value.startswith(pattern[:-1]))


def _both(a: str, b: str) -> str | None:
    """The narrower of two patterns where one holds the other, else None."""
    if a.endswith("*") and b.startswith(a[:-1]):
        return b
    if b.endswith("*") and a.startswith(b[:-1]):
        return a
    return a if a == b else None
