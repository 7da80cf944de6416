"""What the API needs of a node: the seam to `kosreg.node`, which makes the real one and knows the API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from federation.identity import NodeKey
    from federation.mesh import Mesh
    from federation.peer_node import PeerNode
    from federation.replica import Replica
    from federation.trust import Trust
    from kosreg.api.metrics import Metrics
    from kosreg.audit import Audit
    from kosreg.auth import Auth, Caller, Limits
    from kosreg.catalog import Catalog
    from kosreg.klp_registry_sync import RegistrySync
    from kosreg.liveness import Liveness
    from kosreg.nearby import Nearby
    from kosreg.node_entries import NodeEntries
    from kosreg.peers import Peers
    from kosreg.registry import Registry
    from kosreg.settings import Settings
    from kosreg.store import Store


class Closable(Protocol):
    """A WebSocket session, as the node sees it."""

    caller: Caller | None

    def end(self, code: int, reason: str) -> None:
        """Close it with this code."""


class Served(Protocol):
    """Where the API is, and its description."""

    url: str

    @property
    def openapi(self) -> bytes:
        """The OpenAPI document, as JSON."""


class Node(Protocol):
    """The parts of a running node that routes use."""

    settings: Settings
    key: NodeKey
    did: str
    first_key: bytes
    next_key: bytes
    change_key: Callable[[str], object] | None
    name: str
    version: str
    started_ms: int
    ready: bool
    auth: Auth
    limits: Limits
    catalog: Catalog
    registry: Registry
    liveness: Liveness
    store: Store
    metrics: Metrics
    sockets: set[Closable]
    trust: Trust
    replica: Replica
    sync: RegistrySync
    peers: Peers
    audit: Audit
    node_entries: NodeEntries

    @property
    def mesh(self) -> Mesh:
        """What is said to peers and made of what they say."""

    @property
    def peer_node(self) -> PeerNode:
        """The links to peers."""

    async def claim_key(self) -> None:
        """From the next start on, this is the node that its key belongs to."""

    @property
    def nearby(self) -> Nearby:
        """Who is on the local network."""

    def federated(self) -> dict[str, Any]:
        """Where peers reach it, its federation, and how many peers it has: for `GET /api/node`."""

    @property
    def server(self) -> Served:
        """The server that these routes are on."""
