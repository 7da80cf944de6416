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
    """The link cannot be. `code`: what it is closed with; `reason`: in words; `by_peer`: the other side said so."""

    def __init__(self, code: str, reason: str = "", *, by_peer: bool = False) -> None:
        super().__init__(f"{code}: {reason}" if reason else code)
        self.code = code
        self.reason = reason
        self.by_peer = by_peer


def close_frame(code: str, reason: str = "") -> bytes:
    """The last frame on a link, in either direction, whenever."""
    return cbor.encode({"t": _CLOSE, "code": code[:_MAX_CODE], "reason": reason[:_MAX_REASON]})


def closed(fields: Mapping[str, object]) -> SessionError | None:
    """What a bare frame says, if it is a close."""
    if fields.get("t") != _CLOSE:
        return None
    code, reason = fields.get("code"), fields.get("reason", "")
    if type(code) is not str or len(code) > _MAX_CODE or type(reason) is not str or len(reason) > _MAX_REASON:
        return SessionError("malformed", "a close has a code, and a short reason")
    return SessionError(code, reason, by_peer=True)
