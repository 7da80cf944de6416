"""Whom this node believes: anchors, certificates, and "may this origin say this here?".

An anchor is a key that an admin trusts: a peer's node key, or the root key of a federation. A key is certified under a
root while a chain of valid certificates leads to it from that root (`grant`, `chain`).

What is believed of whom:

- own facts: always. PRIVATE: nobody else's, ever.
- PUBLIC: a peer anchor whose scope has it; a key certified under an anchored root, where the scopes of the anchor and
  of each certificate of one chain have it. Kinds that speak of trust: an anchored root itself, and every key certified
  under one, or else their certificates could not be followed.
- INTERNAL under a root: only while this node and the origin are both certified under it, and the origin's chain has the
  class. Membership decides here, not the classes of the anchor.
- A key that is revoked here is believed in nothing, and what leads through it counts nothing, whatever others say.
- A key that was succeeded (`succession`) is nobody any more: the new key stands where it stood, as an anchor, in chains
  and as revoked. Only entries of kinds that speak of trust are still held of it, so that others learn of the new key;
  its certificates count nothing. Of a key that is frozen nothing new is taken.

Values in, answers out: the time comes in, signatures were checked by whoever took the entry in (`Replica`), and a
certificate that cannot be read grants nothing. `version` tells whoever keeps answers when to ask again.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from types import MappingProxyType
from typing import Final

from crdt.entry import TRUST_KINDS, Class, Entry
from federation.chain import Chain, Chains
from federation.grant import (
    MAX_TERMS,
    MEMBER_SCOPE,
    PEER_SCOPE,
    Certificate,
    Scope,
    cert_body,
    issue_cert,
    read_cert,
    scope_body,
)
from federation.identity import DidError, parse_did
from federation.succession import Succession, Successions

__all__ = [
    "MAX_ADDRESSES",
    "MAX_TERMS",
    "MEMBER_SCOPE",
    "Anchor",
    "Certificate",
    "Chain",
    "Role",
    "Scope",
    "Trust",
    "cert_body",
    "issue_cert",
    "scope_body",
]

_FIRST: Final = ("node", "succession", "cert")
MAX_ADDRESSES: Final = 4  # an anchor's, as of a `node` entry


class Role(Enum):
    """What an anchored key is."""

    PEER = "peer"
    ROOT = "root"


@dataclass(frozen=True, slots=True)
class Anchor:
    """A key that an admin trusts, or revoked. `key`: 32 bytes; `name`: what the admin calls it; `addresses`: HOST:PORT;
    `depth`: kept, and not used: how far a root's word goes is said in its certificates; `added`, `revoked`: ms since
    1970. A revoked anchor stays, so that it can be restored."""

    key: bytes
    role: Role
    name: str = ""
    addresses: tuple[str, ...] = ()
    depth: int = 0
    scope: Scope = PEER_SCOPE
    added: int = 0
    revoked: int | None = None


class Trust:
    """All that this node's admin and its roots have said about keys. `own`: this node's key, 32 bytes; `version`: goes
    up whenever an answer may have changed."""

    def __init__(self, own: bytes) -> None:
        self.own = own
        self.version = 0
        self.successions = Successions()
        self.inherited: list[tuple[bytes, Anchor | None]] = []  # old keys and what was decided of them, not on disk yet
        self._anchors: dict[bytes, Anchor] = {}
        self._chains = Chains()
        self._now = 0  # when time was last looked at
        self._steady = (0, 0)  # from, to (ms): time alone changes no answer inside

    # What the admin says

    def put(self, anchor: Anchor) -> None:
        """Adds an anchor, or replaces the one with its key."""
        if self._anchors.get(anchor.key) != anchor:
            self._anchors[anchor.key] = anchor
            self._anchored(anchor.key)

    def drop(self, key: bytes) -> None:
        """Forgets the anchor `key`, its revocation too."""
        if self._anchors.pop(key, None) is not None:
            self._anchored(key)

    def anchors(self) -> Mapping[bytes, Anchor]:
        """By key, revoked ones too. To read."""
        return MappingProxyType(self._anchors)

    def keys(self) -> set[bytes]:
        """All keys of which anything counts here: anchors, and whom chains lead to. `admits` is False for others."""
        return {*self._anchors, *self._chains.keys()}

    def over(self) -> set[bytes]:
        """Keys that others stand for, of which something counts here: that they do."""
        return {said.old for said in self.successions.successions()}

    def is_over(self, key: bytes) -> bool:
        """Whether another key stands in its place: then there is no node with it."""
        return self.successions.is_over(key)

    # What certificates say

    def learn(self, entry: Entry) -> bool:
        """Takes in an entry whose signature was checked; others than those that speak of trust are passed by. True
        where `version` moved: any peer can sign certificates as many as it likes, and those that lead nowhere change no
        answer.

        The order of certificates does not matter: of what one key said about another the newest counts. At a start
        node entries come first, then successions, then certificates.
        """
        if entry.cls is not Class.PUBLIC or entry.kind not in TRUST_KINDS:
            return False
        if entry.kind != "cert":
            if entry.origin == self.own or self._is_root(entry.origin):
                return False
            forks = self.successions.counts["forked"]
            said = self.successions.named(entry) if entry.kind == "node" else self.successions.learn(entry)
            return self._frozen_since(forks) or (said is not None and self._succeeded(said))
        if self.successions.is_over(entry.origin):
            return False
        try:
            subject = self.successions.latest(parse_did(entry.name))
        except DidError:
            return False
        counts = self._chains.learn(entry.origin, subject, read_cert(entry))
        if counts:
            self._moved()
        return counts

    def forget(self, entries: Iterable[Entry]) -> None:
        """Forgets those of `entries` that are certificates: they have lapsed and are held no more. What is believed
        follows from what is held, or else it would be another after a restart."""
        for entry in entries:
            if entry.kind == "cert" and entry.cls is Class.PUBLIC:
                try:
                    subject = self.successions.latest(parse_did(entry.name))
                except DidError:
                    continue
                if self._chains.forget(self.successions.latest(entry.origin), subject, entry.order):
                    self._moved()

    def learn_all(self, entries: Iterable[Entry]) -> None:
        """Takes in what is held, at a start."""
        held = [entry for entry in entries if entry.kind in TRUST_KINDS]
        for entry in sorted(held, key=lambda entry: _FIRST.index(entry.kind)):
            self.learn(entry)

    def _succeeded(self, said: Succession) -> bool:
        """The new key stands where the old one stood."""
        anchor = self._anchors.pop(said.old, None)
        known = self._anchors.get(said.new)
        if anchor is not None and said.new != self.own:
            if known is None:
                self._anchors[said.new] = replace(anchor, key=said.new)
            elif anchor.revoked is not None and known.revoked is None:
                self._anchors[said.new] = replace(known, revoked=anchor.revoked)
        self.inherited.append((said.old, anchor))
        self._chains.succeed(said.old, said.new)
        self._anchored(said.new)
        return True

    def takes(self, entry: Entry) -> bool:
        """Whether an entry of an origin that is admitted is to be held: a succession that leads nowhere is not."""
        if entry.kind != "succession" or entry.cls is not Class.PUBLIC:
            return True
        forks = self.successions.counts["forked"]
        taken = self.successions.takes(entry)
        return not self._frozen_since(forks) and taken

    def _frozen_since(self, forks: int) -> bool:
        if self.successions.counts["forked"] == forks:
            return False
        self._moved()
        return True

    def settle(self, key: bytes) -> bool:
        """An admin says that a frozen key may be believed again. Whether it was frozen."""
        if self.successions.settle(key):
            self._moved()
            return True
        return False

    def unlearn(self, issuer: bytes) -> None:
        """Forgets all certificates by `issuer`: its entries were purged."""
        self._chains.unlearn(issuer)
        self._moved()

    def certificates_of(self, subject: bytes) -> Mapping[bytes, Certificate]:
        """What is known about `subject`, by issuer, whether it counts here or not. To read."""
        return self._chains.said_of(subject)

    def certificates_in(self, root: bytes) -> Iterator[tuple[bytes, bytes, Certificate]]:
        """(issuer, subject, certificate) of all that are known of the federation of `root`, whether they count or not.
        Nothing may be learned meanwhile."""
        return self._chains.said_in(root)

    def expire(self, now_ms: int) -> bool:
        """Looks at the clock: True (and `version` moved) where time alone changed an answer since the last look.

        Cheap while nothing begins or ends; else it reads all chains.
        """
        since, self._now = self._now, now_ms
        if self._steady[0] <= now_ms < self._steady[1]:
            return False
        begin, end = 0, 1 << 64
        changed = False
        for chain in self._chains:
            for edge in (chain.begin, chain.end):
                if edge <= now_ms:
                    begin = max(begin, edge)
                else:
                    end = min(end, edge)
            changed = changed or chain.holds(since) != chain.holds(now_ms)
        self._steady = begin, end
        self.version += changed
        return changed

    # Answers

    def is_revoked(self, key: bytes) -> bool:
        """Whether an admin of this node revoked `key`."""
        anchor = self._anchors.get(self.successions.latest(key))
        return anchor is not None and anchor.revoked is not None

    def roots_of(self, key: bytes, now_ms: int) -> frozenset[bytes]:
        """The roots anchored here under which `key` (this node's own too) is certified at `now_ms`."""
        return frozenset(root for root in self._chains.of(key) if self.chain(root, key, now_ms) is not None)

    def chain(self, root: bytes, key: bytes, now_ms: int) -> Chain | None:
        """The shortest chain from `root`, anchored here, to `key` that holds at `now_ms`; None without one."""
        return next(self._holding(root, key, now_ms), None)

    def chains_to(self, key: bytes) -> Iterator[Chain]:
        """All that are kept, under whichever root, those of other times too."""
        return (chain for chains in self._chains.of(key).values() for chain in chains)

    @property
    def looked(self) -> int:
        """How many times a key was looked at since the start, to find the chains that lead to it."""
        return self._chains.looked

    def may_certify(self, issuer: bytes, root: bytes, now_ms: int) -> int:
        """How long a chain may go on below `issuer` under `root`, anchored here, in certificates; 0: it counts for
        nobody."""
        if issuer == root and self._is_root(root):
            return Chain((root,)).depth
        return max((chain.depth for chain in self._holding(root, issuer, now_ms)), default=0)

    def may_link(self, peer: bytes, now_ms: int) -> bool:
        """Whether `peer` may have a link to this node at `now_ms`."""
        anchor = self._anchors.get(peer)
        if (anchor is not None and anchor.revoked is not None) or self._is_closed(peer):
            return False
        return (anchor is not None and anchor.role is Role.PEER) or bool(self.roots_of(peer, now_ms))

    def admits(self, origin: bytes, cls: Class, root: bytes | None, kind: str, now_ms: int) -> bool:
        """Whether facts of `origin` in this class (INTERNAL: under `root`) may be held here at `now_ms`."""
        if origin == self.own:
            return True
        if self._is_closed(origin):
            latest = self.successions.latest(origin)
            speaks_of_trust = kind in TRUST_KINDS and cls is Class.PUBLIC
            if self.successions.is_frozen(origin) or not speaks_of_trust:
                return False
            return latest == self.own or self.admits(latest, cls, root, kind, now_ms)
        if kind in TRUST_KINDS and cls is Class.PUBLIC and not self.is_revoked(origin):
            anchor = self._anchors.get(origin)
            if (anchor is not None and anchor.role is Role.ROOT) or self.roots_of(origin, now_ms):
                return True
        return any(True for _ in self._ways(origin, cls, root, now_ms))

    def shows(
        self, origin: bytes, cls: Class, root: bytes | None, type: str, tags: frozenset[str], now_ms: int
    ) -> bool:
        """Whether a record of this type with these tags, which is held, is shown as well: by the types and tags of one
        way in which its origin is believed."""
        origin = self.successions.latest(origin)  # what was held of an old key is shown until the new one says it
        if origin == self.own:
            return True
        return any(
            scope.shows(type, tags) and (chain is None or chain.shows(type, tags))
            for scope, chain in self._ways(origin, cls, root, now_ms)
        )

    # Inside

    def _is_closed(self, key: bytes) -> bool:
        return self.successions.is_over(key) or self.successions.is_frozen(key)

    def _ways(self, origin: bytes, cls: Class, root: bytes | None, now_ms: int) -> Iterator[tuple[Scope, Chain | None]]:
        """The ways in which facts of another `origin` in this class are believed: the scope of an anchor, and the chain
        from it where it is a root."""
        if cls is Class.PRIVATE or self.is_revoked(origin):
            return
        if cls is Class.INTERNAL:
            if root is not None and self.chain(root, self.own, now_ms) is not None:
                for chain in self._holding(root, origin, now_ms):
                    if cls in chain.classes:
                        yield self._anchors[root].scope, chain
            return
        anchor = self._anchors.get(origin)
        if anchor is not None and anchor.role is Role.PEER and cls in anchor.scope.classes:
            yield anchor.scope, None
        for above in self._chains.of(origin):
            scope = self._anchors[above].scope
            if cls in scope.classes:
                yield from ((scope, chain) for chain in self._holding(above, origin, now_ms) if cls in chain.classes)

    def _holding(self, root: bytes, key: bytes, now_ms: int) -> Iterator[Chain]:
        return (chain for chain in self._chains.of(key).get(root, ()) if chain.holds(now_ms))

    def _is_root(self, key: bytes) -> bool:
        anchor = self._anchors.get(key)
        return anchor is not None and anchor.role is Role.ROOT and anchor.revoked is None

    def _anchored(self, key: bytes) -> None:
        self._chains.set_root(key, counts=self._is_root(key))
        self._chains.set_barred(key, barred=self.is_revoked(key))
        self._moved()

    def _moved(self) -> None:
        self.version += 1
        self._steady = (0, 0)
