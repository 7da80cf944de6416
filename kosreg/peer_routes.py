"""The routes of peers: invite, join, trust, revoke; the certificates of roots; and the audit log. For admins alone.

A handler reads the request, calls one use case of `peers` and shows what came back.
"""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import Field, TypeAdapter, ValidationError

from crdt.entry import EntryError
from federation.cose import decode_entry, fact_of
from federation.grant import read_cert
from federation.identity import DidError, did_of, parse_did
from federation.replica import Persist
from federation.trust import Role, Scope
from kosreg import audit as audit_log
from kosreg.api.http import Answer, Call, Handler, Reply, Route
from kosreg.invites import DEFAULT_TTL, usable
from kosreg.members import Given
from kosreg.peer_views import all_neighbours, all_peers, peer_view
from kosreg.peers import class_of, fingerprint, not_known
from kosreg.problems import Fault, Problem
from kosreg.refusals import store_problem
from kosreg.schemas.peer_schema import (
    MAX_AUDIT,
    AuditOut,
    AuditQuery,
    CertOut,
    InviteIn,
    InvitesOut,
    JoinedOut,
    JoinIn,
    NearbyOut,
    NewInviteOut,
    PeerIn,
    PeerOut,
    PeersOut,
    PurgeQuery,
    RevokedOut,
    ScopeIn,
)
from kosreg.schemas.service_schema import pointer
from kosreg.store import StoreError
from kosreg.times import now_ms, rfc3339

if TYPE_CHECKING:
    from kosreg.api.node import Node

COSE: Final = "application/cose"
ADMINS: Final = ("admin", "*")
_NO_STORE: Final = {"Cache-Control": "no-store"}


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
    root = _key(wish["federation"], "/federation") if "federation" in wish else None
    line, kept = await peers.invite(call.who.sub, wish.get("ttl", DEFAULT_TTL), wish.get("name", ""), root)
    return Reply(201, {"line": line.encode(), **_invite_shown(kept)}, _NO_STORE)


async def list_invites(call: Call) -> Reply:
    return Reply(200, {"invites": [_invite_shown(one) for one in call.app.peers.invites.all()]}, _NO_STORE)


@_decision
async def join(call: Call) -> Reply:
    node = call.app
    joined = await node.peers.join(call.who.sub, _parsed(_JOIN_IN, call.raw)["line"])
    body: dict[str, Any] = {"peer": _who(joined.key, joined.name), "self": _who(node.key.public, node.name)}
    if joined.federation is not None:
        body["federation"] = did_of(joined.federation)
    return Reply(200, body, _NO_STORE)


@_decision
async def trust(call: Call) -> Reply:
    wish = _parsed(_PEER_IN, call.raw)
    key = call.app.trust.successions.latest(_key(wish["did"], "/did"))
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


async def list_nearby(call: Call) -> Reply:
    node = call.app
    nearby = node.nearby
    body = {
        "nearby": all_neighbours(node),
        "mdns": nearby.state,
        "error": nearby.error,
        "passed_by": nearby.neighbours.passed_by,
        "self": _who(node.key.public, node.name),
    }
    return Reply(200, body, _NO_STORE)


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
    if not subject:
        raise Problem.invalid([{"pointer": "", "detail": f"the entry is a {entry.kind}, not a cert"}])
    if entry.origin == node.key.public or not node.trust.may_certify(
        entry.origin, read_cert(entry).federation or entry.origin, now_ms()
    ):
        did = did_of(entry.origin)
        raise Problem.of(
            "conflict",
            f"{did} is no root that is trusted here, and may certify nobody in the federation that it names. If it is "
            f"a root, trust it first: `kosreg peers trust {did} --federation`.",
        )
    new = False
    for effect in node.replica.receive(call.raw, now_ms()):
        if isinstance(effect, Persist):
            await node.sync.commit_foreign(Given(effect))
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
        "node": did_of(call.app.first_key),
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
    """The key that is meant: the one that stands in the place of the one that is named."""
    try:
        return call.app.trust.successions.latest(parse_did(call.params["did"]))
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
    if invite.federation is not None:
        shown["federation"] = did_of(invite.federation)
    if invite.joiner is not None:
        shown["joiner"] = did_of(invite.joiner)
    return shown


_DID: Final = {"did": Annotated[str, Field(max_length=256, description="did:key:z6Mk…, or kind:did:….")]}
_FULL: Final = ("store-full", "unavailable")


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
            "GET", "/api/peers/nearby", list_nearby, tag=tag, scope=ADMINS,
            summary="The nodes that are heard on the local network, trusted or not.",
            replies={200: NearbyOut},
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
            summary="Give this node a certificate by a root that it trusts, or by a key that one lets certify.",
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
