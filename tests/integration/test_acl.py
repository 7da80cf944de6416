"""Who may see what, on every way to a service: each route of the OpenAPI document, and the WebSocket.

The walk compares worlds: what an outsider is told while hidden services are registered, changed, alive, offline and
removed must be, byte for byte, what it is told while there is none. A route that the walk does not know fails it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kosreg.auth import DEFAULT_SCOPES
from kosreg.node import Node
from tests.harness import Client, client_of, running_node

MARK = "zebra"  # in every text of a hidden record, and nowhere else
ISSUER = "https://issuer.example"
HIDDEN: dict[str, dict[str, Any]] = {
    "hidden-private": {"visibility": "private"},
    "hidden-by-acl-": {"acl": {"read": ["sub:friend"]}},
    "hidden-acl-pub": {"acl": {"read": ["sub:friend"]}, "visibility": "public"},
}
ABSENT = "hidden-nowhere"  # as long as the others, so that whole answers can be compared

Seen = tuple[int, dict[str, str], bytes]


def record(uid: str, **fields: Any) -> dict[str, Any]:
    return {
        "id": uid, "name": f"{MARK} name", "type": "agent", "tags": ["shared", MARK], "url": f"http://{MARK}.example/",
        "description": f"about {MARK}", "capabilities": ["shared", MARK], "region": MARK, "version": MARK, "ttl": 30,
        "metadata": {MARK: MARK}, "auth": {"type": "api_key", "token": f"{MARK}-secret"},
    } | fields  # fmt: skip


def put_id(value: Any, uid: str) -> Any:
    """`value` with `uid` wherever it says `{id}`."""
    return json.loads(json.dumps(value).replace("{id}", uid))


def small(uid: str, **fields: Any) -> dict[str, Any]:
    """A record that says no more than it must."""
    return {"id": uid, "name": "n", "type": "agent"} | fields


class Outsider:
    """Calls, and keeps what is comparable of the answers: all but the date."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def see(self, method: str, path: str, body: Any = None, **headers: str) -> Seen:
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        sent = {"Authorization": f"Bearer {self.client.token}", "X-Request-Id": "same"}
        if data is not None:
            sent["Content-Type"] = "application/json"
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.client.session.request(method, self.client.url + path, data=data, headers=sent) as answer:
            kept = {name.lower(): value for name, value in answer.headers.items() if name.lower() != "date"}
            return answer.status, kept, await answer.read()

    async def same_as_absent(self, method: str, path: str, body: Any = None, **headers: str) -> Seen:
        """`path` and `body` name a service by `{id}`: nobody can tell a hidden one from one that does not exist."""

        def named(uid: str) -> tuple[str, Any]:
            return path.replace("{id}", uid), None if body is None else put_id(body, uid)

        absent = await self.see(method, *named(ABSENT), **headers)
        for uid in HIDDEN:
            hidden = await self.see(method, *named(uid), **headers)
            text = {name: value.replace(uid, ABSENT) for name, value in hidden[1].items()}
            told = (hidden[0], text, hidden[2].replace(uid.encode(), ABSENT.encode()))
            assert told == absent, f"{method} {path} tells {uid} from what does not exist"
            assert MARK.encode() not in hidden[2]
        return absent


QUERIES = [
    "", "tag=shared", "tag=zebra", "any_tag=zebra&any_tag=shared", "type=agent", "owner=bob", "status=active",
    "status=offline&status=degraded", "visibility=private", "visibility=public", "capability=shared", "q=zebra",
    "limit=1", "limit=1&sort=name", "sort=-region,version", "sort=-updated", "sort=heartbeat", "sort=-weight,owner",
    "fields=id,region,acl", "sort=-id&limit=2&fields=owner,metadata", "q=name",
    "tag=shared&type=agent&owner=bob&q=name&status=active",
]  # fmt: skip


async def look_at_lists(eve: Outsider, node: Node) -> list[Seen]:
    """Every kind of list, each with all of its pages, and what 304 and long polls say."""
    seen: list[Seen] = []
    for query in [*QUERIES, f"origin={node.did}"]:
        cursor = ""
        while True:
            status, headers, body = await eve.see("GET", f"/api/services?{query}{cursor}")
            seen.append((status, headers, body))
            assert status == 200, body
            assert MARK.encode() not in body
            page = json.loads(body)
            if not cursor:
                seen.append(await eve.see("GET", f"/api/services?{query}", If_None_Match=headers["etag"]))
                seen.append(await eve.see("GET", f"/api/services?{query}&since={page['version']}"))
                assert [status for status, _, _ in seen[-2:]] == [304, 304], query
            if page["next_cursor"] is None:
                break
            cursor = f"&cursor={page['next_cursor']}"
    return seen


Judge = Callable[["Walk"], Awaitable[Any]]
JUDGES: dict[tuple[str, str], Judge] = {}


def judge(method: str, path: str) -> Callable[[Judge], Judge]:
    def enter(function: Judge) -> Judge:
        JUDGES[method, path] = function
        return function

    return enter


class Walk:
    """What one walk over the routes needs. `compared`: what must not differ between the worlds."""

    def __init__(self, node: Node, eve: Outsider, signed: dict[str, tuple[tuple[bytes, str], ...]]) -> None:
        self.node = node
        self.eve = eve
        self.signed = signed  # of each hidden service, passed on by somebody who may see it

    async def unchanged(self, path: str) -> Seen:
        seen = await self.eve.see("GET", path)
        assert MARK.encode() not in seen[2]
        assert not any(uid.encode() in seen[2] for uid in HIDDEN)
        return seen


@judge("GET", "/api/services")
async def _(walk: Walk) -> Any:
    return await look_at_lists(walk.eve, walk.node)


@judge("GET", "/api/services/{id}")
async def _(walk: Walk) -> Any:
    head = await walk.eve.same_as_absent("HEAD", "/api/services/{id}")
    packed = await walk.eve.same_as_absent("GET", "/api/services/{id}", Accept="application/vnd.msgpack")
    seen = await walk.eve.same_as_absent("GET", "/api/services/{id}")
    assert seen[0] == head[0] == packed[0] == 404
    return seen


@judge("PATCH", "/api/services/{id}")
async def _(walk: Walk) -> Any:
    seen = [
        await walk.eve.same_as_absent("PATCH", "/api/services/{id}", patch)
        for patch in ({"name": "x"}, {"id": "other"}, {"owner": "eve"}, {}, {"nonsense": 1}, [])
    ]
    assert [status for status, _, _ in seen] == [404] * 5 + [422]
    return seen


@judge("DELETE", "/api/services/{id}")
async def _(walk: Walk) -> Any:
    seen = await walk.eve.same_as_absent("DELETE", "/api/services/{id}")
    assert seen[0] == 404
    return seen


@judge("POST", "/api/services/{id}/heartbeat")
async def _(walk: Walk) -> Any:
    for beat in (None, {"status": "degraded", "load": 0.5}, {"load": 2}):
        await walk.eve.same_as_absent("POST", "/api/services/{id}/heartbeat", beat)
    seen = await walk.eve.same_as_absent("POST", "/api/services/{id}/heartbeat")
    assert seen[0] == 404
    return seen


@judge("POST", "/api/heartbeats")
async def _(walk: Walk) -> Any:
    beats = [{"id": "{id}"}, {"id": "{id}", "load": 0.1}, {"id": "theirs"}]
    status, _, body = await walk.eve.same_as_absent("POST", "/api/heartbeats", {"beats": beats})
    assert (status, json.loads(body)) == (200, {"ok": 0, "unknown": [ABSENT, ABSENT], "forbidden": ["theirs"]})
    return body


@judge("GET", "/api/services/{id}/explain")
async def _(walk: Walk) -> Any:
    seen = await walk.eve.same_as_absent("GET", "/api/services/{id}/explain")
    assert seen[0] == 404
    return seen


@judge("GET", "/api/services/{id}/signed")
async def _(walk: Walk) -> Any:
    for form in ("application/cose", "application/jose+json", "text/html"):
        seen = await walk.eve.same_as_absent("GET", "/api/services/{id}/signed", Accept=form)
        assert seen[0] == (406 if form == "text/html" else 404)
    return seen


@judge("POST", "/api/services/register")
async def _(walk: Walk) -> Any:
    """The one route that must tell that an id is taken: 403, and not a word more than of one that can be seen."""
    told = []
    for uid in (*HIDDEN, "theirs"):
        status, _, body = await walk.eve.see("POST", "/api/services/register", small(uid))
        assert status == 403
        assert MARK.encode() not in body
        told.append(body.replace(uid.encode(), b"ID"))
    assert len(set(told)) == 1
    return told[0]


@judge("POST", "/api/services/verify")
async def _(walk: Walk) -> Any:
    """A signed copy that somebody passed on says what it says, and not whether it is what is shown now."""
    for copies in walk.signed.values():
        for raw, form in copies:
            status, _, body = await walk.eve.see("POST", "/api/services/verify", raw, Content_Type=form)
            assert status == 200
            verdict = json.loads(body)
            assert (verdict["signature"], verdict["valid"], verdict["current"]) == (True, True, False)


@judge("GET", "/api/tokens")
async def _(walk: Walk) -> Any:
    return await walk.unchanged("/api/tokens")


@judge("POST", "/api/tokens")
async def _(walk: Walk) -> Any:
    assert (await walk.eve.see("POST", "/api/tokens", {"subject": "bob"}))[0] == 403


@judge("DELETE", "/api/tokens/{jti}")
async def _(walk: Walk) -> Any:
    seen = await walk.eve.same_as_absent("DELETE", "/api/tokens/{id}")
    assert seen[0] == 404
    return seen


@judge("GET", "/api/nodes/{did}/jwks.json")
async def _(walk: Walk) -> Any:
    seen = await walk.eve.same_as_absent("GET", "/api/nodes/{id}/jwks.json")
    assert seen[0] == 404
    return seen, await walk.unchanged(f"/api/nodes/{walk.node.did}/jwks.json")


@judge("GET", "/api/node")
@judge("GET", "/metrics")
@judge("GET", "/readyz")
async def _(walk: Walk) -> Any:
    """Numbers of the whole node are for those whose scopes say so; they name nothing."""
    for path in ("/api/node", "/metrics"):
        assert (await walk.unchanged(path))[0] == 403
    assert json.loads((await walk.unchanged("/readyz"))[2]) == {"status": "ready"}
    operator = Outsider(await client_of(walk.node, "operator", *DEFAULT_SCOPES, "read:node:*", "read:metrics:*"))
    try:
        for path in ("/api/node", "/metrics", "/readyz"):
            status, _, body = await operator.see("GET", path)
            assert status == 200
            assert MARK.encode() not in body
            assert not any(uid.encode() in body for uid in HIDDEN)
    finally:
        await operator.client.close()


@judge("GET", "/api/peers")
@judge("GET", "/api/peers/nearby")
@judge("GET", "/api/peers/{did}")
@judge("DELETE", "/api/peers/{did}")
@judge("POST", "/api/peers")
@judge("POST", "/api/peers/{did}/restore")
@judge("POST", "/api/peers/join")
@judge("GET", "/api/peers/invites")
@judge("POST", "/api/peers/invites")
@judge("POST", "/api/certs")
@judge("GET", "/api/audit")
@judge("GET", "/api/federations")
@judge("GET", "/api/federations/{did}/certificates")
@judge("POST", "/api/node/claim")
@judge("GET", "/api/key")
@judge("POST", "/api/key/rotate")
async def _(walk: Walk) -> Any:
    """Whom the node trusts is for admins alone."""
    peer = f"/api/peers/{walk.node.did}"
    for method, path in (
        ("GET", "/api/peers"), ("GET", "/api/peers/nearby"),
        ("GET", peer), ("DELETE", peer), ("POST", f"{peer}/restore"), ("GET", "/api/audit"),
        ("GET", "/api/peers/invites"), ("POST", "/api/peers/invites"), ("POST", "/api/peers/join"),
        ("POST", "/api/peers"), ("POST", "/api/certs"), ("POST", "/api/node/claim"), ("GET", "/api/federations"),
        ("GET", f"/api/federations/{walk.node.did}/certificates"), ("GET", "/api/key"), ("POST", "/api/key/rotate"),
    ):  # fmt: skip
        status, _, body = await walk.eve.see(method, path, {} if method == "POST" else None)
        assert status == 403, (method, path)
        assert MARK.encode() not in body


@judge("PUT", "/api/services/{id}/alias")
@judge("DELETE", "/api/services/{id}/alias")
async def _(walk: Walk) -> Any:
    """What an id means is for admins to say; whether there is such a service, the answer does not tell."""
    for uid in (*HIDDEN, "nothing-here"):
        for method, body in (("PUT", {"origin": walk.node.did}), ("DELETE", None)):
            status, _, answer = await walk.eve.see(method, f"/api/services/{uid}/alias", body)
            assert status == 403, (method, uid)
            assert MARK.encode() not in answer


def _open_route(path: str) -> None:
    @judge("GET", path)
    async def _(walk: Walk) -> Any:
        return await walk.unchanged(path.replace("{file}", "start.js"))


for _path in (
    "/healthz", "/openapi.json", "/docs", "/docs/{file}", "/.well-known/jwks.json", "/.well-known/api-catalog",
):  # fmt: skip
    _open_route(_path)


@judge("GET", "/ws/registry")
async def _(walk: Walk) -> Any:
    """Its own tests are below; here: that a snapshot holds what a list holds."""
    async with walk.eve.client.ws() as ws:
        snapshot = await frame(ws)
        assert MARK not in json.dumps(snapshot)
        return sorted(service["id"] for service in snapshot["services"])


async def frame(ws: aiohttp.ClientWebSocketResponse) -> dict[str, Any]:
    async with asyncio.timeout(5):
        value: dict[str, Any] = await ws.receive_json()
    return value


async def ask(ws: aiohttp.ClientWebSocketResponse, **fields: Any) -> dict[str, Any]:
    """Send a frame and return the very next one: nothing else may come."""
    await ws.send_json({"id": 1} | fields)
    return await frame(ws)


async def quiet(ws: aiohttp.ClientWebSocketResponse) -> None:
    """Nothing was told. Events are told within some ms of a change, before a later change's; `marker` is one."""
    answer = await ask(ws, op="ping")
    assert answer["op"] == "ok", answer


async def ok(client: Client, method: str, path: str, body: Any = None) -> Any:
    status, answer, _ = await client.call(method, path, body)
    assert status < 300, answer
    return answer


async def stir(bob: Client) -> None:
    """Everything that can happen to hidden services."""
    for uid, fields in HIDDEN.items():
        await ok(bob, "POST", "/api/services/register", record(uid, **fields))
        await ok(bob, "POST", f"/api/services/{uid}/heartbeat", {"status": "degraded", "load": 0.7})
        await ok(bob, "PATCH", f"/api/services/{uid}", {"description": f"new {MARK} {time.time_ns()}"})
        await ok(bob, "POST", f"/api/services/{uid}/heartbeat", {"status": "active"})
        await ok(bob, "DELETE", f"/api/services/{uid}")
        await ok(bob, "POST", "/api/services/register", record(uid, **fields, metadata={MARK: str(time.time_ns())}))
        await ok(bob, "PATCH", f"/api/services/{uid}", {"ttl": 0, "status": "offline"})
        await ok(bob, "PATCH", f"/api/services/{uid}", {"status": "active", "ttl": 30})


async def open_world(bob: Client, eve: Client) -> None:
    """What everybody may see."""
    await ok(bob, "POST", "/api/services/register", small("theirs", name="their name", tags=["shared"]))
    for n in range(3):
        await ok(eve, "POST", "/api/services/register", small(f"eves-{n}", type="tool", tags=["shared"]))


@pytest_asyncio.fixture
async def friend(node: Node) -> AsyncIterator[Client]:
    client = await client_of(node, "friend")
    yield client
    await client.close()


@pytest.mark.timeout(120)
async def test_acl_hides_a_service_everywhere(node: Node, bob: Client, eve: Client, friend: Client) -> None:
    document = json.loads((await Outsider(eve).see("GET", "/openapi.json"))[2])
    methods = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
    routes = {(m.upper(), path) for path, item in document["paths"].items() for m in methods if m in item}
    assert routes == set(JUDGES), "a route that this walk does not know, or knows and is gone: say how it is judged"

    await open_world(bob, eve)
    await stir(bob)
    signed: dict[str, tuple[tuple[bytes, str], ...]] = {}
    for uid, fields in HIDDEN.items():
        reader = bob if "visibility" in fields and "acl" not in fields else friend
        signed[uid] = ()
        for form in ("application/cose", "application/jose+json"):
            status, raw, _ = await reader.get(f"/api/services/{uid}/signed", Accept=form)
            assert status == 200
            _, verdict, _ = await reader.call("POST", "/api/services/verify", raw, Content_Type=form)
            assert verdict["current"], "to those who may see it"
            signed[uid] += ((raw, form),)
    outsider = Outsider(eve)
    walk = Walk(node, outsider, signed)

    with_them = {route: await go(walk) for route, go in JUDGES.items()}
    changing = asyncio.create_task(outsider.see("GET", f"/api/services?wait=1.5&since={await version(eve)}"))
    await stir(bob)
    status, _, body = await changing
    assert (status, body) == (304, b""), "a long poll was woken by what it may not see"
    for uid in HIDDEN:
        await ok(bob, "DELETE", f"/api/services/{uid}")
    without = {
        route: await go(walk) for route, go in JUDGES.items() if route not in (("POST", "/api/services/register"),)
    }
    for route, seen in without.items():
        assert seen == with_them[route], f"{route} told the world with hidden services from the one without"


async def version(client: Client) -> str:
    return str((await ok(client, "GET", "/api/services"))["version"])


async def test_owner_admin_and_those_whom_the_acl_names_see_it(
    node: Node, bob: Client, eve: Client, admin: Client, friend: Client
) -> None:
    cases: dict[str, tuple[dict[str, Any], str]] = {
        "private": ({"visibility": "private"}, "bob admin"),
        "by-name": ({"acl": {"read": ["sub:friend"]}}, "bob admin friend"),
        "by-name-and-node": ({"acl": {"read": [f"sub:friend@{node.did}"]}}, "bob admin friend"),
        "for-all": ({"acl": {"read": ["*"]}}, "bob admin friend eve"),
        "private-for-all": ({"visibility": "private", "acl": {"read": ["*"]}}, "bob admin"),
        "for-two": ({"acl": {"read": ["sub:eve", "sub:friend"]}}, "bob admin friend eve"),
        "for-nobody": ({"acl": {"read": []}}, "bob admin"),
        "call-alone": ({"acl": {"call": []}}, "bob admin friend eve"),
        "unknown-terms": (
            {
                "acl": {
                    "read": [
                        "friend", "sub:*", "*@x", "group:all", "sub:FRIEND", " sub:friend", "sub:friend@", "**", "any",
                        "sub:friend@did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK", f"friend@{node.did}",
                        "sub:fri*", f"sub:friend@{ISSUER}", f"sub:friend@{node.did}@{node.did}",
                    ]
                }
            },
            "bob admin",
        ),
    }  # fmt: skip
    readers = {"bob": bob, "admin": admin, "friend": friend, "eve": eve}
    for uid, (fields, _) in cases.items():
        await ok(bob, "POST", "/api/services/register", record(uid, **fields))
    for name, reader in readers.items():
        expected = {uid for uid, (_, who) in cases.items() if name in who.split()}
        listed = await ok(reader, "GET", "/api/services?tag=shared")
        assert {service["id"] for service in listed["services"]} == expected, name
        assert listed["total"] == len(expected)
        async with reader.ws("?tag=shared") as ws:
            assert {service["id"] for service in (await frame(ws))["services"]} == expected
        for uid in cases:
            for path in ("", "/explain", "/signed"):
                status, _, _ = await reader.get(f"/api/services/{uid}{path}", Accept="*/*")
                assert status == (200 if uid in expected else 404), (name, uid, path)
    owners_view = await ok(bob, "GET", "/api/services/private-for-all/explain")
    assert any("private" in text for text in owners_view["hidden_from"])


async def test_explain_does_not_tell_what_its_reader_could_not_see_before(bob: Client, eve: Client) -> None:
    await ok(bob, "POST", "/api/services/register", record("svc", visibility="private"))
    await ok(bob, "PATCH", "/api/services/svc", {"visibility": "internal"})
    assert (await ok(eve, "GET", "/api/services/svc/explain"))["replaced"] is None
    assert (await ok(bob, "GET", "/api/services/svc/explain"))["replaced"]["visibility"] == "private"


async def test_a_scope_narrows_what_an_acl_allows_and_never_widens_it(node: Node, bob: Client) -> None:
    await ok(bob, "POST", "/api/services/register", record("seen"))
    await ok(bob, "POST", "/api/services/register", record("unseen", acl={"read": []}))
    wide = await client_of(node, "wide", "read:service:*", "read:service:unseen", "write:service:unseen")
    assert [s["id"] for s in (await ok(wide, "GET", "/api/services?owner=bob"))["services"]] == ["seen"]
    assert (await wide.get("/api/services/unseen"))[0] == 404
    assert (await wide.call("DELETE", "/api/services/unseen"))[0] == 404
    await wide.close()
    writer = await client_of(node, "writer", "write:service:*")  # reads nothing, so it may not learn what there is
    assert (await writer.call("DELETE", "/api/services/seen"))[0] == 404
    assert (await ok(writer, "POST", "/api/heartbeats", {"beats": [{"id": "seen"}]}))["unknown"] == ["seen"]
    await writer.close()


# -- WebSocket -----------------------------------------------------------------------------------------------------


async def test_nothing_hidden_is_told_on_a_websocket(bob: Client, eve: Client, friend: Client, node: Node) -> None:
    await open_world(bob, eve)
    await stir(bob)
    async with eve.ws() as ws, eve.ws("?subscribe=0") as other:
        first = await frame(ws)
        assert MARK not in json.dumps(first)
        filters = ({"owner": "bob"}, {"q": MARK}, {"tag": [MARK, "shared"]}, {"visibility": "private"})
        for n, asked in enumerate(filters):
            answer = await ask(other, op="subscribe", id=f"s{n}", filter=asked)
            assert answer["op"] == "ok"
            snapshot = await frame(other)
            assert [s["id"] for s in snapshot["services"]] == (["theirs"] if n == 0 else [])
        await stir(bob)
        await ok(eve, "PATCH", "/api/services/eves-0", {"name": "seen by all"})  # what comes now came after all of it
        event = await frame(ws)
        assert (event["event"], event["service"]["id"]) == ("updated", "eves-0")
        await quiet(ws)
        await quiet(other)
        for op, more in (
            ("heartbeat", {"service_id": "{id}"}),
            ("heartbeat", {"service_id": "{id}", "status": "degraded"}),
            ("heartbeat", {"beats": [{"id": "{id}"}]}),
            ("deregister", {"service_id": "{id}"}),
        ):
            answers = {}
            for uid in (*HIDDEN, ABSENT):
                answers[uid] = json.dumps(await ask(ws, op=op, **put_id(more, uid))).replace(uid, "ID")
            assert len(set(answers.values())) == 1, answers
        for uid in HIDDEN:
            answer = await ask(ws, op="register", service=small(uid))
            assert (answer["op"], answer["problem"]["status"]) == ("error", 403)
            assert MARK not in json.dumps(answer)
    cursor = event["cursor"]
    await stir(bob)
    for since in (cursor, first["cursor"], await version(eve)):
        async with eve.ws(f"?owner=bob&since={since}") as ws:
            await quiet(ws)


async def test_cursors_cannot_be_compared(bob: Client, eve: Client) -> None:
    """Two snapshots with nothing between: were their cursors equal, unequal ones would tell of hidden changes."""
    await open_world(bob, eve)
    cursors = []
    for _ in range(3):
        async with eve.ws() as ws:
            cursors.append((await frame(ws))["cursor"])
    assert len(set(cursors)) == 3
    await ok(eve, "PATCH", "/api/services/eves-0", {"name": "later"})
    for cursor in cursors:
        async with eve.ws(f"?since={cursor}") as ws:
            event = await frame(ws)
            assert (event["op"], event["event"]) == ("event", "updated")
            await quiet(ws)


async def test_hidden_changes_are_not_counted_as_lag(node: Node, bob: Client, eve: Client) -> None:
    await ok(bob, "POST", "/api/services/register", record("busy", acl={"read": []}))
    await ok(eve, "POST", "/api/services/register", small("mine"))
    caller = node.auth.verify(bob.token or "")

    def stir_in_one_turn(changes: int) -> None:
        for n in range(changes):
            node.registry.heartbeat(caller, "busy", "degraded" if n % 2 == 0 else "active")

    async with eve.ws("?type=agent") as ws:
        await frame(ws)
        stir_in_one_turn(5_000)  # more than what is merged
        await ok(eve, "PATCH", "/api/services/mine", {"name": "second"})
        event = await frame(ws)
        assert (event["op"], event["service"]["name"]) == ("event", "second")
        stir_in_one_turn(25_000)  # more than what the journal keeps: it cannot tell any more what was missed
        await ok(eve, "PATCH", "/api/services/mine", {"name": "third"})
        lagged, snapshot = await frame(ws), await frame(ws)
        assert (lagged["op"], lagged["merged"]) == ("lagged", 0)
        assert (snapshot["op"], snapshot["reset"]) == ("snapshot", True)


@pytest.mark.parametrize("how", [{"acl": {"read": []}}, {"visibility": "private"}])
async def test_an_acl_that_changes_while_somebody_watches(
    node: Node, bob: Client, eve: Client, how: dict[str, Any]
) -> None:
    back = {"acl": None, "visibility": "internal"}
    await ok(bob, "POST", "/api/services/register", {"id": "svc", "name": "first", "type": "agent"})
    async with eve.ws("?type=agent") as ws:
        assert [s["id"] for s in (await frame(ws))["services"]] == ["svc"]
        poll = asyncio.create_task(eve.get(f"/api/services?type=agent&wait=5&since={await version(eve)}"))
        await ok(bob, "PATCH", "/api/services/svc", {"name": "second"} | how)
        event = await frame(ws)
        assert (event["event"], event["service"]["id"], event["service"]["name"]) == ("deregistered", "svc", "first")
        assert (event["service"]["visibility"], event["service"].get("acl")) == ("internal", None)
        assert (await poll)[0] == 200
        await ok(bob, "PATCH", "/api/services/svc", {"name": "third"})
        await ok(bob, "POST", "/api/services/svc/heartbeat", {"status": "degraded"})
        await ok(bob, "PATCH", "/api/services/svc", {"name": "fourth"} | back)
        event = await frame(ws)
        service = event["service"]
        assert (event["event"], service["name"], service["status"]) == ("registered", "fourth", "degraded")
        await quiet(ws)
        await ok(bob, "PATCH", "/api/services/svc", how)
        assert (await frame(ws))["event"] == "deregistered"
        await ok(bob, "DELETE", "/api/services/svc")
        await quiet(ws)


# -- subjects of outside issuers -----------------------------------------------------------------------------------


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class Issuer:
    """Another service that signs tokens for this node."""

    def __init__(self, iss: str, directory: Path) -> None:
        self.iss = iss
        self.key = Ed25519PrivateKey.generate()
        public = self.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.jwks = directory / f"{abs(hash(iss))}.json"
        self.jwks.write_text(
            json.dumps({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": b64(public), "kid": "k", "use": "sig"}]})
        )

    def token(self, sub: str, aud: str) -> str:
        now = int(time.time())
        claims = {
            "iss": self.iss, "aud": aud, "sub": sub, "iat": now, "nbf": now, "exp": now + 600, "jti": b64(sub.encode()),
            "scope": " ".join(DEFAULT_SCOPES),
        }  # fmt: skip
        header = {"alg": "EdDSA", "typ": "at+jwt", "kid": "k"}
        signed = f"{b64(json.dumps(header).encode())}.{b64(json.dumps(claims).encode())}"
        return f"{signed}.{b64(self.key.sign(signed.encode()))}"


@asynccontextmanager
async def as_client(node: Node, token: str) -> AsyncIterator[Client]:
    client = Client(node.server.url, token)
    try:
        yield client
    finally:
        await client.close()


async def test_a_subject_of_an_outside_issuer_is_never_a_local_name(tmp_path: Path) -> None:
    issuer = Issuer(ISSUER, tmp_path)
    issuers = [{"iss": ISSUER, "jwks": str(issuer.jwks), "scopes": list(DEFAULT_SCOPES)}]
    async with running_node(tmp_path / "n", tokens__issuers=issuers) as node:
        bob = await client_of(node, "bob")
        for uid, terms in {
            "for-friend": ["sub:friend"],
            "for-friend-here": [f"sub:friend@{node.did}"],
            "for-friend-there": [f"sub:friend@{ISSUER}"],
            "for-bob-there": [f"sub:bob@{ISSUER}"],
        }.items():
            await ok(bob, "POST", "/api/services/register", small(uid, acl={"read": terms}))
        await ok(bob, "POST", "/api/services/register", small("private", visibility="private"))
        for sub, expected in {
            "friend": ["for-friend-there"],
            "bob": ["for-bob-there"],
            "admin": [],
            f"friend@{node.did}": [],
            f"bob@{ISSUER}": [],
            "sub:friend": [],
            "*": [],
        }.items():
            async with as_client(node, issuer.token(sub, node.did)) as outside:
                listed = await ok(outside, "GET", "/api/services?type=agent")
                assert [s["id"] for s in listed["services"]] == expected, sub
                assert (await outside.call("DELETE", "/api/services/private"))[0] == 404
                theirs = {"name": "n", "type": "agent", "owner": "bob"}
                assert (await outside.post("/api/services/register", theirs))[0] == 403
        async with as_client(node, issuer.token("bob", node.did)) as outside:
            mine = await ok(outside, "POST", "/api/services/register", small("mine"))
            assert mine["owner"] == f"bob@{ISSUER}"
            assert (await bob.call("DELETE", "/api/services/mine"))[0] == 403
            await ok(outside, "DELETE", "/api/services/mine")
        await bob.close()


def test_no_two_issuers_can_mean_the_same_subject(tmp_path: Path) -> None:
    """alice@x of issuer b, and alice of issuer x@b, would both be alice@x@b."""
    from kosreg.config import ConfigError, load

    issuers = [{"iss": iss, "jwks": str(tmp_path / "k.json")} for iss in ("b", "x@b")]
    with pytest.raises(ConfigError, match="iss"):
        load(tmp_path, options={"tokens.issuers": issuers}, environ={})


async def test_to_depend_on_a_hidden_service_tells_nothing_of_it(bob: Client, eve: Client) -> None:
    await ok(bob, "POST", "/api/services/register", record("hidden-private", visibility="private"))
    mine = await ok(eve, "POST", "/api/services/register", small("mine", depends_on=["hidden-private", ABSENT]))
    assert MARK not in json.dumps(mine)
    assert MARK not in json.dumps(await ok(eve, "GET", "/api/services/mine/explain"))


async def test_a_hidden_service_is_not_told_by_how_a_call_is_refused(node: Node, bob: Client) -> None:
    """The order of checks: what is refused before anybody looks is refused the same for all ids."""
    await ok(bob, "POST", "/api/services/register", record("hidden-private", visibility="private"))
    nosy = Outsider(await client_of(node, "nosy", "read:service:x", "write:service:x"))
    for method, path, body in (
        ("GET", "/api/services/{id}", None),
        ("DELETE", "/api/services/{id}", None),
        ("POST", "/api/services/{id}/heartbeat", None),
        ("PATCH", "/api/services/{id}", {"name": "n"}),
    ):
        seen = [
            (await nosy.see(method, path.replace("{id}", uid), body))[2].replace(uid.encode(), b"ID")
            for uid in ("hidden-private", ABSENT)
        ]
        assert seen[0] == seen[1]
    await nosy.client.close()
