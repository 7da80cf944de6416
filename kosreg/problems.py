"""What a refused call is told: problem details of RFC 9457.

One table says which problems there are, with their HTTP status and title. A `Problem` is raised wherever a call turns
out to be impossible and is rendered in one place, the API's wrapper; the WebSocket and the command line show its text.
`detail` always says what to do next, so each slug has one that does when the caller of `Problem.of` has nothing better.

Constructors beside `of` are for the problems whose HTTP headers belong to the answer: 401 and 403 of RFC 6750, 405 with
`Allow`, 429 with `Retry-After`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NotRequired, Self, TypedDict

TYPE_PREFIX: Final = "urn:kosreg:problem:"
REALM: Final = 'Bearer realm="kosreg"'
MAX_ERRORS: Final = 100
"""Faults in one answer. A body of 256 KiB can hold thousands; nobody reads more, and the answer must stay bounded."""


Fault = dict[str, str]
"""One fault of a body: `pointer` (RFC 6901; "" is the whole body) and `detail`."""


class ProblemDict(TypedDict):
    """The JSON object of RFC 9457. `errors` as in its own example of validation faults."""

    type: str
    title: str
    status: int
    detail: str
    errors: NotRequired[list[Fault]]


@dataclass(frozen=True, slots=True)
class Kind:
    """One row of the table: HTTP status, title, and the detail for those who have no better one."""

    status: int
    title: str
    detail: str


KINDS: Final[Mapping[str, Kind]] = MappingProxyType(
    {
        "malformed": Kind(
            400, "Malformed request", "The request cannot be read. See /docs for what this route expects."
        ),
        "unauthenticated": Kind(
            401,
            "No valid token",
            "Send a token as `Authorization: Bearer …`. An admin makes one with `kosreg token issue SUBJECT`.",
        ),
        "forbidden": Kind(
            403, "Not yours", "Only its owner or an admin may do this. Use a token of the owner, or ask an admin."
        ),
        "out-of-scope": Kind(
            403,
            "Out of scope",
            "The token does not reach this far. Ask an admin for one that does: "
            "`kosreg token issue SUBJECT --scope ACTION:RESOURCE:NAME`.",
        ),
        "foreign-host": Kind(
            403,
            "Foreign Host",
            "The Host header names a host that this node does not answer to. Add the name to api.allowed_hosts.",
        ),
        "foreign-origin": Kind(
            403,
            "Foreign Origin",
            "Pages of other origins may not call this API. Call it from a program, or from a page of the node itself.",
        ),
        "not-found": Kind(
            404, "Not found", "There is nothing here that this token may read. Check the id, or register it."
        ),
        "method-not-allowed": Kind(
            405,
            "Method not allowed",
            "This route does not take this method. The Allow header lists those that it takes.",
        ),
        "not-acceptable": Kind(
            406, "Not acceptable", "Ask for one of the types that this route offers; application/json always is."
        ),
        "timeout": Kind(408, "Too slow", "The body did not arrive in time. Send the request again."),
        "conflict": Kind(409, "Conflict", "The state of the registry does not allow this. Read it again, then decide."),
        "gone": Kind(
            410, "Gone", "This version or cursor is too old, or another node's. Ask again without it to begin anew."
        ),
        "too-large": Kind(
            413, "Too large", "The request is larger than this node takes. Send less, or in several requests."
        ),
        "unsupported-media-type": Kind(
            415,
            "Unsupported media type",
            "Send application/json or application/vnd.msgpack, and say so in Content-Type.",
        ),
        "invalid": Kind(422, "Invalid", "The request is well-formed but cannot be done. Mend what `errors` lists."),
        "rate-limited": Kind(429, "Too many requests", "Wait as long as Retry-After says, then go on more slowly."),
        "internal": Kind(
            500,
            "Internal error",
            "This is a fault of the node. Its log has the details under the request id of this answer.",
        ),
        "unavailable": Kind(503, "Not available", "The node cannot do this now. Try again in a moment."),
        "store-full": Kind(
            507, "Store full", "The node has no room left on its disk. Reads go on; make room, then send it again."
        ),
    }
)


class Problem(Exception):
    """A refused call, ready to be shown.

    `slug`, `status` and `title` come from `KINDS`; `errors` holds faults of the body; `headers` are HTTP headers that
    the answer must carry; `extra` are further members of the JSON object (RFC 9457 §3.2).
    """

    def __init__(
        self,
        slug: str,
        detail: str | None = None,
        *,
        errors: Iterable[Fault] = (),
        headers: Mapping[str, str] | None = None,
        title: str | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> None:
        kind = KINDS[slug]
        self.slug = slug
        self.status = kind.status
        self.title = title or kind.title
        self.detail = detail or kind.detail
        self.errors: list[Fault] = list(errors)
        self.headers: dict[str, str] = dict(headers) if headers else {}
        self.extra: dict[str, object] = dict(extra) if extra else {}
        super().__init__(self.detail)

    @classmethod
    def of(
        cls,
        slug: str,
        detail: str | None = None,
        *,
        errors: Iterable[Fault] = (),
        headers: Mapping[str, str] | None = None,
        title: str | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> Self:
        """The problem `slug` of `KINDS` (KeyError for any other: a fault of the caller's code)."""
        return cls(slug, detail, errors=errors, headers=headers, title=title, extra=extra)

    @classmethod
    def invalid(cls, errors: Iterable[Fault], detail: str | None = None) -> Self:
        """422 with every fault; where there is just one, `detail` names it as well."""
        faults = list(errors)
        if detail is None and len(faults) == 1:
            where = faults[0]["pointer"] or "the body"
            detail = f"{where}: {faults[0]['detail']}"
        return cls("invalid", detail, errors=faults)

    @classmethod
    def unauthenticated(cls, detail: str | None = None, *, error: str | None = "invalid_token") -> Self:
        """401. `error` is RFC 6750's code; None where no token was sent at all (§3.1 says to give no code then)."""
        challenge = REALM
        if error is not None:
            challenge += f', error="{error}"'
            if detail:
                challenge += f', error_description="{_quotable(detail)}"'
        return cls("unauthenticated", detail, headers={"WWW-Authenticate": challenge})

    @classmethod
    def out_of_scope(cls, needed: str, detail: str | None = None) -> Self:
        """403 for a token without the scope `needed` (`action:resource:name`)."""
        text = detail or (
            f"The token lacks the scope {needed}. Ask an admin for one that has it: "
            f"`kosreg token issue SUBJECT --scope {needed}`."
        )
        challenge = f'{REALM}, error="insufficient_scope", scope="{_quotable(needed)}"'
        return cls("out-of-scope", text, headers={"WWW-Authenticate": challenge})

    @classmethod
    def rate_limited(cls, retry_after: float, detail: str | None = None) -> Self:
        """429. `retry_after`: seconds; told as whole ones, at least 1 (RFC 9110 §10.2.3)."""
        seconds = max(1, math.ceil(retry_after))
        return cls("rate-limited", detail, headers={"Retry-After": str(seconds)})

    @classmethod
    def method_not_allowed(cls, allowed: Iterable[str]) -> Self:
        """405 with `Allow`."""
        allow = ", ".join(sorted(allowed))
        return cls("method-not-allowed", f"This route takes {allow}. Use one of these.", headers={"Allow": allow})

    def to_dict(self) -> ProblemDict:
        """The object of RFC 9457; of more than `MAX_ERRORS` faults the last element says how many more there are."""
        body: ProblemDict = {
            "type": TYPE_PREFIX + self.slug,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        if self.errors:
            shown = self.errors[:MAX_ERRORS]
            more = len(self.errors) - len(shown)
            if more:
                shown = [*shown, {"pointer": "", "detail": f"and {more} more; mend these first."}]
            body["errors"] = shown
        for name, value in self.extra.items():
            body.setdefault(name, value)  # type: ignore[misc]
        return body

    def __repr__(self) -> str:
        return f"Problem({self.slug!r}, {self.detail!r})"


def _quotable(text: str) -> str:
    """`text` as a quoted-string's content: RFC 6750 allows printable ASCII without `"` and backslash in these."""
    return "".join(c if " " <= c <= "~" and c not in '"\\' else "'" if c == '"' else " " for c in text)[:300]
