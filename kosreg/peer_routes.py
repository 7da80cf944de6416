"""The routes of peers: invite, join, trust, revoke; the certificates of roots; and the audit log. For admins alone.

A handler reads the request, calls one use case of `peers` and shows what came back.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from crdt.entry import EntryError
from federation.cose import decode_entry, fact_of
from federation.identity import DidError, did_of, parse_did
from federation.replica import Persist
from federation.trust import MAX_ADDRESSES, MAX_TERMS, Role, Scope
from kosreg import audit as audit_log
from kosreg.api.http import Answer, Call, Handler, Reply, Route
from kosreg.invites import DEFAULT_TTL, MAX_LINE, MAX_TTL, MIN_TTL, usable
from kosreg.peer_views import all_peers, peer_view
from kosreg.peers import MAX_NAME, class_of, fingerprint, not_known
from kosreg.problems import Fault, Problem
from kosreg.registry import store_problem
from kosreg.schemas.service_schema import ServiceType, pointer
from kosreg.store import StoreError
from kosreg.times import now_ms, rfc3339

if TYPE_CHECKING:
    from kosreg.api.node import Node

COSE: Final = "application/cose"
ADMINS: Final = ("admin", "*")
MAX_AUDIT: Final = 1000
_FORBID: Final = ConfigDict(extra="forbid")
_NO_STORE: Final = {"Cache-Control": "no-store"}
_TIME: Final = "RFC 3339."

Name = Annotated[str, Field(max_length=MAX_NAME, description="What it is called here.")]
Addresses = Annotated[
    list[Annotated[str, Field(max_length=300)]], Field(max_length=MAX_ADDRESSES, description="HOST:PORT, to dial it.")
]
Terms = Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=MAX_TERMS)]


@with_config(_FORBID)
class ScopeIn(TypedDict, total=False):
    """What the key may bring here."""

    classes: Annotated[
        list[Literal["public", "internal"]],
        Field(min_length=1, max_length=2, description="public when absent. Internal goes by membership."),
    ]
    types: Annotated[
        list[ServiceType], Field(max_length=MAX_TERMS, description="Only these are shown; all when absent.")
    ]
    tags: Annotated[Terms, Field(description="Only records with one of these are shown; all when absent.")]
    records: Annotated[int | None, Field(ge=0, description="How many it may bring. Kept, and not enforced yet.")]


@with_config(_FORBID)
class PeerIn(TypedDict):
    """A key to trust. What is absent stays as it is; of a new one: a peer, its public facts."""

    did: Annotated[str, Field(max_length=256, description="did:key:z6Mk…, or kind:did:….")]
    role: NotRequired[Annotated[Literal["peer", "root"], Field(description="A node, or the root of a federation.")]]
    name: NotRequired[Name]
    addresses: NotRequired[Addresses]
    scope: NotRequired[ScopeIn]


@with_config(_FORBID)
class InviteIn(TypedDict, total=False):
    """A new invite."""

    ttl: Annotated[int, Field(ge=MIN_TTL, le=MAX_TTL, description=f"Seconds that it is good; {DEFAULT_TTL} if absent.")]
    name: Name


@with_config(_FORBID)
class JoinIn(TypedDict):
    """An invite of another node."""

    line: Annotated[str, Field(max_length=2 * MAX_LINE, description="What `kosreg peers invite` printed there.")]


class InviteOut(TypedDict):
    """An invite, without its secret."""

    id: str
    state: Literal["open", "used", "expired"]
    created: Annotated[str, Field(description=_TIME)]
    expires: Annotated[str, Field(description=_TIME)]
    name: NotRequired[str]
    joiner: NotRequired[Annotated[str, Field(description="The node that it is bound to.")]]


class NewInviteOut(InviteOut):
    """A new invite."""

    line: Annotated[str, Field(description="For `kosreg peers join`. Shown this once, and kept nowhere.")]


class InvitesOut(TypedDict):
    """Oldest first; those that expired more than 30 days ago are gone."""

    invites: list[InviteOut]


class ScopeOut(TypedDict):
    """What the key may bring here; empty lists: all."""

    classes: list[str]
    types: list[str]
    tags: list[str]
    records: int | None


class LinkOut(TypedDict):
    """The link to a peer. What is not known yet is null."""

    state: Annotated[str, Field(description="up, connecting, backoff, or waiting: it is for the peer to dial.")]
    address: str
    dialled: Annotated[bool, Field(description="By this node.")]
    up_ms: int
    rtt_ms: Annotated[float | None, Field(description="Round trip.")]
    offset_ms: Annotated[int | None, Field(description="The peer's clock, less this one's.")]
    bytes_in: int
    bytes_out: int
    queued: Annotated[int, Field(description="Bytes that wait to go out.")]
    error: Annotated[str, Field(description="How the last attempt, or link, ended.")]


class SyncOut(TypedDict):
    """What the two hold."""

    synced: Annotated[bool, Field(description="All that the peer had when the link began is here.")]
    lag_ms: Annotated[int | None, Field(description="Since the two were last found to be equal.")]
    differing: Annotated[int, Field(description="Entries that the last comparison found on one side only.")]
    expected: int
    received: int
    refused: Annotated[dict[str, int], Field(description="What was not taken from it: why, and how many.")]


class PeerOut(TypedDict):
    """A key, and what this node makes of it."""

    did: str
    name: str
    fingerprint: Annotated[str, Field(description="Of the key, to compare by eye.")]
    role: Annotated[Literal["peer", "root", "member"], Field(description="member: only by a certificate of a root.")]
    addresses: list[str]
    depth: int
    scope: ScopeOut
    roots: Annotated[list[str], Field(description="The trusted roots that certify it.")]
    held: Annotated[int, Field(description="Entries of it that are held here.")]
    added: NotRequired[str]
    revoked: NotRequired[Annotated[str, Field(description="Since when; absent: it is trusted.")]]
    link: NotRequired[LinkOut]
    sync: NotRequired[SyncOut]


class WhoOut(TypedDict):
    """A node, for people to compare."""

    did: str
    name: str
    fingerprint: str


class PeersOut(TypedDict):
    """In the order in which they came to be trusted; then members that have a link."""

    peers: list[PeerOut]
    self: Annotated[WhoOut, Field(description="This node.")]


class JoinedOut(TypedDict):
    """Trust is mutual."""

    peer: WhoOut
    self: WhoOut


class RevokedOut(TypedDict):
    """It is believed in nothing any more."""

    did: str
    purged: Annotated[int, Field(description="Entries of it that were dropped.")]


class CertOut(TypedDict):
    """A certificate that this node has."""

    id: str
    subject: str
    issuer: str
    state: str
    new: bool


class AuditRecordOut(TypedDict):
    """One decision. What cannot be read of a damaged record is absent."""

    seq: int
    hash: Annotated[str, Field(description="SHA-256 of the record, hex.")]
    record: Annotated[str, Field(description="Its bytes, hex: deterministic CBOR.")]
    at: NotRequired[str]
    actor: NotRequired[str]
    action: NotRequired[str]
    subject: NotRequired[str]
    detail: NotRequired[dict[str, Any]]


class HeadOut(TypedDict):
    """The newest record, as noted beside the chain."""

    seq: int
    hash: str


class AuditOut(TypedDict):
    """Records in order."""

    node: str
    records: list[AuditRecordOut]
    head: HeadOut | None


class AuditQuery(TypedDict, total=False):
    """Which part of the log."""

    after: Annotated[int, Field(ge=0, description="Only records with a higher number.")]
    limit: Annotated[int, Field(ge=1, le=MAX_AUDIT, description=f"At most so many; {MAX_AUDIT} when absent.")]


class PurgeQuery(TypedDict, total=False):
    """How to revoke."""

    purge: Annotated[bool, Field(description="Also drop all that is held of it.")]


@dataclass(frozen=True, slots=True)
class _Given:
    """Entries that an admin gave, and no peer."""

    persist: Persist
    peer: bytes | None = None


def _decision(handler: Handler) -> Handler:
    """Tells the client where the store did not take it."""

    @wraps(handler)
    async def decide(call: Call) -> Reply:
        try:
            return await handler(call)
        except StoreError as error:
            raise store_problem(error) from error

    return decide


@_decision
async def invite(call: Call) -> Reply:
    wish = _parsed(_INVITE_IN, call.raw or b"{}")
    peers = call.app.peers
    line, kept = await peers.invite(call.who.sub, wish.get("ttl", DEFAULT_TTL), wish.get("name", ""))
    return Reply(201, {"line": line.encode(), **_invite_shown(kept)}, _NO_STORE)


async def list_invites(call: Call) -> Reply:
    return Reply(200, {"invites": [_invite_shown(one) for one in call.app.peers.invites.all()]}, _NO_STORE)


@_decision
async def join(call: Call) -> Reply:
    node = call.app
    joined = await node.peers.join(call.who.sub, _parsed(_JOIN_IN, call.raw)["line"])
    return Reply(
        200,
        {"peer": _who(joined.key, joined.name), "self": _who(node.key.public, node.name)},
        _NO_STORE,
    )


@_decision
async def trust(call: Call) -> Reply:
    wish = _parsed(_PEER_IN, call.raw)
    key = _key(wish["did"], "/did")
    addresses = wish.get("addresses")
    if addresses is not None and len(usable(addresses)) != len(set(addresses)):
        detail = "each is HOST:PORT or [IPV6]:PORT, and its port is not 0"
        raise Problem.invalid([{"pointer": "/addresses", "detail": detail}])
    role = wish.get("role")
    new = await call.app.peers.trust_key(
        call.who.sub,
        key,
        role=None if role is None else Role(role),
        name=wish.get("name"),
        addresses=None if addresses is None else usable(addresses),
        scope=_scope(wish["scope"]) if "scope" in wish else None,
    )
    return Reply(201 if new else 200, peer_view(call.app, key), _NO_STORE)


async def list_peers(call: Call) -> Reply:
    node = call.app
    return Reply(200, {"peers": all_peers(node), "self": _who(node.key.public, node.name)}, _NO_STORE)


async def show_peer(call: Call) -> Reply:
    key = _named(call)
    view = peer_view(call.app, key)
    if view is None:
        raise not_known(key)
    return Reply(200, view, _NO_STORE)


@_decision
async def revoke(call: Call) -> Reply:
    key = _named(call)
    word = call.query.get("purge", "false")
    if word not in ("true", "false"):
        raise Problem.invalid([{"pointer": "/purge", "detail": "it is true or false"}])
    gone = await call.app.peers.revoke(call.who.sub, key, purge=word == "true")
    return Reply(200, {"did": did_of(key), "purged": gone}, _NO_STORE)


@_decision
async def restore(call: Call) -> Reply:
    key = _named(call)
    await call.app.peers.restore(call.who.sub, key)
    view = peer_view(call.app, key)
    return Reply(204) if view is None else Reply(200, view, _NO_STORE)


@_decision
async def give_cert(call: Call) -> Reply:
    node = call.app
    try:
        entry = decode_entry(call.raw)
        subject = parse_did(entry.name) if entry.kind == "cert" else b""
    except EntryError as error:
        raise Problem.of("malformed", f"The body is not a signed entry: {error.detail}.") from error
    except DidError as error:
        raise Problem.invalid([{"pointer": "", "detail": f"the name of the entry is no node: {error}"}]) from error
    anchor = node.trust.anchors().get(entry.origin)
    if not subject:
        raise Problem.invalid([{"pointer": "", "detail": f"the entry is a {entry.kind}, not a cert"}])
    if anchor is None or anchor.role is not Role.ROOT or anchor.revoked is not None:
        did = did_of(entry.origin)
        raise Problem.of(
            "conflict", f"{did} is no root that is trusted here. Trust it first: `kosreg peers trust {did} --root`."
        )
    new = False
    for effect in node.replica.receive(call.raw, now_ms()):
        if isinstance(effect, Persist):
            await node.sync.commit_foreign(_Given(effect))
            new = True
        elif reason := getattr(effect, "reason", ""):
            raise Problem.invalid([{"pointer": "", "detail": f"the certificate is not taken: {reason}"}])
    body = fact_of(entry).body or {"state": "deleted"}
    said = {"issuer": did_of(entry.origin), "id": entry.id.hex(), "state": str(body.get("state"))}
    if new:
        await node.audit.write(call.who.sub, "certificate", entry.name, said)
    return Reply(201 if new else 200, {**said, "subject": entry.name, "new": new}, _NO_STORE)


@_decision
async def list_audit(call: Call) -> Reply:
    after, limit = _number(call, "after", 0, 0, 1 << 62), _number(call, "limit", MAX_AUDIT, 1, MAX_AUDIT)
    links, head = await call.app.audit.page(after, limit)
    body = {
        "node": call.app.did,
        "records": [audit_log.shown(link) for link in links],
        "head": None if head is None else {"seq": head[0], "hash": head[1].hex()},
    }
    return Reply(200, body, _NO_STORE)


_PEER_IN: Final = TypeAdapter(PeerIn)
_INVITE_IN: Final = TypeAdapter(InviteIn)
_JOIN_IN: Final = TypeAdapter(JoinIn)


def _parsed(form: TypeAdapter[Any], raw: bytes) -> Any:
    """Raises Problem (400, 422)."""
    try:
        return form.validate_json(raw, strict=True)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        if found[0]["type"] == "json_invalid":
            raise Problem.of("malformed", f"The body is not JSON: {found[0]['ctx']['error']}.") from error
        faults: list[Fault] = []
        for item in found[:100]:
            place = tuple(part for part in item["loc"] if not (isinstance(part, str) and "[" in part))
            faults.append({"pointer": pointer(place), "detail": item["msg"]})
        raise Problem.invalid(faults) from error


def _named(call: Call) -> bytes:
    try:
        return parse_did(call.params["did"])
    except DidError as error:
        raise Problem.of("not-found", f"There is no such key: {error}.") from error


def _key(text: str, where: str) -> bytes:
    try:
        return parse_did(text)
    except DidError as error:
        raise Problem.invalid([{"pointer": where, "detail": str(error)}]) from error


def _scope(wish: ScopeIn) -> Scope:
    return Scope(
        frozenset(class_of(word) for word in wish.get("classes", ["public"])),
        tuple(wish.get("types", ())),
        tuple(wish.get("tags", ())),
        wish.get("records"),
    )


def _number(call: Call, name: str, default: int, least: int, most: int) -> int:
    text = call.query.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 19 or not least <= int(text) <= most:
        raise Problem.invalid([{"pointer": f"/{name}", "detail": f"it is a number from {least} to {most}"}])
    return int(text)


def _who(key: bytes, name: str) -> dict[str, str]:
    return {"did": did_of(key), "name": name, "fingerprint": fingerprint(key)}


def _invite_shown(invite: Any) -> dict[str, Any]:
    state = "used" if invite.joiner is not None else "open" if invite.expires > now_ms() else "expired"
    shown = {
        "id": invite.id.hex(),
        "state": state,
        "created": rfc3339(invite.created),
        "expires": rfc3339(invite.expires),
    }
    if invite.name:
        shown["name"] = invite.name
    if invite.joiner is not None:
        shown["joiner"] = did_of(invite.joiner)
    return shown


_DID: Final = {"did": Annotated[str, Field(max_length=256, description="did:key:z6Mk…, or kind:did:….")]}
_FULL: Final = ("store-full", "unavailable")
Handle = Callable[[Call], Awaitable[Reply]]


def peer_routes(node: Node) -> list[Route]:
    """The table. `node`: for its bounds."""
    body = node.settings.limits.max_body
    tag = "peers"
    return [
        Route(
            "GET", "/api/peers", list_peers, tag=tag, scope=ADMINS, summary="Whom this node trusts, and their links.",
            replies={200: PeersOut},
        ),
        Route(
            "POST", "/api/peers", trust, tag=tag, scope=ADMINS, summary="Trust a key, or change what is trusted in it.",
            body=PeerIn, max_body=body,
            body_example={
                "did": "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK", "addresses": ["a.example:7481"],
            },
            replies={201: Answer(PeerOut, "It is new."), 200: Answer(PeerOut, "It was trusted before.")},
            problems=("conflict", "invalid", *_FULL),
        ),
        Route(
            "GET", "/api/peers/{did}", show_peer, tag=tag, scope=ADMINS, path_models=_DID, summary="One of them.",
            replies={200: PeerOut}, problems=("not-found",),
        ),
        Route(
            "DELETE", "/api/peers/{did}", revoke, tag=tag, scope=ADMINS, path_models=_DID, query=PurgeQuery,
            summary="Believe a key in nothing any more, whatever others say of it.",
            replies={200: RevokedOut}, problems=("conflict", "invalid", "not-found", *_FULL),
        ),
        Route(
            "POST", "/api/peers/{did}/restore", restore, tag=tag, scope=ADMINS, path_models=_DID,
            summary="Undo a revoke.",
            replies={200: PeerOut, 204: None}, problems=("not-found", *_FULL),
        ),
        Route(
            "POST", "/api/peers/invites", invite, tag=tag, scope=ADMINS, summary="Invite a node.",
            body=InviteIn, body_required=False, body_example={"ttl": 3600}, max_body=body,
            replies={201: NewInviteOut}, problems=("conflict", "invalid", *_FULL),
        ),
        Route(
            "GET", "/api/peers/invites", list_invites, tag=tag, scope=ADMINS, summary="The invites of this node.",
            replies={200: InvitesOut},
        ),
        Route(
            "POST", "/api/peers/join", join, tag=tag, scope=ADMINS, summary="Join a node that invited this one.",
            description="Answers when trust is mutual. It may be repeated until the invite expires.",
            body=JoinIn, body_example={"line": "kosreg1:…"}, max_body=body,
            replies={200: JoinedOut}, problems=("conflict", "invalid", *_FULL),
        ),
        Route(
            "POST", "/api/certs", give_cert, tag=tag, scope=ADMINS,
            summary="Give this node a certificate by a root that it trusts.",
            body=bytes, body_types=(COSE,), max_body=body,
            replies={201: Answer(CertOut, "It is new."), 200: Answer(CertOut, "It, or a newer one, was known.")},
            problems=("conflict", "invalid", *_FULL),
        ),
        Route(
            "GET", "/api/audit", list_audit, tag=tag, scope=ADMINS, query=AuditQuery,
            summary="The decisions about trust, in a chain of hashes.",
            replies={200: AuditOut}, problems=("invalid",),
        ),
    ]  # fmt: skip
