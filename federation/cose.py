"""COSE_Sign1 (RFC 9052 §4.2) with EdDSA: the one place that signs entries and takes foreign ones apart.

Our messages have one shape: tag 18, protected header {1: -8, 4: <signer's public key>}, empty unprotected header,
payload attached, 64 bytes of signature. So the frame is compared byte by byte instead of being parsed: whatever is not
in deterministic encoding, or has another algorithm, a second header or a detached payload, differs in some byte. Where
it differs, `_frame_fault` looks again and says how.

Each use of a key has its own `external_aad`, so that a signature made for one thing never passes for another. No I/O,
no clock.
"""

from collections.abc import Mapping
from hashlib import sha256
from typing import Final

from crdt import cbor
from crdt.entry import MAX_ENTRY, Entry, EntryError, Fact, body_of_checked, entry_of, entry_of_checked
from federation.identity import NodeKey, verify

ENTRY_AAD: Final = b"kosreg entry 1"

SIGNATURE_BYTES: Final = 64
_HEAD: Final = bytes.fromhex(
    "d284 5826 a2 01 27 04 5820"
)  # tag 18, array of 4, protected: 38 bytes holding {1: -8, 4: 32 bytes}
_KEY_AT: Final = len(_HEAD)
_UNPROTECTED_AT: Final = _KEY_AT + 32
_PAYLOAD_AT: Final = _UNPROTECTED_AT + 1
_PROTECTED: Final = slice(2, _UNPROTECTED_AT)  # the protected header with the head of its byte string
_SIGNATURE_HEAD: Final = b"\x58\x40"
_TAIL: Final = len(_SIGNATURE_HEAD) + SIGNATURE_BYTES
_SIG_CONTEXT: Final = (
    b"\x84\x6aSignature1"  # Sig_structure: array of 4, "Signature1", protected, aad, payload (RFC 9052 §4.4)
)
_HEAD_SIZE: Final = {0x58: 2, 0x59: 3, 0x5A: 5}  # bytes of a byte string's head; 1 where the length stands in the first
_NO_ORIGINS: Final[Mapping[bytes, bytes]] = {}


class CoseError(ValueError):
    """The bytes are not a COSE_Sign1 of our shape, or the signature does not hold."""


def sign_entry(key: NodeKey, fact: Fact) -> Entry:
    """`fact` signed by `key`. Raises EntryError where strict decoding would refuse it (field, pointer) or where it is
    over 64 KiB (too_large)."""
    payload = fact.encode()
    size = _PAYLOAD_AT + 3 + len(payload) + _TAIL
    if size > MAX_ENTRY:
        raise EntryError(f"the entry would have {size:,} bytes, the most is {MAX_ENTRY:,}", too_large=True)
    raw, id = _sign1(key, payload, ENTRY_AAD)
    return Entry(
        key.public,
        fact.kind,
        fact.name,
        fact.stamp,
        fact.cls,
        fact.root,
        fact.valid_until,
        fact.body is not None,
        id,
        raw,
    )


def decode_entry(raw: bytes, origins: Mapping[bytes, bytes] = _NO_ORIGINS) -> Entry:
    """The entry in `raw`, every rule of its encoding checked, its signature not: that is `verify_entry`.

    `origins` maps a known origin to the one object that holds its bytes, so that entries share it. Raises EntryError.
    """
    if len(raw) > MAX_ENTRY:
        raise EntryError(f"the entry has {len(raw):,} bytes, the most is {MAX_ENTRY:,}", too_large=True)
    try:
        start, end = _payload_bounds(raw)
    except CoseError as error:
        raise EntryError(str(error)) from None
    origin = raw[_KEY_AT:_UNPROTECTED_AT]
    return entry_of(raw[start:end], origins.get(origin, origin), sha256(_sig_structure(raw, ENTRY_AAD)).digest(), raw)


def restore_entry(raw: bytes, id: bytes, origins: Mapping[bytes, bytes] = _NO_ORIGINS) -> Entry:
    """The entry in `raw`, which was decoded strictly before it was kept beside `id`: frame and id are checked, the
    encoding is not again.

    Raises EntryError where `raw` is not what was kept. (The id does not cover the signature: `verify_entry` does.)
    """
    try:
        start, end = _payload_bounds(raw)
    except CoseError as error:
        raise EntryError(str(error)) from None
    found = sha256(_sig_structure(raw, ENTRY_AAD)).digest()
    if found != id:
        raise EntryError(f"its content has changed: the id of what is there is {found.hex()}")
    origin = raw[_KEY_AT:_UNPROTECTED_AT]
    return entry_of_checked(raw[start:end], origins.get(origin, origin), id, raw)


def entry_id(raw: bytes) -> bytes | None:
    """The id of what may be an entry, by its frame alone, at a tenth of what decoding costs: enough to pass by what is
    held already. None where the frame is another."""
    try:
        _payload_bounds(raw)
    except CoseError:
        return None
    return sha256(_sig_structure(raw, ENTRY_AAD)).digest()


def verify_entry(entry: Entry) -> bool:
    """Whether the origin signed this entry. 54 µs: the last check, not the first."""
    return verify(*signed_of(entry))


def signed_of(entry: Entry) -> tuple[bytes, bytes, bytes]:
    """(public key, what was signed, signature): all that a check of the signature needs."""
    return entry.origin, _sig_structure(entry.raw, ENTRY_AAD), entry.raw[-SIGNATURE_BYTES:]


def fact_of(entry: Entry) -> Fact:
    """What the entry says, body included."""
    return Fact.decode(_payload_of(entry), checked=True)


def body_of(entry: Entry) -> Mapping[str, object] | None:
    """What the entry says, and no more; None for a tombstone. 5 µs instead of the 8 of `fact_of`."""
    return body_of_checked(_payload_of(entry))


def _payload_of(entry: Entry) -> bytes:
    """What was signed: the frame around it was checked when the entry was made."""
    raw = entry.raw
    return raw[_PAYLOAD_AT + _HEAD_SIZE.get(raw[_PAYLOAD_AT], 1) : -_TAIL]


def sign1(key: NodeKey, payload: bytes, aad: bytes) -> bytes:
    """COSE_Sign1 of `payload` by `key`, bound to the use that `aad` names."""
    return _sign1(key, payload, aad)[0]


def verify1(raw: bytes, aad: bytes, max_size: int = MAX_ENTRY) -> tuple[bytes, bytes]:
    """(signer's public key, payload) of a message that `sign1` made for the same `aad`. Raises CoseError: too large,
    another shape, bad signature."""
    signer, payload = read1(raw, max_size)
    if not verify(signer, _sig_structure(raw, aad), raw[-SIGNATURE_BYTES:]):
        raise CoseError("the signature does not hold")
    return signer, payload


def read1(raw: bytes, max_size: int) -> tuple[bytes, bytes]:
    """(who is said to have signed it, payload) of such a message, its signature not checked. Raises CoseError."""
    if len(raw) > max_size:
        raise CoseError(f"{len(raw):,} bytes, the most is {max_size:,}")
    start, end = _payload_bounds(raw)
    return raw[_KEY_AT:_UNPROTECTED_AT], raw[start:end]


def _sign1(key: NodeKey, payload: bytes, aad: bytes) -> tuple[bytes, bytes]:
    """(message, SHA-256 of what was signed)."""
    body = _bytes_head(len(payload)) + payload
    front = _HEAD + key.public
    signed = b"".join((_SIG_CONTEXT, front[_PROTECTED], _bytes_head(len(aad)), aad, body))
    return b"".join((front, b"\xa0", body, _SIGNATURE_HEAD, key.sign(signed))), sha256(signed).digest()


def _sig_structure(raw: bytes, aad: bytes) -> bytes:
    """The bytes that were signed (RFC 9052 §4.4), of a message whose frame was checked: its parts are already in their
    one encoding."""
    return b"".join((_SIG_CONTEXT, raw[_PROTECTED], _bytes_head(len(aad)), aad, raw[_PAYLOAD_AT:-_TAIL]))


def _payload_bounds(raw: bytes) -> tuple[int, int]:
    """Where the payload begins and ends. Raises CoseError unless all around it is exactly our frame."""
    end = len(raw) - _TAIL
    if end > _PAYLOAD_AT and raw.startswith(_HEAD) and raw[_UNPROTECTED_AT] == 0xA0:
        start = _PAYLOAD_AT + _HEAD_SIZE.get(raw[_PAYLOAD_AT], 1)
        if raw[_PAYLOAD_AT:start] == _bytes_head(end - start) and raw.startswith(_SIGNATURE_HEAD, end):
            return start, end
    raise CoseError(_frame_fault(raw))


def _bytes_head(size: int) -> bytes:
    """The head of a byte string of `size` bytes, in its shortest form."""
    if 0x100 <= size < 0x10000:  # most payloads
        return b"\x59" + size.to_bytes(2, "big")
    if size < 24:
        return bytes((0x40 | size,)) if size >= 0 else b""
    if size < 0x100:
        return bytes((0x58, size))
    return b"\x5a" + size.to_bytes(4, "big")


def _frame_fault(raw: bytes) -> str:
    """Says what is wrong with a frame. Only for the text: it is wrong whatever this finds."""
    if not raw.startswith(b"\xd2"):
        return "not a COSE_Sign1 message: it must begin with tag 18"
    if raw.startswith(b"\xd2\x84") and raw[2:3] and raw[2] >> 5 != 2:
        return "the protected header must be a byte string"
    if raw.startswith(_HEAD) and raw[_UNPROTECTED_AT:_PAYLOAD_AT] not in (b"", b"\xa0"):
        return "the unprotected header must be empty"
    try:
        parts = cbor.decode(raw[1:])
    except cbor.CborError as error:
        return f"the COSE message is not readable: {error}"
    if not isinstance(parts, list) or len(parts) != 4:
        return "a COSE_Sign1 message is a list of four"
    _, unprotected, payload, signature = parts
    if unprotected != {}:
        return "the unprotected header must be empty"
    if type(payload) is not bytes:
        return "the payload must be attached, as a byte string"
    if type(signature) is not bytes or len(signature) != SIGNATURE_BYTES:
        return "the signature must have 64 bytes"
    return (
        "the protected header must be exactly {1: -8, 4: <32 bytes of the signer's key>}, in its deterministic encoding"
    )
