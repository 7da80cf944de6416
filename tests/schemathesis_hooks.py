"""What schemathesis does not know by itself: MessagePack, both ways. Named by SCHEMATHESIS_HOOKS."""

from __future__ import annotations

from typing import Any

import msgpack
import schemathesis


@schemathesis.serializer("application/vnd.msgpack")
def pack(_context: Any, value: Any) -> bytes:
    """`value` as MessagePack; what has no such form is sent as it would be by a client that errs."""
    try:
        packed: bytes = msgpack.packb(value, default=str)
    except (OverflowError, ValueError, UnicodeEncodeError):
        return b"\xc1"
    return packed


@schemathesis.deserializer("application/vnd.msgpack")
def unpack(_context: Any, response: Any) -> Any:
    """The answer's body."""
    return msgpack.unpackb(response.content)
