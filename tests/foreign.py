"""Another node, as far as its entries go: it signs, and its entries are handed to a real node's `RegistrySync`."""

from __future__ import annotations

from typing import Any

from crdt.entry import MAX_LIFE_MS, Class, Entry, Fact
from federation.cose import sign_entry
from federation.effects import Store
from federation.identity import NodeKey
from federation.replica import Alert, Persist, Refused, Replica
from federation.trust import Anchor, Role
from kosreg.klp_registry_sync import RegistrySync
from kosreg.node import Node
from kosreg.owner_proof import make_proof
from kosreg.store import TrustChange
from kosreg.times import now_ms
from tests.harness import until

RELAY = b"\x51" * 32  # the peer that brings them


class Origin:
    """A node that signs. `number` makes its key; its stamps count up by themselves."""

    def __init__(self, number: int, now: int | None = None) -> None:
        self.key = NodeKey(bytes([number]) * 32)
        self.did = self.key.did
        self.stamp = 0
        self.now = now  # ms, or the real time

    def entry(
        self,
        kind: str,
        name: str,
        body: dict[str, Any] | None,
        cls: Class = Class.PUBLIC,
        *,
        life: int = MAX_LIFE_MS,
        root: bytes | None = None,
    ) -> Entry:
        """What it says of (kind, name); `life`: ms from now."""
        now = now_ms() if self.now is None else self.now
        self.stamp = max(now << 16, self.stamp + 1)
        return sign_entry(self.key, Fact(kind, name, self.stamp, cls, now + life, body, root))

    def service(self, uid: str, cls: Class = Class.PUBLIC, life: int = MAX_LIFE_MS, **fields: Any) -> Entry:
        """A record; what is not given is as for most."""
        now = now_ms() if self.now is None else self.now
        body = {"name": uid, "type": "agent", "owner": "bob", "created": now, "updated": now} | fields
        return self.entry("service", uid, body, cls, life=life)

    def status(self, uid: str, status: str | None, reason: str = "", since: int = 0) -> Entry:
        """Its status; None: active again."""
        body = None if status is None else {"status": status, "reason": reason, "since": since}
        return self.entry("status", uid, body)

    def gone(self, uid: str, cls: Class = Class.PUBLIC) -> Entry:
        """Its tombstone."""
        return self.entry("service", uid, None, cls)

    def proof(self, agent: NodeKey, uid: str, move: int, not_after: int | None = None) -> bytes:
        """The agent's proof that it lives here."""
        return make_proof(agent, uid, self.key.public, move, not_after or now_ms() + MAX_LIFE_MS)


async def feed(sync: RegistrySync, *entries: Entry, peer: bytes = RELAY) -> list[Alert | Refused]:
    """Hand over `entries` as if `peer` had sent them, in one piece; what the replica had to say of them otherwise."""
    new, other = judged(sync.replica, entries, sync.wall_ms())
    await sync.commit_foreign(Store(Persist(tuple(new), sync.wall_ms()), peer))
    return other


def judged(replica: Replica, entries: tuple[Entry, ...], now: int) -> tuple[list[Entry], list[Alert | Refused]]:
    """What `replica` takes of `entries`, and its alerts and refusals."""
    new: list[Entry] = []
    other: list[Alert | Refused] = []
    for entry in entries:
        for effect in replica.receive(entry.raw, now):
            if isinstance(effect, Persist):
                new += effect.entries
            elif isinstance(effect, Alert | Refused):
                other.append(effect)
    return new, other


async def believe(node: Node, *origins: Origin) -> None:
    """Let the admin of `node` trust `origins`, now and after a restart."""
    anchors = [Anchor(origin.key.public, Role.PEER) for origin in origins]
    await node.store.write_trust(TrustChange(anchors=anchors))
    for anchor in anchors:
        node.trust.put(anchor)
    node.federation.trust_changed()
    await until(lambda: node.replica.map.group(node.key.public, "node", ""))  # what it says of itself is on disk
