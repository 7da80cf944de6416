"""The handshake of a link: who is there, bound to this TLS connection, to fresh nonces and to all that was said.

    server → hello.challenge   a bare map: t, key, nonce, versions, roots, succession
    client → hello             COSE_Sign1, aad "klp hello client 1"
    server → hello             COSE_Sign1, aad "klp hello server 1"

Each hello holds the SHA-256 of all messages before it, byte for byte, and of the server's certificate; the id of the
session is the SHA-256 of all three. So what somebody in between takes out, puts in or keeps for later ends in another
hash, and a hello for one connection is worth nothing on another. The client checks first of all that the key in the
certificate, the key in the challenge and the key that it dialled are one, or that the challenge's row of successions
leads from the one that it dialled to the others.

Roots are told as SHA-256(nonce ‖ root), under the nonce of the message that they stand in: who does not know a root
learns nothing of it. To a root that the other side named, the chain from it to oneself goes along.

A state machine without I/O, clock or randomness: bytes come in, bytes go out, and every fault is a `SessionError` with
the code that the link is closed with. Whether the peer is trusted is asked by the caller, between `hello` and `answer`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from crdt import cbor
from federation.certificate import CertificateError, key_of
from federation.closing import SessionError, closed
from federation.cose import CoseError, sign1, verify1
from federation.envelope import Channel, EnvelopeError, decode_bare, is_bare
from federation.fields import MAX_ADDRESSES, read_byte_list, read_bytes, read_map, read_text, read_texts
from federation.identity import KEY_BYTES, NodeKey
from federation.joining import Join, Welcome
from federation.succession import MAX_STEPS

VERSIONS: Final = ("klp/1.0",)
CLIENT_AAD: Final = b"klp hello client 1"
SERVER_AAD: Final = b"klp hello server 1"
JOIN_CONTEXT: Final = b"klp join transcript 1"

MAX_HELLO: Final = 16 * 1024  # bytes of any message before trust is known
MAX_CERTS: Final = 4
MAX_CERT_BYTES: Final = MAX_HELLO // 2  # of all of them: there must be room for the rest
MAX_ROOTS: Final = 16
_HASH: Final = 32
_OTHER_KEY: Final = "another node answers at this address: its TLS key is not the one dialled"
_CHALLENGE: Final = "hello.challenge"
_HELLO: Final = "hello"


@dataclass(frozen=True, slots=True)
class Me:
    """What this node says of itself. `incarnation`: goes up with each start; `roots`: the federation roots anchored
    here; `certs`: root → the certificates of a chain from it to this node, as they travel, from the root down;
    `succession`: how it came to its key, as entries that travel, oldest first."""

    key: NodeKey
    incarnation: int
    roots: frozenset[bytes] = frozenset()
    certs: Mapping[bytes, tuple[bytes, ...]] = field(default_factory=dict)
    features: tuple[str, ...] = ()
    versions: tuple[str, ...] = VERSIONS
    succession: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Hello:
    """What the peer said of itself, its signature checked. `certs`, `succession`: entries as they travel, not looked
    at; `features`: those that both sides have; `join` and `transcript`: an invite that a client redeems, and what its
    proof signs; `welcome`: the server's answer to one."""

    peer: bytes
    version: str
    incarnation: int
    features: frozenset[str]
    certs: tuple[bytes, ...]
    join: Join | None = None
    transcript: bytes = b""
    welcome: Welcome | None = None
    succession: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Session:
    """An agreed link. `id`: 32 bytes that both sides know and nobody else; `dialled`: by this side."""

    id: bytes
    hello: Hello
    dialled: bool
    channel: Channel

    @property
    def peer(self) -> bytes:
        return self.hello.peer


class ServerHandshake:
    """The accepting side: send `challenge`, give `hello` what came, decide, send what `answer` gives."""

    def __init__(self, me: Me, certificate: bytes, nonce: bytes) -> None:
        """`certificate`: this node's, DER, as TLS showed it; `nonce`: 32 random bytes, for this connection alone."""
        self._me = me
        self._tls = sha256(certificate).digest()
        self._nonce = nonce
        self.challenge = cbor.encode(
            {
                "t": _CHALLENGE,
                "key": me.key.public,
                "nonce": nonce,
                "versions": list(me.versions),
                "roots": _masked(nonce, me.roots),
                "succession": list(me.succession),
            }
        )
        self._said = self.challenge
        self._hello: Hello | None = None
        self._peer_roots: frozenset[bytes] = frozenset()
        self._peer_nonce = b""

    def hello(self, raw: bytes) -> Hello:
        """What the client says of itself. Raises SessionError."""
        if self._hello is not None:
            raise SessionError("malformed", "a second hello")
        peer, fields = _signed(raw, CLIENT_AAD, "client")
        if peer == self._me.key.public:
            raise SessionError("self", "this node dialled itself")
        _bound(fields, peer, self._me.key.public, self._said, self._tls)
        offered = read_texts(fields, "versions")
        version = _agreed(self._me.versions, offered)
        if fields.get("version") != version:
            raise SessionError("version", f"the highest version that both speak is {version}")
        self._peer_nonce = read_bytes(fields, "nonce", _HASH)
        self._peer_roots = frozenset(read_byte_list(fields, "roots", MAX_ROOTS, _HASH))
        join = _join(fields.get("join")) if "join" in fields else None
        transcript = join_transcript(self._said, self._tls, peer, self._peer_nonce) if join else b""
        self._hello = _hello(peer, version, fields, self._me.features, join=join, transcript=transcript)
        self._said += raw
        return self._hello

    def answer(self, welcome: Welcome | None = None) -> tuple[bytes, Session]:
        """The server's hello, and the session that stands once it is sent. `welcome`: the answer to a join."""
        assert self._hello is not None, "there is no hello to answer"
        me, hello = self._me, self._hello
        fields = _said_of(me, "server", hello.peer, self._nonce, self._said, self._tls, hello.version)
        fields["certs"] = _certs_for(me, self._peer_nonce, self._peer_roots)
        if welcome is not None:
            fields["joined"] = {
                "name": welcome.name,
                "addresses": list(welcome.addresses),
                "certs": list(welcome.certs),
            }
        raw = sign1(me.key, cbor.encode(fields), SERVER_AAD)
        return raw, _session(me.key, hello, self._said + raw, dialled=False)


class ClientHandshake:
    """The dialling side: give `challenged` what came and send what it gives, then give `answered` what came."""

    def __init__(
        self,
        me: Me,
        peer: bytes,
        certificate: bytes,
        nonce: bytes,
        proof_of: Callable[[bytes], Join] | None = None,
        follow: Callable[[bytes, Sequence[bytes]], bytes] | None = None,
    ) -> None:
        """`peer`: the key that was dialled; `certificate`: the one that TLS showed, DER; `nonce`: 32 random bytes;
        `proof_of`: makes the invite's proof of the transcript that it signs; `follow`: (key, successions as they
        travel) → the key that stands in its place now. Raises SessionError at once where the certificate is another
        node's, and nothing could be followed."""
        if peer == me.key.public:
            raise SessionError("self", "this node dialled itself")
        try:
            key = key_of(certificate)
        except CertificateError as error:
            raise SessionError("wrong-key", str(error)) from None
        if key != peer and follow is None:
            raise SessionError("wrong-key", _OTHER_KEY)
        if key == me.key.public:
            raise SessionError("self", "this node dialled itself")
        self._key = key
        self._follow = follow
        self._me = me
        self._peer = peer
        self._tls = sha256(certificate).digest()
        self._nonce = nonce
        self._proof_of = proof_of
        self._said = b""
        self._version = ""
        self._peer_nonce = b""

    def challenged(self, raw: bytes) -> bytes:
        """This node's hello, in answer to the challenge. Raises SessionError."""
        if self._said:
            raise SessionError("malformed", "a second challenge")
        fields = _bare(raw, _CHALLENGE)
        if self._key != self._peer and self._follow is not None:  # it may have been changed since
            row = read_byte_list(fields, "succession", MAX_STEPS)
            if self._follow(self._peer, row) != self._key:
                raise SessionError("wrong-key", _OTHER_KEY)
            self._peer = self._key
        if read_bytes(fields, "key", KEY_BYTES) != self._peer:
            raise SessionError("wrong-key", "the key in the challenge is not the one that was dialled")
        self._peer_nonce = read_bytes(fields, "nonce", _HASH)
        self._version = _agreed(self._me.versions, read_texts(fields, "versions"))
        roots = frozenset(read_byte_list(fields, "roots", MAX_ROOTS, _HASH))
        me = self._me
        said = _said_of(me, "client", self._peer, self._nonce, raw, self._tls, self._version)
        said["versions"] = list(me.versions)
        said["roots"] = _masked(self._nonce, me.roots)
        said["certs"] = _certs_for(me, self._peer_nonce, roots)
        if self._proof_of is not None:
            join = self._proof_of(join_transcript(raw, self._tls, me.key.public, self._nonce))
            said["join"] = {
                "id": join.id,
                "proof": join.proof,
                "name": join.name,
                "addresses": list(join.addresses),
            }
        mine = sign1(me.key, cbor.encode(said), CLIENT_AAD)
        self._said = raw + mine
        return mine

    def answered(self, raw: bytes) -> Session:
        """The session, once the server's hello is there. Raises SessionError."""
        if not self._said:
            raise SessionError("malformed", "a hello before the challenge")
        peer, fields = _signed(raw, SERVER_AAD, "server")
        if peer != self._peer:
            raise SessionError("wrong-key", "the server's hello is by another key than the one that was dialled")
        _bound(fields, peer, self._me.key.public, self._said, self._tls)
        if read_bytes(fields, "nonce", _HASH) != self._peer_nonce:
            raise SessionError("malformed", "the server's hello has another nonce than its challenge")
        if fields.get("version") != self._version:
            raise SessionError("version", f"{self._version} was agreed")
        welcome = _welcome(fields.get("joined")) if "joined" in fields else None
        if (welcome is None) is not (self._proof_of is None):
            raise SessionError("malformed", "a welcome answers a join, and nothing else")
        hello = _hello(peer, self._version, fields, self._me.features, welcome=welcome)
        return _session(self._me.key, hello, self._said + raw, dialled=True)


def join_transcript(challenge: bytes, tls: bytes, joiner: bytes, nonce: bytes) -> bytes:
    """What an invite's proof signs (after JOIN_PREFIX): the challenge, the server's certificate (its SHA-256), the
    joiner's key and the nonce of its hello. It is known before that hello is."""
    return sha256(b"".join((JOIN_CONTEXT, sha256(challenge).digest(), tls, joiner, nonce))).digest()


def fit(certs: Sequence[bytes]) -> bool:
    """Whether a hello has room for these certificates, or a welcome in one."""
    return len(certs) <= MAX_CERTS and sum(map(len, certs)) <= MAX_CERT_BYTES


# Inside


def _said_of(me: Me, role: str, peer: bytes, nonce: bytes, said: bytes, tls: bytes, version: str) -> dict[str, object]:
    return {
        "t": _HELLO,
        "role": role,
        "key": me.key.public,
        "peer": peer,
        "nonce": nonce,
        "transcript": sha256(said).digest(),
        "tls": tls,
        "incarnation": me.incarnation,
        "version": version,
        "features": list(me.features),
    } | ({"succession": list(me.succession)} if role == "client" and me.succession else {})


def _signed(raw: bytes, aad: bytes, role: str) -> tuple[bytes, dict[str, object]]:
    """(signer, fields) of a hello."""
    if is_bare(raw):
        _bare(raw, _HELLO)
    if len(raw) > MAX_HELLO:
        raise SessionError("oversize", f"a hello of {len(raw):,} bytes; the most is {MAX_HELLO:,}")
    try:
        signer, payload = verify1(raw, aad, MAX_HELLO)
    except CoseError as error:
        raise SessionError("signature", f"not a hello of a {role}: {error}") from None
    try:
        fields = cbor.decode(payload)
    except cbor.CborError as error:
        raise SessionError("malformed", f"a hello is not readable: {error}") from None
    if type(fields) is not dict or fields.get("t") != _HELLO or fields.get("role") != role:
        raise SessionError("malformed", f"not the hello of a {role}")
    if fields.get("key") != signer:
        raise SessionError("malformed", "a hello names the key that signs it")
    return signer, fields


def _bare(raw: bytes, name: str) -> dict[str, object]:
    """The fields of a bare message, which must be the one with that name. A close is raised as what it says."""
    if len(raw) > MAX_HELLO:
        raise SessionError("oversize", f"a first message of {len(raw):,} bytes; the most is {MAX_HELLO:,}")
    try:
        fields = decode_bare(raw)
    except EnvelopeError as error:
        raise SessionError(error.code, error.reason) from None
    if (said := closed(fields)) is not None:
        raise said
    if fields["t"] != name or name == _HELLO:
        raise SessionError("malformed", f"expected {name}, signed as it has to be")
    return fields


def _bound(fields: Mapping[str, object], peer: bytes, own: bytes, said: bytes, tls: bytes) -> None:
    """Checks that a hello is meant for this node, this connection and this conversation."""
    if fields.get("peer") != own:
        raise SessionError("wrong-key", "this hello is meant for another node")
    if fields.get("tls") != tls:
        raise SessionError("transcript", "this hello was made for another TLS certificate: somebody is in between")
    if fields.get("transcript") != sha256(said).digest():
        raise SessionError("transcript", "this hello answers other messages than were sent here")


def _hello(
    peer: bytes,
    version: str,
    fields: Mapping[str, object],
    features: tuple[str, ...],
    *,
    join: Join | None = None,
    transcript: bytes = b"",
    welcome: Welcome | None = None,
) -> Hello:
    incarnation = fields.get("incarnation")
    if type(incarnation) is not int or not 0 <= incarnation < 1 << 63:
        raise SessionError("malformed", "incarnation must be an unsigned integer")
    common = frozenset(read_texts(fields, "features")) & frozenset(features)
    certs = tuple(read_byte_list(fields, "certs", MAX_CERTS))
    row = tuple(read_byte_list(fields, "succession", MAX_STEPS)) if "succession" in fields else ()
    return Hello(peer, version, incarnation, common, certs, join, transcript, welcome, row)


def _session(key: NodeKey, hello: Hello, said: bytes, *, dialled: bool) -> Session:
    id = sha256(said).digest()
    return Session(id, hello, dialled, Channel(key, hello.peer, id, hello.version))


def _masked(nonce: bytes, roots: frozenset[bytes]) -> list[bytes]:
    """Each root under the nonce, in an order that says nothing."""
    return sorted(sha256(nonce + root).digest() for root in sorted(roots)[:MAX_ROOTS])


def _certs_for(me: Me, nonce: bytes, masked: frozenset[bytes]) -> list[bytes]:
    """The chains to this node from the roots that the peer named, each whole, as many as there is room for."""
    certs: list[bytes] = []
    for root in sorted(me.certs):
        if sha256(nonce + root).digest() in masked and fit(longer := [*certs, *me.certs[root]]):
            certs = longer
    return certs


def _agreed(mine: tuple[str, ...], theirs: list[str]) -> str:
    """The highest version that both speak."""
    common = {version for version in mine if version in theirs}
    if not common:
        raise SessionError("version", f"no common version: {', '.join(mine)} here, {', '.join(theirs)} there")
    return max(common, key=_rank)


def _rank(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in version.partition("/")[2].split("."))


def _join(value: object) -> Join:
    fields = read_map(value, "join")
    id, proof = fields.get("id"), read_bytes(fields, "proof", 64)
    if type(id) is not bytes or not 0 < len(id) <= 64:
        raise SessionError("malformed", "join.id must be 1 to 64 bytes")
    return Join(id, proof, read_text(fields, "name"), tuple(read_texts(fields, "addresses", MAX_ADDRESSES)))


def _welcome(value: object) -> Welcome:
    fields = read_map(value, "joined")
    return Welcome(
        read_text(fields, "name"),
        tuple(read_texts(fields, "addresses", MAX_ADDRESSES)),
        tuple(read_byte_list(fields, "certs", MAX_CERTS)),
    )
