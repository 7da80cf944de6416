"""The document is valid, true to the routes that are served, and says all that a call can be answered with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import pytest_asyncio
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from kosreg.api.http import Route
from kosreg.api.openapi import problems_of
from kosreg.node import Node
from kosreg.problems import KINDS
from tests.harness import Client


@pytest_asyncio.fixture
async def document(node: Node) -> Any:
    client = Client(node.server.url, None)
    status, body, _ = await client.get("/openapi.json")
    await client.close()
    assert status == 200
    return body


def operations(document: Any) -> Iterator[tuple[str, str, Any]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


async def test_it_is_valid(document: Any) -> None:
    assert document["openapi"] == "3.1.0"
    validate(document)


async def test_every_route_is_in_it_and_nothing_else(document: Any, node: Node) -> None:
    served = {(route.method, route.path) for route in node.server.door.routes}
    assert {(method, path) for method, path, _ in operations(document)} == served


async def test_names_are_unique_and_every_operation_is_described(document: Any) -> None:
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(names)) == len(names)
    for method, path, operation in operations(document):
        assert operation["summary"], (method, path)


async def test_security_says_what_the_door_asks_for(document: Any, node: Node) -> None:
    for route in node.server.door.routes:
        security = document["paths"][route.path][route.method.lower()]["security"]
        needs = [] if route.scope is None else [f"{route.scope[0]}:{route.scope[1]}:*"]
        assert security == {"open": [], "token": [{"token": needs}], "optional": [{}, {"token": needs}]}[route.auth]
    assert document["paths"]["/healthz"]["get"]["security"] == []
    assert document["paths"]["/api/services/register"]["post"]["security"] == [{"token": ["write:service:*"]}]


async def test_every_problem_that_a_route_may_raise_is_documented(document: Any, node: Node) -> None:
    for route in node.server.door.routes:
        responses = document["paths"][route.path][route.method.lower()]["responses"]
        for slug in problems_of(route):
            shown = responses[str(KINDS[slug].status)]
            assert slug in shown["content"]["application/problem+json"]["examples"], (route.path, slug)


async def test_examples_fit_their_schemas(document: Any) -> None:
    def fits(schema: Any, value: Any) -> None:
        Draft202012Validator({**schema, "components": document["components"]}).validate(value)

    problem = {"$ref": "#/components/schemas/ProblemOut"}
    for example in document["components"]["examples"].values():
        fits(problem, example["value"])
    for _, _, operation in operations(document):
        for media in operation.get("requestBody", {}).get("content", {}).values():
            if "example" in media:
                fits(media["schema"], media["example"])


async def test_real_answers_fit_their_schemas(document: Any, admin: Client, node: Node) -> None:
    """Each answer that a call gets is documented, with its type, and fits."""
    record = {"id": "a", "name": "A", "type": "tool", "tags": ["x"], "acl": {"read": ["*"]}, "ttl": 60}
    calls: list[tuple[str, str, str, Any]] = [
        ("POST", "/api/services/register", "/api/services/register", record),
        ("POST", "/api/services/register", "/api/services/register", record),
        ("POST", "/api/services/register", "/api/services/register", {"type": "y"}),
        ("GET", "/api/services", "/api/services?tag=x", None),
        ("GET", "/api/services", "/api/services?nonsense=1", None),
        ("GET", "/api/services", "/api/services?since=nonsense", None),
        ("GET", "/api/services/{id}", "/api/services/a", None),
        ("GET", "/api/services/{id}", "/api/services/nope", None),
        ("PATCH", "/api/services/{id}", "/api/services/a", {"tags": []}),
        ("POST", "/api/services/{id}/heartbeat", "/api/services/a/heartbeat", {"load": 1}),
        ("POST", "/api/heartbeats", "/api/heartbeats", {"beats": [{"id": "a"}]}),
        ("GET", "/api/services/{id}/explain", "/api/services/a/explain", None),
        ("GET", "/healthz", "/healthz", None),
        ("GET", "/readyz", "/readyz", None),
        ("GET", "/api/node", "/api/node", None),
        ("GET", "/.well-known/jwks.json", "/.well-known/jwks.json", None),
        ("GET", "/api/nodes/{did}/jwks.json", f"/api/nodes/{node.did}/jwks.json", None),
        ("POST", "/api/tokens", "/api/tokens", {"subject": "x", "label": "y"}),
        ("GET", "/api/tokens", "/api/tokens", None),
        ("DELETE", "/api/tokens/{jti}", "/api/tokens/nope", None),
        ("DELETE", "/api/services/{id}", "/api/services/a", None),
    ]
    for method, template, path, body in calls:
        status, told, headers = await admin.call(method, path, body)
        shown = document["paths"][template][method.lower()]["responses"][str(status)]
        if told == b"":
            assert "content" not in shown, (method, path, status)
            continue
        schema = shown["content"][headers["Content-Type"].partition(";")[0]]["schema"]
        Draft202012Validator({**schema, "components": document["components"]}).validate(told)


def test_what_a_route_says_decides_its_problems() -> None:
    async def handler(call: Any) -> Any:
        """Never called."""

    closed = Route("GET", "/", handler, auth="open", rate=None)
    assert problems_of(closed) == ["malformed", "foreign-host", "foreign-origin", "not-acceptable", "internal"]
    full = Route("POST", "/", handler, scope=("a", "b"), body=dict, problems=("conflict",))
    assert {KINDS[slug].status for slug in problems_of(full)} == {
        400, 401, 403, 406, 408, 409, 413, 415, 429, 500
    }  # fmt: skip
    assert {"out-of-scope", "unauthenticated", "rate-limited", "conflict"} <= set(problems_of(full))
    assert "not-acceptable" not in problems_of(Route("DELETE", "/", handler, replies={204: None}))
    assert "not-acceptable" not in problems_of(Route("GET", "/", handler, produces=None))


async def test_it_holds_no_secret_and_no_name_of_this_machine(document: Any, node: Node) -> None:
    text = json.dumps(document)
    for word in (node.did, str(node.data_dir), "127.0.0.1:7480", (node.data_dir / "admin.token").read_text().strip()):
        assert word not in text


@pytest.mark.parametrize("form", ["application/json", "application/vnd.msgpack"])
async def test_both_forms_are_offered_wherever_json_is(document: Any, form: str) -> None:
    for method, path, operation in operations(document):
        for media in [operation.get("requestBody", {}), *operation["responses"].values()]:
            content = media.get("content", {})
            if "application/json" in content:
                assert form in content, (method, path)
