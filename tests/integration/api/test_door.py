"""What every call passes: Host and Origin, routes and methods, tokens, scopes, limits; and what it is told."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path

import msgpack
import orjson
import pytest
import pytest_asyncio

from kosreg import log
from kosreg.api.server import Server
from kosreg.node import Node
from tests.harness import Client, client_of, running_daemon, running_node, until
from tests.integration.api.conftest import Probe, bare


@pytest_asyncio.fixture
async def client(node: Node, server: Server) -> AsyncIterator[Client]:
    """bob, at the server with the routes of `probe`."""
    token = (await node.auth.issue("bob")).token
    client = Client(server.url, token)
    yield client
    await client.close()


def slug(body: object) -> str:
    assert isinstance(body, dict), body
    return str(body["type"]).rpartition(":")[2]


# ---- routes


async def test_the_handler_sees_path_query_and_caller(client: Client) -> None:
    status, body, _ = await client.get("/see/a%2Fb/and/%C3%A9?x=1&x=2&y=%26&z")
    assert status == 200
    assert body["params"] == {"one": "a/b", "two": "é"}
    assert body["query"] == [["x", "1"], ["x", "2"], ["y", "&"], ["z", ""]]
    assert body["sub"] == "bob"


async def test_an_unknown_path_is_a_problem(client: Client, probe: Probe) -> None:
    status, body, headers = await client.get("/nowhere")
    assert (status, slug(body)) == (404, "not-found")
    assert headers["Content-Type"] == "application/problem+json"
    assert headers["X-Request-Id"] == body["request_id"]


async def test_a_wrong_method_is_told_the_right_ones(client: Client) -> None:
    status, body, headers = await client.call("PUT", "/echo")
    assert (status, slug(body)) == (405, "method-not-allowed")
    assert headers["Allow"] == "OPTIONS, POST"
    status, _, headers = await client.call("PURGE", "/see")
    assert (status, headers["Allow"]) == (405, "GET, HEAD, OPTIONS")


async def test_options_says_what_there_is(client: Client) -> None:
    status, body, headers = await client.call("OPTIONS", "/see")
    assert (status, body, headers["Allow"]) == (204, b"", "GET, HEAD, OPTIONS")
    status, _, _ = await client.call("OPTIONS", "/nowhere")
    assert status == 404


async def test_head_is_get_without_the_body(client: Client) -> None:
    _, whole, of_get = await client.get("/see/a/and/b")
    status, body, of_head = await client.call("HEAD", "/see/a/and/b")
    assert (status, body) == (200, b"")
    assert of_head["Content-Type"] == of_get["Content-Type"]
    assert of_head["Content-Length"] == of_get["Content-Length"] == str(len(orjson.dumps(whole)))


async def test_an_answer_without_body(client: Client) -> None:
    status, body, _ = await client.call("DELETE", "/nothing", Accept="image/png")
    assert (status, body) == (204, b"")


# ---- Host and Origin


@pytest.mark.parametrize("path", ["/see", "/nowhere", "/wait", "/echo"])
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "DELETE"])
async def test_a_foreign_host_is_refused_on_every_route(client: Client, method: str, path: str) -> None:
    status, body, _ = await client.call(method, path, Host="evil.example")
    assert (status, slug(body)) == (403, "foreign-host")
    assert "api.allowed_hosts" in body["detail"]


async def test_a_foreign_page_is_refused_before_anything_is_done(client: Client, probe: Probe) -> None:
    for origin in ("http://evil.example", "null", "http://localhost:1"):
        status, body, headers = await client.post("/echo", {}, Origin=origin)
        assert (status, slug(body)) == (403, "foreign-origin")
        assert not [name for name in headers if name.startswith("Access-Control")]
    assert not probe.calls
    status, _, _ = await client.post("/echo", {}, Origin=client.url)
    assert status == 200


async def test_the_host_of_an_absolute_target_counts(server: Server, client: Client) -> None:
    good, evil = server.url.removeprefix("http://"), "evil.example"
    for target, host, status in (
        (f"http://{evil}/see", good, 403),
        (f"http://{good}/see", evil, 200),
        (f"http://{good}/see", good, 200),
        ("*", good, 400),
    ):
        async with bare(server) as connection:
            await connection.send(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            assert (await connection.told()).status == status, (target, host)


async def test_a_request_without_host_is_refused(server: Server) -> None:
    for version in ("1.0", "1.1"):
        async with bare(server) as connection:
            await connection.send(f"GET /see HTTP/{version}\r\n\r\n".encode())
            told = await connection.told()
            assert (told.status, told.slug) == (400, "malformed")


async def test_two_hosts_are_refused(server: Server) -> None:
    async with bare(server) as connection:
        await connection.send(b"GET /see HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n")
        told = await connection.told()
        assert (told.status, told.slug) == (400, "malformed")
        assert await connection.ended()


# ---- tokens, scopes, limits


@pytest.mark.parametrize(
    ("header", "says"),
    [(None, None), ("Basic Ym9iOmJvYg==", "Bearer TOKEN"), ("Bearer", "Bearer TOKEN"), ("Bearer x", "Refused"),
     ("bearer  x", "Refused")],
)  # fmt: skip
async def test_a_call_without_a_valid_token_is_refused(
    client: Client, probe: Probe, header: str | None, says: str | None
) -> None:
    client.token = None
    headers = {} if header is None else {"Authorization": header}
    status, body, told = await client.post("/echo", {}, **headers)
    assert (status, slug(body)) == (401, "unauthenticated")
    assert told["WWW-Authenticate"].startswith("Bearer")
    if says is None:
        assert "error=" not in told["WWW-Authenticate"]
    else:
        assert says in body["detail"]
    assert not probe.calls


async def test_any_case_of_bearer_is_taken(client: Client) -> None:
    token, client.token = client.token, None
    for scheme in ("Bearer", "bearer", "BEARER"):
        status, body, _ = await client.get("/see", Authorization=f"{scheme} {token}")
        assert (status, body["sub"]) == (200, "bob")


async def test_where_a_token_is_optional_a_bad_one_is_still_refused(client: Client) -> None:
    client.token = None
    assert (await client.get("/see"))[1]["sub"] is None
    assert (await client.get("/see", Authorization="Bearer x"))[0] == 401


async def test_a_token_needs_the_scope_of_the_route(client: Client, node: Node, server: Server) -> None:
    assert (await client.get("/see/writers"))[0] == 200
    status, body, headers = await client.get("/see/metrics")
    assert (status, slug(body)) == (403, "out-of-scope")
    assert "read:metrics:*" in body["detail"]
    assert "insufficient_scope" in headers["WWW-Authenticate"]
    narrow = Client(server.url, (await node.auth.issue("carl", ["write:service:carl-*"])).token)
    assert (await narrow.get("/see/writers"))[0] == 200, "it covers one name; which, is the handler's to check"
    assert (await narrow.get("/see/metrics"))[0] == 403
    await narrow.close()
    admin = Client(server.url, (node.data_dir / "admin.token").read_text().strip())
    assert (await admin.get("/see/metrics"))[0] == 200
    await admin.close()


async def test_a_revoked_token_is_refused_at_once(client: Client, node: Node) -> None:
    issued = await node.auth.issue("bob")
    client.token = issued.token
    assert (await client.get("/see/writers"))[0] == 200
    await node.auth.revoke(issued.row.jti)
    assert (await client.get("/see/writers"))[0] == 401


async def test_a_token_that_is_revoked_while_its_body_arrives_does_nothing(
    server: Server, node: Node, probe: Probe
) -> None:
    issued = await node.auth.issue("bob")
    host = server.url.removeprefix("http://")
    async with bare(server) as connection:
        await connection.send(
            f"POST /echo HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {issued.token}\r\n"
            'Content-Type: application/json\r\nContent-Length: 10\r\n\r\n{"a":'.encode()
        )
        await until(lambda: node.metrics.in_flight == 1)
        await node.auth.revoke(issued.row.jti)
        await connection.send(b"12345")
        told = await connection.told()
        assert (told.status, told.slug) == (401, "unauthenticated")
    assert not probe.calls


async def test_whoever_calls_too_fast_is_told_when_to_go_on(tmp_path: Path) -> None:
    async with running_node(tmp_path / "slow", limits__calls_per_s=1, limits__calls_burst=5) as node:
        bob, admin = await client_of(node, "bob"), await client_of(node)
        told = [await bob.get("/api/services") for _ in range(20)]
        assert [status for status, _, _ in told[:5]] == [200] * 5
        status, body, headers = told[-1]
        assert (status, slug(body)) == (429, "rate-limited")
        assert int(headers["Retry-After"]) >= 1
        assert (await bob.post("/api/services/a/heartbeat"))[0] == 404, "heartbeats have a budget of their own"
        assert [(await admin.get("/api/services"))[0] for _ in range(20)] == [200] * 20, "admins have no limit"
        await bob.close()
        await admin.close()


async def test_a_flood_of_bad_tokens_is_slowed_and_good_ones_are_not(client: Client, node: Node) -> None:
    good, client.token = client.token, "x.y.z"
    statuses = [(await client.get("/see/writers"))[0] for _ in range(node.settings.limits.failures_burst + 50)]
    assert statuses[0] == 401
    assert statuses[-1] == 429
    client.token = good
    assert (await client.get("/see/writers"))[0] == 200


# ---- problems


async def test_what_goes_wrong_inside_stays_inside(client: Client) -> None:
    lines = io.StringIO()
    log.configure("info", "json", lines)
    try:
        status, body, headers = await client.get("/fail", X_Request_Id="trace-7")
    finally:
        log.configure()
    assert (status, slug(body)) == (500, "internal")
    assert "secret" not in json.dumps(body)
    assert body["request_id"] == headers["X-Request-Id"] == "trace-7"
    line = next(line for line in map(json.loads, lines.getvalue().splitlines()) if line["event"] == "call failed")
    assert line["request_id"] == "trace-7"
    assert "a secret of the inside" in line["exception"]
    assert str(client.token) not in lines.getvalue()


async def test_a_refusal_is_logged_with_who_was_refused(client: Client) -> None:
    lines = io.StringIO()
    log.configure("info", "json", lines)
    try:
        await client.get("/see/metrics", X_Request_Id="a\tb")
        await client.get("/see/writers")
    finally:
        log.configure()
    (line,) = map(json.loads, lines.getvalue().splitlines())
    assert (line["event"], line["slug"], line["status"], line["sub"]) == ("call refused", "out-of-scope", 403, "bob")
    assert line["request_id"] != "a\tb", "what a client sends is taken only where it is harmless"


@pytest.mark.parametrize("level", ["debug", "info"])
async def test_plain_successes_are_logged_at_debug_alone(tmp_path: Path, level: str) -> None:
    async with running_daemon(tmp_path / "node", KOSREG_LOG__LEVEL=level) as daemon:
        admin = daemon.admin()
        assert (await admin.get("/api/services?q=needle", X_Request_Id="trace-8"))[0] == 200
        await admin.close()
        daemon.stop()
    events = [json.loads(line) for line in daemon.log.read_text().splitlines()]
    told = [event for event in events if event.get("request_id") == "trace-8"]
    if level == "info":
        assert not told
    else:
        (line,) = told
        assert (line["event"], line["level"], line["sub"]) == ("call answered", "debug", "admin")
        assert (line["method"], line["path"], line["status"]) == ("GET", "/api/services", 200)
        assert line["ms"] > 0


async def test_a_flood_of_refusals_does_not_fill_the_log(client: Client) -> None:
    lines = io.StringIO()
    sent = 0

    async def refused_and_summed_up() -> bool:
        nonlocal sent
        sent += 1
        await client.get("/nowhere")
        return "refusals not logged" in lines.getvalue()

    log.configure("info", "json", lines)
    try:
        for _ in range(200):
            sent += 1
            await client.get("/nowhere")
        await until(refused_and_summed_up)
    finally:
        log.configure()
    events = [json.loads(line) for line in lines.getvalue().splitlines()]
    logged = len([event for event in events if event["event"] == "call refused"])
    summed_up = sum(event["count"] for event in events if event["event"] == "refusals not logged")
    assert logged < 200
    assert logged + summed_up == sent


async def test_the_headers_of_a_problem_are_sent(client: Client) -> None:
    status, body, headers = await client.get("/refuse")
    assert (status, body["detail"], headers["X-Extra"]) == (409, "It is so.", "1")
    assert headers["Cache-Control"] == "no-store"


async def test_a_problem_comes_in_the_form_that_was_asked_for(client: Client) -> None:
    status, body, headers = await client.get("/refuse", Accept="application/vnd.msgpack")
    assert (status, headers["Content-Type"]) == (409, "application/vnd.msgpack")
    assert slug(msgpack.unpackb(body)) == "conflict"
    status, body, headers = await client.get("/refuse", Accept="application/vnd.msgpack;q=0.1, */*")
    assert headers["Content-Type"] == "application/problem+json"


async def test_an_answer_that_nobody_takes_is_406(client: Client, probe: Probe) -> None:
    status, body, headers = await client.get("/see", Accept="text/html")
    assert (status, slug(body)) == (406, "not-acceptable")
    assert headers["Content-Type"] == "application/problem+json"
    assert not probe.calls


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
        b"hello\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nA: " + b"x" * 20_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"A: x\r\n" * 200 + b"\r\n",
        b"GET /" + b"x" * 9_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_a_problem_too(server: Server, garbage: bytes, node: Node) -> None:
    async with bare(server) as connection:
        await connection.send(garbage)
        told = await connection.told()
        assert (told.status, told.slug) == (400, "malformed")
        assert told.headers["content-type"] == "application/problem+json"
        assert await connection.ended()
    assert node.metrics.refusals["malformed"] == 1


async def test_nothing_is_left_in_flight(client: Client, node: Node) -> None:
    for path in ("/see", "/fail", "/refuse", "/nowhere", "/see/metrics"):
        await client.get(path)
    assert node.metrics.in_flight == 0


# ---- clients that go away


async def test_a_handler_that_only_waits_ends_with_its_client(server: Server, probe: Probe, node: Node) -> None:
    async with bare(server) as connection:
        await connection.send(b"GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await asyncio.wait_for(probe.entered.wait(), 5)
    await asyncio.wait_for(probe.cancelled.wait(), 5)
    await until(lambda: node.metrics.in_flight == 0)


async def test_a_handler_that_writes_goes_on_without_its_client(server: Server, probe: Probe, node: Node) -> None:
    async with bare(server) as connection:
        await connection.send(b"POST /wait HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        await asyncio.wait_for(probe.entered.wait(), 5)
    await until(lambda: node.metrics.connections == 0)
    assert not probe.cancelled.is_set()
    probe.go.set()
    await until(lambda: node.metrics.in_flight == 0)
    assert not probe.cancelled.is_set()


async def test_the_node_behind_it_has_the_same_door(node: Node) -> None:
    """The routes that the node itself serves, not those of a test."""
    client = await client_of(node, "bob")
    for path in ("/api/services", "/healthz", "/docs", "/metrics", "/ws/registry", "/.well-known/jwks.json"):
        status, body, _ = await client.get(path, Host="evil.example")
        assert (status, slug(body)) == (403, "foreign-host"), path
        status, body, _ = await client.get(path, Origin="http://evil.example")
        assert (status, slug(body)) == (403, "foreign-origin"), path
    await client.close()
