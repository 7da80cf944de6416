"""How a second socket is bound to a link: both ends show that they know the session's id, which never travels.

After the challenge the client sends `hello.bulk` {link, mac} instead of a hello, and the server answers `bulk` {mac}.
Each mac is HMAC-SHA-256 under the session's id, of who speaks, this connection's challenge and its certificate; so it
is worth nothing on another connection, or in the other direction. No I/O.
"""

from collections.abc import Mapping
from hashlib import sha256
from hmac import compare_digest, digest
from typing import Final

from crdt import cbor

HELLO_BULK: Final = "hello.bulk"
BULK: Final = "bulk"
_LINK: Final = b"klp bulk link 1"
_CLIENT: Final = b"klp bulk client 1"
_SERVER: Final = b"klp bulk server 1"


def link_name(session_id: bytes) -> bytes:
    """32 bytes that name a link to those who know its session's id, and tell nobody what that is."""
    return sha256(_LINK + session_id).digest()


def bulk_hello(session_id: bytes, challenge: bytes, certificate: bytes) -> bytes:
    """What the client sends."""
    mac = _mac(session_id, _CLIENT, challenge, certificate)
    return cbor.encode({"t": HELLO_BULK, "link": link_name(session_id), "mac": mac})


def bulk_answer(session_id: bytes, challenge: bytes, certificate: bytes) -> bytes:
    """What the server sends."""
    return cbor.encode({"t": BULK, "mac": _mac(session_id, _SERVER, challenge, certificate)})


def is_from_client(fields: Mapping[str, object], session_id: bytes, challenge: bytes, certificate: bytes) -> bool:
    """Whether `hello.bulk` belongs to this session and this connection."""
    return fields.get("t") == HELLO_BULK and _same(fields, _mac(session_id, _CLIENT, challenge, certificate))


def is_from_server(fields: Mapping[str, object], session_id: bytes, challenge: bytes, certificate: bytes) -> bool:
    """Whether `bulk` does."""
    return fields.get("t") == BULK and _same(fields, _mac(session_id, _SERVER, challenge, certificate))


def _mac(session_id: bytes, who: bytes, challenge: bytes, certificate: bytes) -> bytes:
    return digest(session_id, who + sha256(challenge).digest() + sha256(certificate).digest(), "sha256")


def _same(fields: Mapping[str, object], mac: bytes) -> bool:
    given = fields.get("mac")
    return type(given) is bytes and compare_digest(given, mac)
