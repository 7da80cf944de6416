"""The routes of federations: which ones are trusted here, and who certified whom in them. For admins alone.

Certificates come in by `POST /api/certs` (`peer_routes`). No root key does: the command line signs with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import Field

from federation.identity import DidError, did_of, parse_did
from federation.trust import Anchor, Certificate, Role
from kosreg.api.http import Call, Reply, Route
from kosreg.peers import scope_told
from kosreg.problems import Problem
from kosreg.quota_views import frozen_told
from kosreg.refusals import store_problem
from kosreg.schemas.federation_schema import MAX_CERTIFICATES, CertificatesOut, CertificatesQuery, FederationsOut
from kosreg.store import StoreError
from kosreg.times import now_ms, rfc3339

if TYPE_CHECKING:
    from kosreg.api.node import Node

ADMINS: Final = ("admin", "*")
LAST_MS: Final = 253_402_300_799_999  # the end of the year 9999, behind which no time has a text
_NO_STORE: Final = {"Cache-Control": "no-store"}


async def list_federations(call: Call) -> Reply:
    node = call.app
    anchors = sorted(node.trust.anchors().values(), key=lambda anchor: (anchor.added, anchor.key))
    return Reply(
        200, {"federations": [_federation(node, anchor) for anchor in anchors if anchor.role is Role.ROOT]}, _NO_STORE
    )


async def list_certificates(call: Call) -> Reply:
    node, trust = call.app, call.app.trust
    root = _key(call.params["did"])
    anchor = None if root is None else trust.anchors().get(root)
    if root is None or anchor is None or anchor.role is not Role.ROOT:
        raise Problem.of("not-found", "This is no root that is trusted here. `kosreg federation list` shows all.")
    found = trust.certificates_in(root)
    if "subject" in call.query:
        subject = _key(call.query["subject"])
        if subject is None:
            raise Problem.invalid([{"pointer": "/subject", "detail": "it is no key: did:key:z6Mk…"}])
        about = trust.certificates_of(subject).items()
        found = ((issuer, subject, cert) for issuer, cert in about if cert.federation == root)
    rows = sorted(found, key=lambda row: (row[1], row[0]))
    limit = call.query.get("limit", str(MAX_CERTIFICATES))
    if not limit.isascii() or not limit.isdigit() or len(limit) > 6 or not 1 <= int(limit) <= MAX_CERTIFICATES:
        raise Problem.invalid([{"pointer": "/limit", "detail": f"it is a number from 1 to {MAX_CERTIFICATES}"}])
    shown = [_certificate(node, root, *row) for row in rows[: int(limit)]]
    return Reply(200, {"certificates": shown, "total": len(rows)}, _NO_STORE)


async def claim(call: Call) -> Reply:
    node = call.app
    try:
        await node.claim_key()
        await node.audit.write(call.who.sub, "claim", node.did, {})
    except StoreError as error:
        raise store_problem(error) from error
    return Reply(204)


def _federation(node: Node, anchor: Anchor) -> dict[str, Any]:
    trust, now, root = node.trust, now_ms(), anchor.key
    own = trust.chain(root, trust.own, now)
    told: dict[str, Any] = {
        "did": did_of(root),
        "name": anchor.name,
        "member": own is not None,
        "internal": node.federated()["root"] == did_of(root),
        "depth": trust.may_certify(trust.own, root, now),
        "members": sum(trust.chain(root, key, now) is not None for key in list(trust.keys())),
    }
    if own is not None:
        told["until"] = _time(max(chain.end for chain in trust.chains_to(trust.own) if chain.keys[0] == root))
    if anchor.revoked is not None:
        told["revoked"] = rfc3339(anchor.revoked)
    return told


def _certificate(node: Node, root: bytes, issuer: bytes, subject: bytes, cert: Certificate) -> dict[str, Any]:
    now = now_ms()
    ways = (way for way in node.trust.chains_to(subject) if way.holds(now))
    scope = scope_told(cert.scope)
    alive = node.sync.homes.told(did_of(subject))
    if subject == node.key.public:
        alive = {"state": "up", "reason": "", "since": rfc3339(node.started_ms)}
    return {
        **({} if alive is None else {"node": alive}),
        **({"frozen": frozen} if (frozen := frozen_told(node.mesh.quotas, subject)) else {}),
        "subject": did_of(subject),
        "name": node.name if subject == node.key.public else node.node_entries.said_by(subject).name,
        "issuer": did_of(issuer),
        "state": "granted" if cert.granted else "revoked",
        "holds": cert.granted and any(way.keys[0] == root and way.keys[-2] == issuer for way in ways),
        "depth": cert.depth,
        "classes": scope["classes"],
        "types": scope["types"],
        "tags": scope["tags"],
        "not_before": _time(cert.not_before),
        "until": _time(cert.until),
        "stamp": cert.order.stamp,
    }


def _time(ms: int) -> str:
    return rfc3339(min(ms, LAST_MS))


def _key(text: str) -> bytes | None:
    try:
        return parse_did(text)
    except DidError:
        return None


_DID: Final = {"did": Annotated[str, Field(max_length=256, description="The root key: did:key:z6Mk….")]}


def federation_routes() -> list[Route]:
    """The table."""
    tag = "federations"
    return [
        Route(
            "GET", "/api/federations", list_federations, tag=tag, scope=ADMINS,
            summary="The federations whose roots this node trusts.", replies={200: FederationsOut},
        ),
        Route(
            "GET", "/api/federations/{did}/certificates", list_certificates, tag=tag, scope=ADMINS, path_models=_DID,
            query=CertificatesQuery, summary="Who certified whom in one of them, and who was revoked.",
            replies={200: CertificatesOut}, problems=("invalid", "not-found"),
        ),
        Route(
            "POST", "/api/node/claim", claim, tag=tag, scope=ADMINS,
            summary="From its next start on, this is the node that its key belongs to: another one yields.",
            replies={204: None}, problems=("store-full", "unavailable"),
        ),
    ]  # fmt: skip
