"""Nodes in one loop over real TLS sockets, with the smallest mesh that tells what came."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from crdt.entry import Entry
from federation.connections import LinkEvent
from federation.effects import Effect, Lane, Send, Store, Verify
from federation.envelope import Message
from federation.identity import NodeKey
from federation.joining import Denied, Redeem, Welcome
from federation.peer_node import PeerNode
from federation.trust import Anchor, Role, Trust

LOW, HIGH = sorted((NodeKey(bytes([n]) * 32) for n in (1, 2)), key=lambda key: key.public)
THIRD = NodeKey(b"\x03" * 32)


@dataclass
class Listen:
    host: str = "127.0.0.1"
    port: int = 0


def wall_ms() -> int:
    return int(time.time() * 1000)


@dataclass
class EchoMesh:
    """Notes what comes, pings as the real one does, and answers pings."""

    ping_ms: int = 5_000
    open: list[bytes] = field(default_factory=list)
    opens: int = 0
    got: list[tuple[bytes, Message]] = field(default_factory=list)
    came: asyncio.Event = field(default_factory=asyncio.Event)
    drops: int = 0
    room: int = 0
    waiting: int = 0  # what backlog() says
    next_ping: int = 0
    pongs: list[int] = field(default_factory=list)  # ms

    def opened(self, peer: bytes, now_ms: int) -> list[Effect]:
        self.open.append(peer)
        self.opens += 1
        return []

    def refused(self, peer: bytes, now_ms: int) -> list[Effect]:
        return []

    def heard(self, peer: bytes, silent_ms: int, now_ms: int) -> None:
        pass

    def beacon_of(self, peer: bytes) -> bytes:
        return b""

    def twin(self, beacon: bytes) -> list[Effect]:
        return []

    def claimed(self, incarnation: int, now_ms: int) -> list[Effect]:
        return []

    def farewell(self, now_ms: int) -> list[Effect]:
        return []

    def closed(self, peer: bytes, now_ms: int) -> list[Effect]:
        self.open.remove(peer)
        return []

    def received(self, peer: bytes, message: Message, now_ms: int) -> list[Effect]:
        if message["t"] == "ping":
            return [Send(peer, {"t": "pong", "at": message["at"]}, Lane.BARE)]
        if message["t"] == "pong":
            self.pongs.append(now_ms - message["at"])  # type: ignore[operator]
            return []
        self.got.append((peer, message))
        self.came.set()
        return []

    def sent(self, peer: bytes, now_ms: int) -> list[Effect]:
        self.room += 1
        return []

    def overflowed(self, peer: bytes) -> None:
        self.drops += 1

    def tick(self, now_ms: int) -> list[Effect]:
        if now_ms < self.next_ping:
            return []
        self.next_ping = now_ms + self.ping_ms
        return [Send(peer, {"t": "ping", "at": now_ms}, Lane.BARE) for peer in self.open]

    def work(self, now_ms: int) -> list[Effect]:
        return []

    def verified(self, asked: Verify, verdicts: list[bool]) -> None:
        raise AssertionError("it asked for nothing")

    def failed(self, entries: Iterable[Entry]) -> None:
        raise AssertionError("all commits are good here")

    def backlog(self, peer: bytes) -> int:
        return self.waiting

    def view(self, peer: bytes, now_ms: int) -> None:
        return None

    @property
    def busy(self) -> bool:
        return False


@dataclass
class Running:
    """A node and what belongs to it."""

    node: PeerNode
    mesh: EchoMesh
    trust: Trust
    events: list[LinkEvent] = field(default_factory=list)

    @property
    def key(self) -> bytes:
        return self.node.key.public

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.node.port}"

    def trusts(self, *others: Running | bytes) -> None:
        for other in others:
            self.trust.put(Anchor(other if isinstance(other, bytes) else other.key, Role.PEER))

    def keeps(self, other: Running) -> None:
        self.node.keep(other.key, [other.address])

    def says(self, to: Running, lane: Lane = Lane.PUSH, **fields: object) -> None:
        self.node.perform([Send(to.key, {"t": "say", **fields}, lane)])

    def linked(self, other: Running) -> bool:
        return other.key in self.mesh.open

    def codes(self) -> list[str]:
        return [f"{event.what} {event.code}".rstrip() for event in self.events]


async def _denies(asked: Redeem) -> Welcome | Denied:
    return Denied("unknown", "there is no such invite")


async def _commits(store: Store) -> None:
    raise AssertionError("nothing to commit")


@asynccontextmanager
async def running(
    key: NodeKey,
    *,
    listens: bool = True,
    incarnation: int = 1,
    redeem: Callable[[Redeem], object] = _denies,
    mesh: EchoMesh | None = None,
    commit: Callable[[Store], object] = _commits,
    port: int = 0,
    **options: object,
) -> AsyncIterator[Running]:
    mesh = mesh or EchoMesh()
    trust = Trust(key.public)
    node = PeerNode(
        key,
        mesh,
        trust,
        listen=Listen(port=port) if listens else None,
        incarnation=incarnation,
        wall_ms=wall_ms,
        commit=commit,  # type: ignore[arg-type]
        redeem=redeem,  # type: ignore[arg-type]
        **options,  # type: ignore[arg-type]
    )
    here = Running(node, mesh, trust)
    node.on_event = here.events.append
    await node.start()
    try:
        yield here
    finally:
        await node.stop()
