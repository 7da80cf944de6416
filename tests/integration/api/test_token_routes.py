"""Tokens over the API: who may issue, see and revoke them."""

from __future__ import annotations

import time
from typing import Any

import pytest

from kosreg.node import Node
from tests.harness import Client

BOTH = pytest.mark.parametrize("extra", [{}, {"ttl": None, "scopes": None, "label": None}])


def slug(body: Any) -> str:
    return str(body["type"]).rpartition(":")[2]


async def issue(admin: Client, **wish: Any) -> dict[str, Any]:
    status, body, headers = await admin.post("/api/tokens", wish)
    assert (status, headers["Cache-Control"]) == (201, "no-store"), body
    assert isinstance(body, dict)
    return body


@BOTH
async def test_an_issued_token_works(admin: Client, node: Node, extra: dict[str, Any]) -> None:
    body = await issue(admin, subject="dora", **extra)
    assert body["sub"] == "dora"
    assert body["scopes"] == ["read:service:*", "write:service:*", "execute:service:*"]
    assert body["exp"] - body["iat"] == node.settings.tokens.ttl
    assert abs(body["iat"] - time.time()) < 5
    dora = Client(admin.url, body["token"])
    assert (await dora.get("/api/services"))[0] == 200
    await dora.close()


async def test_scopes_ttl_and_label_are_taken(admin: Client) -> None:
    body = await issue(admin, subject="dora", scopes=["read:metrics:*"], ttl=60, label="for the tests")
    assert (body["scopes"], body["exp"] - body["iat"], body["label"]) == (["read:metrics:*"], 60, "for the tests")
    dora = Client(admin.url, body["token"])
    assert (await dora.get("/metrics"))[0] == 200
    assert (await dora.get("/api/services"))[0] == 403
    await dora.close()


@pytest.mark.parametrize(
    ("wish", "pointers"),
    [
        ({}, {"/subject"}),
        ({"subject": 1}, {"/subject"}),
        ({"subject": ""}, {"/subject"}),
        ({"subject": "a@b"}, {"/subject"}),
        ({"subject": "a", "scopes": []}, {"/scopes"}),
        ({"subject": "a", "scopes": ["read:everything:*"]}, {"/scopes"}),
        ({"subject": "a", "scopes": [1]}, {"/scopes/0"}),
        ({"subject": "a", "ttl": 0}, {"/ttl"}),
        ({"subject": "a", "ttl": "1d"}, {"/ttl"}),
        ({"subject": "a", "name": "x"}, {"/name"}),
        ([], {""}),
    ],
)
async def test_faults_are_told_with_their_place(admin: Client, wish: Any, pointers: set[str]) -> None:
    before = (await admin.get("/api/tokens"))[1]
    status, body, _ = await admin.post("/api/tokens", wish)
    assert (status, slug(body)) == (422, "invalid")
    assert {fault["pointer"] for fault in body["errors"]} == pointers
    assert (await admin.get("/api/tokens"))[1] == before, "a refused call changes nothing"


async def test_a_body_that_is_no_json_is_malformed(admin: Client) -> None:
    status, body, _ = await admin.post("/api/tokens", b'{"subject": "a", }')
    assert (status, slug(body)) == (400, "malformed")
    assert "line 1 column" in body["detail"]


async def test_only_admins_issue(bob: Client, node: Node) -> None:
    status, body, _ = await bob.post("/api/tokens", {"subject": "bob"})
    assert (status, slug(body)) == (403, "out-of-scope")
    assert "admin:*:*" in body["detail"]
    bob.token = (await node.auth.issue("bob", ["*:service:*"])).token
    assert (await bob.post("/api/tokens", {"subject": "bob"}))[0] == 403


async def test_everybody_sees_their_own_tokens_and_admins_all(admin: Client, bob: Client, eve: Client) -> None:
    mine = (await bob.get("/api/tokens"))[1]["tokens"]
    assert {token["sub"] for token in mine} == {"bob"}
    every = (await admin.get("/api/tokens"))[1]["tokens"]
    assert {token["sub"] for token in every} == {"admin", "bob", "eve"}
    assert not [token for token in every if "token" in token], "the text is shown once, when it is issued"


async def test_a_revoked_token_is_refused_from_the_next_call_on(admin: Client) -> None:
    issued = await issue(admin, subject="dora")
    dora = Client(admin.url, issued["token"])
    assert (await dora.get("/api/services"))[0] == 200
    assert (await admin.call("DELETE", f"/api/tokens/{issued['jti']}"))[:2] == (204, b"")
    status, body, _ = await dora.get("/api/services")
    assert (status, slug(body)) == (401, "unauthenticated")
    (row,) = [t for t in (await admin.get("/api/tokens"))[1]["tokens"] if t["jti"] == issued["jti"]]
    assert row["revoked_at"].endswith("Z")
    assert (await admin.call("DELETE", f"/api/tokens/{issued['jti']}"))[0] == 204, "twice is as good as once"
    await dora.close()


async def test_one_may_revoke_ones_own_and_nobody_elses(admin: Client, bob: Client, eve: Client) -> None:
    other = (await issue(admin, subject="bob"))["jti"]
    hers = (await eve.get("/api/tokens"))[1]["tokens"][0]["jti"]
    status, body, _ = await bob.call("DELETE", f"/api/tokens/{hers}")
    assert (status, slug(body)) == (404, "not-found")
    assert (await eve.get("/api/services"))[0] == 200
    assert (await bob.call("DELETE", f"/api/tokens/{other}"))[0] == 204
    own = next(token for token in (await bob.get("/api/tokens"))[1]["tokens"] if "revoked_at" not in token)["jti"]
    assert (await bob.call("DELETE", f"/api/tokens/{own}"))[0] == 204
    assert (await bob.get("/api/services"))[0] == 401, "it was the one that was used"


async def test_an_unknown_token_is_not_found(admin: Client, bob: Client) -> None:
    for client in (admin, bob):
        status, body, _ = await client.call("DELETE", "/api/tokens/019b2f6c-3f7e-7c1e-9c55-2f0f5ad2a7aa")
        assert (status, slug(body)) == (404, "not-found")
