"""Health, node, keys, catalog: what is open, what needs which token. The same in JSON and MessagePack."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import jwt
import msgpack
import pytest
import pytest_asyncio

from federation.identity import NodeKey
from kosreg.node import Node
from tests.harness import Client, client_of

MSGPACK = "application/vnd.msgpack"


class Speaker:
    """Calls in one of the two forms, and shows the other side what was said in Python's own values."""

    def __init__(self, client: Client, form: str) -> None:
        self.client = client
        self.form = form

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, Any]:
        if self.form == "json":
            return await self.client.call(method, path, body, **headers)
        headers = {"Accept": MSGPACK, "Content_Type": MSGPACK} | headers
        packed = None if body is None else msgpack.packb(body)
        status, raw, told = await self.client.call(method, path, packed, **headers)
        assert not raw or told["Content-Type"] == MSGPACK, told
        return status, msgpack.unpackb(raw) if raw else b"", told

    async def get(self, path: str) -> tuple[int, Any, Any]:
        return await self.call("GET", path)


@pytest_asyncio.fixture(params=["json", "msgpack"])
async def admin(request: pytest.FixtureRequest, node: Node) -> AsyncIterator[Speaker]:
    client = await client_of(node)
    yield Speaker(client, request.param)
    await client.close()


@pytest_asyncio.fixture(params=["json", "msgpack"])
async def bob(request: pytest.FixtureRequest, node: Node) -> AsyncIterator[Speaker]:
    client = await client_of(node, "bob")
    yield Speaker(client, request.param)
    await client.close()


def slug(body: Any) -> str:
    return str(body["type"]).rpartition(":")[2]


# ---- health


async def test_healthz_is_open_and_says_no_more_than_it_must(bob: Speaker, node: Node) -> None:
    bob.client.token = None
    assert (await bob.get("/healthz"))[:2] == (200, {"status": "ok"})
    assert (await bob.get("/readyz"))[:2] == (200, {"status": "ready"})


async def test_a_node_that_is_not_ready_says_so(bob: Speaker, node: Node) -> None:
    node.ready = False
    for path in ("/healthz", "/readyz"):
        status, body, headers = await bob.get(path)
        assert (status, slug(body), headers["Retry-After"]) == (503, "unavailable", "1")
    node.ready = True
    assert (await bob.get("/healthz"))[0] == 200


async def test_readyz_has_details_for_those_who_may_read_the_node(admin: Speaker, node: Node) -> None:
    status, body, _ = await admin.get("/readyz")
    assert (status, body["status"]) == (200, "ready")
    assert body["services"] == {"active": 1, "degraded": 0, "offline": 0}
    assert body["store"]["commits"] > 0
    assert body["store"]["waiting"] == 0
    assert body["liveness"]["beats"] == 0


async def test_readyz_has_none_for_others(bob: Speaker) -> None:
    assert (await bob.get("/readyz"))[:2] == (200, {"status": "ready"})
    bob.client.token = "x.y.z"
    assert (await bob.get("/readyz"))[0] == 401


# ---- node


async def test_api_node_says_who_it_is(admin: Speaker, node: Node) -> None:
    status, body, _ = await admin.get("/api/node")
    assert status == 200
    assert body["did"] == node.did
    assert body["kind_did"].startswith("kind:did:")
    assert (body["name"], body["version"], body["api"]) == ("test", node.version, node.server.url)
    assert body["services"]["active"] == 1
    assert body["started"].endswith("Z")


async def test_api_node_needs_its_scope(bob: Speaker, node: Node) -> None:
    status, body, _ = await bob.get("/api/node")
    assert (status, slug(body)) == (403, "out-of-scope")
    bob.client.token = (await node.auth.issue("watcher", ["read:node:*"])).token
    assert (await bob.get("/api/node"))[0] == 200
    bob.client.token = None
    assert (await bob.get("/api/node"))[0] == 401


async def test_counts_follow_what_changes(admin: Speaker) -> None:
    record = {"id": "a", "name": "A", "type": "tool", "ttl": 0}
    assert (await admin.call("POST", "/api/services/register", record))[0] == 201
    assert (await admin.get("/api/node"))[1]["services"] == {"active": 2, "degraded": 0, "offline": 0}
    assert (await admin.call("POST", "/api/services/register", record | {"status": "offline"}))[0] == 200
    assert (await admin.get("/api/node"))[1]["services"] == {"active": 1, "degraded": 0, "offline": 1}


# ---- keys


async def test_the_open_jwks_holds_the_token_keys_and_verifies_a_token_elsewhere(bob: Speaker, node: Node) -> None:
    token = bob.client.token
    bob.client.token = None
    status, body, _ = await bob.get("/.well-known/jwks.json")
    assert status == 200
    assert not [key for key in body["keys"] if "d" in key], "public halves alone"
    key = jwt.PyJWK(body["keys"][0])
    claims = jwt.decode(token or "", key, algorithms=["EdDSA"], audience=node.did, issuer=node.did)
    assert claims["sub"] == "bob"
    x = base64.urlsafe_b64encode(node.key.public).rstrip(b"=").decode()
    assert x not in [key["x"] for key in body["keys"]], "the node's own key signs no tokens"


async def test_record_keys_are_at_the_node_and_need_any_token(bob: Speaker, node: Node) -> None:
    for did in (node.did, node.key.kind_did):
        status, body, _ = await bob.get(f"/api/nodes/{quote(did, safe='')}/jwks.json")
        assert status == 200
        (key,) = body["keys"]
        assert (key["kty"], key["crv"], key["kid"]) == ("OKP", "Ed25519", node.did)
        assert base64.urlsafe_b64decode(key["x"] + "=") == node.key.public
    for other in (NodeKey.generate().did, "did:key:zzz", "did:web:example.org", "x" * 200):
        status, body, _ = await bob.get(f"/api/nodes/{quote(other, safe='')}/jwks.json")
        assert (status, slug(body)) == (404, "not-found")
    bob.client.token = None
    assert (await bob.get(f"/api/nodes/{node.did}/jwks.json"))[0] == 401


# ---- catalog


async def test_the_api_catalog_leads_to_what_there_is(node: Node) -> None:
    client = Client(node.server.url, None)
    status, raw, headers = await client.get("/.well-known/api-catalog")
    assert (status, headers["Content-Type"].partition(";")[0]) == (200, "application/linkset+json")
    body = raw if isinstance(raw, dict) else json.loads(raw)
    api = body["linkset"][0]
    for relation in ("service-desc", "service-doc", "status"):
        (link,) = api[relation]
        assert link["href"].startswith(node.server.url)
        status, _, told = await client.get(link["href"].removeprefix(node.server.url))
        assert (status, told["Content-Type"].partition(";")[0]) == (200, link["type"])
    await client.close()


# ---- the routes of services, through the same door


async def test_a_record_goes_in_and_out_in_either_form(admin: Speaker) -> None:
    record = {
        "id": "svc-1", "name": "Übersetzer", "type": "agent", "tags": ["text"], "metadata": {"deep": [{"n": 1.5}, None]}
    }  # fmt: skip
    status, made, _ = await admin.call("POST", "/api/services/register", record)
    assert status == 201
    assert (made["name"], made["metadata"]) == (record["name"], record["metadata"])
    assert (await admin.get("/api/services/svc-1"))[1]["id"] == "svc-1"
    status, listed, headers = await admin.get("/api/services?tag=text")
    assert [service["id"] for service in listed["services"]] == ["svc-1"]
    assert (await admin.call("GET", "/api/services?tag=text", If_None_Match=headers["ETag"]))[0] == 304
    assert (await admin.call("PATCH", "/api/services/svc-1", {"tags": ["other"]}))[1]["tags"] == ["other"]
    assert (await admin.call("POST", "/api/services/svc-1/heartbeat", {"load": 0.5}))[1]["status"] == "active"
    assert (await admin.call("POST", "/api/services/svc-1/heartbeat"))[0] == 200
    assert (await admin.call("POST", "/api/heartbeats", {"beats": [{"id": "svc-1"}, {"id": "no"}]}))[1] == {
        "ok": 1,
        "unknown": ["no"],
        "forbidden": [],
    }
    status, body, _ = await admin.call("POST", "/api/services/register", {"id": "svc-2", "type": "x"})
    assert (status, slug(body)) == (422, "invalid")
    assert {fault["pointer"] for fault in body["errors"]} == {"/name", "/type"}
    assert (await admin.call("DELETE", "/api/services/svc-1"))[:2] == (204, b"")
    assert (await admin.get("/api/services/svc-1"))[0] == 404
