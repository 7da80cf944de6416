"""What the tests of the mesh share: nodes with a real Replica, Trust and Mesh each, and wires between them, on one
clock.

Nothing is lost here and commits are at once: `tests/sim` is where things go wrong.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable

from crdt.entry import MAX_LIFE_MS, Class, Entry
from federation.budget import Bounds
from federation.cose import verify_entry
from federation.effects import Close, Effect, Lane, QuotaChanged, Send, Store, Verify
from federation.identity import NodeKey
from federation.mesh import DEFAULTS, Mesh
from federation.messages import Message
from federation.replica import Alert, Persist, Replica, Statement
from federation.trust import Anchor, Role, Scope, Trust, issue_cert

NOW = 1_764_000_000_000
ROOT = NodeKey(b"\xf0" * 32)
MEMBER = Scope(frozenset({Class.PUBLIC, Class.INTERNAL}))


class Node:
    """One node: what it says and what it holds."""

    def __init__(self, net: Net, number: int, bounds: Bounds = DEFAULTS) -> None:
        self.net = net
        self.key = NodeKey(bytes([number + 1]) * 32)
        self.trust = Trust(self.key.public)
        self.replica = Replica(
            self.key, lambda entry: self.trust.admits(entry.origin, entry.cls, entry.root, entry.kind, net.now)
        )
        self.replica.loaded()
        self.mesh = Mesh(self.replica, self.trust, bounds=bounds)
        self.alerts: list[Alert] = []
        self.closes: list[Close] = []
        self.quota: list[QuotaChanged] = []

    def say(self, name: str, cls: Class = Class.PUBLIC, root: bytes | None = None, body: object = "x") -> Entry:
        """Say something, durably, and push it."""
        said = None if body is None else {"name": name, "body": body}
        persist = self.replica.put([Statement("service", name, cls, said, root)], self.net.now)
        self.replica.persisted(persist)
        self.net.do(self, self.mesh.merged([(persist.entries, None)], self.net.now))
        return persist.entries[-1]

    def take(self, entry: Entry) -> None:
        """Take in a signed entry that the admin brought (a certificate)."""
        for effect in self.replica.receive(entry.raw, self.net.now):
            assert isinstance(effect, Persist), effect
            self.replica.persisted(effect)
            self.net.do(self, self.mesh.merged([(effect.entries, None)], self.net.now))

    def trusts(self, *others: Node) -> None:
        for other in others:
            self.trust.put(Anchor(other.key.public, Role.PEER))
        self.net.do(self, self.mesh.trust_changed(self.net.now))

    def joins(self, root: NodeKey = ROOT, scope: Scope = MEMBER) -> None:
        """Become a member of a federation: anchor its root and take the certificate."""
        self.trust.put(Anchor(root.public, Role.ROOT))
        self.net.do(self, self.mesh.trust_changed(self.net.now))
        self.take(issue_cert(root, self.key.public, now_ms=self.net.now, scope=scope))

    def names(self, *classes: Class) -> set[str]:
        """Names of the live services that it holds, of all origins."""
        return {
            entry.name
            for entry in self.replica.map
            if entry.kind == "service" and entry.live and (not classes or entry.cls in classes)
        }


class Net:
    """`count` nodes and the wires between them. Messages are delivered by `run`, first come first served."""

    def __init__(self, count: int, bounds: Bounds = DEFAULTS) -> None:
        self.now = NOW
        self.nodes = [Node(self, n, bounds) for n in range(count)]
        self.links: set[tuple[bytes, bytes]] = set()
        self.wire: deque[tuple[Node, Node, Message, Lane]] = deque()
        self.said: Counter[str] = Counter()
        self.tap: Callable[[Node, Node, Message], None] = lambda source, target, message: None

    def of(self, key: bytes) -> Node:
        return next(node for node in self.nodes if node.key.public == key)

    def link(self, one: Node, other: Node) -> None:
        for a, b in ((one, other), (other, one)):
            self.links.add((a.key.public, b.key.public))
        for a, b in ((one, other), (other, one)):
            self.do(a, a.mesh.opened(b.key.public, self.now))

    def cut(self, one: Node, other: Node) -> None:
        for a, b in ((one, other), (other, one)):
            self.links.discard((a.key.public, b.key.public))
            a.mesh.closed(b.key.public, self.now)
        self.wire = deque(item for item in self.wire if {item[0], item[1]} != {one, other})

    def do(self, node: Node, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(peer, message, lane):
                    if (node.key.public, peer) in self.links:
                        self.said[str(message["t"])] += 1
                        self.tap(node, self.of(peer), message)
                        self.wire.append((node, self.of(peer), message, lane))
                case Store(persist, peer):
                    for alert in node.replica.persisted(persist):
                        if isinstance(alert, Alert):
                            node.alerts.append(alert)
                    self.do(node, node.mesh.merged([(persist.entries, peer)], self.now))
                case Verify(_, entries):
                    node.mesh.verified(effect, [verify_entry(entry) for entry in entries])
                case Close():
                    node.closes.append(effect)
                    self.cut(node, self.of(effect.peer))
                case Alert():
                    node.alerts.append(effect)
                case QuotaChanged():
                    node.quota.append(effect)

    def run(self, ms: int = 0, *, steps: int = 1_000_000) -> None:
        """Deliver all that is on the wires and do all work, then let `ms` go by with a tick each 250 ms."""
        end = self.now + ms
        while True:
            while self.wire or any(node.mesh.busy for node in self.nodes):
                steps -= 1
                assert steps > 0, "it does not come to rest"
                if self.wire:
                    source, target, message, lane = self.wire.popleft()
                    self.do(target, target.mesh.received(source.key.public, message, self.now))
                    if lane is Lane.BULK:
                        self.do(source, source.mesh.sent(target.key.public, self.now))
                for node in self.nodes:
                    self.do(node, node.mesh.work(self.now))
            if self.now >= end:
                return
            self.now = min(end, self.now + 250)
            for node in self.nodes:
                self.do(node, node.mesh.tick(self.now))


def full(count: int, *, federation: bool = False, bounds: Bounds = DEFAULTS) -> Net:
    """`count` nodes that trust each other and are all linked."""
    net = Net(count, bounds)
    befriend(net, federation=federation)
    for n, one in enumerate(net.nodes):
        for other in net.nodes[n + 1 :]:
            net.link(one, other)
    net.run(1000)
    return net


def line(count: int, *, federation: bool = True, bounds: Bounds = DEFAULTS) -> Net:
    """`count` nodes in a line, all members of one federation."""
    net = Net(count, bounds)
    befriend(net, federation=federation)
    for one, other in zip(net.nodes, net.nodes[1:], strict=False):
        net.link(one, other)
    net.run(1000)
    return net


def befriend(net: Net, *, federation: bool) -> None:
    for node in net.nodes:
        node.trusts(*(other for other in net.nodes if other is not node))
        if federation:
            node.joins()


LIFE = MAX_LIFE_MS
