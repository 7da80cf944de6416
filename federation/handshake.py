"""The handshake over a socket, on either side: who is there, and may this key have a link?

`Greeter` joins the sans-I/O session with sockets, random nonces and trust. A chain that comes with a hello counts at
once where its root is anchored here, so that two nodes of one federation can link that never heard of each other.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise
from typing import Final

from crdt.entry import Class, EntryError, Key
from federation.bulk import bulk_hello, is_from_server
from federation.certificate import client_context, make_certificate, server_context
from federation.chain import Chain
from federation.closing import SessionError, close_frame, closed
from federation.cose import decode_entry, verify_entry
from federation.envelope import EnvelopeError, Message, decode_bare
from federation.grant import read_cert
from federation.identity import NodeKey, did_of
from federation.joining import Denied, Join, JoinError, Redeem, Welcome
from federation.link import FEATURE_BULK
from federation.replica import Replica
from federation.session import ClientHandshake, Hello, Me, ServerHandshake, Session
from federation.succession import MAX_STEPS
from federation.transport import PENDING_S, DialError, Socket, SocketClosed, dial
from federation.trust import Role, Trust

DIAL_S: Final = 5.0  # TCP, TLS and the upgrade
ATTEMPT_S: Final = DIAL_S + PENDING_S  # what an attempt takes at most

Redeemer = Callable[[Redeem], Awaitable[Welcome | Denied]]


def certificates_in(replica: Replica, trust: Trust, chain: Chain) -> tuple[bytes, ...] | None:
    """The certificates of `chain`, as they travel, from the root down; None where `replica` holds not all of them. What
    names a key that was changed stands for the one in its place."""
    raws = []
    for by, whom in pairwise(chain.keys):
        names = (whom, *trust.successions.former(whom))
        held = (replica.map.get(Key(by, Class.PUBLIC, None, "cert", did_of(name))) for name in names)
        newest = max((entry for entry in held if entry is not None), key=lambda entry: entry.order, default=None)
        if newest is None:
            return None
        raws.append(newest.raw)
    return tuple(raws)


def chain_in(replica: Replica, trust: Trust, wall_ms: Callable[[], int]) -> Callable[[bytes], tuple[bytes, ...]]:
    """The certificates of a chain from a root to this node, as `replica` holds them: for `Greeter`. Rather one that
    holds by this clock; () without one."""

    def certificates(root: bytes) -> tuple[bytes, ...]:
        now = wall_ms()
        chains = [chain for chain in trust.chains_to(replica.origin) if chain.keys[0] == root]
        for chain in sorted(chains, key=lambda chain: not chain.holds(now)):
            if (raws := certificates_in(replica, trust, chain)) is not None:
                return raws
        return ()

    return certificates


class Greeter:
    """This node at its door. `chain_of`: root → the certificates from it to this node, as they travel."""

    def __init__(
        self,
        key: NodeKey,
        trust: Trust,
        incarnation: int,
        wall_ms: Callable[[], int],
        redeem: Redeemer,
        chain_of: Callable[[bytes], tuple[bytes, ...]],
        succession: Sequence[bytes] = (),
    ) -> None:
        """`succession`: how this node came to its key, as entries that travel, oldest first."""
        self.key = key
        self.certificate = make_certificate(key)
        self.server_context = server_context(key, self.certificate)
        self._client_context = client_context()
        self._trust = trust
        self._incarnation = incarnation
        self._wall_ms = wall_ms
        self._redeem = redeem
        self._chain_of = chain_of
        self._succession = tuple(succession)[-MAX_STEPS:]

    def server(self) -> ServerHandshake:
        """The accepting side of one connection; its challenge goes out first."""
        return ServerHandshake(self._me(), self.certificate, os.urandom(32))

    async def accept(
        self, socket: Socket, handshake: ServerHandshake, raw: bytes, refusal: Callable[[Hello], SessionError | None]
    ) -> Session:
        """Answers a client's hello. Where it redeemed an invite (`hello.join`), that is no link yet. `refusal`:
        why a link to that peer is of no use. Raises SessionError, SocketClosed."""
        hello = handshake.hello(raw)
        welcome = None
        if hello.join is not None:
            join = hello.join
            ask = Redeem(join.id, join.proof, hello.transcript, hello.peer, join.name, join.addresses)
            answer = await self._redeem(ask)
            if isinstance(answer, Denied):
                raise SessionError(answer.code, answer.reason)
            welcome = answer
        self._succeeded(hello.peer, hello.succession)
        self._trusted(hello.peer, hello.certs)
        if welcome is None and (error := refusal(hello)) is not None:
            raise error
        frame, session = handshake.answer(welcome)
        await socket.send(frame)
        return session

    async def connect(self, address: str) -> Socket:
        """A connection to HOST:PORT, nobody having said who is there. Raises DialError, TimeoutError."""
        async with asyncio.timeout(DIAL_S):
            return await dial(address, self._client_context)

    async def greet(
        self,
        socket: Socket,
        peer: bytes,
        *,
        proof_of: Callable[[bytes], Join] | None = None,
        still: Callable[[], bool] = lambda: True,
    ) -> Session:
        """The dialling side, on a fresh connection. `still`: whether a link is wanted still, asked before this node
        says who it is. Raises SessionError, SocketClosed, TimeoutError."""
        async with asyncio.timeout(PENDING_S):
            handshake = ClientHandshake(self._me(), peer, socket.certificate, os.urandom(32), proof_of, self._follow)
            challenge = await socket.receive()
            if not still():
                raise SessionError("duplicate", "the other side was quicker")
            await socket.send(handshake.challenged(challenge))
            session = handshake.answered(await socket.receive())
        if proof_of is None:
            self._trusted(session.peer, session.hello.certs)
        return session

    async def join(self, addresses: Sequence[str], peer: bytes, proof_of: Callable[[bytes], Join]) -> Welcome:
        """Redeems an invite of `peer` at the first of `addresses` where it answers. Raises JoinError."""
        failed = JoinError("unreachable", "the invite names no address", final=True)
        for address in addresses:
            try:
                socket = await self.connect(address)
            except (DialError, TimeoutError) as error:
                failed = JoinError("unreachable", f"{address}: {words(error)}", final=False)
                continue
            last = close_frame("joined")
            try:
                session = await self.greet(socket, peer, proof_of=proof_of)
                assert session.hello.welcome is not None, "answered() has seen to it"
                return session.hello.welcome
            except SessionError as error:
                last = close_frame(error.code, error.reason)
                failed = JoinError(error.code, error.reason, final=True)
                if error.by_peer:
                    break
            except (SocketClosed, TimeoutError) as error:
                failed = JoinError("timeout", f"{address}: {words(error)}", final=False)
            finally:
                await socket.close(last)
        raise failed

    async def open_bulk(self, session: Session, socket: Socket) -> Socket:
        """A second socket to where `socket` leads, bound to the session. Raises SessionError, SocketClosed, DialError,
        TimeoutError."""
        bulk = await self.connect(socket.address)
        try:
            if bulk.certificate != socket.certificate:
                raise SessionError("wrong-key", "another node answers at this address now")
            async with asyncio.timeout(PENDING_S):
                challenge = await bulk.receive()
                first_frame(challenge)
                await bulk.send(bulk_hello(session.id, challenge, bulk.certificate))
                if not is_from_server(first_frame(await bulk.receive()), session.id, challenge, bulk.certificate):
                    raise SessionError("malformed", "the bulk socket is not of this session")
        except BaseException:
            await bulk.close()
            raise
        return bulk

    def claim(self, incarnation: int) -> None:
        """This node has another incarnation from now on."""
        self._incarnation = incarnation

    def may_link(self, peer: bytes) -> bool:
        """Whether `peer` may have a link now."""
        return self._trust.may_link(peer, self._wall_ms())

    def _me(self) -> Me:
        anchors = self._trust.anchors().values()
        roots = frozenset(anchor.key for anchor in anchors if anchor.role is Role.ROOT and anchor.revoked is None)
        certs = {root: raws for root in roots if (raws := self._chain_of(root))}
        return Me(self.key, self._incarnation, roots, certs, (FEATURE_BULK,), succession=self._succession)

    def _follow(self, key: bytes, row: Sequence[bytes]) -> bytes:
        """The key that stands in the place of `key`, which is believed here, by a row of successions too."""
        for entry in self._trust.successions.follow(row):
            self._trust.learn(entry)
        return self._trust.successions.latest(key)

    def _succeeded(self, peer: bytes, row: Sequence[bytes]) -> None:
        """Takes in how `peer` came to its key, if that leads from one that is known here."""
        if row and not self._trust.successions.former(peer):
            self._follow(peer, row)

    def _trusted(self, peer: bytes, certs: tuple[bytes, ...]) -> None:
        """Raises SessionError unless `peer` may have a link, also by the certificates that it shows."""
        for raw in certs:
            try:
                entry = decode_entry(raw)
            except EntryError as error:
                raise SessionError("malformed", f"a certificate in the hello: {error}") from None
            if entry.kind == "cert" and self._trust.may_certify(
                entry.origin, read_cert(entry).federation, self._wall_ms()
            ):
                if not verify_entry(entry):
                    raise SessionError("signature", "a certificate in the hello is not by the key that it names")
                self._trust.learn(entry)
        if not self.may_link(peer):
            raise SessionError("untrusted", f"{did_of(self.key.public)} does not trust this key")


def first_frame(raw: bytes) -> Message:
    """A bare frame of a bulk socket. A close is raised as what it says. Raises SessionError."""
    try:
        fields = decode_bare(raw)
    except EnvelopeError as error:
        raise SessionError(error.code, error.reason) from None
    if (said := closed(fields)) is not None:
        raise said
    return fields


def words(error: BaseException) -> str:
    """What to say of an error."""
    return str(error) or ("it took too long" if isinstance(error, TimeoutError) else type(error).__name__)
