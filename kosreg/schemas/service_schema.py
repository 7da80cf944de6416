"""The record of a service: every field of the seed's schema and what kosreg adds, with its bounds.

A request is validated from its raw JSON bytes in one pass (a pydantic TypeAdapter of a TypedDict: 2.6 µs, a
model and its dump cost 10). Read-only fields are accepted and dropped, so that a record which was read can be
sent back; a field that nobody knows is a fault, since a misspelt one would be lost without a word.

This file knows no HTTP and no catalog. What a fault looks like to a client is decided in `faults`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, NotRequired, TypeVar, cast

from pydantic import ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError, with_config
from pydantic_core import ErrorDetails
from typing_extensions import TypedDict  # pydantic reads typing's own only from Python 3.12

from kosreg.problems import Problem
from kosreg.schemas.meanings import explain_fields

T = TypeVar("T")

DEFAULT_TTL = 30
MAX_TTL = 30 * 24 * 3600
MAX_BEATS = 50_000  # in one batch
MAX_BEAT_ID = 256
DEFAULT_WEIGHT = 1

ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$"
_URL_PATTERN = (
    r"^(?i:(?:https?|wss?)://[^\s/?#@\\]+|klp://[^\s/?#\\]+)(?:[/?#]\S*)?$"  # no credentials: they belong in auth.token
)
_BASE64URL = r"^(?:[A-Za-z0-9_-]{4})*(?:[A-Za-z0-9_-]{2,3})?$"
_PRINTABLE = r"^[^\x00-\x1f\x7f]*$"

ServiceId = Annotated[str, StringConstraints(pattern=ID_PATTERN)]
ServiceType = Literal["agent", "tool", "service", "api", "device", "node"]
Protocol = Literal["http", "https", "ws", "klp"]
AuthType = Literal["none", "api_key", "jwt", "oauth"]
Status = Literal["active", "offline", "degraded"]
Visibility = Literal["public", "private", "internal"]
Word = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=_PRINTABLE)]
Words = Annotated[list[Word], Field(max_length=256)]
Term = Annotated[str, StringConstraints(min_length=1, max_length=512, pattern=_PRINTABLE)]
Json = Annotated[dict[str, Any], Field(description="Any JSON object.")]
ServiceName = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=_PRINTABLE)]
ServiceUrl = Annotated[str, StringConstraints(max_length=2048, pattern=_URL_PATTERN)]
Owner = Annotated[str, StringConstraints(min_length=1, max_length=512, pattern=_PRINTABLE)]
Printable = Annotated[str, StringConstraints(max_length=128, pattern=_PRINTABLE)]


@with_config(ConfigDict(extra="forbid"))
class Auth(TypedDict, total=False):
    """How a caller authenticates to the service. `token` is write-only: it is never in an answer."""

    type: AuthType
    token: Annotated[str, StringConstraints(max_length=8192)] | None


@with_config(ConfigDict(extra="forbid"))
class Endpoint(TypedDict):
    """One path of the service."""

    path: Annotated[str, StringConstraints(min_length=1, max_length=2048, pattern=r"^/\S*$")]
    method: NotRequired[Annotated[str, StringConstraints(pattern=r"^[A-Za-z]{1,16}$")] | None]
    description: NotRequired[Annotated[str, StringConstraints(max_length=2048)] | None]


@with_config(ConfigDict(extra="forbid"))
class Acl(TypedDict, total=False):
    """Who may read or call: terms `*` or `sub:NAME[@DID]`. A term that is not known matches nobody."""

    read: Annotated[list[Term], Field(max_length=256)] | None
    call: Annotated[list[Term], Field(max_length=256)] | None


@with_config(ConfigDict(extra="forbid", title="ServiceIn", json_schema_extra=explain_fields))
class ServiceIn(TypedDict):
    """A record as a client sends it. `name` and `type` are required; null means absent."""

    id: NotRequired[ServiceId | None]
    name: ServiceName
    type: ServiceType
    tags: NotRequired[Words | None]
    url: NotRequired[ServiceUrl | None]
    protocol: NotRequired[Protocol | None]
    auth: NotRequired[Auth | None]
    endpoints: NotRequired[Annotated[list[Endpoint], Field(max_length=256)] | None]
    status: NotRequired[Status | None]
    owner: NotRequired[Owner | None]
    visibility: NotRequired[Visibility | None]
    version: NotRequired[Printable | None]
    description: NotRequired[Annotated[str, StringConstraints(max_length=8192)] | None]
    capabilities: NotRequired[Words | None]
    roles: NotRequired[Words | None]
    ttl: NotRequired[Annotated[int, Field(ge=0, le=MAX_TTL)] | None]
    depends_on: NotRequired[Annotated[list[ServiceId], Field(max_length=256)] | None]
    region: NotRequired[Printable | None]
    weight: NotRequired[Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)] | None]
    metadata: NotRequired[Json | None]
    acl: NotRequired[Acl | None]
    cards: NotRequired[Json | None]
    owner_proof: NotRequired[Annotated[str, StringConstraints(max_length=8192, pattern=_BASE64URL)] | None]
    # read-only: accepted, so that a record that was read can be sent back, and ignored
    origin: NotRequired[Any]
    klp: NotRequired[Any]
    created: NotRequired[Any]
    updated: NotRequired[Any]
    liveness: NotRequired[Any]
    heartbeat: NotRequired[Any]


class LivenessOut(TypedDict):
    """What is known about the life of a service, and why it is shown as it is."""

    declared: Status
    effective: Status
    heartbeat: Annotated[str | None, Field(description="RFC 3339; null: no heartbeat since the node started.")]
    reason: str
    load: NotRequired[Annotated[float, Field(ge=0, le=1)]]
    since: NotRequired[Annotated[str, Field(description="RFC 3339: since when it is not simply active.")]]


class AuthOut(TypedDict):
    """The kind of authentication alone; the secret is never shown."""

    type: AuthType


@with_config(ConfigDict(json_schema_extra=explain_fields))
class ServiceOut(TypedDict):
    """A record as the API shows it."""

    id: str
    name: str
    type: ServiceType
    tags: list[str]
    url: NotRequired[str]
    protocol: NotRequired[Protocol]
    auth: AuthOut
    endpoints: list[Endpoint]
    owner: str
    visibility: Visibility
    version: NotRequired[str]
    description: NotRequired[str]
    capabilities: list[str]
    roles: list[str]
    ttl: int
    depends_on: list[str]
    region: NotRequired[str]
    weight: float
    metadata: Json
    acl: NotRequired[Acl]
    cards: NotRequired[Json]
    owner_proof: NotRequired[str]
    origin: str
    klp: str
    created: str
    updated: str
    heartbeat: str | None
    status: Status
    liveness: LivenessOut


@with_config(ConfigDict(extra="forbid"))
class BeatIn(TypedDict, total=False):
    """A heartbeat: what the service says of itself, if anything."""

    status: Status | None
    load: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None


@with_config(ConfigDict(extra="forbid"))
class BeatItem(TypedDict):
    """One heartbeat of a batch."""

    id: Annotated[str, StringConstraints(max_length=MAX_BEAT_ID)]
    status: NotRequired[Status | None]
    load: NotRequired[Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None]


@with_config(ConfigDict(extra="forbid"))
class BeatsIn(TypedDict):
    """Many heartbeats in one request."""

    beats: Annotated[list[BeatItem], Field(max_length=MAX_BEATS)]


RECORD = TypeAdapter(ServiceIn)
BEAT = TypeAdapter(BeatIn)
BEATS = TypeAdapter(BeatsIn)

READ_ONLY = ("origin", "klp", "created", "updated", "liveness", "heartbeat")
FIELDS = tuple(ServiceOut.__annotations__)
WRITABLE = tuple(name for name in ServiceIn.__annotations__ if name not in READ_ONLY)

PATTERN_TEXTS = {
    "id": "must be 1 to 128 characters: letters, digits and . _ : - , the first a letter or digit",
    "depends_on": "must be a service id: letters, digits and . _ : - , at most 128 characters",
    "url": "must be an http, https, ws, wss or klp address without spaces or credentials (a secret goes in auth.token)",
    "path": "must start with / and hold no spaces",
    "method": "must be an HTTP method, such as GET",
    "owner_proof": "must be base64url without padding",
}


def pointer(loc: Iterable[str | int]) -> str:
    """RFC 6901: the place of a fault, "" for the whole document."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in loc)


def _detail(error: ErrorDetails, loc: tuple[str | int, ...]) -> str:
    kind = error["type"]
    if kind == "extra_forbidden":
        name = str(loc[-1])
        if len(loc) == 1:
            near = difflib.get_close_matches(name, WRITABLE, 1)
            hint = f"did you mean {near[0]}? " if near else ""
            return f"is not a field of a record: {hint}data of your own goes under metadata"
        return "is not known here: data of your own goes under metadata"
    if kind == "string_pattern_mismatch":
        field = next((str(part) for part in reversed(loc) if isinstance(part, str)), "")
        return PATTERN_TEXTS.get(field, "must not hold control characters")
    if kind == "missing":
        return "is required"
    text = re.sub(r"^(Input|String|List|Value)\b", "", error["msg"]).strip()
    return text or error["msg"]


def faults(error: ValidationError) -> Problem:
    """The Problem for what pydantic found: 400 where it is no JSON, else 422 with every fault and its pointer."""
    details = error.errors(include_url=False, include_context=True, include_input=False)
    first = details[0]
    if first["type"] == "json_invalid":
        return Problem.of("malformed", detail=f"the body is not JSON: {first['ctx']['error']}")
    found: list[dict[str, str]] = []
    for item in details[:100]:
        loc = item["loc"]
        found.append({"pointer": pointer(loc), "detail": _detail(item, loc)})
    unique = list({(f["pointer"], f["detail"]): f for f in found}.values())
    places = ", ".join(f["pointer"] or "the body" for f in unique[:5])
    return Problem.of("invalid", detail=f"{len(unique)} fault(s), at {places}: see errors", errors=unique)


def parse_record(raw: bytes) -> ServiceIn:
    """A validated record from JSON bytes; nulls and read-only fields are gone. Raises Problem (400, 422)."""
    try:
        return clean(RECORD.validate_json(raw, strict=True))
    except ValidationError as error:
        raise faults(error) from None


def check_record(value: Mapping[str, Any]) -> ServiceIn:
    """The same for a decoded value."""
    try:
        return clean(RECORD.validate_python(dict(value), strict=True))
    except ValidationError as error:
        raise faults(error) from None


def clean(record: ServiceIn) -> ServiceIn:
    """Without nulls and read-only fields; a fresh dict."""
    return cast(ServiceIn, {k: v for k, v in record.items() if v is not None and k not in READ_ONLY})


def parse(adapter: TypeAdapter[T], raw: bytes) -> T:
    """`raw` as `adapter` says; raises Problem (400, 422)."""
    try:
        return adapter.validate_json(raw, strict=True)
    except ValidationError as error:
        raise faults(error) from None


def check(adapter: TypeAdapter[T], value: Any) -> T:
    """The same for a decoded value."""
    try:
        return adapter.validate_python(value, strict=True)
    except ValidationError as error:
        raise faults(error) from None
