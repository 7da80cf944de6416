"""A peer made by hand: a real key, a real link, and messages that no engine would send."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import count

from crdt.entry import MAX_LIFE_MS, Class, Entry, Fact
from federation import messages, transport
from federation.certificate import client_context
from federation.closing import SessionError
from federation.cose import sign_entry
from federation.envelope import EnvelopeError, Message, decode_bare, encode_message, is_bare
from federation.identity import NodeKey
from federation.partitions import PUBLIC_FACTS, PUBLIC_TRUST
from federation.session import ClientHandshake, Me, Session
from kosreg.times import now_ms
from tests.harness import until

_STAMPS = count(now_ms() << 16)


class Hostile:
    """`heard`: all inner messages that came, bare ones too; `closed`: (code, reason), once the node has closed."""

    def __init__(self, key: NodeKey, socket: transport.Socket, session: Session) -> None:
        self.key = key
        self.heard: list[Message] = []
        self.closed: tuple[object, object] | None = None
        self.socket = socket
        self.session = session
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        with suppress(transport.SocketClosed, EnvelopeError):
            while True:
                raw = await self.socket.receive()
                some = [decode_bare(raw)] if is_bare(raw) else self.session.channel.open(raw)
                for message in some:
                    if message["t"] == "close":
                        self.closed = message["code"], message["reason"]
                    elif message["t"] == "ping":
                        pong = {"t": "pong", "n": message["n"], "at": message["at"], "now": now_ms()}
                        await self.socket.send(encode_message(pong))
                    self.heard.append(message)

    async def say(self, *said: Mapping[str, object]) -> None:
        """Messages in one envelope, signed as they have to be."""
        sealed = self.session.channel.seal([encode_message(dict(one)) for one in said], os.urandom(16), now_ms())
        await self.socket.send(sealed)

    async def push(self, *entries: Entry | bytes) -> None:
        raws = [entry.raw if isinstance(entry, Entry) else entry for entry in entries]
        await self.say({"t": "entries", "entries": raws})

    async def opens(self, *keys: bytes) -> None:
        """Says that it takes all of these, so that the node may send and compare."""
        for tree in (PUBLIC_TRUST, PUBLIC_FACTS):
            await self.say(*messages.admits(tree, {self.key.public, *keys}, (), fresh=True))

    async def is_read(self) -> None:
        """Returns when the node has looked at all that was sent so far: it answers a ping behind it."""
        number = next(_STAMPS) & 0xFFFF_FFFF
        await self.socket.send(
            encode_message({"t": "ping", "n": number, "at": now_ms(), "cut": now_ms(), "digests": []})
        )
        await until(lambda: any(one["t"] == "pong" and one["n"] == number for one in self.heard) or self.closed)

    async def is_closed(self, code: str) -> None:
        """Waits until the node closes the link, and says why."""
        await until(lambda: self.closed is not None)
        assert self.closed is not None
        assert self.closed[0] == code, self.closed

    def sign(self, name: str | None = None, **fields: object) -> Entry:
        """An entry of its own: a public service that lives for as long as it may, where not said otherwise."""
        return sign(self.key, name, **fields)

    def sent(self, kind: str) -> list[Message]:
        return [message for message in self.heard if message["t"] == kind]

    async def leave(self) -> None:
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        await self.socket.close()


def sign(key: NodeKey, name: str | None = None, **fields: object) -> Entry:
    name = f"s{os.urandom(6).hex()}" if name is None else name
    said = {
        "kind": "service", "name": name, "stamp": next(_STAMPS), "cls": Class.PUBLIC,
        "valid_until": now_ms() + MAX_LIFE_MS, "body": {"id": name, "name": name, "type": "agent"},
    } | fields  # fmt: skip
    return sign_entry(key, Fact(**said))  # type: ignore[arg-type]


def forged(entry: Entry, signer: NodeKey) -> bytes:
    """What `signer` signed, as if the origin of `entry` had: its key in the header, another's signature behind."""
    fact = Fact(entry.kind, entry.name, entry.stamp + 1, entry.cls, entry.valid_until, None)
    return sign_entry(signer, fact).raw.replace(signer.public, entry.origin, 1)


def spoilt(entry: Entry) -> bytes:
    return entry.raw[:-1] + bytes((entry.raw[-1] ^ 1,))


@asynccontextmanager
async def link(
    address: str, node: bytes, key: NodeKey, certs: Mapping[bytes, Sequence[bytes]] | None = None
) -> AsyncIterator[Hostile]:
    """A link to the node at HOST:PORT. Raises SessionError where it gives none. `certs`: by root, for the hello."""
    socket = await transport.dial(address, client_context())
    try:
        known = {root: tuple(raws) for root, raws in (certs or {}).items()}
        me = Me(key, 1, frozenset(known), known)
        shake = ClientHandshake(me, node, socket.certificate, os.urandom(32))
        await socket.send(shake.challenged(await socket.receive()))
        session = shake.answered(await socket.receive())
    except (SessionError, transport.SocketClosed):
        await socket.close()
        raise
    peer = Hostile(key, socket, session)
    try:
        yield peer
    finally:
        await peer.leave()
