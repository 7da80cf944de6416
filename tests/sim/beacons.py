"""Nodes that say who is alive, over links that a test makes, cuts and loses messages on, on a virtual clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from itertools import combinations
from random import Random

from federation.beacon import Beacon
from federation.effects import Close, Effect, NodeChanged, Send, Twin, Word
from federation.identity import NodeKey
from federation.membership import Membership
from federation.messages import Message
from federation.replica import Alert
from tests.sim.world import Violation

TICK = 250
START = 1_800_000_000_000


class Node:
    """`told`: what changed, in order: (ms since the start of the world, other, word); `frozen`: it does nothing."""

    def __init__(self, world: Beacons, name: str) -> None:
        self.world = world
        self.name = name
        self.key = NodeKey(world.random.randbytes(32))
        self.incarnation = world.now // 1000
        self.alive = True
        self.frozen = False
        self.offset = 0
        self.inbox: list[tuple[str, Message]] = []
        self.told: list[tuple[int, str, str]] = []
        self.alerts: list[Alert] = []
        self.twins: list[Twin] = []
        self.membership: Membership
        self.boot()

    def boot(self) -> None:
        self.alive = True
        world = self.world
        self.membership = Membership(self.key, self.incarnation, self._believes, lambda peer, key: True)
        self.do(self.membership.expect([node.key.public for node in world.nodes.values()], self.now))

    def _believes(self, key: bytes, now_ms: int) -> bool:
        return key in self.world.by_key or key == self.key.public

    @property
    def now(self) -> int:
        return self.world.now + self.offset

    def word(self, other: str) -> str | None:
        state = self.membership.reach.states.get(self.world.nodes[other].key.public)
        return None if state is None else state.word.value

    def do(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(peer, message):
                    self.world.send(self, self.world.by_key[peer], message)
                case NodeChanged(origin, before, after):
                    was = before.word if before else None
                    if after is not None and after.word is not was:
                        name = self.world.by_key[origin].name
                        self.told.append((self.world.now - START, name, after.word.value))
                case Alert():
                    self.alerts.append(effect)
                case Twin():
                    self.twins.append(effect)
                case Close(peer, code, reason):
                    other = self.world.by_key[peer].name
                    if other not in self.world.liars:
                        raise Violation(f"{self.name} closes its link to {other}: {code} {reason}")
                    self.world.close(self.name, other)


class Beacons:
    """`loss`: part of the messages; `sent`: how many, by name; `size`: bytes of beacons sent."""

    def __init__(self, names: str | Iterable[str], seed: int = 1) -> None:
        self.random = Random(seed)
        self.now = START
        self.loss = 0.0
        self.sent: Counter[str] = Counter()
        self.size = 0
        self.nodes: dict[str, Node] = {}
        self.by_key: dict[bytes, Node] = {}
        self.liars: set[str] = set()  # whose links may be closed for what they say
        self.links: set[frozenset[str]] = set()
        self.silent: set[frozenset[str]] = set()  # links that lose all, and nobody is told
        self._queue: list[tuple[int, int, Callable[[], object]]] = []
        self._number = 0
        for name in names:
            node = self.nodes[name] = Node(self, name)
            self.by_key[node.key.public] = node
        for node in self.nodes.values():
            node.do(node.membership.expect(self.by_key, node.now))
            self.after(self.random.randrange(TICK), lambda node=node: self._ticking(node))  # type: ignore[misc]

    def after(self, ms: int, do: Callable[[], object]) -> None:
        self._number += 1
        heappush(self._queue, (self.now + ms, self._number, do))

    def run(self, seconds: float) -> None:
        end = self.now + int(seconds * 1000)
        while self._queue and self._queue[0][0] <= end:
            at, _, do = heappop(self._queue)
            self.now = max(at, self.now)
            do()
        self.now = end

    def _ticking(self, node: Node) -> None:
        if node.alive and not node.frozen:
            node.do(node.membership.tick(node.now))
        self.after(TICK, lambda: self._ticking(node))

    # Links

    def mesh(self) -> None:
        for one, other in combinations(self.nodes, 2):
            self.link(one, other)

    def link(self, one: str, other: str) -> None:
        self.links.add(frozenset((one, other)))
        for name, peer in ((one, other), (other, one)):
            node = self.nodes[name]
            node.do(node.membership.opened(self.nodes[peer].key.public, node.now))

    def close(self, one: str, other: str) -> None:
        self.links.discard(frozenset((one, other)))
        for name, peer in ((one, other), (other, one)):
            node = self.nodes[name]
            if node.alive and not node.frozen:
                node.membership.closed(self.nodes[peer].key.public, node.now)

    def links_of(self, name: str) -> list[tuple[str, str]]:
        return [(name, other) for link in self.links if name in link for other in link if other != name]

    def cut(self, *names: str) -> None:
        """Between these and the others nothing passes, and nobody is told."""
        self.silent |= {link for link in self.links if len(link & set(names)) == 1}

    def heal(self) -> None:
        self.silent.clear()

    def kill(self, name: str) -> None:
        """SIGKILL: the links close, and a redial is refused."""
        self.nodes[name].alive = False
        for _, other in self.links_of(name):
            self.close(name, other)
            peer = self.nodes[other]
            wait = self.random.randint(50, 250)
            self.after(wait, lambda peer=peer: peer.do(peer.membership.refused(self.nodes[name].key.public, peer.now)))  # type: ignore[misc]

    def restart(self, name: str, links: Iterable[str]) -> None:
        node = self.nodes[name]
        node.incarnation += 10
        node.boot()
        node.do(node.membership.expect(self.by_key, node.now))
        for other in links:
            self.link(name, other)

    def freeze(self, name: str) -> None:
        self.nodes[name].frozen = True

    def thaw(self, name: str) -> None:
        node = self.nodes[name]
        node.frozen = False
        inbox, node.inbox = node.inbox, []
        for source, message in inbox:
            self._deliver(self.nodes[source], node, message)

    # Messages

    def send(self, source: Node, target: Node, message: Message) -> None:
        link = frozenset((source.name, target.name))
        self.sent[str(message["t"])] += 1
        for raw in message.get("beacons", ()):  # type: ignore[attr-defined]
            self.size += len(raw)
        if link in self.silent or (self.loss and self.random.random() < self.loss):
            return
        self.after(self.random.randint(1, 20), lambda: self._deliver(source, target, message))

    def _deliver(self, source: Node, target: Node, message: Message) -> None:
        if not target.alive or frozenset((source.name, target.name)) not in self.links:
            return
        if target.frozen:
            target.inbox.append((source.name, message))
            return
        target.membership.heard(source.key.public, 0, target.now)
        target.do(target.membership.received(source.key.public, message, target.now))

    def words(self, of: str) -> set[str | None]:
        """What the others that live think of it."""
        return {node.word(of) for node in self.nodes.values() if node.alive and node.name != of}

    def changes(self) -> list[tuple[int, str, str, str]]:
        """What was told anywhere: (ms, who, of whom, word)."""
        return sorted((at, node.name, of, word) for node in self.nodes.values() for at, of, word in node.told)

    def forget(self) -> None:
        for node in self.nodes.values():
            node.told.clear()
        self.sent.clear()
        self.size = 0


__all__ = ["START", "Beacon", "Beacons", "Node", "Word"]
