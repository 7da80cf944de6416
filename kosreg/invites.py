"""Invites: the line that an admin hands over, and what the inviter keeps of it.

The line is `kosreg1:` and base64url, without padding, of CBOR followed by 4 bytes of SHA-256 over the prefix and that
CBOR. In it is the seed of a one-time key; the inviter keeps the public half alone, so that its store gives no invite
away. Whoever joins signs the transcript of its handshake with that key.

An invite belongs to the first node that redeems it, until it expires: the same node may redeem it again, and gets the
same answer, so that a join that was cut off anywhere can be repeated. Nobody else may.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from crdt import cbor
from federation.identity import KEY_BYTES, SEED_BYTES, NodeKey, did_of, verify
from federation.joining import JOIN_PREFIX, Denied, Join, Redeem
from federation.trust import MAX_ADDRESSES
from kosreg.listen import Listen
from kosreg.store import Invite

PREFIX: Final = "kosreg1:"
DEFAULT_TTL: Final = 3600  # s
MIN_TTL: Final = 10
MAX_TTL: Final = 30 * 86_400
MAX_LINE: Final = 4096  # characters
MAX_OPEN: Final = 1000  # invites that have not expired
KEPT_MS: Final = 30 * 86_400_000  # how long an invite is listed after it expired
ID_BYTES: Final = 16
_CHECKSUM: Final = 4  # bytes: a slip of the hand or of a clipboard, not an attack


class InviteError(ValueError):
    """The line is no invite that can be redeemed here. The text says what to do."""


@dataclass(frozen=True, slots=True)
class InviteLine:
    """What the line says. `addresses`: HOST:PORT of the inviter; `key`: its node key; `id`: of the invite; `secret`:
    the seed of the one-time key; `expiry`: ms since 1970; `grant`: {} where the two trust each other's key; else
    `federation`, the root key of the one that the joiner becomes a member of, and `name`, what its inviter calls it."""

    addresses: tuple[str, ...]
    key: bytes
    id: bytes
    secret: bytes
    expiry: int
    grant: dict[str, object]

    @property
    def federation(self) -> bytes | None:
        """The root key of the federation that the joiner becomes a member of."""
        root = self.grant.get("federation")
        assert root is None or isinstance(root, bytes)
        return root

    def __repr__(self) -> str:
        return f"<InviteLine {self.id.hex()} of {did_of(self.key)}>"

    def encode(self) -> str:
        """The line, without a line's end."""
        body = cbor.encode(
            {
                "addresses": list(self.addresses),
                "key": self.key,
                "id": self.id,
                "secret": self.secret,
                "expiry": self.expiry,
                "grant": self.grant,
            }
        )
        return PREFIX + base64.urlsafe_b64encode(body + _checksum(body)).decode().rstrip("=")

    def proof(self, transcript: bytes, name: str, addresses: tuple[str, ...]) -> Join:
        """What the joiner says in its hello: that it holds the secret, how it is called and reached."""
        return Join(self.id, NodeKey(self.secret).sign(JOIN_PREFIX + transcript), name, addresses)


def parse_line(text: str) -> InviteLine:
    """What `text` says, blanks around it aside. Whether it has expired is not looked at. Raises InviteError."""
    line = text.strip()
    if not line:
        raise InviteError("there is no invite: give the line that `kosreg peers invite` printed on the other node")
    if not line.startswith(PREFIX):
        if line.startswith("kosreg") and ":" in line[:16]:
            raise InviteError(f"the invite is of another release ({line.partition(':')[0]}:): update kosreg here")
        raise InviteError(f"not an invite: the line begins with {PREFIX}")
    if len(line) > MAX_LINE:
        raise InviteError(f"not an invite: it has {len(line)} characters, the most is {MAX_LINE}")
    if any(char.isspace() for char in line):
        raise InviteError("the invite was broken over several lines, or has blanks in it: copy it as one line")
    try:
        digits = line.removeprefix(PREFIX)
        raw = base64.b64decode(digits + "=" * (-len(digits) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise InviteError(f"the invite is not whole, or was changed ({len(line)} characters): copy it again") from None
    body, checksum = raw[:-_CHECKSUM], raw[-_CHECKSUM:]
    if checksum != _checksum(body) or base64.urlsafe_b64encode(raw).decode().rstrip("=") != digits:
        raise InviteError(f"the invite is not whole, or was changed ({len(line)} characters): copy it again")
    return _line(body)


def _line(body: bytes) -> InviteLine:
    try:
        fields = cbor.decode(body)
        if type(fields) is not dict:
            raise ValueError("not a map")
        found = InviteLine(
            addresses=usable(fields["addresses"]),
            key=_bytes(fields["key"], KEY_BYTES),
            id=_bytes(fields["id"], ID_BYTES),
            secret=_bytes(fields["secret"], SEED_BYTES),
            expiry=fields["expiry"],
            grant=fields["grant"],
        )
        if type(found.expiry) is not int or found.expiry < 0 or type(found.grant) is not dict:
            raise ValueError("expiry or grant")
        if found.grant:
            _bytes(found.grant["federation"], KEY_BYTES)
            if type(found.grant.get("name", "")) is not str:
                raise ValueError("the federation's name is no text")
    except (KeyError, ValueError) as error:
        raise InviteError(f"the invite cannot be read ({error}): it is of another release, or was forged") from None
    if not found.addresses:
        raise InviteError("the invite names no address where the other node can be reached: ask for a new one")
    return found


def usable(addresses: object, most: int = MAX_ADDRESSES) -> tuple[str, ...]:
    """Those of `addresses` that can be dialled (HOST:PORT), each once, at most `most`. Raises ValueError where it is no
    list of texts."""
    if not isinstance(addresses, list | tuple):
        raise ValueError("addresses is no list")
    kept: dict[str, None] = {}
    for text in addresses[: 4 * most]:
        if type(text) is not str:
            raise ValueError("an address is no text")
        try:
            listen = Listen.parse(text)
        except ValueError:
            continue
        if listen.kind == "tcp" and listen.port:
            kept[listen.authority] = None
    return tuple(kept)[:most]


class Invites:
    """Those that this node gave out, by id. Values in and out: whoever calls writes them down."""

    def __init__(self, invites: Iterable[Invite] = ()) -> None:
        self._invites = {invite.id: invite for invite in invites}

    def all(self) -> list[Invite]:
        """Oldest first."""
        return sorted(self._invites.values(), key=lambda invite: (invite.created, invite.id))

    def put(self, invite: Invite) -> None:
        """It is on disk."""
        self._invites[invite.id] = invite

    def forget(self, ids: Iterable[bytes]) -> None:
        """They are on disk no more."""
        for id in ids:
            self._invites.pop(id, None)

    def open(self, now_ms: int) -> int:
        """How many can still be redeemed by somebody."""
        return sum(invite.joiner is None and invite.expires > now_ms for invite in self._invites.values())

    def old(self, now_ms: int) -> list[bytes]:
        """Those that expired so long ago that nobody asks for them any more."""
        return [id for id, invite in self._invites.items() if invite.expires < now_ms - KEPT_MS]

    def judge(self, asked: Redeem, now_ms: int) -> Invite | Denied:
        """The invite that `asked` may have. A node that does not hold the secret learns of an invite nothing but that
        it holds none."""
        invite = self._invites.get(asked.id)
        if invite is None or not verify(invite.public, JOIN_PREFIX + asked.transcript, asked.proof):
            return Denied("unknown", "this node has no such invite")
        if invite.expires <= now_ms:
            return Denied("expired", "the invite has expired: ask for a new one")
        if invite.joiner is not None and invite.joiner != asked.peer:
            return Denied("used", "another node has joined with this invite: ask for a new one")
        return invite


def make(
    key: bytes,
    addresses: tuple[str, ...],
    name: str,
    now_ms: int,
    ttl: int = DEFAULT_TTL,
    federation: tuple[bytes, str] | None = None,
) -> tuple[InviteLine, Invite]:
    """A new invite of the node with this key: what is handed over, and what is kept. `ttl`: s; `federation`: root key
    and name of the one that the joiner becomes a member of."""
    secret = os.urandom(SEED_BYTES)
    expires = now_ms + ttl * 1000
    grant: dict[str, object] = {} if federation is None else {"federation": federation[0], "name": federation[1]}
    line = InviteLine(addresses, key, os.urandom(ID_BYTES), secret, expires, grant)
    return line, Invite(line.id, NodeKey(secret).public, name, now_ms, expires, federation=line.federation)


def _checksum(body: bytes) -> bytes:
    return sha256(PREFIX.encode() + body).digest()[:_CHECKSUM]


def _bytes(value: object, size: int) -> bytes:
    if type(value) is not bytes or len(value) != size:
        raise ValueError(f"{size} bytes are expected")
    return value
