"""Chains of certificates: from a root that is trusted here to each key that is certified below it.

A chain is a row of keys that begins with the root; each has certified the next, in the federation of that root, and
allowed as many further certificates as follow. It holds while all of its certificates do, and what it lets through is
what each of their scopes lets through. A revocation by one key of a chain breaks it where it names a later one: what a
root revokes is out, whoever certified it. So does a key that is barred here.

Chains are kept, and worked out anew only below what has changed: of a key those that no other chain makes needless
(`Chain.makes_needless`), and at most `MAX_CHAINS`, shorter ones first. So what is kept depends on nothing but what was
said: not on the order in which it came. A row has no key twice and at most `MAX_CHAIN` certificates, so cycles end, and
a hello can carry it whole.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from crdt.entry import Class, Order
from federation.grant import Certificate, Scope

MAX_CHAIN: Final = 4  # certificates
MAX_CHAINS: Final = 8  # of one key under one root
_ALWAYS: Final = 1 << 64  # ms


@dataclass(frozen=True, slots=True)
class Chain:
    """`keys`: from the root to who is certified; it holds from `begin` to before `end` (ms since 1970); `depth`: how
    many further certificates may follow; `classes`: those that all of its scopes have; `scopes`: those that hide some
    records; `records`: how many it may bring, None without a bound."""

    keys: tuple[bytes, ...]
    begin: int = 0
    end: int = _ALWAYS
    depth: int = MAX_CHAIN
    classes: frozenset[Class] = frozenset(Class)
    scopes: frozenset[Scope] = frozenset()
    records: int | None = None

    def holds(self, now_ms: int) -> bool:
        return self.begin <= now_ms < self.end

    def shows(self, type: str, tags: frozenset[str]) -> bool:
        """Whether each of its scopes shows a record of this type with these tags."""
        return all(scope.shows(type, tags) for scope in self.scopes)

    def longer(self, cert: Certificate, subject: bytes, revoked: Mapping[bytes, int]) -> "Chain | None":
        """This chain with `cert`, a grant by its last key; None where it may not follow, or never holds. `revoked`: who
        has revoked the subject, and until when."""
        if not self.depth or subject in self.keys:
            return None
        begin, end = max(self.begin, cert.not_before), min(self.end, cert.until)
        if revoked:
            begin = max(begin, *(revoked.get(key, 0) for key in self.keys))
        if begin >= end:
            return None
        scope = cert.scope
        hides = bool(scope.types or scope.tags)
        counts = [count for count in (self.records, scope.records) if count is not None]
        return Chain(
            (*self.keys, subject),
            begin,
            end,
            min(self.depth - 1, cert.depth),
            self.classes & scope.classes,
            self.scopes | {Scope(frozenset(), scope.types, scope.tags)} if hides else self.scopes,
            min(counts, default=None),
        )

    def makes_needless(self, other: "Chain") -> bool:
        """Whether whatever follows from `other`, now or with further certificates, follows from this one too."""
        return (
            self.begin <= other.begin
            and self.end >= other.end
            and self.depth >= other.depth
            and self.classes >= other.classes
            and self.scopes <= other.scopes
            and (self.records is None or (other.records is not None and self.records >= other.records))
            and set(self.keys) <= set(other.keys)
        )


class Chains:
    """What keys have said about keys, and the chains that follow. `looked`: how many times a key was looked at, since
    the start."""

    def __init__(self) -> None:
        self.looked = 0
        self._roots: set[bytes] = set()
        self._barred: set[bytes] = set()
        self._certs: dict[bytes, dict[bytes, Certificate]] = {}  # by subject, then by issuer
        self._issued: dict[bytes, set[bytes]] = {}  # subjects by issuer
        self._chains: dict[bytes, dict[bytes, tuple[Chain, ...]]] = {}  # by key, then by root; none is empty

    # Each of these says whether any chain is another now.

    def set_root(self, key: bytes, *, counts: bool) -> bool:
        """Chains may begin at `key`, or no longer."""
        if counts == (key in self._roots):
            return False
        (self._roots.add if counts else self._roots.discard)(key)
        return self._renew(key, self._issued.get(key, ()))

    def set_barred(self, key: bytes, *, barred: bool) -> bool:
        """No chain may lead to `key` or through it, or it may again."""
        if barred == (key in self._barred):
            return False
        (self._barred.add if barred else self._barred.discard)(key)
        return self._look_at(key, self._roots)

    def learn(self, issuer: bytes, subject: bytes, cert: Certificate) -> bool:
        """Of what one key said about another the newest counts, whenever it comes."""
        issued = self._certs.setdefault(subject, {})
        known = issued.get(issuer)
        if known is not None and known.order >= cert.order:
            return False
        issued[issuer] = cert
        self._issued.setdefault(issuer, set()).add(subject)
        return self._look_at(subject, {cert.federation, known.federation if known else cert.federation} & self._roots)

    def unlearn(self, issuer: bytes) -> bool:
        """Forget all that `issuer` said."""
        changed = False
        for subject in self._issued.pop(issuer, ()):
            cert = self._certs[subject].pop(issuer)
            if not self._certs[subject]:
                del self._certs[subject]
            changed |= self._look_at(subject, {cert.federation} & self._roots)
        return changed

    def forget(self, issuer: bytes, subject: bytes, order: Order) -> bool:
        """Forget one word, if it is the newest still: it is held no more."""
        issued = self._certs.get(subject, {})
        known = issued.get(issuer)
        if known is None or known.order != order:
            return False
        del issued[issuer]
        if not issued:
            del self._certs[subject]
        self._issued[issuer].discard(subject)
        if not self._issued[issuer]:
            del self._issued[issuer]
        return self._look_at(subject, {known.federation} & self._roots)

    def succeed(self, old: bytes, new: bytes) -> None:
        """`new` stands where `old` stood: what was said about it, and what it said."""
        for issuer, cert in self._certs.pop(old, {}).items():
            self._issued[issuer].discard(old)
            if not self._issued[issuer]:
                del self._issued[issuer]
            self._put(issuer, new, cert)
        subjects = self._issued.pop(old, set())
        for subject in subjects:
            cert = self._certs[subject].pop(old)
            if not self._certs[subject]:
                del self._certs[subject]
            self._put(new, subject, cert)
        self._barred.discard(old)
        for root in self._roots:
            self._renew(root, (old, new, *sorted(subjects)))

    def _put(self, issuer: bytes, subject: bytes, cert: Certificate) -> None:
        issued = self._certs.setdefault(subject, {})
        known = issued.get(issuer)
        if issuer != subject and (known is None or known.order < cert.order):
            issued[issuer] = cert
            self._issued.setdefault(issuer, set()).add(subject)
        elif not issued:
            del self._certs[subject]

    # Answers

    def said_of(self, subject: bytes) -> Mapping[bytes, Certificate]:
        """The newest word of each issuer, whether it counts or not. To read."""
        return MappingProxyType(self._certs.get(subject, {}))

    def said_in(self, root: bytes) -> Iterator[tuple[bytes, bytes, Certificate]]:
        """(issuer, subject, newest word) of all certificates that are of the federation of `root`."""
        return (
            (issuer, subject, cert)
            for subject, said in self._certs.items()
            for issuer, cert in said.items()
            if cert.federation == root
        )

    def of(self, key: bytes) -> Mapping[bytes, tuple[Chain, ...]]:
        """The chains to `key` by root, those of other times too. To read."""
        return MappingProxyType(self._chains.get(key, {}))

    def keys(self) -> Iterable[bytes]:
        """All that a chain leads to."""
        return self._chains.keys()

    def __iter__(self) -> Iterator[Chain]:
        return (chain for roots in self._chains.values() for chains in roots.values() for chain in chains)

    # Inside

    def _look_at(self, key: bytes, roots: Iterable[bytes]) -> bool:
        return any([self._renew(root, (key,)) for root in roots])

    def _renew(self, root: bytes, keys: Iterable[bytes]) -> bool:
        """Works out the chains under `root` to `keys`, and to all that are below one whose chains have changed."""
        changed = False
        todo = dict.fromkeys(keys)
        while todo:
            key = next(iter(todo))
            del todo[key]
            self.looked += 1
            before = self._chains.get(key, {}).get(root, ())
            after = tuple(self._found(root, key))
            if after == before:
                continue
            changed = True
            if after:
                self._chains.setdefault(key, {})[root] = after
            else:
                del self._chains[key][root]
                if not self._chains[key]:
                    del self._chains[key]
            if any(chain.depth for chain in (*before, *after)):
                todo.update(dict.fromkeys(self._issued.get(key, ())))
        return changed

    def _found(self, root: bytes, key: bytes) -> list[Chain]:
        """The chains to `key` that are kept, as far as those to its issuers are known."""
        if root not in self._roots or key in self._barred:
            return []
        said = self._certs.get(key, {})
        revoked = {by: cert.until for by, cert in said.items() if not cert.granted and cert.federation == root}
        found: list[Chain] = []
        for issuer, cert in said.items():
            if cert.granted and cert.federation == root:
                above = (Chain((root,)),) if issuer == root else self._chains.get(issuer, {}).get(root, ())
                found += filter(None, (chain.longer(cert, key, revoked) for chain in above))
        kept: list[Chain] = []
        for chain in sorted(found, key=lambda chain: (len(chain.keys), chain.keys)) if len(found) > 1 else found:
            if not any(other.makes_needless(chain) for other in kept):
                kept.append(chain)
                if len(kept) == MAX_CHAINS:
                    break
        return kept
