"""The shell that runs a mesh: it listens and dials, keeps one link a peer, and carries out what the mesh asks for.

What the mesh is given and what it does is sliced, so that others on the loop have their turn; from a peer that makes
more work than gets done, no more is read. Signatures of blocks are checked in another process.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from crdt.entry import Entry
from federation.connections import Connections, LinkEvent
from federation.dialler import Dialler
from federation.effects import Close, Effect, Lane, NodeChanged, QuotaChanged, Send, Store, Twin, Verify
from federation.envelope import Message, encode_message
from federation.handshake import Greeter, Redeemer, chain_in
from federation.identity import NodeKey
from federation.joining import Join, Welcome
from federation.link import Link
from federation.mesh import Mesh
from federation.replica import Alert
from federation.transport import Listening, Server
from federation.trust import Trust
from federation.verifier import Verifier

__all__ = ["Engine", "LinkEvent", "LinkState", "PeerNode"]

TICK_S: Final = 0.25
SILENT_S: Final = 15.0  # without a byte: the link is gone
STALL_S: Final = 2.0  # a tick that is so late: this process did not run, and nobody is silent yet
STOP_S: Final = 2.0  # for links to end in good order


class Reading(Protocol):
    """What the mesh knows of a link; None where it does not yet."""

    @property
    def rtt_ms(self) -> float | None: ...
    @property
    def offset_ms(self) -> int | None: ...


class Engine(Protocol):
    """The mesh, as the shell needs it (`federation.mesh.Mesh`)."""

    def opened(self, peer: bytes, now_ms: int) -> list[Effect]: ...
    def closed(self, peer: bytes, now_ms: int) -> list[Effect]: ...
    def refused(self, peer: bytes, now_ms: int) -> list[Effect]: ...
    def heard(self, peer: bytes, silent_ms: int, now_ms: int) -> None: ...
    def farewell(self, now_ms: int) -> list[Effect]: ...
    def beacon_of(self, peer: bytes) -> bytes: ...
    def twin(self, beacon: bytes) -> list[Effect]: ...
    def claimed(self, incarnation: int, now_ms: int) -> list[Effect]: ...
    def received(self, peer: bytes, message: Message, now_ms: int) -> list[Effect]: ...
    def sent(self, peer: bytes, now_ms: int) -> list[Effect]: ...
    def overflowed(self, peer: bytes) -> None: ...
    def tick(self, now_ms: int) -> list[Effect]: ...
    def work(self, now_ms: int) -> list[Effect]: ...
    def verified(self, asked: Verify, verdicts: list[bool]) -> None: ...
    def failed(self, entries: Iterable[Entry]) -> None: ...
    def backlog(self, peer: bytes) -> int: ...
    def view(self, peer: bytes, now_ms: int) -> Reading | None: ...
    @property
    def busy(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class LinkState:
    """One peer's link for `peers list`. `state`: up, connecting, backoff, refused (a backoff after a handshake that
    failed) or waiting (no address to dial); `dialled`: by this node; `since_ms`: how long it has been up; `queued`:
    bytes that wait to go out; `error`: how the last attempt ended."""

    peer: bytes
    state: str
    address: str = ""
    dialled: bool = False
    since_ms: int = 0
    rtt_ms: float | None = None
    offset_ms: int | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    queued: int = 0
    error: str = ""


def _no_chain(root: bytes) -> tuple[bytes, ...]:
    return ()


def _untold(peer: bytes) -> tuple[str, ...]:
    return ()


class PeerNode:
    """Start it, `keep` the peers, and `perform` what the mesh asks for. `counts`: ends of links and of attempts, by
    code."""

    def __init__(
        self,
        key: NodeKey,
        mesh: Engine,
        trust: Trust,
        *,
        listen: Listening | None,
        incarnation: int,
        wall_ms: Callable[[], int],
        commit: Callable[[Store], Awaitable[None]],
        redeem: Redeemer,
        name: str = "",
        chain_of: Callable[[bytes], tuple[bytes, ...]] | None = None,
        succession: Sequence[bytes] = (),
    ) -> None:
        """`listen`: None, or without a host: this node only dials. `incarnation`: higher with each start.
        `chain_of`: root → the certificates from it to this node, as they travel; by default those that the mesh's
        replica holds."""
        self.key = key
        self.mesh = mesh
        self.trust = trust
        self.name = name
        self.trace: Callable[[str, bytes, Message], None] | None = None
        self.drop: Callable[[bytes, Message], bool] | None = None
        self.on_event: Callable[[LinkEvent], None] | None = None
        self.on_alert: Callable[[Alert], None] | None = None
        self.on_node: Callable[[NodeChanged], None] | None = None
        self.on_twin: Callable[[Twin], None] | None = None
        self.addresses_of: Callable[[bytes], Sequence[str]] = _untold
        self.on_quota: Callable[[QuotaChanged], None] | None = None
        self._wall_ms = wall_ms
        self._commit = commit
        if chain_of is None:
            chain_of = chain_in(mesh.replica, trust, wall_ms) if isinstance(mesh, Mesh) else _no_chain
        self._greeter = Greeter(key, trust, incarnation, wall_ms, redeem, chain_of, succession)
        self._connections = Connections(self._greeter, self)
        self._links = self._connections.links
        self.counts = self._connections.counts
        self._server = None
        if listen is not None and listen.host:
            greeter = self._greeter
            self._server = Server(listen, greeter.server_context, greeter.certificate, self._connections.serve)
        self._diallers: dict[bytes, Dialler] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._busy = asyncio.Event()
        self._woke = 0.0
        self._trust_seen = -1
        self._quiet = False  # another node has this node's key, and goes on
        self._verifier: Verifier | None = None

    @property
    def port(self) -> int | None:
        """Where it listens; None where it does not."""
        return self._server.port if self._server is not None else None

    @property
    def bound(self) -> tuple[str, ...]:
        """The addresses of this machine that it listens at."""
        return self._server.bound if self._server is not None else ()

    async def start(self) -> None:
        """Raises OSError where the address cannot be had."""
        if self._server is not None:
            await self._server.start()
        self._verifier = Verifier()
        self._go(self._ticking())
        self._go(self._working())

    async def stop(self, code: str = "restarting") -> None:
        """Ends all links, tells the peers `code`, and waits until that is done: some seconds at most."""
        diallers, self._diallers = list(self._diallers.values()), {}
        self.perform(self.mesh.farewell(self._wall_ms()))
        await self._connections.stop(code, STOP_S)
        await asyncio.gather(*(dialler.stop() for dialler in diallers))
        if self._server is not None:
            await self._server.stop()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._verifier is not None:
            await self._verifier.stop()

    # Whom to have links to

    def keep(self, peer: bytes, addresses: Sequence[str]) -> None:
        """Keep a link to `peer`: dial these addresses (HOST:PORT), or those that it tells itself (`addresses_of`),
        whenever there is none. Without any it is for the peer to dial."""
        if peer == self.key.public or self._quiet:
            return
        if peer in self._diallers:
            self._diallers[peer].redirect(addresses)
        else:
            self._diallers[peer] = Dialler(peer, addresses, self._connections, lambda: self.addresses_of(peer))

    def keeps(self, peer: bytes) -> bool:
        """Whether this node wants a link to `peer`."""
        return peer in self._diallers

    def heard_at(self, peer: bytes) -> tuple[str, ...]:
        """What `heard` was told last of a peer that is kept."""
        return self._diallers[peer].heard_at if peer in self._diallers else ()

    def heard(self, peer: bytes, addresses: Sequence[str]) -> None:
        """A peer that is kept may live at these addresses too."""
        if peer in self._diallers:
            self._diallers[peer].heard(addresses)

    def forget(self, peer: bytes, code: str = "revoked", reason: str = "") -> None:
        """Dial no more, and close the link if there is one."""
        if (dialler := self._diallers.pop(peer, None)) is not None:
            self._go(dialler.stop())
        self._connections.end(peer, code, reason)

    def claim(self, incarnation: int) -> None:
        """Another node has this node's key, and this one goes on as `incarnation`, which is on disk."""
        self._greeter.claim(incarnation)
        self.perform(self.mesh.claimed(incarnation, self._wall_ms()))
        for dialler in self._diallers.values():
            dialler.kick()

    async def be_quiet(self) -> None:
        """Another node has this node's key, and that one goes on: no link is kept, dialled or taken."""
        self._quiet = True
        diallers, self._diallers = list(self._diallers.values()), {}
        await self._connections.stop("twin", STOP_S)
        await asyncio.gather(*(dialler.stop() for dialler in diallers))

    def trust_changed(self) -> None:
        """Close what may no longer be. (Each tick sees by itself that trust has changed: this is for at once.)"""
        self._trust_seen = self.trust.version
        for peer in list(self._links):
            if not self._greeter.may_link(peer):
                self._connections.end(
                    peer, "revoked" if self.trust.is_revoked(peer) else "untrusted", "trust has changed"
                )

    async def join(self, addresses: Sequence[str], peer: bytes, proof_of: Callable[[bytes], Join]) -> Welcome:
        """Redeem an invite of `peer`, at the first of `addresses` that answers, over a connection that ends with it.
        Raises JoinError."""
        return await self._greeter.join(addresses, peer, proof_of)

    def links(self) -> list[LinkState]:
        """All peers that this node has, or wants, a link to."""
        states = [self._state(link) for link in self._links.values()]
        for peer, dialler in self._diallers.items():
            if peer not in self._links:
                states.append(LinkState(peer, dialler.state, dialler.address, error=dialler.error))
        return states

    def _state(self, link: Link) -> LinkState:
        view = self.mesh.view(link.peer, self._wall_ms())
        dialler = self._diallers.get(link.peer)
        return LinkState(
            link.peer,
            "up",
            link.socket.address,
            link.session.dialled,
            int((asyncio.get_running_loop().time() - link.since) * 1000),
            view.rtt_ms if view else None,
            view.offset_ms if view else None,
            link.bytes_in,
            link.bytes_out,
            link.queued,
            dialler.error if dialler else "",
        )

    # What the mesh asks for

    def perform(self, effects: Iterable[Effect]) -> None:
        """Carry out what the mesh asked for. Returns at once."""
        before: Message | None = None
        raw = b""
        for effect in effects:
            if isinstance(effect, Send):
                link = self._links.get(effect.peer)
                if link is None:
                    continue
                if self.drop is not None and self.drop(effect.peer, effect.message):
                    if effect.lane is Lane.BULK:  # it has left the queue all the same
                        asyncio.get_running_loop().call_soon(self.bulk_sent, link)
                    continue
                if self.trace is not None:
                    self.trace("out", effect.peer, effect.message)
                if effect.message is not before:  # one message to many peers is encoded once
                    before, raw = effect.message, encode_message(effect.message)
                link.send(raw, effect.lane)
            elif isinstance(effect, Store):
                self._store(effect)
            elif isinstance(effect, Verify):
                self._go(self._verify(effect))
            elif isinstance(effect, Close):
                self._connections.end(effect.peer, effect.code, effect.reason)
            elif isinstance(effect, NodeChanged):
                if self.on_node is not None:
                    self.on_node(effect)
            elif isinstance(effect, Twin):
                if self.on_twin is not None:
                    self.on_twin(effect)
            elif isinstance(effect, QuotaChanged):
                if self.on_quota is not None:
                    self.on_quota(effect)
            elif self.on_alert is not None:
                self.on_alert(effect)
        if self.mesh.busy:
            self._busy.set()

    def _store(self, effect: Store) -> None:
        link = self._links.get(effect.peer)
        size = sum(len(entry.raw) for entry in effect.persist.entries)
        if link is not None:
            link.uncommitted += size  # at once: what is read next asks for it
        self._go(self._stored(effect, link, size))

    async def _stored(self, effect: Store, link: Link | None, size: int) -> None:
        try:
            await self._commit(effect)
        except Exception:  # whoever commits has said so and undone it: reconciliation brings it again
            self.counts["commit-failed"] += 1
        finally:
            if link is not None:
                link.uncommitted -= size
                link.has_room()

    async def _verify(self, effect: Verify) -> None:
        assert self._verifier is not None
        self.mesh.verified(effect, await self._verifier.verdicts(effect.entries))
        if self._verifier.failures:
            self.counts["verifier-failed"] = self._verifier.failures
        self._busy.set()

    async def _working(self) -> None:
        while True:
            await self._busy.wait()
            self._busy.clear()
            while self.mesh.busy:
                self._guarded(self.mesh.work)
                for link in self._links.values():
                    link.has_room()
                await asyncio.sleep(0)

    async def _ticking(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            before = loop.time()
            await asyncio.sleep(TICK_S)
            now = loop.time()
            if now - before > TICK_S + STALL_S:
                self._woke = now
            if self.trust.version != self._trust_seen:
                self.trust_changed()
            wall = self._wall_ms()
            for link in list(self._links.values()):
                self.mesh.heard(link.peer, int(link.silent_for() * 1000), wall)
                if min(link.silent_for(), now - self._woke) > SILENT_S:
                    link.end("silent", f"not a byte in {SILENT_S:.0f} s")
            self._guarded(self.mesh.tick)

    def _guarded(self, what: Callable[[int], list[Effect]]) -> None:
        """A fault of ours in one slice must not end the loop that all links live by."""
        try:
            self.perform(what(self._wall_ms()))
        except Exception as error:
            self.counts["internal"] += 1
            loop = asyncio.get_running_loop()
            loop.call_exception_handler({"message": "the mesh failed", "exception": error})

    # What links tell

    def linked(self, link: Link) -> None:
        self.perform(self.mesh.opened(link.peer, self._wall_ms()))

    def unlinked(self, link: Link) -> None:
        self.perform(self.mesh.closed(link.peer, self._wall_ms()))

    def refused(self, peer: bytes) -> None:
        self.perform(self.mesh.refused(peer, self._wall_ms()))

    def beacon_of(self, peer: bytes) -> bytes:
        return self.mesh.beacon_of(peer)

    def twin(self, beacon: bytes) -> None:
        self.perform(self.mesh.twin(beacon))

    def event(self, event: LinkEvent) -> None:
        if self.on_event is not None:
            self.on_event(event)

    def deliver(self, link: Link, message: Message) -> None:
        if self.trace is not None:
            self.trace("in", link.peer, message)
        if self._links.get(link.peer) is link:
            self.perform(self.mesh.received(link.peer, message, self._wall_ms()))

    def overflowed(self, link: Link) -> None:
        self.counts["overflowed"] += 1
        self.mesh.overflowed(link.peer)

    def bulk_sent(self, link: Link) -> None:
        if self._links.get(link.peer) is link:
            self.perform(self.mesh.sent(link.peer, self._wall_ms()))

    def backlog(self, link: Link) -> int:
        return self.mesh.backlog(link.peer)

    def wall_ms(self) -> int:
        return self._wall_ms()

    def _go(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
