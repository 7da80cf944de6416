"""The network: who may be linked with whom, and what becomes of messages.

A link is TCP: each lane keeps its order and loses nothing but by closing. Lanes overtake each other. A cut is told at
once (reset) or by silence, and until then both sides send into the void. On top of that comes what the lab's hook does:
single messages are dropped. And a hostile relay sends spoilt copies of entries.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from crdt import cbor
from federation.effects import Lane
from federation.membership import MESSAGES
from federation.messages import Message
from tests.sim.node import Process, SimNode
from tests.sim.world import Violation, World

if TYPE_CHECKING:
    from tests.sim.oracle import Oracle


SLOWEST_MS: Final = 8_000  # for a message to arrive


@dataclass(slots=True)
class Weather:
    """`latency`: ms, from, to; `bulk_ms`: from, to, for a block to leave; `drops`, `spoils`: part of the messages;
    `queue`: messages of a lane under way before one overflows; `half_open`: part of the link ends that is noticed late;
    `encodes`: messages really go through their encoding."""

    latency: tuple[int, int] = (1, 20)
    bulk_ms: tuple[int, int] = (1, 10)
    drops: float = 0.0
    spoils: float = 0.0
    queue: int = 1_000_000
    half_open: float = 0.0
    encodes: bool = False


@dataclass(slots=True, eq=False)
class Edge:
    """Two nodes that would have a link. `slow`: how many times the usual latency."""

    one: SimNode
    other: SimNode
    cut: bool = False
    slow: int = 1
    dialling: bool = False

    def links(self) -> list[Link]:
        """What the two ends take to be their link: one, where all is well."""
        ends = ((self.one.process, self.other), (self.other.process, self.one))
        return [
            process.links[peer.key.public]
            for process, peer in ends
            if process is not None and peer.key.public in process.links
        ]

    def __repr__(self) -> str:
        return f"{self.one}-{self.other}"


@dataclass(slots=True, eq=False)
class Link:
    """`dead`: cut, though an end may not know yet; `spoilt`: something spoilt was sent over it."""

    edge: Edge
    dead: bool = False
    spoilt: bool = False
    arrival: dict[tuple[str, Lane], int] = field(default_factory=dict)
    under_way: Counter[tuple[str, Lane]] = field(default_factory=Counter)


class Network:
    """`said`, `lost`: messages sent, and those of them that were dropped, by name."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.oracle: Oracle
        self.weather = Weather()
        self.nodes: dict[bytes, SimNode] = {}
        self.edges: dict[frozenset[str], Edge] = {}
        self.said: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()

    def join(self, one: SimNode, other: SimNode) -> None:
        self.nodes[one.key.public], self.nodes[other.key.public] = one, other
        self.edges[frozenset((one.name, other.name))] = Edge(one, other)

    def between(self, one: SimNode, other: SimNode) -> Edge:
        return self.edges[frozenset((one.name, other.name))]

    # Links come and go

    def came_up(self, node: SimNode) -> None:
        for edge in self._of(node):
            self.redial(edge, 50, 1_500)

    def went_down(self, process: Process, *, silent: bool) -> None:
        for peer, link in list(process.links.items()):
            link.dead = silent  # else what was sent still arrives
            self._hang_up_later(link, self.nodes[peer].process, process.node, silent=silent)

    def cut(self, edge: Edge, *, silent: bool) -> None:
        self.world.tell(f"{edge} is cut{' without a word' if silent else ''}")
        edge.cut = True
        for node, peer in ((edge.one, edge.other), (edge.other, edge.one)):
            process = node.process
            link = None if process is None else process.links.get(peer.key.public)
            if link is not None:
                link.dead = True
                self._hang_up_later(link, process, peer, silent=silent)

    def heal(self, edge: Edge) -> None:
        if edge.cut:
            self.world.tell(f"{edge} is healed")
            edge.cut = False
        self.redial(edge, 50, 1_000)

    def trust_moved(self, process: Process) -> None:
        """Links that may no longer be are closed; others may be now."""
        for peer in list(process.links):
            if not process.trust.may_link(peer, process.node.now):
                self.close(process, peer)
        for edge in self._of(process.node):
            self.redial(edge, 50, 500)

    def closes(self, process: Process, peer: bytes, code: str, reason: str) -> None:
        """The mesh of `process` closes a link. Among honest nodes there is a reason for it only where one was made."""
        link = process.links.get(peer)
        self.world.tell(f"{process.node} closes its link to {self.nodes[peer]}: {code}: {reason}")
        made = process.node.bad or self.nodes[peer].bad
        if link is not None and not made and not (link.spoilt and code == "bad-entry"):
            raise Violation(
                f"{process.node} closes its link to {self.nodes[peer]}, which did nothing wrong: {code}: {reason}"
            )
        self.close(process, peer)

    def close(self, process: Process, peer: bytes) -> None:
        link = process.links.pop(peer, None)
        if link is None:
            return
        process.do(process.mesh.closed(peer, process.node.now))
        other = self.nodes[peer].process
        if other is not None and other.links.get(process.node.key.public) is link:
            self._hang_up_later(link, other, process.node, silent=self.world.chance(self.weather.half_open))
        self.redial(link.edge, 200, 3_000)

    def _hang_up_later(self, link: Link, process: Process | None, peer: SimNode, *, silent: bool) -> None:
        """`process` finds that the other end of `link` is gone: after what is under way, or after a silence."""
        if process is None:
            return
        if silent:
            wait = self.world.random.randint(5_000, 16_000)
        else:
            last = max((at for (who, _), at in link.arrival.items() if who == peer.name), default=0)
            wait = max(self._latency(link.edge), last + 1 - self.world.now if not link.dead else 0)

        def hang_up() -> None:
            if process.alive and process.links.get(peer.key.public) is link:
                self.world.tell(f"{process.node} finds its link to {peer} gone")
                self.close(process, peer.key.public)

        self.world.after(wait, hang_up)

    def redial(self, edge: Edge, least: int, most: int) -> None:
        if not edge.dialling:
            edge.dialling = True
            self.world.after(self.world.random.randint(least, most), lambda: self._dial(edge))

    def _dial(self, edge: Edge) -> None:
        edge.dialling = False
        one, other = edge.one.process, edge.other.process
        if edge.cut or one is None or other is None:
            return  # whatever ends that dials again
        keys = edge.one.key.public, edge.other.key.public
        link = one.links.get(keys[1])
        if link is not None and link is other.links.get(keys[0]):
            return
        if not (one.trust.may_link(keys[1], edge.one.now) and other.trust.may_link(keys[0], edge.other.now)):
            return
        server, client = (one, other) if self.world.chance(0.5) else (other, one)
        link = Link(edge)
        first = self._latency(edge)
        second = first + self._latency(edge)
        self.world.after(first, lambda: self._open(link, server, client, first=True))
        self.world.after(second, lambda: self._open(link, client, server, first=False))
        for lane in Lane:  # nothing arrives before who receives it has the link
            link.arrival[server.node.name, lane] = self.world.now + second

    def _open(self, link: Link, process: Process, other: Process, *, first: bool) -> None:
        peer = other.node.key.public
        gone = link.dead or link.edge.cut or not (first or other.links.get(process.node.key.public) is link)
        if not process.alive or gone or not process.trust.may_link(peer, process.node.now):
            link.dead = True
            if other.alive and other.links.get(process.node.key.public) is link:
                self._hang_up_later(link, other, process.node, silent=self.world.chance(self.weather.half_open))
            self.redial(link.edge, 200, 3_000)
            return
        old = process.links.get(peer)
        if old is not None and old is not link:
            if old is other.links.get(process.node.key.public) and not old.dead:
                return  # they have found each other meanwhile
            old.dead = True
        process.links[peer] = link
        self.world.tell(f"{process.node} has a link to {other.node}")
        process.do(process.mesh.opened(peer, process.node.now))

    def is_quiet(self) -> bool:
        """Nothing but pings is under way."""
        return all(
            lane is Lane.BARE or not count
            for edge in self.edges.values()
            for link in edge.links()
            for (_, lane), count in link.under_way.items()
        )

    def _of(self, node: SimNode) -> list[Edge]:
        return [edge for edge in self.edges.values() if node is edge.one or node is edge.other]

    def _latency(self, edge: Edge) -> int:
        return min(self.world.random.randint(*self.weather.latency) * edge.slow, SLOWEST_MS)

    # Messages

    def send(self, process: Process, peer: bytes, message: Message, lane: Lane) -> None:
        link = process.links.get(peer)
        if link is None:
            return
        world, weather, target = self.world, self.weather, self.nodes[peer]
        name = str(message["t"])
        if not (process.node.bad or target.bad):
            self.said[name] += 1
        self.oracle.sent(process, target, message)
        if world.lines is not None and name not in {"ping", "pong", *MESSAGES}:
            world.tell(f"{process.node} -> {target}  {self.oracle.describe(message)}")
        at = (process.node.name, lane)
        if lane is Lane.BULK:
            wait = min(world.random.randint(*weather.bulk_ms) * link.edge.slow, SLOWEST_MS)
            world.after(wait, lambda: self._left(link, process, peer))
        if name in process.node.withholds:
            return
        if name != "admits" and world.chance(weather.drops):
            world.tell(f"      … and it is dropped ({name})")
            self.lost[name] += 1
            return
        if lane is not Lane.BULK and link.under_way[at] >= weather.queue:
            world.tell(f"      … and the queue is full ({name})")
            self.lost[name] += 1
            process.mesh.overflowed(peer)
            return
        if weather.encodes:
            message = cbor.decode(cbor.encode(message))  # type: ignore[assignment]
        if name == "entries" and world.chance(weather.spoils):
            message = self._spoilt(link, message)
        self._carry(link, process, target, message, lane)

    def inject(self, process: Process, peer: bytes, message: Message, lane: Lane) -> None:
        """A bad node sends what its engine would not."""
        link = process.links.get(peer)
        if link is not None:
            self._carry(link, process, self.nodes[peer], cbor.decode(cbor.encode(message)), lane)  # type: ignore[arg-type]

    def _carry(self, link: Link, process: Process, target: SimNode, message: Message, lane: Lane) -> None:
        at = (process.node.name, lane)
        link.under_way[at] += 1
        arrival = max(self.world.now + self._latency(link.edge), link.arrival.get(at, 0))
        link.arrival[at] = arrival
        self.world.after(arrival - self.world.now, lambda: self._deliver(link, process, target, lane, message))

    def _left(self, link: Link, process: Process, peer: bytes) -> None:
        if process.alive and process.links.get(peer) is link:
            process.do(process.mesh.sent(peer, process.node.now))

    def _deliver(self, link: Link, source: Process, target: SimNode, lane: Lane, message: Message) -> None:
        link.under_way[source.node.name, lane] -= 1
        process = target.process
        if link.dead or process is None or process.links.get(source.node.key.public) is not link:
            return
        if target.bad and message["t"] == "entries":
            raws = message.get("entries")
            some = [self.oracle.by_raw.get(raw) for raw in raws] if isinstance(raws, list) else []
            target.heard.update((entry.id, entry) for entry in some if entry is not None)
        process.receive(source.node.key.public, message)

    def _spoilt(self, link: Link, message: Message) -> Message:
        raws = list(message["entries"])  # type: ignore[call-overload]
        if not raws:
            return message
        place = self.world.random.randrange(len(raws))
        raws[place] = raws[place][:-1] + bytes([raws[place][-1] ^ 1])
        link.spoilt = True
        self.world.tell(f"      … and its entry {place} is spoilt")
        return {**message, "entries": raws}
