"""What passes between a joiner and an inviter inside the handshake: an invite is redeemed before there is a link.

The joiner's hello carries a `Join`; the inviter's node asks its invites (`Redeem`), and says `Welcome` in its own
hello, or closes with the code of a `Denied`. What an invite is, and what a proof must be, is not known here.
"""

from dataclasses import dataclass
from typing import Final

JOIN_PREFIX: Final = b"kosreg join 1"
"""A proof is a signature by the invite's one-time key over this, and the transcript (32 bytes) that `proof_of` gets."""


@dataclass(frozen=True, slots=True)
class Join:
    """The joiner's side: which invite (`id`), the proof that it holds the secret (64 bytes), and how it calls itself
    and is reached (at most 4 addresses, HOST:PORT)."""

    id: bytes
    proof: bytes
    name: str = ""
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Redeem:
    """The question to the inviter: does `proof` hold for `transcript` (32 bytes), and is the invite good for the node
    `peer`? The hello that it came in is verified: `peer` is who asks."""

    id: bytes
    proof: bytes
    transcript: bytes
    peer: bytes
    name: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Welcome:
    """The invite was good: the joiner is trusted from now on. `certs`: entries for the joiner, as they travel."""

    name: str
    addresses: tuple[str, ...] = ()
    certs: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Denied:
    """It was not. `code`: what the link is closed with, such as `used` or `expired`."""

    code: str
    reason: str = ""


class JoinError(Exception):
    """No welcome. `code`: the inviter's, or `unreachable`, `timeout`, `wrong-key`, …; `final`: no use in trying again
    as it is."""

    def __init__(self, code: str, reason: str, *, final: bool) -> None:
        super().__init__(f"{code}: {reason}" if reason else code)
        self.code = code
        self.reason = reason
        self.final = final
