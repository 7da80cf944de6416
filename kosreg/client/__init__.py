"""The client of a kosreg node for Python programs: find it, call it, watch it.

`address`: where the node is and what token to use; `http`: one call, one answer; `stream`: the WebSocket, resumed over
restarts; `errors`: one tree. What needs aiohttp is imported when it is first asked for, so that naming an address or
catching an error costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kosreg.client.address import Address, Target, find_node
from kosreg.client.errors import (
    ApiError,
    CannotRead,
    ClientError,
    Disconnected,
    NotRunning,
    UnexpectedAnswer,
    Unreachable,
)

if TYPE_CHECKING:
    from kosreg.client.http import Answer, Client
    from kosreg.client.stream import Frame, follow, watch

_LATER = {
    "Answer": "http", "Client": "http", "Frame": "stream", "follow": "stream", "watch": "stream",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _LATER:
        from importlib import import_module

        return getattr(import_module(f"kosreg.client.{_LATER[name]}"), name)
    raise AttributeError(name)


__all__ = [
    "Address", "Answer", "ApiError", "CannotRead", "Client", "ClientError", "Disconnected", "Frame", "NotRunning",
    "Target", "UnexpectedAnswer", "Unreachable", "find_node", "follow", "watch",
]  # fmt: skip
