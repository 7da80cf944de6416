"""The contract between the API and whoever adds a route to it: `Route`, `Call`, `Reply`, `Answer`.

A handler is `async (call: Call) -> Reply`, described by a `Route`: how it is guarded (token, scope, rate, bounds) and
how it is documented; the door (`door`) and OpenAPI (`openapi`) both work from this one description. A handler raises
`Problem` for what it refuses.
"""

from __future__ import annotations

import itertools
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

import orjson
from aiohttp import web
from multidict import MultiDict, MultiDictProxy, MultiMapping

from kosreg.api import media
from kosreg.problems import Problem

if TYPE_CHECKING:
    from kosreg.api.node import Node
    from kosreg.auth import Caller

BODY_LIMIT: Final = 256 * 1024
BATCH_LIMIT: Final = 4 * 1024 * 1024

_NO_QUERY: Final[MultiMapping[str]] = MultiDictProxy(MultiDict())
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}")


@dataclass(slots=True)
class Reply:
    """An answer. `body`: bytes are ready JSON (or, with `content_type`, ready bytes of that type, sent as they are);
    anything else is made JSON; None is no body. Not frozen: making a frozen one costs 0.6 µs more.
    """

    status: int = 200
    body: object = None
    headers: Mapping[str, str] | None = None
    content_type: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """One documented answer of a route, for OpenAPI. `model`: what pydantic's TypeAdapter takes; None: no body."""

    model: object = None
    description: str = ""
    content_types: tuple[str, ...] = media.OFFERS
    headers: Mapping[str, str] = field(default_factory=dict)
    example: object = None


Handler = Callable[["Call"], Awaitable[Reply]]
WebSocketHandler = Callable[["Call"], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    """One route: how it is served and how it is documented (OpenAPI is made from these, and from nothing else)."""

    method: str
    path: str
    """`/api/services/{id}`: `{…}` takes one segment, given percent-decoded."""
    handler: Any
    """`Handler`, or `WebSocketHandler` where kind is `websocket`."""
    summary: str = ""
    description: str = ""
    tag: str = "services"
    kind: Literal["http", "websocket"] = "http"

    auth: Literal["token", "optional", "open"] = "token"
    """`optional`: a token is verified where one is sent; `open`: none is looked at."""
    scope: tuple[str, str] | None = None
    """(action, resource) of which the token must cover at least one name; which, is the handler's to check."""
    rate: Literal["calls", "beats"] | None = "calls"
    waits: bool = False
    """The handler may wait long and writes nothing: it is cancelled when its client goes away."""

    body: object = None
    """What the body must be, for OpenAPI (a type that pydantic's TypeAdapter takes); None: the route takes no body."""
    body_required: bool = True
    body_types: tuple[str, ...] = media.OFFERS
    """Media types of the body. MessagePack becomes JSON at the door; others come as they are (`Call.content_type`)."""
    body_example: object = None
    max_body: int = BODY_LIMIT
    """Bytes."""

    query: object = None
    """A TypedDict of the query's parameters, for OpenAPI."""
    path_models: Mapping[str, object] = field(default_factory=dict)
    """Types of the path's parameters, for OpenAPI; text where not said."""
    request_headers: Mapping[str, str] = field(default_factory=dict)
    """Further headers that matter: name -> description."""

    replies: Mapping[int, object] = field(default_factory=dict)
    """Status -> `Answer`, a model, or None (no body)."""
    problems: tuple[str, ...] = ()
    """Slugs that only this route's handler raises; those of the door are added from what the route says above."""
    produces: Sequence[str] | None = media.OFFERS
    """What `Accept` chooses from. None: the handler looks at `Accept` itself, or answers one type whatever is asked."""

    @property
    def negotiates(self) -> bool:
        """Whether `Accept` matters: not where there is no body to choose a form for."""
        if self.produces is None:
            return False
        return not self.replies or any(reply is not None for reply in self.replies.values())


class Call:
    """A request on its way through the door.

    `app`: the node. `caller`: who asks (None on open routes). `params`: path values, percent-decoded. `raw`: the body
    as JSON bytes, or as sent where its type is neither JSON nor MessagePack; b"" if there is none. `content_type`: of
    the body, lower case, without parameters ("" if there is none). `accepted`: what `Accept` chose.
    """

    __slots__ = ("_id", "_query", "accepted", "app", "caller", "content_type", "params", "raw", "request", "route")

    def __init__(self, app: Node, request: web.BaseRequest) -> None:
        self.app = app
        self.request = request
        self.route: Route | None = None
        self.caller: Caller | None = None
        self.params: Mapping[str, str] = {}
        self.raw = b""
        self.content_type = ""
        self.accepted = media.JSON
        self._query: MultiMapping[str] | None = None
        self._id: str | None = None

    @property
    def who(self) -> Caller:
        """The caller, on routes that need a token."""
        assert self.caller is not None, "the route is open: it has no caller"
        return self.caller

    @property
    def sub(self) -> str | None:
        """Whom the log names."""
        return None if self.caller is None else self.caller.sub

    @property
    def headers(self) -> Mapping[str, str]:
        return self.request.headers

    @property
    def query_string(self) -> str:
        """What stands after `?`, still encoded; "" if nothing does. Cheap: a key for what was parsed before."""
        return self.request.raw_path.partition("?")[2]

    @property
    def query(self) -> MultiMapping[str]:
        """The parsed query: parsed when it is first asked for."""
        query = self._query
        if query is None:
            query = self._query = self.request.query if "?" in self.request.raw_path else _NO_QUERY
        return query

    @property
    def request_id(self) -> str:
        """The client's `X-Request-Id` where it is a sane one, else one of our own."""
        if self._id is None:
            sent = self.request.headers.get("X-Request-Id")
            self._id = sent if sent is not None and _REQUEST_ID.fullmatch(sent) else _new_id()
        return self._id

    def json(self) -> Any:
        """The parsed body. Problem(malformed) says where it breaks. A name given twice: the last one counts."""
        try:
            return orjson.loads(self.raw)
        except orjson.JSONDecodeError as error:
            raise Problem.of("malformed", f"The body is not JSON: {error}.") from error


_PREFIX: Final = secrets.token_hex(4)
_NUMBERS: Final = itertools.count(1)


def _new_id() -> str:
    return f"{_PREFIX}-{next(_NUMBERS):x}"
