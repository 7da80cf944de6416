"""Issuers other than this node whose tokens it takes: who they are, their keys, and what their tokens may at most.

Keys come from a local file only (a JWKS that an admin put there); nothing is fetched. The file is looked at again
when a token of that issuer is checked, at most every `RECHECK` seconds, and read again when it has changed. A file
that became unreadable keeps the last good keys and says so in the log.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final, Protocol

import structlog
from joserfc.jwk import Key

from kosreg.auth.caller import Scope, parse_scopes
from kosreg.auth.jose import read_jwks

RECHECK: Final = 5.0
MAX_JWKS: Final = 256 * 1024


class IssuerConfig(Protocol):
    """What the settings say of one issuer."""

    @property
    def iss(self) -> str: ...
    @property
    def jwks(self) -> Path: ...
    @property
    def scopes(self) -> Iterable[str]: ...


class OutsideIssuer:
    """One issuer, and the keys that its file held when it was last good."""

    def __init__(self, iss: str, jwks: Path, scopes: Iterable[str]) -> None:
        """Raises ScopeError. A missing or damaged key file is no error: its tokens are refused until it is there."""
        self.iss = iss
        self.path = jwks
        self.allowed: tuple[Scope, ...] = parse_scopes(scopes)
        self.keys: dict[str, Key] = {}
        self._stamp: tuple[int, int, int] | None = None
        self._look_again = float("-inf")
        self._fault = ""
        self._log = structlog.get_logger("kosreg.auth")

    def refresh(self, monotonic: float) -> bool:
        """Looks at the file if it is time to. True where there are other keys than before."""
        if monotonic < self._look_again:
            return False
        self._look_again = monotonic + RECHECK
        try:
            info = self.path.stat()
            stamp = (info.st_mtime_ns, info.st_size, info.st_ino)
            if stamp == self._stamp:
                return False
            if info.st_size > MAX_JWKS:
                raise ValueError(f"it is larger than {MAX_JWKS // 1024} KiB")
            keys, unusable = read_jwks(self.path.read_bytes())
            if not keys:
                raise ValueError("it holds no key for signatures (Ed25519, P-256, or RSA of 2048 bits)")
        except (OSError, ValueError) as error:
            if str(error) != self._fault:  # one line for each new fault, not one every five seconds
                self._fault = str(error)
                self._log.error(
                    "issuer keys unreadable", iss=self.iss, path=self.path, reason=error, kept=len(self.keys)
                )
            return False
        self.keys, self._stamp, self._fault = keys, stamp, ""
        self._log.info("issuer keys read", iss=self.iss, path=self.path, keys=len(keys), unusable=unusable)
        return True

    def key(self, kid: object) -> Key | None:
        """The key named `kid`; the only one where the token names none."""
        if kid is None:
            return next(iter(self.keys.values())) if len(self.keys) == 1 else None
        return self.keys.get(kid) if isinstance(kid, str) else None
