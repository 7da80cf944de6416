"""What travels on an established link: KLP messages, signed by their sender and bound to the session, and bare frames.

A KLP message is a COSE_Sign1 whose `external_aad` is the protocol's version and the session's id, so no message of one
session passes in another. Its payload map has `id` (16 bytes, UUIDv7), `from` and `to` (32 bytes each), `type`
("event"), `protocol` ("klp/1.0"), `timestamp` (ms) and `payload`: the inner messages, each a map with `t`. Several
share one signature. Where the list has more than 8 KiB, `payload` is a byte string instead: zlib of the list. It is
signed as it is sent, so nothing is inflated that the peer did not sign.

A bare frame is an inner message alone (ping, pong, close, beacons): TLS and the hello say who sent it. The first byte
tells the two apart. No I/O, no clock.

Inner messages are encoded once (`encode_message`), whoever they go to; an envelope is put together around those bytes.
"""

import zlib
from collections.abc import Sequence
from typing import Final

from crdt import cbor
from federation.cose import CoseError, sign1, verify1
from federation.identity import NodeKey

Message = dict[str, object]

MAX_FRAME: Final = 1 << 20  # bytes of an envelope, and of what its payload may inflate to
MAX_MESSAGE: Final = 768 * 1024  # bytes of one inner message: a block of entries has at most 512 KiB
MAX_BARE: Final = 16 * 1024
MAX_MESSAGES: Final = 8192  # in one envelope
COMPRESS_ABOVE: Final = 8 * 1024
_LEVEL: Final = 1  # of zlib: entries are half keys and signatures, which no level shrinks
_WORTH: Final = 0.95  # what does not shrink below this share goes as it is
_TYPE: Final = "event"
_PAYLOAD_KEY: Final = cbor.encode("payload")


class EnvelopeError(ValueError):
    """The frame is not one that the peer may send. `code`: what the link is closed with; `reason`: in words."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


def encode_message(message: Message) -> bytes:
    """One inner message as it travels. Raises ValueError where CBOR or the bound has no place for it: our own fault."""
    raw = cbor.encode(message)
    if len(raw) > MAX_MESSAGE:
        raise ValueError(f"an inner message of {len(raw):,} bytes; the most is {MAX_MESSAGE:,}")
    return raw


def is_bare(raw: bytes) -> bool:
    """Whether a frame is an inner message alone: it begins like a map."""
    return bool(raw) and raw[0] >> 5 == 5


def decode_bare(raw: bytes) -> Message:
    """The message in a bare frame. Raises EnvelopeError."""
    if len(raw) > MAX_BARE:
        raise EnvelopeError("oversize", f"a bare frame of {len(raw):,} bytes; the most is {MAX_BARE:,}")
    try:
        return _message(cbor.decode(raw))
    except cbor.CborError as error:
        raise EnvelopeError("malformed", f"a bare frame is not readable: {error}") from None


class Channel:
    """Seals what goes to one peer in one session, and opens what comes from it. `version`: as agreed, "klp/1.0"."""

    __slots__ = ("_aad", "_key", "_peer", "_version")

    def __init__(self, key: NodeKey, peer: bytes, session_id: bytes, version: str) -> None:
        self._key = key
        self._peer = peer
        self._version = version
        self._aad = version.encode() + session_id

    def seal(self, messages: Sequence[bytes], id: bytes, now_ms: int) -> bytes:
        """One envelope around inner messages that `encode_message` gave. `id`: 16 bytes, UUIDv7."""
        listed = _list_head(len(messages)) + b"".join(messages)
        if len(listed) > COMPRESS_ABOVE:
            packed = zlib.compress(listed, _LEVEL)
            if len(packed) < _WORTH * len(listed):
                listed = cbor.encode(packed)
        # The keys in their order: id, to, from, type, payload, protocol, timestamp. `listed` is encoded already.
        front = cbor.encode({"id": id, "to": self._peer, "from": self._key.public, "type": _TYPE})
        back = cbor.encode({"protocol": self._version, "timestamp": now_ms})
        payload = b"".join((b"\xa7", front[1:], _PAYLOAD_KEY, listed, back[1:]))
        return sign1(self._key, payload, self._aad)

    def open(self, raw: bytes) -> list[Message]:
        """The inner messages of an envelope from the peer. Raises EnvelopeError, with the code to close with."""
        if len(raw) > MAX_FRAME:
            raise EnvelopeError("oversize", f"an envelope of {len(raw):,} bytes; the most is {MAX_FRAME:,}")
        try:
            signer, payload = verify1(raw, self._aad, MAX_FRAME)
        except CoseError as error:
            raise EnvelopeError("signature", f"an envelope of another session, or not signed: {error}") from None
        if signer != self._peer:
            raise EnvelopeError("signature", "the envelope is signed by another key than the link's peer")
        try:
            fields = cbor.decode(payload)
            if type(fields) is not dict:
                raise EnvelopeError("malformed", "an envelope's payload is a map")
            if fields.get("from") != self._peer or fields.get("to") != self._key.public:
                raise EnvelopeError("malformed", "an envelope goes from the link's peer to this node")
            if fields.get("protocol") != self._version or type(fields.get("type")) is not str:
                raise EnvelopeError("malformed", f"an envelope has a type, and the protocol {self._version}")
            if type(id := fields.get("id")) is not bytes or len(id) != 16 or not _is_uint(fields.get("timestamp")):
                raise EnvelopeError("malformed", "an envelope has an id of 16 bytes, and a timestamp")
            listed = fields.get("payload")
            if type(listed) is bytes:
                listed = cbor.decode(_inflate(listed))
        except cbor.CborError as error:
            raise EnvelopeError("malformed", f"an envelope's payload is not readable: {error}") from None
        if type(listed) is not list or not 0 < len(listed) <= MAX_MESSAGES:
            raise EnvelopeError("malformed", f"an envelope carries a list of 1 to {MAX_MESSAGES:,} messages")
        return [_message(item) for item in listed]


def _message(item: object) -> Message:
    if type(item) is not dict or type(item.get("t")) is not str:
        raise EnvelopeError("malformed", "an inner message is a map whose `t` is text")
    return item


def _inflate(packed: bytes) -> bytes:
    inflater = zlib.decompressobj()
    try:
        plain = inflater.decompress(packed, MAX_FRAME)
    except zlib.error as error:
        raise EnvelopeError("malformed", f"a compressed payload is not readable: {error}") from None
    if inflater.unconsumed_tail or (not inflater.eof and len(plain) == MAX_FRAME):
        raise EnvelopeError("oversize", f"a payload that inflates to more than {MAX_FRAME:,} bytes")
    if not inflater.eof or inflater.unused_data:
        raise EnvelopeError("malformed", "a compressed payload is one zlib stream, and nothing after it")
    return plain


def _list_head(count: int) -> bytes:
    if count < 24:
        return bytes((0x80 | count,))
    if count < 0x100:
        return bytes((0x98, count))
    return b"\x99" + count.to_bytes(2, "big")


def _is_uint(value: object) -> bool:
    return type(value) is int and value >= 0
