"""The OpenAPI 3.1 document, made from the same route table that the door serves, so that it cannot be untrue to it.

Which problems a route can answer follows from what its `Route` says (a token: 401; a body: 408, 413, 415; …) and from
the slugs that it names; schemas come from pydantic. Nothing is written here by hand that a route could contradict.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Final, NotRequired

import orjson
from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from kosreg.api import media
from kosreg.api.http import Answer, Route
from kosreg.problems import KINDS, TYPE_PREFIX

REF: Final = "#/components/schemas/{model}"
TEXT: Final = {"type": "string"}
_PLACE: Final = re.compile(r"{(\w+)}")

ABOUT: Final = """\
The API of one kosreg node: register services, keep them alive, find them, watch them.

- **Token**: `Authorization: Bearer …`, a JWT made by `kosreg token issue SUBJECT`. A scope is `action:resource:name`;
  each route says which one it needs.
- **Formats**: JSON, or MessagePack (`application/vnd.msgpack`) by `Content-Type` and `Accept`. In MessagePack only what
  JSON can say is taken: no binary, no extension types, no NaN. A name given twice in an object: the last one counts.
- **Problems** (RFC 9457): every refusal is `application/problem+json` (or MessagePack where that was asked for). `type`
  says which, `detail` what to do, `errors` lists faults with JSON pointers, `request_id` finds the call in the log.
- **Times** are RFC 3339, UTC, with milliseconds. Every GET also answers HEAD; another method is told 405 with `Allow`.
- **Hosts**: a foreign `Host` or `Origin` is refused on every route (403), against DNS rebinding.
"""

WEBSOCKET: Final = """\
A WebSocket (subprotocol `kosreg.v1`; `kosreg.v1.msgpack` for MessagePack frames). The token comes in `Authorization`,
or as subprotocol `bearer.<jwt>` beside `kosreg.v1` (browsers), or as first frame `{"op":"auth","token":…}` within 5 s;
never in the URL. The query is a filter, as for `GET /api/services`, of the subscription `"auto"`; `?subscribe=0`: none.

Client: `{"op":"subscribe"|"unsubscribe"|"register"|"heartbeat"|"deregister"|"ping","id":any,…}` with `filter`, `since`,
`sub`, `service`, `beats` or `service_id`. Server: `{"op":"ok","id","result"}`, `{"op":"error","id","problem"}`,
`{"op":"snapshot","sub","services","cursor","more"}`, `{"op":"event","sub","event","service","cursor","at"}`,
`{"op":"lagged","sub","merged"}`. Events: `registered`, `updated`, `deregistered`, `offline`, `degraded`, `active`.
Close codes: 4401 token, 4403 scope, 4408 too late, 4413 too large, 1012 restart, 1013 too many sockets.
"""


class FaultOut(TypedDict):
    """One fault of a body."""

    pointer: Annotated[str, Field(description="Where: a JSON pointer (RFC 6901); empty: the whole body.")]
    detail: str


class ProblemOut(TypedDict):
    """A refused call (RFC 9457)."""

    type: Annotated[str, Field(description=f"`{TYPE_PREFIX}` and which problem it is.")]
    title: str
    status: int
    detail: Annotated[str, Field(description="What is wrong, and what to do next.")]
    errors: NotRequired[list[FaultOut]]
    request_id: NotRequired[Annotated[str, Field(description="Finds the call in the node's log.")]]


def problems_of(route: Route) -> list[str]:
    """The slugs that a call of `route` can be answered with, by the door or by its handler."""
    slugs = ["malformed", "foreign-host", "foreign-origin"]
    if route.kind == "http":
        if route.auth != "open":
            slugs += ["unauthenticated", "rate-limited"]
        if route.scope is not None:
            slugs.append("out-of-scope")
        if route.negotiates:
            slugs.append("not-acceptable")
        if route.body is not None:
            slugs += ["timeout", "too-large", "unsupported-media-type"]
        slugs.append("internal")
    return list(dict.fromkeys([*slugs, *route.problems]))


def document(routes: Sequence[Route], version: str) -> bytes:
    """The whole document as JSON."""
    schemas = _Schemas(routes)
    paths: dict[str, dict[str, Any]] = {}
    named: set[str] = set()
    for route in routes:
        operation = _operation(route, schemas)
        name = getattr(route.handler, "__name__", "call").strip("_")
        while name in named:
            name += "_" + route.method.lower()
        named.add(name)
        paths.setdefault(route.path, {})[route.method.lower()] = {"operationId": name, **operation}
    tags = list(dict.fromkeys(route.tag for route in routes))
    return orjson.dumps(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "kosreg",
                "version": version,
                "description": ABOUT,
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "servers": [{"url": "/"}],
            "tags": [{"name": tag} for tag in tags],
            "paths": paths,
            "components": {
                "securitySchemes": {
                    "token": {
                        "type": "http",
                        "scheme": "bearer",
                        "bearerFormat": "JWT",
                        "description": "`kosreg token issue SUBJECT` prints one.",
                    }
                },
                "schemas": schemas.components,
                "examples": {slug: {"value": _example(slug)} for slug in KINDS},
            },
        }
    )


def _example(slug: str) -> dict[str, Any]:
    kind = KINDS[slug]
    shown: dict[str, Any] = {
        "type": TYPE_PREFIX + slug,
        "title": kind.title,
        "status": kind.status,
        "detail": kind.detail,
        "request_id": "5bc86844-2",
    }
    if slug == "invalid":
        shown["errors"] = [{"pointer": "/type", "detail": "must be agent, tool, service, api, device or node"}]
    return shown


def answers_of(route: Route) -> Iterator[tuple[int, Answer]]:
    """The answers that are no problems, in one form."""
    for status, said in route.replies.items():
        yield status, said if isinstance(said, Answer) else Answer(said)


class _Schemas:
    """Schemas of all models of all routes, made in one go so that equal names and shared parts come out right."""

    def __init__(self, routes: Sequence[Route]) -> None:
        wanted: dict[tuple[str, str], tuple[Any, TypeAdapter[Any]]] = {}
        for model, mode in [(ProblemOut, "serialization"), *_models(routes)]:
            if model is not None and model is not bytes:
                wanted.setdefault((repr(model), mode), (model, TypeAdapter(model)))
        inputs: list[Any] = [(key, mode, adapter) for (key, mode), (_, adapter) in wanted.items()]
        self._by_key, whole = TypeAdapter.json_schemas(inputs, ref_template=REF)
        self.components: dict[str, Any] = whole.get("$defs", {})

    def of(self, model: object, mode: str) -> dict[str, Any]:
        """The schema of `model`, mostly a reference. `bytes`: anything."""
        if model is None or model is bytes:
            return {}
        schema: dict[str, Any] = self._by_key[repr(model), mode]  # type: ignore[index]
        return schema

    def fields(self, model: object) -> tuple[dict[str, Any], frozenset[str]]:
        """The properties of a TypedDict and which of them are required: those of a query."""
        schema = self.of(model, "validation")
        if "$ref" in schema:
            schema = self.components[schema["$ref"].rpartition("/")[2]]
        return schema.get("properties", {}), frozenset(schema.get("required", ()))


def _models(routes: Sequence[Route]) -> Iterator[tuple[Any, str]]:
    for route in routes:
        yield route.body, "validation"
        yield route.query, "validation"
        for model in route.path_models.values():
            yield model, "validation"
        for _, answer in answers_of(route):
            yield answer.model, "serialization"


def _operation(route: Route, schemas: _Schemas) -> dict[str, Any]:
    operation: dict[str, Any] = {"tags": [route.tag], "summary": route.summary}
    needs = [f"{route.scope[0]}:{route.scope[1]}:*"] if route.scope else []
    texts = [route.description, *(f"Scope: `{scope}`." for scope in needs)]
    if route.kind == "websocket":
        texts.append(WEBSOCKET)
    if any(texts):
        operation["description"] = "\n\n".join(filter(None, texts))
    parameters = [*_parameters(route, schemas)]
    if parameters:
        operation["parameters"] = parameters
    if route.body is not None:
        operation["requestBody"] = {"required": route.body_required, "content": _body(route, schemas)}
    operation["responses"] = dict(_responses(route, schemas))
    operation["security"] = {"open": [], "token": [{"token": needs}], "optional": [{}, {"token": needs}]}[route.auth]
    return operation


def _parameters(route: Route, schemas: _Schemas) -> Iterator[dict[str, Any]]:
    for name in _PLACE.findall(route.path):
        model = route.path_models.get(name)
        schema = dict(schemas.of(model, "validation")) if model is not None else dict(TEXT)
        yield _parameter(name, "path", True, schema)
    if route.query is not None:
        fields, required = schemas.fields(route.query)
        for name, schema in fields.items():
            yield _parameter(name, "query", name in required, dict(schema))
    for name, text in route.request_headers.items():
        yield {"name": name, "in": "header", "description": text, "schema": TEXT}


def _parameter(name: str, where: str, required: bool, schema: dict[str, Any]) -> dict[str, Any]:
    schema.pop("title", None)
    parameter: dict[str, Any] = {"name": name, "in": where, "required": required}
    if "description" in schema:
        parameter["description"] = schema.pop("description")
    return {**parameter, "schema": schema}


def _body(route: Route, schemas: _Schemas) -> dict[str, Any]:
    content: dict[str, Any] = {kind: {"schema": schemas.of(route.body, "validation")} for kind in route.body_types}
    if route.body_example is not None:
        content[route.body_types[0]]["example"] = route.body_example
    return content


def _responses(route: Route, schemas: _Schemas) -> Iterator[tuple[str, dict[str, Any]]]:
    if route.kind == "websocket":
        yield "101", {"description": "The WebSocket is open."}
    problems: dict[int, list[str]] = {}
    for slug in problems_of(route):
        problems.setdefault(KINDS[slug].status, []).append(slug)
    for status, answer in answers_of(route):
        yield str(status), _answer(status, answer, schemas, problems.pop(status, []))
    for status, slugs in sorted(problems.items()):
        shown: dict[str, Any] = {"description": "; ".join(KINDS[slug].title for slug in slugs) + "."}
        shown["content"] = _problem_content(schemas, slugs)
        headers = {name: text for slug in slugs for name, text in _PROBLEM_HEADERS.get(slug, {}).items()}
        if headers:
            shown["headers"] = _headers(headers)
        yield str(status), shown


def _answer(status: int, answer: Answer, schemas: _Schemas, also: list[str]) -> dict[str, Any]:
    shown: dict[str, Any] = {"description": answer.description or _PHRASES.get(status, "Done.")}
    raw = answer.model is None and answer.content_types is not media.OFFERS
    content: dict[str, Any] = {}
    if raw or answer.model is not None:
        content = {kind: {"schema": schemas.of(answer.model, "serialization")} for kind in answer.content_types}
        if answer.example is not None:
            content[answer.content_types[0]]["example"] = answer.example
    if also:
        content = _problem_content(schemas, also) | content
    if content:
        shown["content"] = content
    if answer.headers:
        shown["headers"] = _headers(answer.headers)
    return shown


def _problem_content(schemas: _Schemas, slugs: list[str]) -> dict[str, Any]:
    schema = schemas.of(ProblemOut, "serialization")
    examples = {slug: {"$ref": f"#/components/examples/{slug}"} for slug in slugs}
    return {media.PROBLEM: {"schema": schema, "examples": examples}, media.MSGPACK: {"schema": schema}}


def _headers(texts: Any) -> dict[str, Any]:
    return {name: {"description": text, "schema": TEXT} for name, text in texts.items()}


_PHRASES: Final = {200: "Done.", 201: "Made.", 204: "Done; there is nothing to say.", 304: "It has not changed."}
_PROBLEM_HEADERS: Final = {
    "unauthenticated": {"WWW-Authenticate": "RFC 6750."},
    "out-of-scope": {"WWW-Authenticate": "RFC 6750; names the scope that is missing."},
    "rate-limited": {"Retry-After": "Whole seconds."},
}
