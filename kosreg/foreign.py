"""From what another node signed to a service that is shown here.

Encoding and signature of an entry are checked before it is held; what its body says is not. A body that is no record
(or has a name that is no id) is held and passed on like any other, so that an old node does not break a new one, but it
is not shown: nothing that a peer signs may spoil an answer or raise in the middle of a commit.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Any, Final, NotRequired, cast

from pydantic import ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict  # pydantic reads typing's own only from Python 3.12

from crdt.entry import Entry
from federation.cose import fact_of
from federation.identity import did_of
from kosreg.owner_proof import MAX_PROOF
from kosreg.schemas.service_schema import (
    MAX_TTL,
    Acl,
    AuthType,
    Json,
    Owner,
    Printable,
    Protocol,
    ServiceId,
    ServiceName,
    ServiceType,
    ServiceUrl,
    Status,
    Words,
)
from kosreg.service import ForeignService

LAST_MS: Final = 253_402_300_799_999  # the end of the year 9999, behind which no time has a text
MAX_REASON: Final = 512
_Ms = Annotated[int, Field(ge=0, le=LAST_MS)]
_LENIENT = ConfigDict(extra="ignore")  # what a later release adds


@with_config(_LENIENT)
class _Auth(TypedDict, total=False):
    type: AuthType


@with_config(_LENIENT)
class _Endpoint(TypedDict):
    path: Annotated[str, StringConstraints(max_length=2048)]
    method: NotRequired[Annotated[str, StringConstraints(max_length=16)]]
    description: NotRequired[Annotated[str, StringConstraints(max_length=2048)]]


@with_config(_LENIENT)
class _ServiceBody(TypedDict, total=False):
    """The body of a `service` entry (PROTOCOL, "Bodies")."""

    name: ServiceName
    type: ServiceType
    owner: Owner
    tags: Words
    url: ServiceUrl
    protocol: Protocol
    auth: _Auth
    endpoints: Annotated[list[_Endpoint], Field(max_length=256)]
    version: Printable
    description: Annotated[str, StringConstraints(max_length=8192)]
    capabilities: Words
    roles: Words
    ttl: Annotated[int, Field(ge=0, le=MAX_TTL)]
    depends_on: Annotated[list[ServiceId], Field(max_length=256)]
    region: Printable
    weight: Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)]
    metadata: Json
    acl: Acl
    cards: Json
    owner_proof: Annotated[bytes, Field(max_length=MAX_PROOF)]
    created: _Ms
    updated: _Ms


@with_config(_LENIENT)
class _StatusBody(TypedDict):
    status: Status
    reason: NotRequired[Annotated[str, StringConstraints(max_length=MAX_REASON)]]
    since: NotRequired[_Ms]


_NAME: Final = TypeAdapter(ServiceId)
_BODY: Final = TypeAdapter(_ServiceBody)
_STATUS: Final = TypeAdapter(_StatusBody)


@lru_cache(maxsize=65_536)
def did(origin: bytes) -> str:
    """The DID of an origin: the same text each time, since each of its services has it."""
    return did_of(origin)


def service_of(entry: Entry, origin: str, seq: int = 0) -> ForeignService | None:
    """The service that `entry`, a live one of another node (`origin`: its DID), says; None where it is no record."""
    try:
        _NAME.validate_python(entry.name, strict=True)
        said = fact_of(entry).body if entry.body is None else entry.body
        body = cast("dict[str, Any]", _BODY.validate_python(said, strict=True))
        if "name" not in body or "type" not in body:
            return None
        if "weight" in body:
            body["weight"] = cast("dict[str, Any]", said)["weight"]  # a whole number was signed as one
        return ForeignService(entry.name, origin, entry.cls, body, seq)
    except (ValidationError, TypeError, ValueError):  # or no JSON has it: bytes in its metadata, say
        return None


def is_sound(entry: Entry) -> bool:
    """Whether a node can have said `entry`: of services, those that are records. (Of an own one that comes from
    outside: somebody else may have the key, and what is on the own disk is shown without a further look.)"""
    if entry.kind == "succession":
        return False  # who has changed its key does not run under the old one
    return entry.kind != "service" or not entry.live or service_of(entry, did(entry.origin)) is not None


def labels(entry: Entry) -> tuple[str, frozenset[str]]:
    """The type and the tags of the record that `entry` says: what scopes go by. Nothing where they cannot be read."""
    said = fact_of(entry).body if entry.body is None else entry.body
    body = said if isinstance(said, dict) else {}
    kind, tags = body.get("type"), body.get("tags")
    words = frozenset(tag for tag in tags if isinstance(tag, str)) if isinstance(tags, list) else frozenset[str]()
    return kind if isinstance(kind, str) else "", words


def set_status(service: ForeignService, entry: Entry | None) -> None:
    """Set the status of `service` to what the `status` entry of its node says: active where there is none, or where it
    says nothing that can be read."""
    service.declared, service.reason, service.since = "active", None, 0
    service.tail = None
    if entry is None:
        return
    try:
        body = _STATUS.validate_python(fact_of(entry).body, strict=True)
    except ValidationError:
        return
    if body["status"] != "active":
        service.declared, service.reason = body["status"], body.get("reason") or None
        service.since = body.get("since", 0)
