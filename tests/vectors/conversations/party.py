"""One node of a conversation without sockets: frames in, frames out, on a clock that is told.

Trust, replica, mesh, handshake and envelopes are the real ones; so are the door (`Greeter`) and the invites. What is
missing of a node is its shell: TLS, tasks, queues and the store. Commits are at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, cast

from crdt.entry import Entry
from federation.bulk import bulk_answer, bulk_hello, is_from_client, is_from_server, link_name
from federation.closing import SessionError, close_frame, closed
from federation.cose import decode_entry, entry_id, verify_entry
from federation.effects import Close, Effect, Lane, Send, Store, Verify
from federation.envelope import Message, decode_bare, encode_message, is_bare
from federation.handshake import Greeter, chain_in, first_frame
from federation.identity import NodeKey
from federation.joining import Denied, Redeem, Welcome
from federation.link import BARE
from federation.mesh import Mesh
from federation.partitions import tree_of
from federation.replica import Alert, Persist, Replica
from federation.session import ClientHandshake, Hello, Me, ServerHandshake, Session
from federation.trust import Anchor, Role, Trust
from kosreg.invites import Invites, parse_line
from kosreg.store import Invite

TICK_MS = 250
MAIN, BULK = "main", "bulk"


@dataclass(frozen=True, slots=True)
class Setup:
    """A node before the conversation. All bytes are hex. `nonces`: of each socket, by name; `anchors`: key to role;
    `holds`: entries; `invite`: the line that a client redeems; `gave`: the same line, with the server that gave it."""

    seed: str
    incarnation: int
    nonces: dict[str, str]
    features: list[str]
    versions: list[str]
    anchors: dict[str, str]
    holds: list[str]
    name: str = ""
    addresses: list[str] = field(default_factory=list)
    invite: str = ""
    gave: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Party:
    """`sent`: frames that wait to be carried: (socket, bytes); `faults`: why it would have closed the link; `over`:
    what the peer's close said; `gives`, `asks`: ids of entries that it has sent, and wanted; `said`: how many messages
    of each name."""

    def __init__(self, setup: Setup, certificate: bytes, peer: bytes | None, now_ms: int) -> None:
        """`certificate`: the server's, DER; `peer`: the key to dial, None for the server."""
        self.now = now_ms
        self.key = NodeKey(bytes.fromhex(setup.seed))
        self.trust = Trust(self.key.public)
        for key, role in setup.anchors.items():
            self.trust.put(Anchor(bytes.fromhex(key), Role(role)))
        self.replica = Replica(
            self.key, lambda entry: self.trust.admits(entry.origin, entry.cls, entry.root, entry.kind, self.now)
        )
        for raw in setup.holds:
            entry = decode_entry(bytes.fromhex(raw))
            self.replica.load(entry.raw, entry.id)
        self.replica.loaded()
        self.mesh = Mesh(self.replica, self.trust)
        self.invites = Invites([_kept(setup.gave, now_ms)] if setup.gave else [])
        self.session: Session | None = None
        self.sent: list[tuple[str, bytes]] = []
        self.faults: list[str] = []
        self.over: SessionError | None = None
        self.gives: set[bytes] = set()
        self.asks: set[bytes] = set()
        self.said: Counter[str] = Counter()
        self._setup = setup
        self._certificate = certificate
        self._peer = peer
        self._greeter = Greeter(
            self.key,
            self.trust,
            setup.incarnation,
            lambda: self.now,
            _nobody_asks,
            chain_in(self.replica, self.trust, lambda: self.now),
        )
        self._server: ServerHandshake | None = None
        self._client: ClientHandshake | None = None
        self._greeted = False
        self._bulk_challenge = b""
        self._bulk_up = False
        self._push: list[bytes] = []
        self._blocks: list[bytes] = []
        self._count = 0

    # What happens to it

    def opens(self, socket: str) -> None:
        """A socket was dialled, by the client; the server says the first word."""
        if self._peer is None:
            nonce = bytes.fromhex(self._setup.nonces[socket])
            handshake = ServerHandshake(self._me(), self._certificate, nonce)
            if socket == MAIN:
                self._server = handshake
            else:
                self._bulk_challenge = handshake.challenge
            self.sent.append((socket, handshake.challenge))
        elif socket == MAIN:
            line = self._setup.invite
            self._client = ClientHandshake(
                self._me(),
                self._peer,
                self._certificate,
                bytes.fromhex(self._setup.nonces[socket]),
                (lambda transcript: parse_line(line).proof(transcript, self._setup.name, tuple(self._setup.addresses)))
                if line
                else None,
            )

    def hear(self, socket: str, raw: bytes) -> None:
        """A frame of the peer came. Raises SessionError, EnvelopeError where the link would be closed for it."""
        if self.session is None:
            self._hear_hello(raw)
        elif socket == BULK and not self._bulk_up:
            self._hear_bulk(self.session, raw)
        elif not is_bare(raw):
            self._take_in(self.session.channel.open(raw))
        elif (said := closed(message := decode_bare(raw))) is not None:
            if not said.by_peer:
                raise said
            self.over = said
            self.mesh.closed(self.session.peer, self.now)
        elif message["t"] in BARE:
            self._take_in([message])

    def takes(self, raw: bytes) -> None:
        """It says an entry of its own, or got one of somebody else from a third node."""
        entry = decode_entry(raw)
        if entry.origin == self.key.public:
            found: list[Any] = [Persist((entry,), self.now)]
        else:
            found = list(self.replica.receive(raw, self.now))
        for effect in found:
            assert isinstance(effect, Persist), effect
            self.replica.persisted(effect)
            self._do(self.mesh.merged([(effect.entries, None)], self.now))
        self._flush()

    def until(self, at_ms: int) -> None:
        """Time goes by."""
        while self.now < at_ms:
            self.now = min(self.now + TICK_MS, at_ms)
            self._do(self.mesh.tick(self.now))
            self._flush()

    def ends(self, code: str) -> None:
        """It closes the link."""
        self.sent.append((MAIN, close_frame(code)))
        if self.session is not None:
            self.mesh.closed(self.session.peer, self.now)

    # What it is then

    def held(self) -> dict[str, list[str]]:
        """Ids of what it holds, by tree; `home`: what is in none."""
        found: dict[str, list[str]] = {}
        for entry in self.replica.map:
            found.setdefault(_tree_name(entry), []).append(entry.id.hex())
        return {name: sorted(ids) for name, ids in sorted(found.items())}

    def trusted(self) -> dict[str, str]:
        """The keys that it has anchored, and as what."""
        return {key.hex(): anchor.role.value for key, anchor in sorted(self.trust.anchors().items())}

    # Inside

    def _me(self) -> Me:
        return replace(self._greeter._me(), features=tuple(self._setup.features), versions=tuple(self._setup.versions))

    def _hear_hello(self, raw: bytes) -> None:
        if self._server is not None:
            hello = self._server.hello(raw)
            welcome = self._welcome(hello)
            self._greeter._trusted(hello.peer, hello.certs)
            answer, self.session = self._server.answer(welcome)
            self.sent.append((MAIN, answer))
            if welcome is None:
                self._stands()
            return
        assert self._client is not None, "nothing was dialled"
        if not self._greeted:
            self._greeted = True
            self.sent.append((MAIN, self._client.challenged(raw)))
            return
        self.session = self._client.answered(raw)
        if (welcomed := self.session.hello.welcome) is not None:
            self.trust.put(Anchor(self.session.peer, Role.PEER, welcomed.name, welcomed.addresses))
            return
        self._greeter._trusted(self.session.peer, self.session.hello.certs)
        self._stands()

    def _welcome(self, hello: Hello) -> Welcome | None:
        if (join := hello.join) is None:
            return None
        asked = Redeem(join.id, join.proof, hello.transcript, hello.peer, join.name, join.addresses)
        if isinstance(answer := self.invites.judge(asked, self.now), Denied):
            raise SessionError(answer.code, answer.reason)
        self.trust.put(Anchor(hello.peer, Role.PEER, join.name, join.addresses))
        return Welcome(self._setup.name, tuple(self._setup.addresses))

    def _stands(self) -> None:
        assert self.session is not None
        self._do(self.mesh.opened(self.session.peer, self.now))
        self._flush()

    def _hear_bulk(self, session: Session, raw: bytes) -> None:
        fields = first_frame(raw)
        if self._peer is None:
            if fields.get("link") != link_name(session.id):
                raise SessionError("unknown", "this node has no such link")
            if not is_from_client(fields, session.id, self._bulk_challenge, self._certificate):
                raise SessionError("signature", "this does not belong to the link that it names")
            self.sent.append((BULK, bulk_answer(session.id, self._bulk_challenge, self._certificate)))
        elif not self._bulk_challenge:
            self._bulk_challenge = raw
            self.sent.append((BULK, bulk_hello(session.id, raw, self._certificate)))
            return
        elif not is_from_server(fields, session.id, self._bulk_challenge, self._certificate):
            raise SessionError("malformed", "the bulk socket is not of this session")
        self._bulk_up = True

    def _take_in(self, messages: Iterable[Message]) -> None:
        assert self.session is not None
        for message in messages:
            self._do(self.mesh.received(self.session.peer, message, self.now))
        self._flush()

    def _do(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(_, message, lane):
                    self._send(message, lane)
                case Store(persist, peer):
                    self.replica.persisted(persist)
                    self._do(self.mesh.merged([(persist.entries, peer)], self.now))
                case Verify(_, entries):
                    self.mesh.verified(effect, [verify_entry(entry) for entry in entries])
                case Close(_, code, reason):
                    self.faults.append(f"{code}: {reason}")
                case Alert():
                    self.faults.append(effect.text)

    def _send(self, message: Message, lane: Lane) -> None:
        self.said[str(message["t"])] += 1
        some = message.get("entries")
        for raw in some if isinstance(some, list) else ():
            self.gives.add(entry_id(raw) or b"")
        if message["t"] == "want":
            self.asks.update(cast(list[bytes], message["ids"]))
        encoded = encode_message(message)
        if lane is Lane.BARE:
            self.sent.append((MAIN, encoded))
        else:
            (self._push if lane is Lane.PUSH else self._blocks).append(encoded)

    def _flush(self) -> None:
        """Does what waits, and seals what came of it: news together, each block by itself."""
        while self.mesh.busy or self._push or self._blocks:
            while self.mesh.busy:
                self._do(self.mesh.work(self.now))
            if self.session is None:
                return
            if self._push:
                self._seal(MAIN, self._push)
                self._push = []
            if self._blocks:
                self._seal(BULK if self._bulk_up else MAIN, [self._blocks.pop(0)])
                self._do(self.mesh.sent(self.session.peer, self.now))

    def _seal(self, socket: str, messages: list[bytes]) -> None:
        assert self.session is not None
        self._count += 1
        id = self.now.to_bytes(6, "big") + (0x7000 | self._count).to_bytes(2, "big") + b"\x80" + self.key.public[:7]
        self.sent.append((socket, self.session.channel.seal(messages, id, self.now)))


def _tree_name(entry: Entry) -> str:
    tree = tree_of(entry)
    if tree is None:
        return "home"
    if tree.root is not None:
        return f"internal {tree.root.hex()}"
    return "public trust" if tree.trust else "public facts"


def _kept(line: str, now_ms: int) -> Invite:
    said = parse_line(line)
    return Invite(said.id, NodeKey(said.secret).public, "", now_ms, said.expiry)


async def _nobody_asks(asked: Redeem) -> Welcome | Denied:
    raise AssertionError("a party judges invites by itself")
