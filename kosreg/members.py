"""What this node does for members of its federations: it certifies whom it invites, keeps where they are reached, and
goes on saying what it said while that holds.

A certificate is an entry of this node like any other: signed, committed, pushed on. The key of a root is nowhere here:
what a root says comes in from outside, signed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import structlog

from crdt import cbor
from crdt.entry import MAX_LIFE_TRUST_MS, Class, Entry, EntryError
from federation.cose import decode_entry, verify_entry
from federation.handshake import certificates_in
from federation.identity import did_of
from federation.joining import Denied
from federation.replica import Persist, Statement
from federation.session import fit
from federation.trust import MEMBER_SCOPE, Anchor, Role, Scope, Trust, cert_body
from kosreg.klp_registry_sync import RegistrySync
from kosreg.store import Store

EARLIER_MS: Final = 3_600_000  # certificates hold from an hour ago: a node whose clock is a little late believes them
MAX_NEIGHBOURS: Final = 1000
RENEWED_MS: Final = MAX_LIFE_TRUST_MS // 2  # a certificate with less time left is signed anew
NEIGHBOURS: Final = "neighbours"  # meta: CBOR of a list of [key, addresses]

log = structlog.get_logger("kosreg.members")


class NotAMember(ValueError):
    """The certificates that an inviter gave make this node no member. The text says why."""


@dataclass(frozen=True, slots=True)
class Given:
    """Entries that came beside the links: with a welcome, or from an admin."""

    persist: Persist
    peer: bytes | None = None


class Members:
    """Made with the node; `load` before the first use."""

    def __init__(self, trust: Trust, sync: RegistrySync, store: Store, wall_ms: Callable[[], int]) -> None:
        self._trust = trust
        self._sync = sync
        self._store = store
        self._wall_ms = wall_ms
        self._neighbours: dict[bytes, tuple[str, ...]] = {}

    async def load(self) -> None:
        """Read what was kept. Raises StoreError."""
        kept = await self._store.get_meta(NEIGHBOURS)
        found = [] if kept is None else cbor.decode(kept)
        assert isinstance(found, list)
        self._neighbours = {key: tuple(addresses) for key, addresses in found}

    @property
    def neighbours(self) -> Mapping[bytes, tuple[str, ...]]:
        """Members that this node keeps a link to, and where they are dialled. To read."""
        return MappingProxyType(self._neighbours)

    def note(self, peer: bytes, addresses: Sequence[str], instead_of: bytes = b"") -> dict[str, bytes]:
        """What is to be on disk before `met`: as meta, key and value."""
        listed: list[object] = [[key, list(known)] for key, known in self._with(peer, addresses, instead_of).items()]
        return {NEIGHBOURS: cbor.encode(listed)}

    def met(self, peer: bytes, addresses: Sequence[str], instead_of: bytes = b"") -> None:
        """Keep a link to this member from now on; where there are too many, no longer to the one met first.
        `instead_of`: the key that it had before."""
        self._neighbours = self._with(peer, addresses, instead_of)

    def _with(self, peer: bytes, addresses: Sequence[str], instead_of: bytes) -> dict[bytes, tuple[str, ...]]:
        met = {key: known for key, known in self._neighbours.items() if key not in (peer, instead_of)}
        while len(met) >= MAX_NEIGHBOURS:
            del met[next(iter(met))]
        return met | {peer: tuple(addresses)}

    # As an inviter

    def depth(self, root: bytes) -> int:
        """How many certificates may follow below this node under `root`; 0: it may certify nobody."""
        return self._trust.may_certify(self._trust.own, root, self._wall_ms())

    def refusal(self, peer: bytes, root: bytes) -> Denied | None:
        """Why this node may not certify `peer` under `root`; None where it may, or need not."""
        now = self._wall_ms()
        if self._trust.chain(root, peer, now) is not None:
            return None
        if not self.depth(root):
            return Denied("federation", "this node may not certify others in that federation any more")
        said = self._trust.certificates_of(peer)
        above = self._trust.chain(root, self._trust.own, now)
        for key in () if above is None else above.keys:
            word = said.get(key)
            if word is not None and not word.granted and word.federation == root and now < word.until:
                return Denied("revoked", "you are revoked in that federation")
        mine = said.get(self._trust.own)
        if mine is not None and mine.granted and mine.federation != root and now < mine.until:
            return Denied("federation", "this node certified you in another federation: ask another of its nodes")
        return None

    async def certify(self, peer: bytes, root: bytes) -> tuple[bytes, ...] | Denied:
        """The certificates of a chain from `root` to `peer`, as they travel; the last is signed here where there is
        none yet. Raises StoreError."""
        refused = self.refusal(peer, root)
        if refused is not None:
            return refused
        now = self._wall_ms()
        if self._trust.chain(root, peer, now) is None:
            await self._say(peer, root, now)
        chain = self._trust.chain(root, peer, self._wall_ms())
        raws = None if chain is None else certificates_in(self._sync.replica, self._trust, chain)
        if raws and not fit(raws):
            return Denied("federation", "the certificates that lead to you are too long to be sent")
        return raws or Denied("federation", "the certificates that lead to you are not all here: try again in a while")

    async def renew(self) -> int:
        """Sign anew what this node certified and what is half over, while its subject is a member; how many. Raises
        StoreError; the next call goes on."""
        now, own = self._wall_ms(), self._trust.own
        renewed = 0
        for root in sorted(self._trust.roots_of(own, now)):
            due = [
                (subject, cert)
                for issuer, subject, cert in self._trust.certificates_in(root)
                if issuer == own and cert.granted and now < cert.until < now + RENEWED_MS
            ]
            for subject, cert in due:
                ways = (way for way in self._trust.chains_to(subject) if way.holds(now))
                if any(way.keys[0] == root and way.keys[-2] == own for way in ways):
                    await self._say(subject, root, now, cert.scope, cert.depth)
                    renewed += 1
        if renewed:
            log.info("renewed", entries=renewed)
        return renewed

    async def _say(self, subject: bytes, root: bytes, now: int, scope: Scope = MEMBER_SCOPE, depth: int = 0) -> None:
        body = cert_body(root, now_ms=now, not_before=now - EARLIER_MS, scope=scope, depth=depth)
        name = did_of(subject)
        while self._sync.busy(name):
            await self._sync.turn(name)
        await self._sync.commit(name, self._sync.sign([Statement("cert", name, Class.PUBLIC, body)]))

    # As a joiner

    def checked(self, certs: Sequence[bytes], root: bytes) -> list[Entry]:
        """The entries in `certs`, which make this node a member of the federation of `root`, whether it is trusted
        already or not. Raises NotAMember."""
        trust = Trust(self._trust.own)
        trust.put(Anchor(root, Role.ROOT))
        entries = []
        for raw in certs:
            try:
                entry = decode_entry(raw)
            except EntryError as error:
                raise NotAMember(f"a certificate cannot be read: {error.detail}") from None
            if not verify_entry(entry):
                raise NotAMember("a certificate is not by the key that it names")
            trust.learn(entry)
            entries.append(entry)
        chain = next(trust.chains_to(self._trust.own), None)
        if chain is None:
            raise NotAMember("the certificates do not lead from the root to this node")
        now = self._wall_ms()
        if not chain.holds(now):
            by = abs(now - (chain.begin if now < chain.begin else chain.end)) // 1000
            raise NotAMember(
                f"by the clock here the certificates do not hold ({by} s off): is one of the clocks wrong?"
            )
        return entries

    async def take(self, entries: Sequence[Entry]) -> None:
        """Hold `entries`, judged like those of a peer. Raises StoreError."""
        for entry in entries:
            for effect in self._sync.replica.receive(entry.raw, self._wall_ms()):
                if isinstance(effect, Persist):
                    await self._sync.commit_foreign(Given(effect))
