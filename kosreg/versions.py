"""Versions as clients hold them: opaque, and true across restarts.

A version is the number of a change (`seq`), sealed as one AES block under a key of this store. Sealed, since the
plain number would count for everybody what hidden services do; one block, since the eight zero bytes behind the
number tell a version of ours from any other text.
"""

from __future__ import annotations

import base64
import binascii
from functools import lru_cache

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

_ZEROS = bytes(8)


class Versions:
    """`seq` to text and back."""

    def __init__(self, key: bytes) -> None:
        """`key`: 16 bytes, the same for the life of the store."""
        self._cipher = Cipher(algorithms.AES(key), modes.ECB())  # noqa: S305 - one block, always another number
        self.text = lru_cache(maxsize=4096)(self._text)

    def _text(self, seq: int) -> str:
        """The version for `seq`: 22 characters of base64url."""
        block = self._cipher.encryptor().update(seq.to_bytes(8, "big") + _ZEROS)
        return base64.urlsafe_b64encode(block)[:22].decode()

    def number(self, version: str) -> int | None:
        """The `seq` of a version that `text` made with the same key, else None."""
        try:
            block = base64.urlsafe_b64decode(version + "==") if len(version) == 22 else b""
        except (binascii.Error, ValueError):
            return None
        if len(block) != 16:
            return None
        plain = self._cipher.decryptor().update(block)
        return int.from_bytes(plain[:8], "big") if plain[8:] == _ZEROS else None
