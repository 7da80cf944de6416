"""Connections that come and go, and the one link that each peer has.

Of two links to one peer one stays (`_is_better`). Both sides come to the same end, each by itself, once both hellos
have passed; a link that is there keeps a dialler from saying hello at all.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from federation.bulk import HELLO_BULK, bulk_answer, is_from_client, link_name
from federation.closing import SessionError, close_frame
from federation.dialler import Failure
from federation.envelope import is_bare
from federation.handshake import ATTEMPT_S, Greeter, first_frame, words
from federation.link import Link, Owner
from federation.session import Hello, Session
from federation.transport import PENDING_S, DialError, Socket, SocketClosed

QUIET_S: Final = 6.0  # without a byte, though pings go every 5 s: a newer link is the better one
_NO_FAILURE: Final = frozenset({"duplicate", "replaced"})  # codes of an end that leaves another link


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


class Party(Owner, Protocol):
    """Whoever the links are for."""

    def linked(self, link: Link) -> None: ...
    def unlinked(self, link: Link) -> None: ...
    def refused(self, peer: bytes) -> None: ...
    def beacon_of(self, peer: bytes) -> bytes: ...
    def twin(self, beacon: bytes) -> None: ...
    def event(self, event: LinkEvent) -> None: ...


class Connections:
    """All connections of a node, and the links that came of them. `counts`: what happened to them, ends of ours by
    code."""

    def __init__(self, greeter: Greeter, party: Party) -> None:
        self.links: dict[bytes, Link] = {}  # by peer
        self.counts: Counter[str] = Counter()
        self._greeter = greeter
        self._party = party
        self._by_name: dict[bytes, Link] = {}
        self._holding: set[asyncio.Task[SessionError]] = set()  # links that run
        self._stopped: str | None = None  # the code that all were told

    async def stop(self, code: str, within: float) -> None:
        """Ends all links, waits `within` s for it, and takes no new ones."""
        self._stopped = code
        for link in list(self.links.values()):
            link.end(code)
        if self._holding:
            await asyncio.wait(self._holding, timeout=within)

    async def serve(self, socket: Socket) -> None:
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
                    session = await self._greeter.accept(
                        socket, handshake, raw, lambda hello: self._refusal(hello, began)
                    )
        except SessionError as error:
            self._event("refused", None, socket.address, error)
            await socket.close(None if error.by_peer else close_frame(error.code, error.reason, error.beacon))
            return
        except (SocketClosed, TimeoutError) as error:
            self._event("refused", None, socket.address, SessionError("lost", words(error)))
            return
        except Exception as error:
            self._event("refused", None, socket.address, SessionError("internal"))
            await socket.close(close_frame("internal", "this node made a mistake"))
            asyncio.get_running_loop().call_exception_handler({"message": "a handshake failed", "exception": error})
            return
        if session is None:
            await link.wait_over()
        elif session.hello.join is not None:
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

    async def connect(self, peer: bytes, address: str) -> Failure | None:
        """For a dialler: dials, and stays until the link is over. None where there was one, else why nobody was
        reached. Raises SessionError where the handshake failed."""
        began = asyncio.get_running_loop().time()
        try:
            socket = await self._greeter.connect(address)
        except (DialError, TimeoutError) as error:
            self._event("unreachable", peer, address, SessionError("unreachable", words(error)))
            return Failure(words(error), isinstance(error, DialError) and error.refused)
        try:
            session = await self._greeter.greet(socket, peer, still=lambda: peer not in self.links)
        except SessionError as error:
            await socket.close(None if error.by_peer else close_frame(error.code, error.reason))
            self._event("refused", peer, address, error)
            if error.by_peer and error.code == "twin":
                self._party.twin(error.beacon)
            if error.code in _NO_FAILURE:
                return None
            raise
        except (SocketClosed, TimeoutError) as error:
            await socket.close()
            self._event("refused", peer, address, SessionError("lost", words(error)))
            return Failure(words(error))
        except BaseException:
            await socket.close()
            raise
        await self._hold(session, socket, began)
        return None

    def refused(self, peer: bytes) -> None:
        """For a dialler: nobody listens at any address of `peer`."""
        self._party.refused(peer)

    async def wait_unlinked(self, peer: bytes) -> None:
        """For a dialler: returns once there is no link to `peer`."""
        while (link := self.links.get(peer)) is not None:
            await link.wait_over()
            await asyncio.sleep(0)

    async def _hold(self, session: Session, socket: Socket, began: float) -> None:
        """Has the link that both sides have agreed on, unless there is a better one, until it is over. `began`: when
        the attempt did, loop time."""
        socket.trusted()
        old = self.links.get(session.peer)
        if self._stopped is not None:
            await socket.close(close_frame(self._stopped))
            return
        if (error := self._refusal(session.hello, began, dialled=session.dialled)) is not None:
            self._event("refused", session.peer, socket.address, error)
            await socket.close(close_frame(error.code, error.reason, error.beacon))
            return
        if old is not None:
            old.end("replaced", "by a newer link")
            self._gone(old)
        link = Link(session, socket, self._party)
        self.links[link.peer] = self._by_name[link_name(session.id)] = link
        link.on_over(partial(self._gone, link))
        self._event("up", link.peer, socket.address)
        self._party.linked(link)
        task = asyncio.create_task(
            link.run(partial(self._greeter.open_bulk, session, socket) if session.dialled else None)
        )
        self._holding.add(task)
        task.add_done_callback(self._holding.discard)
        await asyncio.wait((task,))  # who waits may be cancelled: the link goes on

    def _refusal(self, hello: Hello, began: float, *, dialled: bool = False) -> SessionError | None:
        """Why no new link to that peer is wanted; None where there is none, or none as good as a new one would be."""
        old = self.links.get(hello.peer)
        if old is None or old.is_over or _is_better(hello, dialled, began, old, self._greeter.key.public):
            return None
        if hello.incarnation < old.session.hello.incarnation:
            beacon = self._party.beacon_of(hello.peer)
            return SessionError("twin", "a node with this key that was started later has a link", beacon=beacon)
        return SessionError("duplicate", "another link to this node is up")

    def _gone(self, link: Link) -> None:
        """Forgets a link that is over. May be called again."""
        if self._by_name.pop(link_name(link.session.id), None) is None:
            return
        if self.links.get(link.peer) is link:
            del self.links[link.peer]
            self._party.unlinked(link)
        self._event("down", link.peer, link.socket.address, link.why)

    def end(self, peer: bytes, code: str, reason: str) -> None:
        """Ends the link to `peer`, if there is one, at once."""
        if (link := self.links.get(peer)) is not None:
            link.end(code, reason)
            self._gone(link)

    def _event(self, what: str, peer: bytes | None, address: str, why: SessionError | None = None) -> None:
        why = why or SessionError("")
        self.counts[what if why.by_peer or not why.code else f"{what} {why.code}"] += 1  # never by foreign words
        self._party.event(LinkEvent(what, peer, address, why.code, why.reason, why.by_peer))


def _is_better(hello: Hello, dialled: bool, began: float, old: Link, own: bytes) -> bool:
    """Whether a new link is to replace `old`, which is up. `began`: when the attempt for it did, loop time.

    A newer incarnation of the peer replaces an older. Of two that one side dialled, the newer stays: that side had
    given up the other. Else the one that the lower key dialled, unless `old` is silent, or was up before any attempt
    that can still be under way: then the peer has lost it, and could not say so (a half-open link).
    """
    before, now = old.session.hello.incarnation, hello.incarnation
    if before != now:
        return now > before
    if dialled == old.session.dialled or old.silent_for() > QUIET_S or began - old.since > ATTEMPT_S:
        return True
    return dialled == (own < hello.peer)
