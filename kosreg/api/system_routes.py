"""The routes that are about the node rather than about services: health, metrics, documents, keys.

What is open without a token tells nothing about who is registered: whether the node serves, how the API looks, and the
public keys of its tokens. The routes of tokens are in `token_routes`.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from federation.identity import DidError, parse_did
from kosreg.api import docs, metrics
from kosreg.api.http import Answer, Call, Reply, Route
from kosreg.api.token_routes import token_routes
from kosreg.problems import Problem
from kosreg.times import rfc3339

if TYPE_CHECKING:
    from kosreg.api.node import Node

LINKSET: Final = 'application/linkset+json; profile="https://www.rfc-editor.org/info/rfc9727"'
NODE_SCOPE: Final = ("read", "node")


class Counts(TypedDict):
    """Services by effective status, of all owners."""

    active: int
    degraded: int
    offline: int


class StoreOut(TypedDict):
    """The store since the node started."""

    commits: int
    rows: int
    failed: int
    waiting: Annotated[int, Field(description="Writes that are not on disk yet.")]
    waiting_bytes: int
    largest_group: Annotated[int, Field(description="Most writes that shared one commit.")]
    busy_s: Annotated[float, Field(description="Seconds spent in commits.")]


class WatchOut(TypedDict):
    """Who watches heartbeats, since the node started."""

    beats: int
    expiries: Annotated[int, Field(description="Services that missed their ttl.")]
    graces: Annotated[int, Field(description="How often all got a full ttl: after a start, a suspend, a clock jump.")]


class NodeOut(TypedDict):
    """Who this node is."""

    did: str
    kind_did: Annotated[str, Field(description="The same key as kOS writes it.")]
    name: str
    version: str
    api: Annotated[str, Field(description="Where the API listens: a URL, or unix:PATH.")]
    federation: Annotated[str, Field(description="Where it listens for peers: HOST:PORT, or off.")]
    root: Annotated[str | None, Field(description="The federation that internal means here: its root's DID.")]
    peers: Annotated[int, Field(description="Keys that an admin trusts.")]
    links: Annotated[int, Field(description="Peers that it has a link to now.")]
    nodes: Annotated[dict[str, int], Field(description="Other nodes by what is thought of them: up, unreachable, ….")]
    isolated: Annotated[bool, Field(description="It hears less than half of the nodes that it heard: it is cut off.")]
    yielded: Annotated[bool, Field(description="Another node runs with its key: it signs nothing, and has no links.")]
    started: Annotated[str, Field(description="RFC 3339.")]
    services: Counts
    websockets: int


class HealthOut(TypedDict):
    """The node serves."""

    status: Literal["ok"]


class ReadyOut(TypedDict):
    """The node serves; the rest is shown to tokens with read:node:*."""

    status: Literal["ready"]
    started: NotRequired[str]
    services: NotRequired[Counts]
    store: NotRequired[StoreOut]
    liveness: NotRequired[WatchOut]


class JwkOut(TypedDict):
    """A public Ed25519 key (RFC 8037)."""

    kty: Literal["OKP"]
    crv: Literal["Ed25519"]
    x: str
    kid: str
    use: Literal["sig"]
    alg: str


class JwksOut(TypedDict):
    """Public keys (RFC 7517)."""

    keys: list[JwkOut]


def _must_be_ready(node: Node) -> None:
    if not node.ready:
        raise Problem.of("unavailable", "The node is starting or stopping. Ask again in a second.", headers=_SOON)


_SOON: Final = {"Retry-After": "1"}


async def healthz(call: Call) -> Reply:
    _must_be_ready(call.app)
    return Reply(200, b'{"status":"ok"}', {"Cache-Control": "no-store"})


async def readyz(call: Call) -> Reply:
    node = call.app
    _must_be_ready(node)
    body: dict[str, Any] = {"status": "ready"}
    if call.caller is not None and call.caller.may(*NODE_SCOPE):
        stats = node.store.stats()
        body |= {
            "started": rfc3339(node.started_ms),
            "services": node.metrics.services(node),
            "store": {name: getattr(stats, name) for name in StoreOut.__annotations__},
            "liveness": {
                "beats": node.registry.beats,
                "expiries": node.liveness.expiries,
                "graces": node.liveness.graces,
            },
        }
    return Reply(200, body, {"Cache-Control": "no-store"})


async def show_metrics(call: Call) -> Reply:
    node = call.app
    return Reply(200, node.metrics.exposition(node), content_type=metrics.CONTENT_TYPE)


async def show_openapi(call: Call) -> Reply:
    return Reply(200, call.app.server.openapi)


async def show_node(call: Call) -> Reply:
    node = call.app
    return Reply(
        200,
        {
            "did": node.did,
            "kind_did": node.key.kind_did,
            "name": node.name,
            "version": node.version,
            "api": node.server.url,
            **node.federated(),
            "started": rfc3339(node.started_ms),
            "services": node.metrics.services(node),
            "websockets": len(node.sockets),
        },
    )


async def token_keys(call: Call) -> Reply:
    return Reply(200, call.app.auth.jwks(), {"Cache-Control": "max-age=60"})


async def record_keys(call: Call) -> Reply:
    node = call.app
    try:
        public = parse_did(call.params["did"])
    except DidError as error:
        raise Problem.of("not-found", f"There is no such node: {error}.") from error
    if public != node.key.public:
        raise Problem.of("not-found", f"This node knows no other: it is {node.did}.")
    x = base64.urlsafe_b64encode(public).rstrip(b"=").decode()
    key = {"kty": "OKP", "crv": "Ed25519", "x": x, "kid": node.did, "use": "sig", "alg": "EdDSA"}
    return Reply(200, {"keys": [key]})


async def api_catalog(call: Call) -> Reply:
    """RFC 9727: where the API, its description and its health are, as a linkset (RFC 9264)."""
    base = f"{call.request.scheme}://{call.headers.get('Host', 'localhost')}"
    return Reply(
        200,
        {
            "linkset": [
                {
                    "anchor": f"{base}/api/services",
                    "service-desc": [{"href": f"{base}/openapi.json", "type": "application/json"}],
                    "service-doc": [{"href": f"{base}/docs", "type": "text/html"}],
                    "status": [{"href": f"{base}/healthz", "type": "application/json"}],
                },
                {"anchor": f"{base}/.well-known/api-catalog", "item": [{"href": f"{base}/api/services"}]},
            ]
        },
        content_type=LINKSET,
    )


def system_routes(node: Node) -> list[Route]:
    """The table. `node`: for its bounds."""
    tag = "node"
    return [
        Route(
            "GET", "/healthz", healthz, tag=tag, auth="open", rate=None, summary="Whether the node serves.",
            description="200 only when `admin.token` and the API are ready.",
            replies={200: HealthOut}, problems=("unavailable",),
        ),
        Route(
            "GET", "/readyz", readyz, tag=tag, auth="optional", rate=None, summary="The same, with details for tokens.",
            description="Details are for tokens with `read:node:*`; without a token there are none.",
            replies={200: ReadyOut}, problems=("unavailable",),
        ),
        Route(
            "GET", "/metrics", show_metrics, tag=tag, scope=("read", "metrics"), produces=None,
            summary="All numbers of the node, for Prometheus.",
            replies={200: Answer(None, "Prometheus' text format.", content_types=("text/plain",))},
        ),
        Route(
            "GET", "/openapi.json", show_openapi, tag="documents", auth="open", rate=None,
            summary="This document.", replies={200: dict[str, Any]},
        ),
        Route(
            "GET", "/docs", docs.page, tag="documents", auth="open", rate=None, produces=None,
            summary="A page to try the API.",
            replies={200: Answer(None, "The page.", content_types=("text/html",))},
        ),
        Route(
            "GET", "/docs/{file}", docs.asset, tag="documents", auth="open", rate=None, produces=None,
            summary="What the page is made of.", path_models={"file": Literal[*docs.ASSETS]},
            replies={200: Answer(None, "The file.", content_types=("text/javascript", "text/css", "text/plain"))},
            problems=("not-found",),
        ),
        Route(
            "GET", "/.well-known/jwks.json", token_keys, tag="keys", auth="open", rate=None,
            summary="The public keys that sign tokens of this node (RFC 7517).", replies={200: JwksOut},
        ),
        Route(
            "GET", "/.well-known/api-catalog", api_catalog, tag="documents", auth="open", rate=None, produces=None,
            summary="Where the API is described (RFC 9727).",
            replies={200: Answer(dict[str, Any], "A linkset (RFC 9264).", content_types=("application/linkset+json",))},
        ),
        Route(
            "GET", "/api/node", show_node, tag=tag, scope=NODE_SCOPE, summary="Who this node is.",
            replies={200: NodeOut},
        ),
        Route(
            "GET", "/api/nodes/{did}/jwks.json", record_keys, tag="keys",
            summary="The public key that signs the records of a node.",
            description="Tokens are signed by other keys: those of `/.well-known/jwks.json`.",
            path_models={"did": Annotated[str, Field(max_length=256, description="did:key:z6Mk…, or kind:did:….")]},
            replies={200: JwksOut}, problems=("not-found",),
        ),
        *token_routes(node),
    ]  # fmt: skip
