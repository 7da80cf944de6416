"""The shell that runs a mesh: it listens and dials, keeps one link a peer, and carries out what the mesh asks for.

Of two links to one peer one stays (`_is_better`). Both sides come to the same end, each by itself, once both hellos
have passed; a link that is there keeps a dialler from saying hello at all.

What the mesh is given and what it does is sliced, so that others on the loop have their turn; from a peer that makes
more work than gets done, no more is read. Signatures of blocks are checked in another thread.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from crdt.entry import Entry
from federation.bulk import HELLO_BULK, bulk_answer, is_from_client, link_name
from federation.cose import verify_entry
from federation.dialler import Dialler
from federation.effects import Close, Effect, Send, Store, Verify
from federation.envelope import Message, encode_message, is_bare
from federation.handshake import ATTEMPT_S, Greeter, Redeemer, first_frame
from federation.identity import NodeKey
from federation.joining import Join, JoinError, Welcome
from federation.link import Link
from federation.replica import Alert
from federation.session import Session, SessionError, close_frame
from federation.transport import PENDING_S, DialError, Listening, Server, Socket, SocketClosed
from federation.trust import Trust

TICK_S: Final = 0.25
SILENT_S: Final = 15.0  # without a byte: the link is gone
QUIET_S: Final = 6.0  # without a byte, though pings go every 5 s: a newer link is the better one
STALL_S: Final = 2.0  # a tick that is so late: this process did not run, and nobody is silent yet
STOP_S: Final = 2.0  # for links to end in good order
_DIFFER: Final = frozenset({"duplicate", "replaced"})  # an end that is no failure


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
    def received(self, peer: bytes, message: Message, now_ms: int) -> list[Effect]: ...
    def sent(self, peer: bytes, now_ms: int) -> list[Effect]: ...
    def overflowed(self, peer: bytes) -> None: ...
    def tick(self, now_ms: int) -> list[Effect]: ...
    def work(self, now_ms: int) -> list[Effect]: ...
    def verified(self, asked: Verify, verdicts: list[bool]) -> None: ...
    def backlog(self, peer: bytes) -> int: ...
    def view(self, peer: bytes, now_ms: int) -> Reading | None: ...
    @property
    def busy(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class LinkState:
    """One peer's link for `peers list`. `state`: up, connecting, backoff or waiting (nobody to dial); `dialled`: by
    this node; `since_ms`: how long it has been up; `queued`: bytes that wait to go out; `error`: how the last attempt
    or link ended."""

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


@dataclass(frozen=True, slots=True)
class LinkEvent:
    """Something for the log. `what`: up, down, refused (a handshake failed) or unreachable; `peer`: None where nobody
    has proven to be it; `code`, `reason`: of the close; `by_peer`: the other side closed."""

    what: str
    peer: bytes | None
    address: str
    code: str = ""
    reason: str = ""
    by_peer: bool = False


def _no_certificate(root: bytes) -> bytes | None:
    return None


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
        certificate_of: Callable[[bytes], bytes | None] = _no_certificate,
    ) -> None:
        """`listen`: None, or without a host: this node only dials. `incarnation`: higher with each start.
        `certificate_of`: see `handshake.certificate_in`."""
        self.key = key
        self.mesh = mesh
        self.trust = trust
        self.name = name
        self.counts: Counter[str] = Counter()
        self.trace: Callable[[str, bytes, Message], None] | None = None
        self.drop: Callable[[bytes, Message], bool] | None = None
        self.on_event: Callable[[LinkEvent], None] | None = None
        self.on_alert: Callable[[Alert], None] | None = None
        self._wall_ms = wall_ms
        self._commit = commit
        self._greeter = Greeter(key, trust, incarnation, wall_ms, redeem, certificate_of)
        self._server = None
        if listen is not None and listen.host:
            self._server = Server(listen, self._greeter.server_context, self._greeter.certificate, self._serve)
        self._links: dict[bytes, Link] = {}
        self._by_name: dict[bytes, Link] = {}
        self._diallers: dict[bytes, Dialler] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._holding: set[asyncio.Task[object]] = set()  # whoever runs a link
        self._busy = asyncio.Event()
        self._woke = 0.0
        self._trust_seen = -1
        self._verifier: ThreadPoolExecutor | None = None

    @property
    def port(self) -> int | None:
        """Where it listens; None where it does not."""
        return self._server.port if self._server is not None else None

    async def start(self) -> None:
        """Raises OSError where the address cannot be had."""
        if self._server is not None:
            await self._server.start()
        self._verifier = ThreadPoolExecutor(1, thread_name_prefix="verify")
        self._go(self._ticking())
        self._go(self._working())

    async def stop(self, code: str = "restarting") -> None:
        """Ends all links, tells the peers `code`, and waits until that is done: some seconds at most."""
        diallers, self._diallers = list(self._diallers.values()), {}
        for link in self._links.values():
            link.end(code)
        if self._holding:
            await asyncio.wait(self._holding, timeout=STOP_S)
        await asyncio.gather(*(dialler.stop() for dialler in diallers))
        if self._server is not None:
            await self._server.stop()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._verifier is not None:
            self._verifier.shutdown(wait=False, cancel_futures=True)

    # Whom to have links to

    def keep(self, peer: bytes, addresses: Sequence[str]) -> None:
        """Keep a link to `peer`: dial these addresses (HOST:PORT) whenever there is none. Without addresses it is for
        the peer to dial."""
        if peer == self.key.public:
            return
        if peer in self._diallers:
            self._diallers[peer].redirect(addresses)
        else:
            self._diallers[peer] = Dialler(peer, addresses, self)

    def forget(self, peer: bytes, code: str = "revoked", reason: str = "") -> None:
        """Dial no more, and close the link if there is one."""
        if (dialler := self._diallers.pop(peer, None)) is not None:
            self._go(dialler.stop())
        self._end(peer, code, reason)

    def trust_changed(self) -> None:
        """Close what may no longer be. (Each tick sees by itself that trust has changed: this is for at once.)"""
        self._trust_seen = self.trust.version
        for peer in list(self._links):
            if not self._greeter.may_link(peer):
                self._end(peer, "revoked" if self.trust.is_revoked(peer) else "untrusted", "trust has changed")

    async def join(self, addresses: Sequence[str], peer: bytes, proof_of: Callable[[bytes], Join]) -> Welcome:
        """Redeem an invite of `peer`, at the first of `addresses` that answers, over a connection that ends with it.
        Raises JoinError."""
        failed = JoinError("unreachable", "the invite names no address", final=True)
        for address in addresses:
            try:
                socket = await self._greeter.connect(address)
            except (DialError, TimeoutError) as error:
                failed = JoinError("unreachable", f"{address}: {_words(error)}", final=False)
                continue
            last = close_frame("joined")
            try:
                session = await self._greeter.greet(socket, peer, proof_of=proof_of)
                assert session.hello.welcome is not None, "answered() has seen to it"
                return session.hello.welcome
            except SessionError as error:
                last = close_frame(error.code, error.reason)
                failed = JoinError(error.code, error.reason, final=True)
                if error.by_peer:
                    break
            except (SocketClosed, TimeoutError) as error:
                failed = JoinError("timeout", f"{address}: {_words(error)}", final=False)
            finally:
                await socket.close(last)
        raise failed

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
                if link is None or (self.drop is not None and self.drop(effect.peer, effect.message)):
                    continue
                if self.trace is not None:
                    self.trace("out", effect.peer, effect.message)
                if effect.message is not before:  # one message to many peers is encoded once
                    before, raw = effect.message, encode_message(effect.message)
                link.send(raw, effect.lane)
            elif isinstance(effect, Store):
                self._go(self._store(effect))
            elif isinstance(effect, Verify):
                self._go(self._verify(effect))
            elif isinstance(effect, Close):
                self._end(effect.peer, effect.code, effect.reason)
            elif self.on_alert is not None:
                self.on_alert(effect)
        if self.mesh.busy:
            self._busy.set()

    async def _store(self, effect: Store) -> None:
        link = self._links.get(effect.peer)
        size = sum(len(entry.raw) for entry in effect.persist.entries)
        if link is not None:
            link.uncommitted += size
        try:
            await self._commit(effect)
        except Exception:  # the commit says so itself, and has undone it: reconciliation brings it again
            self.counts["commit-failed"] += 1
        finally:
            if link is not None:
                link.uncommitted -= size
                link.has_room()

    async def _verify(self, effect: Verify) -> None:
        loop = asyncio.get_running_loop()
        verdicts = await loop.run_in_executor(self._verifier, _verdicts, effect.entries)
        self.mesh.verified(effect, verdicts)
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
            for link in list(self._links.values()):
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

    # Connections

    async def _serve(self, socket: Socket) -> None:
        """One accepted connection, from its first byte to its last."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(PENDING_S):
                handshake = self._greeter.server()
                challenge = handshake.challenge
                await socket.send(challenge)
                raw = await socket.receive()
                if is_bare(raw) and first_frame(raw)["t"] == HELLO_BULK:
                    link = await self._serve_bulk(socket, challenge, raw)
                    session = None
                else:
                    session = await self._greeter.accept(socket, handshake, raw)
        except SessionError as error:
            self._event("refused", None, socket.address, error)
            await socket.close(None if error.by_peer else close_frame(error.code, error.reason))
            return
        except (SocketClosed, TimeoutError) as error:
            self._event("refused", None, socket.address, SessionError("lost", _words(error)))
            return
        if session is None:
            await link.wait_over()
        elif session.hello.welcome is not None:
            await self._after_join(socket)
        else:
            await self._hold(session, socket, began)

    async def _serve_bulk(self, socket: Socket, challenge: bytes, raw: bytes) -> Link:
        fields = first_frame(raw)
        name = fields.get("link")
        link = self._by_name.get(name) if isinstance(name, bytes) else None
        if link is None or link.session.dialled:
            raise SessionError("unknown", "this node has no such link")
        if not is_from_client(fields, link.session.id, challenge, socket.certificate):
            raise SessionError("signature", "this does not belong to the link that it names")
        socket.trusted()
        link.attach_bulk(socket)  # what it sends comes after the answer: it has not run yet
        await socket.send(bulk_answer(link.session.id, challenge, socket.certificate))
        return link

    async def _after_join(self, socket: Socket) -> None:
        """The joiner has its answer, and hangs up."""
        try:
            async with asyncio.timeout(PENDING_S):
                await socket.receive()
        except (SocketClosed, TimeoutError):
            pass

    async def connect(self, peer: bytes, address: str) -> str | None:
        """For a dialler: dials, and stays until the link is over. None where there was one, else why not."""
        began = asyncio.get_running_loop().time()
        try:
            socket = await self._greeter.connect(address)
        except (DialError, TimeoutError) as error:
            self._event("unreachable", peer, address, SessionError("unreachable", _words(error)))
            return _words(error)
        try:
            session = await self._greeter.greet(socket, peer, still=lambda: peer not in self._links)
        except SessionError as error:
            await socket.close(None if error.by_peer else close_frame(error.code, error.reason))
            self._event("refused", peer, address, error)
            return None if error.code in _DIFFER else str(error)
        except (SocketClosed, TimeoutError) as error:
            await socket.close()
            self._event("refused", peer, address, SessionError("lost", _words(error)))
            return _words(error)
        except BaseException:
            await socket.close()
            raise
        await self._hold(session, socket, began)
        return None

    async def unlinked(self, peer: bytes) -> None:
        """For a dialler: returns once there is no link to `peer`."""
        while (link := self._links.get(peer)) is not None:
            await link.wait_over()
            await asyncio.sleep(0)

    async def _hold(self, session: Session, socket: Socket, began: float) -> None:
        """Has the link that both sides have agreed on, unless there is a better one, until it is over. `began`: when
        the attempt did, loop time."""
        socket.trusted()
        old = self._links.get(session.peer)
        if old is not None and not old.is_over and not _is_better(session, began, old, self.key.public):
            self._event("refused", session.peer, socket.address, SessionError("duplicate"))
            await socket.close(close_frame("duplicate", "another link to this node is up"))
            return
        if old is not None:
            old.end("replaced", "by a newer link")
            self._gone(old)
        link = Link(session, socket, self)
        self._links[link.peer] = self._by_name[link_name(session.id)] = link
        link.on_over(partial(self._gone, link))
        task = asyncio.current_task()
        assert task is not None
        self._holding.add(task)
        try:
            self._event("up", link.peer, socket.address)
            self.perform(self.mesh.opened(link.peer, self._wall_ms()))
            await link.run(partial(self._greeter.open_bulk, session, socket) if session.dialled else None)
        finally:
            self._gone(link)
            self._holding.discard(task)

    def _gone(self, link: Link) -> None:
        """Forgets a link that is over. May be called again."""
        if self._by_name.pop(link_name(link.session.id), None) is None:
            return
        if self._links.get(link.peer) is link:
            del self._links[link.peer]
            self.perform(self.mesh.closed(link.peer, self._wall_ms()))
        self._event("down", link.peer, link.socket.address, link.why)

    def _end(self, peer: bytes, code: str, reason: str) -> None:
        if (link := self._links.get(peer)) is not None:
            link.end(code, reason)
            self._gone(link)

    def _event(self, what: str, peer: bytes | None, address: str, why: SessionError | None = None) -> None:
        why = why or SessionError("")
        self.counts[what if why.by_peer or not why.code else f"{what} {why.code}"] += 1  # never by foreign words
        if self.on_event is not None:
            self.on_event(LinkEvent(what, peer, address, why.code, why.reason, why.by_peer))

    def _go(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _is_better(session: Session, began: float, old: Link, own: bytes) -> bool:
    """Whether a new link is to replace `old`, which is up. `began`: when the attempt for it did, loop time.

    A newer incarnation of the peer replaces an older. Of two that one side dialled, the newer stays: that side had
    given up the other. Else the one that the lower key dialled, unless `old` is silent, or was up before any attempt
    that can still be under way: then the peer has lost it, and could not say so (a half-open link).
    """
    before, now = old.session.hello.incarnation, session.hello.incarnation
    if before != now:
        return now > before
    if session.dialled == old.session.dialled or old.silent_for() > QUIET_S or began - old.since > ATTEMPT_S:
        return True
    return session.dialled == (own < session.peer)


def _verdicts(entries: tuple[Entry, ...]) -> list[bool]:
    return [verify_entry(entry) for entry in entries]


def _words(error: BaseException) -> str:
    return str(error) or ("it took too long" if isinstance(error, TimeoutError) else type(error).__name__)
