"""The federation side of a node: whom it trusts, what it holds of others, its links, and its own membership.

Only wiring: what trust says goes to `Trust`, what peers send to `Mesh` and from there to `RegistrySync`, what was
merged back to `Mesh`, and what that asks for to `PeerNode`. A node that trusts nobody has all of this at rest.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import structlog

from crdt.entry import Class, Entry
from crdt.lww_map import LWWMap
from federation.budget import Bounds
from federation.effects import Landed, QuotaChanged, Twin
from federation.identity import NodeKey, did_of
from federation.joining import Denied, Redeem, Welcome
from federation.mesh import DEFAULTS, Mesh
from federation.peer_node import LinkEvent, PeerNode
from federation.quotas import Part
from federation.replica import Alert
from federation.trust import Role, Trust
from kosreg import heirs as heirs_
from kosreg.foreign import labels
from kosreg.key_change import say_again
from kosreg.klp_registry_sync import RegistrySync
from kosreg.members import Members
from kosreg.nearby import Nearby
from kosreg.node_entries import NodeEntries
from kosreg.own_federation import OwnFederation
from kosreg.quota_views import part_name
from kosreg.relay import Relay
from kosreg.settings import FederationSettings
from kosreg.store import Store, StoreError

FREEZE = 10_000  # entries from peers between two reliefs of the garbage collector
SAY = 30.0  # s between two looks at what this node says of itself: its addresses may have changed
RENEW = 3600.0  # s between two looks at what this node has certified
WATCH = 1.0  # s between two looks at what time has changed
OFFENCES = frozenset({"bad-beacon", "bad-entry", "malformed", "oversize", "signature", "too-much"})  # end links
INCARNATION = "incarnation"  # meta: of this key, higher with each start

log = structlog.get_logger("kosreg.federation")


def admitting(trust: Trust, wall_ms: Callable[[], int]) -> Callable[[Entry], bool]:
    """Whether an entry of somebody else may be held here now. The answer for one origin is kept for a second, or until
    trust has changed: a block asks it hundreds of times."""
    kept: dict[tuple[bytes, Class, bytes | None, str], bool] = {}
    kept_for = (-1, -1)

    def admits(entry: Entry) -> bool:
        nonlocal kept_for
        now = wall_ms()
        if kept_for != (trust.version, now // 1000):
            kept_for = trust.version, now // 1000
            kept.clear()
        asked = entry.origin, entry.cls, entry.root, entry.kind
        answer = kept.get(asked)
        if answer is None:
            answer = kept[asked] = trust.admits(*asked, now)
        return answer and trust.takes(entry)

    return admits


def showing(trust: Trust, held: LWWMap, wall_ms: Callable[[], int]) -> Callable[[Entry], bool]:
    """Whether a service of somebody else, which is held, may be shown now: the types and tags of scopes say so. What a
    key said that was succeeded is shown until the new one has said something about the same."""
    known = trust.successions

    def shows(entry: Entry) -> bool:
        now = wall_ms()
        if known.is_over(entry.origin) and any(
            held.group(key, "service", entry.name) for key in known.line(entry.origin)[1:]
        ):
            return False
        if trust.shows(entry.origin, entry.cls, entry.root, "", frozenset(), now):
            return True  # whatever it says: nearly all, and no body need be read for it
        if not trust.admits(known.latest(entry.origin), entry.cls, entry.root, entry.kind, now):
            return False
        return trust.shows(entry.origin, entry.cls, entry.root, *labels(entry), now)

    return shows


class Federation:
    """Made with the node; `load` when the replica is loaded, then `start`; ended by `stop`, whatever was begun."""

    def __init__(
        self,
        key: NodeKey,
        trust: Trust,
        sync: RegistrySync,
        store: Store,
        wall_ms: Callable[[], int],
        settings: FederationSettings,
        name: str,
        bounds: Bounds = DEFAULTS,
        lineage: Sequence[Entry] = (),
    ) -> None:
        self.key = key
        self.trust = trust
        self.sync = sync
        self.store = store
        self.mesh: Mesh
        self.peer_node: PeerNode
        self.nearby: Nearby
        self.own_federation = OwnFederation(trust, sync, store, wall_ms)
        self.members = Members(trust, sync, store, wall_ms)
        self.node_entries: NodeEntries
        self.heirs: heirs_.Heirs
        self.redeem: Callable[[Redeem], Awaitable[Welcome | Denied]] = _no_invites
        self._wall_ms = wall_ms
        self._settings = settings
        self._name = name
        self._bounds = bounds
        self._lineage = lineage
        self._looking: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._parting: asyncio.Task[None] | None = None
        self._seen = -1
        self._taken = 0  # entries from peers since the last freeze

    async def load(self) -> None:
        """Read what is kept of the federation, and join the parts. Raises StoreError."""
        await heirs_.load(self.trust, self.store)
        self.trust.successions.own(self._lineage)
        self.sync.successions = self.trust.successions
        await say_again(self.sync, [entry.origin for entry in self._lineage])
        for anchor in await self.store.anchors():
            self.trust.put(anchor)
        self.trust.expire(self._wall_ms())  # the first look: a clock that jumps before the next one is noticed
        incarnation = await _next_incarnation(self.store, self._wall_ms())
        self.mesh = Mesh(self.sync.replica, self.trust, incarnation, self._bounds)
        await self.own_federation.load()
        await self.members.load()
        listen = self._settings.listen
        self.peer_node = PeerNode(
            self.key,
            self.mesh,
            self.trust,
            listen=listen if listen.kind == "tcp" else None,
            incarnation=incarnation,
            wall_ms=self._wall_ms,
            commit=self.sync.commit_foreign,
            redeem=self._redeem,
            name=self._name,
            succession=[entry.raw for entry in self._lineage],
        )
        self.nearby = Nearby(self.key.public, self._name, self._settings, self.peer_node)
        self.peer_node.on_event = self._on_event
        self.peer_node.on_alert = _log_alert
        self.peer_node.on_quota = _log_quota
        self.peer_node.on_node = self.sync.homes.changed
        self.peer_node.on_twin = self._on_twin
        self._relay = Relay(self._merged, lambda: len(self.mesh.pairs) > 1)
        self.sync.on_merged = self._relay.landed
        self.sync.shows = showing(self.trust, self.sync.replica.map, self._wall_ms)

    async def start(self) -> None:
        """Listen and dial. Raises OSError where the address is taken."""
        self.peer_node.addresses_of = self.node_entries.addresses_of
        await self.heirs.settle()
        await self.peer_node.start()
        for anchor in self.trust.anchors().values():
            if anchor.role is Role.PEER and anchor.revoked is None:
                self.peer_node.keep(anchor.key, anchor.addresses)
        for key, addresses in self.members.neighbours.items():
            if key not in self.trust.anchors():
                self.peer_node.keep(key, addresses)
        self.nearby.start()
        self._look()
        self._watching = asyncio.create_task(self._watch(), name="trust")

    async def _watch(self) -> None:
        """Certificates begin and end by themselves; those by this node are renewed."""
        looked = said = -RENEW
        while True:
            if time.monotonic() - said >= SAY:
                said = time.monotonic()
                await self._say()
            if time.monotonic() - looked >= RENEW:
                looked = time.monotonic()
                try:
                    await self.members.renew()
                except StoreError as error:
                    log.warning("the certificates by this node are not renewed yet", error=str(error))
            await asyncio.sleep(WATCH)
            await self._keep_heirs()
            if self.trust.version != self._seen:
                self.trust_changed()

    async def stop(self) -> None:
        """Close all links."""
        if hasattr(self, "peer_node"):
            self._relay.stop()
            await asyncio.gather(self.nearby.stop(), self.peer_node.stop())
        for task in (self._looking, self._watching, self._parting):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    def _on_twin(self, twin: Twin) -> None:
        self._parting = asyncio.create_task(self._part(twin), name="twin")

    async def _part(self, twin: Twin) -> None:
        """Another node has this node's key: go on above it, or be quiet."""
        if twin.claim is None:
            self.sync.yielded = True
            await asyncio.gather(self.nearby.stop(), self.peer_node.be_quiet())
            return
        try:
            await self._keep(twin.claim)
        except StoreError as error:
            self.mesh.membership.not_claimed()
            log.warning("the node's key is not claimed yet", error=str(error))
        else:
            self.peer_node.claim(twin.claim)

    async def claim(self) -> None:
        """The admin says that this is the node that the key belongs to: so it is from the next start on. Raises
        StoreError."""
        await self._keep(self.mesh.membership.claim())

    async def _keep(self, incarnation: int) -> None:
        await self.store.set_meta(INCARNATION, incarnation.to_bytes(8, "big"))

    def _on_event(self, event: LinkEvent) -> None:
        if event.what == "down" and event.peer is not None and not event.by_peer and event.code in OFFENCES:
            self.mesh.refusals.of(event.peer)[f"link closed: {event.code}"] += 1
        _log_event(event)

    async def _redeem(self, asked: Redeem) -> Welcome | Denied:
        return await self.redeem(asked)

    def facts(self) -> dict[str, Any]:
        """`federation`: HOST:PORT or off; `root`: a DID, or None; `peers`: trusted keys; `links`: that are up."""
        listen, port = self._settings.listen, self.peer_node.port
        root = self.own_federation.root
        return {
            "federation": str(listen) if port is None else str(replace(listen, port=port)),
            "root": None if root is None else did_of(root),
            "peers": sum(anchor.revoked is None for anchor in self.trust.anchors().values()),
            "links": len(self.mesh.pairs),
            "nodes": self.sync.homes.counts(),
            "isolated": self.mesh.membership.reach.isolated,
            "yielded": self.sync.yielded,
        }

    def has_peers(self) -> bool:
        """Whether the admin of this node trusts anybody."""
        return any(anchor.revoked is None for anchor in self.trust.anchors().values())

    def trust_changed(self) -> None:
        """Trust says something else than before: tell the peers, close what may no longer be, show what may be shown,
        and see whose member this node is."""
        self.peer_node.perform(self.mesh.trust_changed(self._wall_ms()))
        self.peer_node.trust_changed()
        self._look()

    def _look(self) -> None:
        self._seen = self.trust.version
        self.sync.reshowing.trust_changed()
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look_at_membership(), name="membership")

    async def _keep_heirs(self) -> None:
        if not self.heirs.news:
            return
        try:
            await self.heirs.settle()
        except StoreError as error:
            log.warning("successions of keys are not kept yet", error=str(error))

    async def _look_at_membership(self) -> None:
        await self._keep_heirs()
        seen = -1
        while seen != self.trust.version:
            seen = self.trust.version
            try:
                await self.own_federation.look()
            except StoreError as error:
                log.warning("the internal entries are not moved yet", error=str(error))
        await self._say()

    async def _say(self) -> None:
        if not self.has_peers():
            return  # nobody could hear it
        try:
            await self.node_entries.write()
        except StoreError as error:
            log.warning("the node's own entry is not written yet", error=str(error))

    def _merged(self, landed: Sequence[Landed]) -> None:
        self._taken += sum(len(entries) for entries, peer in landed if peer is not None)
        if self._taken >= FREEZE:  # what was taken stays: the collector need not walk it (50 ms at 100,000)
            self._taken = 0
            gc.freeze()
        self.peer_node.perform(self.mesh.merged(landed, self._wall_ms()))
        if self.trust.version != self._seen:
            self.trust_changed()


async def _next_incarnation(store: Store, now_ms: int) -> int:
    """Higher than any before, and on disk before anybody hears of it."""
    kept = await store.get_meta(INCARNATION)
    last = 0 if kept is None else int.from_bytes(kept, "big")
    incarnation = max(now_ms // 1000, last + 1)
    await store.set_meta(INCARNATION, incarnation.to_bytes(8, "big"))
    return incarnation


async def _no_invites(asked: Redeem) -> Welcome | Denied:
    return Denied("unknown", "this node has no such invite")


def _log_event(event: LinkEvent) -> None:
    peer = None if event.peer is None else did_of(event.peer)
    tell = log.info if event.what in ("up", "down") else log.debug
    tell(f"link {event.what}", peer=peer, address=event.address, code=event.code, reason=event.reason)


def _log_quota(change: QuotaChanged) -> None:
    part = part_name(Part(change.origin, change.trust))
    if change.reason:
        log.warning("frozen", peer=did_of(change.origin), part=part, reason=change.reason)
    else:
        log.info("no longer frozen", peer=did_of(change.origin), part=part)


def _log_alert(alert: Alert) -> None:
    log.error("alert", alert=alert.kind, text=alert.text)
