"""What can go wrong between a program and its node, as one small tree.

Every error carries the words for the person at the end (`title`, `detail`, `hint`: what to do next) and nothing else
decides on its text: the CLI prints it, a log holds it, `str(error)` is it. Faults of the caller's own code (a bad
argument) stay `ValueError` and `TypeError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class ClientError(Exception):
    """The common base: `except ClientError` catches whatever a node or the way to it can answer."""

    def __init__(self, title: str, detail: str = "", hint: str = "") -> None:
        super().__init__(title, detail, hint)
        self.title = title
        self.detail = detail
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.title}: {self.detail}" if self.detail else self.title
        return f"{text} ({self.hint})" if self.hint else text


class Unreachable(ClientError):
    """Nobody answered, or not in time: nothing runs, the address is wrong, TLS does not fit."""


class NotRunning(Unreachable):
    """The data directory names no living node."""


class CannotRead(ClientError):
    """A file that says where the node is, or who we are, cannot be read by this user."""


class UnexpectedAnswer(ClientError):
    """Something answered that is not a kosreg node, or a node of another release."""


class Disconnected(ClientError):
    """A WebSocket ended. `code` is its close code (RFC 6455 §7.4 and the node's own 44xx)."""

    def __init__(self, code: int, reason: str = "") -> None:
        meaning = CLOSE_CODES.get(code, "the connection ended")
        super().__init__(meaning, reason, f"close code {code}")
        self.code = code

    @property
    def lasting(self) -> bool:
        """Whether connecting again with the same token and the same words would end the same way."""
        return self.code in (4401, 4403, 4413, 1002, 1003, 1007, 1009)


CLOSE_CODES: Mapping[int, str] = {
    1000: "the node closed the connection",
    1001: "the node is going away",
    1006: "the connection was lost",
    1012: "the node is restarting",
    1013: "the token's subject has too many WebSockets open",
    4401: "the token is not valid, has expired, or was revoked",
    4403: "the token's scopes do not allow this",
    4408: "the token came too late",
    4413: "a message was too large",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a refused body: where (a JSON pointer, RFC 6901) and what."""

    pointer: str
    detail: str


class ApiError(ClientError):
    """The node refused: an RFC 9457 problem. `slug` is the last part of its `type`."""

    def __init__(self, status: int, problem: Mapping[str, Any], body: bytes, retry_after: float | None = None) -> None:
        title = str(problem.get("title") or f"HTTP {status}")
        super().__init__(title, str(problem.get("detail") or ""))
        self.status = status
        self.slug = str(problem.get("type") or "about:blank").rpartition(":")[2]
        self.faults = tuple(
            Fault(str(fault.get("pointer", "")), str(fault.get("detail", "")))
            for fault in problem.get("errors") or ()
            if isinstance(fault, Mapping)
        )
        self.body = body
        self.retry_after = retry_after
        """Seconds to wait before the same call may be tried again; None where the node named none."""
