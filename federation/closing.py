"""How a link ends: a code for programs, a reason for people, and the frame that says both.

Any word may come as a code. `CODES` are those that this node says.
"""

from collections.abc import Mapping
from typing import Final

from crdt import cbor

CODES: Final[Mapping[str, str]] = {
    "untrusted": "the peer is not trusted here",
    "revoked": "the peer was trusted here, and is no more",
    "self": "the node dialled itself",
    "wrong-key": "another key answers, or is meant, than the one that was dialled",
    "transcript": "the hello was made for another connection or another conversation",
    "signature": "a signature does not hold, or is for another session",
    "version": "no common version",
    "malformed": "a message is not as it has to be",
    "oversize": "a message is larger than it may be",
    "too-much": "the peer names more than one link may",
    "duplicate": "another link to the peer is up, and stays",
    "twin": "another node with the same key has a link, and was started later",
    "bad-beacon": "a beacon is not by the node that it names",
    "replaced": "a newer link to the peer took the place of this one",
    "unknown": "there is no such link, or no such invite",
    "silent": "nothing came for 15 s",
    "joined": "an invite was redeemed, and that is all that this connection was for",
    "restarting": "the node stops, and means to come back",
    "internal": "this node made a mistake",
}
_CLOSE: Final = "close"
_MAX_CODE: Final = 64  # characters
_MAX_REASON: Final = 1024


class SessionError(Exception):
    """The link cannot be. `code`: what it is closed with; `reason`: in words; `by_peer`: the other side said so;
    `beacon`: by which the reason is shown to hold."""

    def __init__(self, code: str, reason: str = "", *, by_peer: bool = False, beacon: bytes = b"") -> None:
        super().__init__(f"{code}: {reason}" if reason else code)
        self.code = code
        self.reason = reason
        self.by_peer = by_peer
        self.beacon = beacon


def close_frame(code: str, reason: str = "", beacon: bytes = b"") -> bytes:
    """The last frame on a link, in either direction, whenever."""
    fields: dict[str, object] = {"t": _CLOSE, "code": code[:_MAX_CODE], "reason": reason[:_MAX_REASON]}
    if beacon:
        fields["beacon"] = beacon
    return cbor.encode(fields)


def closed(fields: Mapping[str, object]) -> SessionError | None:
    """What a bare frame says, if it is a close."""
    if fields.get("t") != _CLOSE:
        return None
    code, reason = fields.get("code"), fields.get("reason", "")
    if type(code) is not str or len(code) > _MAX_CODE or type(reason) is not str or len(reason) > _MAX_REASON:
        return SessionError("malformed", "a close has a code, and a short reason")
    beacon = fields.get("beacon", b"")
    return SessionError(code, reason, by_peer=True, beacon=beacon if type(beacon) is bytes else b"")
