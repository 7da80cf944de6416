"""What ordered sets and reconciliation are compared with: the specification, word for word, on plain lists and sets."""

from collections.abc import Iterable
from hashlib import sha256


def plain_fingerprint(keys: Iterable[bytes]) -> bytes:
    ids = [key[8:] for key in keys]
    total = sum(int.from_bytes(identity, "little") for identity in ids) % 2**256
    count, digits = len(ids), [len(ids) % 128]
    while count := count // 128:
        digits.insert(0, 128 + count % 128)
    return sha256(total.to_bytes(32, "little") + bytes(digits)).digest()[:16]


def ids_of(keys: Iterable[bytes]) -> set[bytes]:
    return {key[8:] for key in keys}
