"""A node: its parts made once, joined, started and stopped in order.

`daemon` runs one as a process. Tests and the benchmark make one in their own loop. Nothing here decides anything; it is
the one place that knows all the parts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from crdt.entry import Entry
from federation.identity import NodeKey, did_of
from federation.mesh import Mesh
from federation.peer_node import PeerNode
from federation.replica import Replica
from federation.trust import Trust
from kosreg import __version__
from kosreg.api.metrics import Metrics
from kosreg.api.node import Closable
from kosreg.api.server import Server
from kosreg.api.system_routes import system_routes
from kosreg.audit import Audit
from kosreg.auth import Auth, Limits
from kosreg.catalog import Catalog
from kosreg.config import Settings
from kosreg.federated import Federation, admitting
from kosreg.federation_routes import federation_routes
from kosreg.foreign import is_sound
from kosreg.heirs import Heirs
from kosreg.key_change import lineage, open_store
from kosreg.key_routes import key_routes
from kosreg.klp_registry_sync import RegistrySync
from kosreg.liveness import Liveness
from kosreg.maintenance import Maintenance
from kosreg.nearby import Nearby
from kosreg.node_entries import NodeEntries
from kosreg.paths import NODE_KEY
from kosreg.peer_routes import peer_routes
from kosreg.peers import Peers
from kosreg.purging import purge_origin
from kosreg.quota_views import why_frozen
from kosreg.registry import ADMIN, Registry
from kosreg.service_routes import service_routes
from kosreg.store import ForeignStore, Store
from kosreg.store.sqlite import path_of
from kosreg.times import now_ms
from kosreg.versions import Versions

FAREWELL = 1.5  # s that a last word to the store may take
CLEAN = "clean"  # meta: whether the last run ended in order

log = structlog.get_logger("kosreg.node")


def _keep_to_the_key(data_dir: Path, store_url: str) -> None:
    """Makes no new key beside a store that another one wrote: it would stand where the lost one has to be put back."""
    store = path_of(store_url)
    if store.exists() and store.stat().st_size and not (data_dir / NODE_KEY).exists():
        raise ForeignStore(
            f"{store} is there, but the key of the node that wrote it, {data_dir / NODE_KEY}, is gone.",
            f"Put {NODE_KEY} back from a backup, or move the store away to begin as a new node.",
        )


class Node:
    """All parts of one running node. Made by `start`, ended by `stop`."""

    def __init__(
        self,
        settings: Settings,
        data_dir: Path,
        key: NodeKey,
        next_key: bytes,
        store: Store,
        lineage: Sequence[Entry] = (),
    ) -> None:
        """`next_key`: its public half; `lineage`: the successions by which this node came to its key, oldest first."""
        self.settings = settings
        self.data_dir = data_dir
        self.key = key
        self.next_key = next_key
        self.lineage = tuple(lineage)
        former = [entry.origin for entry in lineage]
        self.first_key = former[0] if former else key.public
        self.change_key: Callable[[str], object] | None = None  # set by whoever can start it again
        self.store = store
        self.did = key.did
        self.version = __version__
        self.name = settings.node.name
        self.started_ms = now_ms()
        self.ready = False
        self._stopped = False
        self.sockets: set[Closable] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.catalog = Catalog()
        self.trust = Trust(key.public)
        self.replica = Replica(key, admitting(self.trust, now_ms), is_sound, former)
        self.sync = RegistrySync(self.replica, store, self.catalog, now_ms)
        self.limits = Limits(
            calls_per_s=settings.limits.calls_per_s,
            calls_burst=settings.limits.calls_burst,
            beats_per_s=settings.limits.beats_per_s,
            beats_burst=settings.limits.beats_burst,
            failures_per_s=settings.limits.failures_per_s,
            failures_burst=settings.limits.failures_burst,
        )
        self.metrics = Metrics()
        self.auth: Auth
        self.registry: Registry
        self.liveness: Liveness
        self.server: Server
        self.audit: Audit
        self.peers: Peers
        self.node_entries: NodeEntries
        self.federation = Federation(
            key,
            self.trust,
            self.sync,
            store,
            now_ms,
            settings.federation,
            self.name,
            settings.quota.bounds,
            self.lineage,
        )

    # -- start ---------------------------------------------------------------------------------------------------

    @classmethod
    async def start(cls, settings: Settings, data_dir: Path) -> Node:
        """A node that serves. Raises KeyFileError, StoreError, Damaged, or what the server says of its address."""
        _keep_to_the_key(data_dir, settings.store_url)
        key, next_key, store = await open_store(settings.store_url, data_dir)
        try:
            node = cls(settings, data_dir, key, next_key.public, store, await lineage(store))
        except BaseException:
            await store.close()
            raise
        try:
            await node._start()
        except BaseException:
            await node.stop()
            raise
        return node

    async def _start(self) -> None:
        began = time.monotonic()
        clean = await self.store.get_meta(CLEAN) == b"1"
        entries = await self.sync.load(clean=clean, held=self.federation.load)
        await self.store.set_meta(CLEAN, b"0")
        self.audit = await Audit.open(self.store, self.first_key, now_ms)
        self.peers = Peers(
            self.key.public,
            self.name,
            self.trust,
            self.peer_node,
            self.store,
            self.audit,
            self.settings.federation,
            now_ms,
            self.federation.trust_changed,
            partial(purge_origin, self.sync, self.trust),
            self.federation.members,
        )
        await self.peers.open()
        self.federation.redeem = self.peers.redeem
        self.node_entries = self.federation.node_entries = NodeEntries(
            self.name, self.next_key, self.sync, self.audit, self.peers.reachable_at, self.peers.dialable
        )
        self.federation.heirs = Heirs(self.trust, self.store, self.audit, self.federation.members, self.peer_node)
        self.auth = await Auth.open(
            self.store, self.did, self.settings.tokens.issuers, [did_of(entry.origin) for entry in self.lineage]
        )
        self.auth.on_revoked.append(self._revoked)
        self.liveness = Liveness(
            self.catalog,
            monotonic=time.monotonic,
            wall_ms=now_ms,
            reap_after=self.settings.liveness.reap_after,
            write_status=self.sync.write_status,
            reap=self._reap,
        )
        self.registry = Registry(
            self.sync,
            self.liveness,
            Versions(self.store.version_key),
            seal=self.store.seal,
            unseal=self.store.unseal,
            secrets=await self.store.secrets(),
            wall_ms=now_ms,
            monotonic=time.monotonic,
        )
        self.registry.admits = lambda key, cls, root, kind: self.trust.admits(key, cls, root, kind, now_ms())
        self.registry.peer_name = self._name_of
        self.registry.frozen = partial(why_frozen, self.mesh.quotas)
        self.liveness.start()
        await self.registry.ensure(
            self.did, {"name": self.name, "type": "node", "version": self.version, "ttl": 0}, ADMIN
        )
        await self.auth.write_admin_token(self.data_dir / "admin.token")
        self.server = Server(
            self, [*service_routes(self), *peer_routes(self), *federation_routes(), *key_routes(), *system_routes(self)]
        )
        await self.server.start()
        await self.federation.start()
        self.keep(asyncio.create_task(self.liveness.run(), name="liveness"))
        self.maintenance = Maintenance(self)
        self.keep(asyncio.create_task(self.maintenance.run(), name="maintenance"))
        self.ready = True
        log.info(
            "node ready", did=self.did, name=self.name, api=self.server.url, entries=entries,
            services=len(self.catalog), took_s=round(time.monotonic() - began, 3), store=self.store.opened.how,
        )  # fmt: skip

    def keep(self, task: asyncio.Task[Any]) -> None:
        """Own `task` until it ends; a failure is logged."""
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("task failed", task=str(task), exc_info=error)

    def _name_of(self, peer: bytes) -> str:
        anchor = self.trust.anchors().get(peer)
        return "" if anchor is None else anchor.name

    async def claim_key(self) -> None:
        """Another node runs with this node's key: from the next start on this one is the right one. Raises
        StoreError."""
        await self.federation.claim()

    def federated(self) -> dict[str, Any]:
        """For `GET /api/node`: where peers reach it, its federation, how many peers it has."""
        return self.federation.facts()

    @property
    def mesh(self) -> Mesh:
        """What is said to peers and made of what they say."""
        return self.federation.mesh

    @property
    def peer_node(self) -> PeerNode:
        """The links to peers."""
        return self.federation.peer_node

    @property
    def nearby(self) -> Nearby:
        """Who is on the local network."""
        return self.federation.nearby

    # -- stop ----------------------------------------------------------------------------------------------------

    async def stop(self) -> None:
        """Take nothing more, answer what came, write what waits, close. Within some 4 s; a second call does nothing."""
        if self._stopped:
            return
        self._stopped = True
        self.ready = False
        for socket in tuple(self.sockets):
            socket.end(1012, "the node restarts")
        self.catalog.journal.close()  # long polls are answered now, not cut off
        await self.federation.stop()
        if hasattr(self, "server"):
            await self.server.stop()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.sync.reshowing.stop()
        await self.sync.homes.stop()
        try:
            if hasattr(self, "liveness"):
                self.liveness.flush()
                async with asyncio.timeout(FAREWELL):
                    await self.store.set_meta(CLEAN, b"1")
        except TimeoutError:  # the disk hangs: the next start takes this for a crash, which is safe
            log.warning("the disk does not answer", waited_s=FAREWELL)
        finally:
            await self.store.close()

    # -- what goes on --------------------------------------------------------------------------------------------

    def _revoked(self, jti: str) -> None:
        for socket in tuple(self.sockets):
            if socket.caller is not None and socket.caller.jti == jti:
                socket.end(4401, "token revoked")

    def _reap(self, service: Any) -> Awaitable[None]:
        log.info("reaped", service=service.uid, offline_since=service.since)
        return self.registry.reap(service)
