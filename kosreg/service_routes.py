"""The REST routes of services, as the seed names them, and those it asks for without naming a route.

A handler reads the request, calls one use case of `registry` and shows what came back. Nothing is decided here.
"""

from __future__ import annotations

from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired

import orjson
from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from kosreg.api import media
from kosreg.api.http import Answer, Call, Reply, Route
from kosreg.pages import page_json
from kosreg.problems import Problem
from kosreg.query import DEFAULT_LIMIT, MAX_LIMIT, MAX_WAIT, parse_text
from kosreg.schemas.service_schema import (
    BEAT,
    BEATS,
    MAX_BEAT_ID,
    MAX_BEATS,
    BeatIn,
    BeatsIn,
    ServiceIn,
    ServiceOut,
    ServiceType,
    Status,
    Visibility,
    parse,
)
from kosreg.times import now_ms
from kosreg.verification import Verifier
from kosreg.websocket import beat_answer, serve

if TYPE_CHECKING:
    from kosreg.api.node import Node

EXAMPLE_DID = "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK"
COSE = "application/cose"
JOSE = "application/jose+json"
MERGE_PATCH = "application/merge-patch+json"
_ID_OF = itemgetter("id")
SCANNED_PER_CALL = 2_000  # services looked at for a list that is not kept, for which one more call is charged

EXAMPLE = {
    "id": "translator-1",
    "name": "Translator",
    "type": "agent",
    "tags": ["text", "llm"],
    "url": "http://127.0.0.1:9000",
    "auth": {"type": "none"},
    "endpoints": [{"path": "/chat", "method": "POST", "description": "Chat endpoint"}],
    "capabilities": ["translate"],
    "visibility": "public",
    "ttl": 30,
}


class ListOut(TypedDict):
    """One page of services."""

    services: list[ServiceOut]
    next_cursor: Annotated[str | None, Field(description="Where the next page begins; null on the last.")]
    total: Annotated[int, Field(description="How many this caller may see through this filter, on all pages.")]
    version: Annotated[str, Field(description="Opaque; for since.")]


class BeatOut(TypedDict):
    """What a heartbeat is told: beat again within `ttl` seconds."""

    id: str
    status: Status
    ttl: int


class BeatsOut(TypedDict):
    """How many heartbeats counted; `unknown` must register again, `forbidden` are another owner's."""

    ok: int
    unknown: list[str]
    forbidden: list[str]


class VerdictOut(TypedDict):
    """What holds of a signed record, each by itself."""

    format: Literal["cose", "jose"]
    signature: bool
    trust: bool
    scope: bool
    age: bool
    valid: bool
    current: bool
    origin: str
    id: str | None
    kind: str
    valid_until: str | None
    reasons: list[str]
    record: NotRequired[dict[str, Any]]
    entry: NotRequired[str]
    deleted: NotRequired[bool]


class AliasIn(TypedDict):
    """Which node a bare id means here."""

    origin: Annotated[str, Field(max_length=128, description="DID of the node.")]


class AliasOut(TypedDict):
    """What the id names now, and who claims it."""

    id: str
    origin: Annotated[str | None, Field(description="DID of the node whose service is shown; null: nobody's.")]
    claims: list[dict[str, Any]]


ALIAS = TypeAdapter(AliasIn)


class ListQuery(TypedDict, total=False):
    """The query of a list. Lists may be repeated."""

    tag: Annotated[list[str], Field(description="Has all of these tags.")]
    any_tag: Annotated[list[str], Field(description="Has at least one of these tags.")]
    type: Annotated[list[ServiceType], Field(description="Is one of these.")]
    owner: Annotated[list[str], Field(description="Belongs to one of these.")]
    status: Annotated[list[Status], Field(description="Its effective status is one of these.")]
    visibility: Annotated[list[Visibility], Field(description="Has one of these.")]
    origin: Annotated[list[str], Field(description="Was signed by one of these nodes (DID).")]
    capability: Annotated[list[str], Field(description="Has all of these capabilities.")]
    q: Annotated[list[str], Field(description="Each word begins a word of its name, description or tags, in any case.")]
    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT, description=f"Services a page; {DEFAULT_LIMIT} when absent.")]
    cursor: Annotated[str, Field(description="next_cursor of the page before.")]
    sort: Annotated[str, Field(description="Comma list of fields, - for descending; by id when absent.")]
    fields: Annotated[str, Field(description="Comma list of fields to show; all when absent.")]
    since: Annotated[str, Field(description="A version: answer when something covered has changed since.")]
    wait: Annotated[float, Field(ge=0, le=MAX_WAIT, description="Seconds to hold the request, with since.")]


async def register(call: Call) -> Reply:
    done = await call.app.registry.register(call.who, call.raw)
    return Reply(201 if done.created else 200, done.service.json())


async def list_services(call: Call) -> Reply:
    registry, caller, query = call.app.registry, call.who, parse_text(call.query_string)
    if query.since is not None:
        if not await registry.wait(caller, query):
            return Reply(304)
        caller = call.app.auth.verify(call.headers["Authorization"][7:].strip())  # it may have been revoked meanwhile
    page, listing, looked_at = registry.find(caller, query)
    if looked_at > SCANNED_PER_CALL:
        call.app.limits.charge(caller, "calls", looked_at // SCANNED_PER_CALL)
    headers = {"ETag": page.etag, "Cache-Control": "private, no-cache"}
    if query.since is None and _matches(call.headers.get("If-None-Match"), page.etag):
        return Reply(304, None, headers)
    return Reply(200, page_json(page, query, listing), headers)


def _matches(header: str | None, etag: str) -> bool:
    if header is None:
        return False
    bare = etag.removeprefix("W/")
    return header.strip() == "*" or any(part.strip().removeprefix("W/") == bare for part in header.split(","))


async def get_service(call: Call) -> Reply:
    return Reply(200, call.app.registry.get(call.who, call.params["id"]).json())


async def patch_service(call: Call) -> Reply:
    return Reply(200, (await call.app.registry.update(call.who, call.params["id"], call.json())).json())


async def delete_service(call: Call) -> Reply:
    await call.app.registry.deregister(call.who, call.params["id"])
    return Reply(204)


async def heartbeat(call: Call) -> Reply:
    if call.raw:
        beat = parse(BEAT, call.raw)
        service = call.app.registry.heartbeat(call.who, call.params["id"], beat.get("status"), beat.get("load"))
    else:
        service = call.app.registry.heartbeat(call.who, call.params["id"])
    return Reply(200, beat_answer(service))


def plain_beats(raw: bytes) -> list[str] | None:
    """The ids of a batch in which each beat is an id and no more, as nearly all are; None for any other body, which the
    schema then judges. A quarter of its time: set operations instead of a validator for each beat."""
    try:
        value = orjson.loads(raw)
        beats = value["beats"]
        if len(value) == 1 and set(map(type, beats)) == {dict} and set(map(len, beats)) == {1}:
            ids = list(map(_ID_OF, beats))
            if len(ids) <= MAX_BEATS and set(map(type, ids)) == {str} and max(map(len, ids)) <= MAX_BEAT_ID:
                return ids
    except (orjson.JSONDecodeError, TypeError, KeyError):
        pass
    return None


async def heartbeats(call: Call) -> Reply:
    registry, limits, caller = call.app.registry, call.app.limits, call.who
    ids = plain_beats(call.raw)
    beats = parse(BEATS, call.raw)["beats"] if ids is None else ()
    count = len(beats) if ids is None else len(ids)
    if count > 1:  # the door has charged one
        limits.charge(caller, "beats", count - 1)
    return Reply(200, registry.heartbeats(caller, beats) if ids is None else registry.plain_heartbeats(caller, ids))


async def explain(call: Call) -> Reply:
    return Reply(200, call.app.registry.explain(call.who, call.params["id"]))


_SIGNED = media.Negotiator((COSE, JOSE))


async def signed(call: Call) -> Reply:
    registry, uid = call.app.registry, call.params["id"]
    form = _SIGNED.choose(call.headers.get("Accept"))
    if form is None:
        raise Problem.of("not-acceptable", f"A signed record comes as {COSE} or {JOSE}. Ask for one.")
    make = registry.signed_cose if form == COSE else registry.signed_json
    return Reply(200, make(call.who, uid), {"Vary": "Accept"}, content_type=form)


async def put_alias(call: Call) -> Reply:
    return Reply(200, await call.app.registry.name(call.who, call.params["id"], parse(ALIAS, call.raw)["origin"]))


async def drop_alias(call: Call) -> Reply:
    return Reply(200, await call.app.registry.name(call.who, call.params["id"], None))


async def verify(call: Call) -> Reply:
    registry = call.app.registry
    verifier = Verifier(registry.sync.replica, partial(registry.shows, call.who), registry.admits)
    judge = verifier.cose if call.content_type == COSE else verifier.json
    return Reply(200, judge(call.raw, now_ms()))


async def watch(call: Call) -> Any:
    return await serve(call.app, call)


_UID = {"id": Annotated[str, Field(max_length=256, description="The id of a service.")]}
READ, WRITE = ("read", "service"), ("write", "service")


def service_routes(node: Node) -> list[Route]:
    """The table. `node`: for its bounds."""
    body = node.settings.limits.max_body
    batch = max(node.settings.limits.max_batch, body)
    return [
        Route(
            "POST", "/api/services/register", register,
            summary="Register a service, or replace its record. Counts as a heartbeat.",
            description="The same record again writes nothing. `auth.token` is kept encrypted and never shown.",
            scope=WRITE, body=ServiceIn, body_example=EXAMPLE, max_body=body,
            replies={201: Answer(ServiceOut, "It is new."), 200: Answer(ServiceOut, "It replaced, or was the same.")},
            problems=("forbidden", "out-of-scope", "invalid", "store-full", "unavailable"),
        ),
        Route(
            "GET", "/api/services", list_services,
            summary="Discover services, or wait until the answer changes.", waits=True,
            scope=READ, query=ListQuery,
            request_headers={"If-None-Match": "An ETag of an earlier answer."},
            replies={200: Answer(ListOut, headers={"ETag": "For If-None-Match."}), 304: None},
            problems=("invalid", "gone"),
        ),
        Route(
            "GET", "/api/services/{id}", get_service, summary="One service.", scope=READ, path_models=_UID,
            description="`ID@DID` is what the node DID says under ID. 409: several nodes claim it; see `candidates`.",
            replies={200: ServiceOut}, problems=("not-found", "out-of-scope", "conflict"),
        ),
        Route(
            "PATCH", "/api/services/{id}", patch_service,
            summary="Change some fields of a record (RFC 7396). It is no heartbeat.",
            scope=WRITE, path_models=_UID, body=dict[str, Any], body_types=(*media.OFFERS, MERGE_PATCH),
            body_example={"tags": ["text"], "description": None}, max_body=body,
            replies={200: ServiceOut},
            problems=("not-found", "forbidden", "out-of-scope", "conflict", "invalid", "store-full", "unavailable"),
        ),
        Route(
            "DELETE", "/api/services/{id}", delete_service, summary="Deregister a service.",
            scope=WRITE, path_models=_UID, replies={204: None},
            problems=("not-found", "forbidden", "out-of-scope", "conflict", "store-full", "unavailable"),
        ),
        Route(
            "POST", "/api/services/{id}/heartbeat", heartbeat,
            summary="A heartbeat, with what the service says of itself.",
            scope=WRITE, rate="beats", path_models=_UID, body=BeatIn, body_required=False,
            body_example={"status": "active", "load": 0.2}, max_body=body, replies={200: BeatOut},
            problems=("not-found", "forbidden", "out-of-scope", "conflict", "invalid"),
        ),
        Route(
            "POST", "/api/heartbeats", heartbeats, summary="Many heartbeats.",
            scope=WRITE, rate="beats", body=BeatsIn, body_example={"beats": [{"id": "translator-1", "load": 0.2}]},
            max_body=batch, replies={200: BeatsOut}, problems=("invalid",),
        ),
        Route(
            "GET", "/api/services/{id}/explain", explain, summary="Why a service is shown as it is.",
            scope=READ, path_models=_UID, replies={200: dict[str, Any]},
            problems=("not-found", "out-of-scope", "conflict"),
        ),
        Route(
            "PUT", "/api/services/{id}/alias", put_alias,
            summary="Say which node a bare id means here (admins).",
            description="For an id that several nodes claim. A service of this node under the id goes before.",
            scope=WRITE, path_models=_UID, body=AliasIn, body_example={"origin": EXAMPLE_DID}, max_body=body,
            replies={200: AliasOut}, problems=("forbidden", "out-of-scope", "invalid", "store-full", "unavailable"),
        ),
        Route(
            "DELETE", "/api/services/{id}/alias", drop_alias, summary="Take an alias back (admins).",
            scope=WRITE, path_models=_UID, replies={200: AliasOut},
            problems=("forbidden", "out-of-scope", "not-found", "store-full", "unavailable"),
        ),
        Route(
            "GET", "/api/services/{id}/signed", signed,
            summary="The signed record: COSE_Sign1 or flattened JWS, by Accept.",
            scope=READ, path_models=_UID, produces=None,
            replies={200: Answer(None, "The signed bytes.", content_types=(COSE, JOSE))},
            problems=("not-found", "out-of-scope", "conflict", "not-acceptable"),
        ),
        Route(
            "POST", "/api/services/verify", verify,
            summary="Which of signature, trust, scope and age hold for a signed record.",
            scope=READ, body=bytes, body_types=(COSE, JOSE), max_body=body,
            replies={200: VerdictOut},
        ),
        Route(
            "GET", "/ws/registry", watch, kind="websocket", auth="open", rate=None,
            summary="Watch, register and heartbeat over a WebSocket.",
        ),
    ]  # fmt: skip
