"""Deterministic CBOR once more, written to be read: what crdt.cbor is compared with. Slow, and knows no limits."""

import struct


def encode(value: object) -> bytes:
    """RFC 8949 §4.2.1, word for word: shortest heads, definite lengths, map keys sorted by their encoded bytes."""
    match value:
        case None:
            return b"\xf6"
        case bool():
            return b"\xf5" if value else b"\xf4"
        case int():
            return head(0, value) if value >= 0 else head(1, -1 - value)
        case bytes():
            return head(2, len(value)) + value
        case str():
            return head(3, len(value.encode())) + value.encode()
        case list() | tuple():
            return head(4, len(value)) + b"".join(encode(item) for item in value)
        case dict():
            members = sorted((encode(key), encode(item)) for key, item in value.items())
            return head(5, len(value)) + b"".join(key + item for key, item in members)
        case float():
            return shortest_float(value)
    raise TypeError(type(value))


def head(major: int, number: int) -> bytes:
    if number < 24:
        return bytes([major << 5 | number])
    for extra, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if number < 1 << 8 * size:
            return bytes([major << 5 | extra]) + number.to_bytes(size, "big")
    raise OverflowError(number)


def shortest_float(value: float) -> bytes:
    for first, form in ((b"\xf9", ">e"), (b"\xfa", ">f"), (b"\xfb", ">d")):
        try:
            packed = struct.pack(form, value)
        except OverflowError:
            continue
        if struct.unpack(form, packed)[0] == value:
            return first + packed
    raise ValueError(value)


def sig_structure(public: bytes, aad: bytes, payload: bytes) -> bytes:
    """RFC 9052 §4.4 for a COSE_Sign1 with protected header {1: -8, 4: public}."""
    return encode(["Signature1", encode({1: -8, 4: public}), aad, payload])
