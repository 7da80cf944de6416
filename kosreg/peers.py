"""Peers: whom this node's admin trusts, and how that comes about. The use cases of `/api/peers` and `kosreg peers`.

The way of each decision is one: what it changes and its record in the audit log are committed together; then trust
changes in memory, then links. So nothing is believed that a crash could take back, and a use case that was cut off
anywhere can simply be repeated.

Joining: the joiner redeems an invite inside a handshake. The inviter commits its anchor for the joiner, the binding of
the invite and the record, and says welcome; then the joiner commits its anchor for the inviter. From then on trust is
mutual. A crash before the inviter's commit leaves nothing; one after it leaves an invite that is bound to the joiner,
which gets the same answer again.

With an invite into a federation no key of a node is anchored: the inviter certifies the joiner, whenever it comes with
the invite that is bound to it, and the joiner anchors the root.
"""

from __future__ import annotations

import asyncio
import re
from base64 import b32encode
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Final, Protocol

import structlog

from crdt.entry import Class
from federation.identity import did_of
from federation.joining import Denied, Join, JoinError, Redeem, Welcome
from federation.trust import Anchor, Role, Scope, Trust
from kosreg import addresses as reach
from kosreg.audit import Audit
from kosreg.invites import MAX_OPEN, InviteError, InviteLine, Invites, make, parse_line, usable
from kosreg.members import Members, NotAMember
from kosreg.problems import Problem
from kosreg.settings import FederationSettings
from kosreg.store import Invite, Store, TrustChange

MAX_PEERS: Final = 10_000  # anchors, revoked ones too
MAX_NAME: Final = 128  # characters
ALERTS: Final = 3  # records of nodes that come with an invite of another, for each invite
_GROUP: Final = "[a-z2-7]{4}"  # of a fingerprint
_LIKE_A_KEY: Final = re.compile(rf"(did|kind):.*|{_GROUP}(-{_GROUP})+(-[a-z2-7]{{0,3}})?|[a-z2-7]{{24}}", re.I | re.S)
_NOTHING: Final = Scope(frozenset())  # of an anchor that is there only because its key was revoked

log = structlog.get_logger("kosreg.peers")


class Links(Protocol):
    """The links of this node (`federation.peer_node.PeerNode`)."""

    @property
    def port(self) -> int | None: ...
    def keep(self, peer: bytes, addresses: Sequence[str]) -> None: ...
    def forget(self, peer: bytes, code: str = "revoked", reason: str = "") -> None: ...
    async def join(self, addresses: Sequence[str], peer: bytes, proof_of: Callable[[bytes], Join]) -> Welcome: ...


@dataclass(frozen=True, slots=True)
class Joined:
    """Trust is mutual. `name`: what the inviter calls itself; `federation`: the root key of the one that this node is
    a member of now."""

    key: bytes
    name: str
    federation: bytes | None = None


class Peers:
    """Made by `open`. `purge`: drops all that is held of a key, and says how many entries; set by the node."""

    def __init__(
        self,
        own: bytes,
        name: str,
        trust: Trust,
        links: Links,
        store: Store,
        audit: Audit,
        settings: FederationSettings,
        wall_ms: Callable[[], int],
        trust_changed: Callable[[], None],
        purge: Callable[[bytes], Any],
        members: Members,
    ) -> None:
        self.own = own
        self.name = name
        self.trust = trust
        self.links = links
        self.audit = audit
        self.invites = Invites()
        self.members = members
        self._store = store
        self._settings = settings
        self._wall_ms = wall_ms
        self._trust_changed = trust_changed
        self._purge = purge
        self._turn = asyncio.Lock()  # decisions are made one after the other
        self._alerts: Counter[bytes] = Counter()

    async def open(self) -> None:
        """Read what was kept. Raises StoreError."""
        self.invites = Invites(await self._store.invites())

    # Inviting

    async def invite(
        self, actor: str, ttl: int, name: str = "", federation: bytes | None = None
    ) -> tuple[InviteLine, Invite]:
        """A new invite: the line to hand over, and what is kept. `ttl`: s; `name`: what its joiner is to be called
        here; `federation`: the root key of the one that it becomes a member of. Raises Problem (conflict) and
        StoreError."""
        now = self._wall_ms()
        addresses = self.reachable_at()
        if not addresses:
            raise Problem.of(
                "conflict",
                "Nobody could redeem an invite: this node listens for no peers. Set federation.listen, or "
                "federation.advertise where others reach it some other way, and start it again.",
            )
        _check_name(name)
        async with self._turn:
            if self.invites.open(now) >= MAX_OPEN:
                raise Problem.of("conflict", f"{MAX_OPEN} invites are open. Wait until some of them have expired.")
            line, invite = make(self.own, addresses, name, now, ttl, self._may_certify(federation))
            old = self.invites.old(now)
            detail: dict[str, object] = {"expires": invite.expires, "name": name}
            if federation is not None:
                detail["federation"] = did_of(federation)
            change = TrustChange(invites=[invite], expired=old)
            await self.audit.write(actor, "invite", invite.id.hex(), detail, change)
            self.invites.put(invite)
            self.invites.forget(old)
        return line, invite

    async def redeem(self, asked: Redeem) -> Welcome | Denied:
        """What a joiner is told. It is trusted, and its invite bound to it, when it is welcome."""
        async with self._turn:
            found = self.invites.judge(asked, self._wall_ms())
            if isinstance(found, Denied):
                await self._denied(asked, found)
                return found
            known = self.trust.anchors().get(asked.peer)
            if known is not None and known.revoked is not None:
                await self._denied(asked, Denied("revoked"))
                return Denied("revoked", "this node's admin has revoked the trust in you")
            if known is not None and known.role is Role.ROOT:
                await self._denied(asked, Denied("root"))
                return Denied("root", "your node key is trusted here as the root of a federation, not as a node")
            if found.federation is not None:
                return await self._admit(asked, found, found.federation)
            anchor = self._anchor_of(asked.peer, found.name or asked.name, self.dialable(asked.addresses))
            if found.joiner is None or known is None:
                bound = replace(found, joiner=asked.peer, bound=found.bound or self._wall_ms())
                detail = {"invite": found.id.hex(), "name": anchor.name, "addresses": list(anchor.addresses)}
                change = TrustChange([anchor], invites=[bound])
                await self.audit.write(did_of(asked.peer), "invite redeemed", did_of(asked.peer), detail, change)
                self.invites.put(bound)
                self._believe(anchor)
        return Welcome(self.name, self.reachable_at())

    async def _admit(self, asked: Redeem, found: Invite, root: bytes) -> Welcome | Denied:
        """What who becomes a member by the invite is told."""
        given: tuple[bytes, ...] | Denied | None = self.members.refusal(asked.peer, root)
        addresses = self.dialable(asked.addresses)
        if given is None:
            if found.joiner is None:
                bound = replace(found, joiner=asked.peer, bound=self._wall_ms())
                detail = {"invite": found.id.hex(), "federation": did_of(root), "addresses": list(addresses)}
                change = TrustChange(invites=[bound], meta=self.members.note(asked.peer, addresses))
                await self.audit.write(did_of(asked.peer), "invite redeemed", did_of(asked.peer), detail, change)
                self.invites.put(bound)
                self.members.met(asked.peer, addresses)
            given = await self.members.certify(asked.peer, root)
        if isinstance(given, Denied):
            await self._denied(asked, given)
            return given
        self.links.keep(asked.peer, addresses)
        return Welcome(self.name, self.reachable_at(), given)

    async def _denied(self, asked: Redeem, why: Denied) -> None:
        """Somebody who holds the secret of an invite may not have it: the line was seen by others."""
        did = did_of(asked.peer)
        if why.code == "unknown":
            return  # anybody can say anything
        log.warning("invite refused", peer=did, reason=why.code)
        if why.code in ("expired", "federation") or self._alerts[asked.id] >= ALERTS:
            return
        self._alerts[asked.id] += 1
        log.error(
            "alert", alert="invite", text=f"{did} came with an invite that it may not have ({why.code}): who saw it?"
        )
        await self.audit.write(did, f"invite refused: {why.code}", did, {"invite": asked.id.hex()})

    # Joining

    async def join(self, actor: str, text: str) -> Joined:
        """Redeem the invite `text` on the node that gave it, and trust that node. Raises Problem and StoreError."""
        try:
            line = parse_line(text)
        except InviteError as error:
            raise _not_this(f"{_sentence(str(error))}") from None
        if line.key == self.own:
            raise _not_this(
                "This invite is this node's own. Give it to the node that is to join: there, run `kosreg peers join`."
            )
        if line.expiry <= self._wall_ms():
            raise _not_this("The invite has expired. Ask for a new one: there, run `kosreg peers invite`.")
        self._not_revoked(line.key)
        self._no_root(line.key)
        if line.federation is not None:
            self._may_be_root(line.federation)
        try:
            welcome = await self.links.join(
                self.dialable(line.addresses),
                line.key,
                lambda transcript: line.proof(transcript, self.name, self.reachable_at()),
            )
        except JoinError as error:
            raise _join_problem(error, line) from error
        line = replace(line, key=self.trust.successions.latest(line.key))  # it may have been changed since
        async with self._turn:
            self._not_revoked(line.key)
            self._no_root(line.key)
            there = usable((*line.addresses, *self.dialable(welcome.addresses)))
            if line.federation is not None:
                await self._enter(actor, line, line.federation, welcome, there)
                return Joined(line.key, welcome.name, line.federation)
            anchor = self._anchor_of(line.key, welcome.name, there)
            if anchor != self.trust.anchors().get(line.key):
                detail = {"invite": line.id.hex(), "name": anchor.name, "addresses": list(anchor.addresses)}
                await self.audit.write(actor, "join", did_of(line.key), detail, TrustChange([anchor]))
            self._believe(anchor)
        return Joined(line.key, welcome.name)

    async def _enter(
        self, actor: str, line: InviteLine, root: bytes, welcome: Welcome, addresses: tuple[str, ...]
    ) -> None:
        """Become a member of the federation of `root`, which the inviter has certified already."""
        self._may_be_root(root)
        try:
            certs = self.members.checked(welcome.certs, root)
        except NotAMember as error:
            detail = f"{did_of(line.key)} did not make this node a member: {error}. Ask its admin."
            raise Problem.of("conflict", detail) from None
        known = self.trust.anchors().get(root)
        name = str(line.grant.get("name", ""))[:MAX_NAME]
        anchor = known or Anchor(root, Role.ROOT, "" if is_like_a_key(name) else name, added=self._wall_ms())
        if anchor != known or line.key not in self.members.neighbours:
            detail_ = {"invite": line.id.hex(), "federation": did_of(root), "addresses": list(addresses)}
            change = TrustChange([anchor], meta=self.members.note(line.key, addresses))
            await self.audit.write(actor, "join", did_of(line.key), detail_, change)
            self.members.met(line.key, addresses)
        self._believe(anchor)
        await self.members.take(certs)
        self.links.keep(line.key, addresses)

    # Deciding

    async def trust_key(
        self,
        actor: str,
        key: bytes,
        *,
        role: Role | None = None,
        name: str | None = None,
        addresses: Sequence[str] | None = None,
        scope: Scope | None = None,
    ) -> bool:
        """Trust `key`, or change what is trusted in it; what is None stays. True where it is new. Raises Problem and
        StoreError."""
        if key == self.own:
            raise Problem.of("conflict", "This is this node's own key. It trusts itself.")
        _check_name(name or "")
        async with self._turn:
            self._not_revoked(key)
            known = self.trust.anchors().get(key)
            if known is None and len(self.trust.anchors()) >= MAX_PEERS:
                raise Problem.of("conflict", f"{MAX_PEERS} keys are trusted or revoked. There is no room for more.")
            anchor = known or Anchor(key, role or Role.PEER, added=self._wall_ms())
            anchor = replace(
                anchor,
                role=role or anchor.role,
                name=anchor.name if name is None else name,
                addresses=anchor.addresses if addresses is None else tuple(addresses),
                scope=anchor.scope if scope is None else scope,
            )
            if anchor != known:
                await self.audit.write(actor, "trust", did_of(key), _told(anchor), TrustChange([anchor]))
            self._believe(anchor)
        return known is None

    async def revoke(self, actor: str, key: bytes, *, purge: bool = False) -> int:
        """Believe `key` in nothing any more, whatever others say of it; with `purge`, drop all that is held of it. How
        many entries were dropped. Raises Problem and StoreError."""
        if key == self.own:
            raise Problem.of("conflict", "This is this node's own key. It cannot be revoked here.")
        async with self._turn:
            known = self.trust.anchors().get(key) or Anchor(key, Role.PEER, scope=_NOTHING, added=self._wall_ms())
            if known.revoked is None:
                anchor = replace(known, revoked=self._wall_ms())
                await self.audit.write(actor, "revoke", did_of(key), {"purge": purge}, TrustChange([anchor]))
                self.trust.put(anchor)
            self.links.forget(key, "revoked", "the admin has revoked the trust in this key")
            self._trust_changed()
            if not purge:
                return 0
            gone: int = sum([await self._purge(one) for one in (key, *self.trust.successions.former(key))])
            await self.audit.write(actor, "purge", did_of(key), {"entries": gone})
            return gone

    async def restore(self, actor: str, key: bytes) -> None:
        """Undo a revoke. Raises Problem (not-found, conflict) and StoreError."""
        async with self._turn:
            known = self.trust.anchors().get(key)
            if self.trust.settle(key):
                await self.audit.write(actor, "restore", did_of(key), {"frozen": True})
                self._trust_changed()
            elif known is None:
                raise not_known(key)
            if known is None or known.revoked is None:
                return
            anchor = replace(known, revoked=None)
            only_revoked = known.scope == _NOTHING  # nobody had trusted it before
            change = TrustChange(dropped=[key]) if only_revoked else TrustChange([anchor])
            await self.audit.write(actor, "restore", did_of(key), {}, change)
            if only_revoked:
                self.trust.drop(key)
                if key in self.members.neighbours:
                    self.links.keep(key, self.members.neighbours[key])
                self._trust_changed()
            else:
                self._believe(anchor)

    # Inside

    def reachable_at(self) -> tuple[str, ...]:
        """Where others are told to dial this node."""
        return reach.reachable_at(self._settings.listen, self.links.port, self._settings.advertise)

    def _anchor_of(self, key: bytes, name: str, addresses: tuple[str, ...]) -> Anchor:
        """A peer that came by an invite: what the admin said of it before stays."""
        known = self.trust.anchors().get(key)
        if is_like_a_key(name):  # it says so itself: no reason not to join, but nobody is to take it for another
            log.warning("name refused", name=name[:MAX_NAME], peer=did_of(key), error=_NOT_A_NAME)
            name = ""
        if known is None:
            return Anchor(key, Role.PEER, name[:MAX_NAME], addresses, added=self._wall_ms())
        return replace(known, name=known.name or name[:MAX_NAME], addresses=known.addresses or addresses)

    def dialable(self, addresses: Sequence[str]) -> tuple[str, ...]:
        """Those of another node's addresses that may be dialled: its loopback is ours only on one machine."""
        near = any(reach.is_loopback(address) for address in self.reachable_at()) or not self.reachable_at()
        return tuple(address for address in usable(addresses) if near or not reach.is_loopback(address))

    def _not_revoked(self, key: bytes) -> None:
        if self.trust.is_revoked(key):
            raise Problem.of(
                "conflict",
                f"The trust in {did_of(key)} was revoked here. If it is to be trusted again: `kosreg peers restore "
                f"{did_of(key)}`.",
            )

    def _may_certify(self, root: bytes | None) -> tuple[bytes, str] | None:
        """Root key and name of the federation that this node may invite into."""
        if root is None:
            return None
        anchor = self.trust.anchors().get(root)
        did = did_of(root)
        if anchor is None or anchor.role is not Role.ROOT or anchor.revoked is not None:
            raise Problem.of("conflict", f"{did} is no root of a federation that is trusted here.")
        if not self.members.depth(root):
            raise Problem.of(
                "conflict",
                f"This node may certify nobody in the federation {anchor.name or did}: it has no certificate of depth "
                f"1 there. Give it one: `kosreg peers invite --federation {did} --key FILE`, with the root's key.",
            )
        return root, anchor.name

    def _may_be_root(self, root: bytes) -> None:
        """Raises Problem where this key may not be trusted as a root by the way."""
        self._not_revoked(root)
        anchor = self.trust.anchors().get(root)
        if root == self.own or (anchor is not None and anchor.role is not Role.ROOT):
            raise Problem.of(
                "conflict",
                f"{did_of(root)}, the root of the federation that the invite is for, is the key of a node here. Ask "
                "for an invite into a federation with a root key of its own.",
            )

    def _no_root(self, key: bytes) -> None:
        anchor = self.trust.anchors().get(key)
        if anchor is not None and anchor.role is Role.ROOT:
            raise Problem.of(
                "conflict",
                f"{did_of(key)} is trusted here as the root of a federation, and a root key belongs to no node. Ask "
                "its admin to give the node a key of its own; or, if it never was a root: `kosreg peers revoke` it and "
                "ask for an invite of the new key.",
            )

    def _believe(self, anchor: Anchor) -> None:
        """`anchor` is on disk."""
        self.trust.put(anchor)
        if anchor.role is Role.PEER:
            self.links.keep(anchor.key, anchor.addresses)
        self._trust_changed()


def fingerprint(key: bytes) -> str:
    """A key for people to compare by eye or over the telephone: the first 15 bytes of its SHA-256 in base32, lower
    case, in six groups of four. 120 bits: nobody finds a second key with it."""
    digits = b32encode(sha256(key).digest()[:15]).decode().lower()
    return "-".join(digits[at : at + 4] for at in range(0, len(digits), 4))


_NOT_A_NAME: Final = "a name is none that looks like a DID or a fingerprint: commands would take it for another peer's"


def is_like_a_key(name: str) -> bool:
    """Whether `name` could be taken for a DID or for (the beginning of) a fingerprint: two groups of four or more."""
    return _LIKE_A_KEY.fullmatch(name.strip()) is not None


def _check_name(name: str) -> None:
    """Raises Problem where an admin gives a key such a name."""
    if is_like_a_key(name):
        raise Problem.invalid([{"pointer": "/name", "detail": _NOT_A_NAME}], f"{name!r} is no name: {_NOT_A_NAME}.")


def not_known(key: bytes) -> Problem:
    """What a call about a key that is neither trusted nor revoked is told."""
    return Problem.of("not-found", f"Nothing was decided about {did_of(key)} here. `kosreg peers list` shows all.")


def scope_told(scope: Scope) -> dict[str, object]:
    """A scope as the API shows it and as the audit log keeps it."""
    return {
        "classes": [cls.name.lower() for cls in sorted(scope.classes)],
        "types": list(scope.types),
        "tags": list(scope.tags),
        "records": scope.records,
    }


def class_of(word: str) -> Class:
    """`public` or `internal`. Raises KeyError."""
    return {"public": Class.PUBLIC, "internal": Class.INTERNAL}[word]


def _told(anchor: Anchor) -> dict[str, object]:
    return {
        "role": anchor.role.value,
        "name": anchor.name,
        "addresses": list(anchor.addresses),
        "scope": scope_told(anchor.scope),
    }


def _not_this(detail: str) -> Problem:
    return Problem.invalid([{"pointer": "/line", "detail": detail}], detail)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


_REFUSALS: Final = {
    "unknown": "it knows no such invite",
    "expired": "the invite has expired",
    "used": "another node has joined with this invite",
    "revoked": "it has revoked the trust in this node",
    "federation": "it cannot certify this node in that federation",
    "root": "this node's key is trusted there as the root key of a federation, which belongs to no node",
}


def _join_problem(error: JoinError, line: InviteLine) -> Problem:
    where = f"{did_of(line.key)} ({fingerprint(line.key)})"
    if error.code in _REFUSALS:
        why = f" ({error.reason})" if line.federation is not None and error.reason else ""
        return Problem.of("conflict", f"{where} refused: {_REFUSALS[error.code]}{why}. Ask its admin.")
    detail = f"{where} could not be joined at {', '.join(line.addresses)} ({error}). "
    if error.code == "wrong-key":
        detail += "Another node answers there: ask its admin for a new invite."
    else:
        detail += "See that it runs and that the way to it is open, then give the same line again."
    return Problem.of("unavailable", detail)
