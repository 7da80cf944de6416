"""Versions as clients hold them: opaque, and true across restarts.

A version is the number of a change (`seq`), sealed as one AES block under a key of this store. Sealed, since the
plain number would count for everybody what hidden services do; one block, since the zero bytes at its end tell a
version of ours from any other text. Between the two lies what tells equal numbers apart: of a list, how many it holds
(with the number of its newest change, that says whether it is still the same: see `Registry.wait`); of a cursor that is
no visible change's own a salt, since equal texts would tell that nothing hidden has changed.
"""

from __future__ import annotations

import base64
import binascii
import os
from functools import lru_cache

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

NOWHERE = (1 << 64) - 1  # a number that no change has: whoever wants to go on from there begins anew
_ZEROS = bytes(4)


class Versions:
    """`seq` to text and back."""

    def __init__(self, key: bytes) -> None:
        """`key`: 16 bytes, the same for the life of the store."""
        self._cipher = Cipher(algorithms.AES(key), modes.ECB())  # noqa: S305 - one block, always another number
        self.text = lru_cache(maxsize=4096)(self._text)

    def _text(self, seq: int, count: int = 0) -> str:
        """The version for `seq`: 22 characters of base64url. `count`: how many a list of this version holds."""
        block = self._cipher.encryptor().update(seq.to_bytes(8, "big") + count.to_bytes(4, "big") + _ZEROS)
        return base64.urlsafe_b64encode(block)[:22].decode()

    def salted(self, seq: int) -> str:
        """A version for `seq` that is hardly ever the same twice."""
        return self._text(seq, int.from_bytes(os.urandom(4), "big"))

    def number(self, version: str) -> int | None:
        """The `seq` of a version that was made with the same key, else None."""
        opened = self.opened(version)
        return None if opened is None else opened[0]

    def opened(self, version: str) -> tuple[int, int] | None:
        """(seq, count) of a version that was made with the same key, else None."""
        try:
            block = base64.urlsafe_b64decode(version + "==") if len(version) == 22 else b""
        except (binascii.Error, ValueError):
            return None
        if len(block) != 16:
            return None
        plain = self._cipher.decryptor().update(block)
        if plain[12:] != _ZEROS:
            return None
        return int.from_bytes(plain[:8], "big"), int.from_bytes(plain[8:12], "big")
