"""The door: the one wrapper around every handler, and what a handler sees of it.

A handler is `async (call: Call) -> Reply`, described by a `Route`. What happens around it, in this order:

    Host and Origin -> route (404, 405) -> token -> scope -> rate limit -> Accept -> body (bounded, then as JSON bytes)
    -> handler -> rendering -> counters -> log

The token comes before the body, so that nobody makes the node read 4 MiB without one; where the body had to be waited
for, the token is looked at once more, since it may have been revoked meanwhile.

WebSocket routes leave the door after Host and Origin: they authenticate themselves.

This runs on aiohttp's low-level `web.Server`: no `Application`, no middlewares (see `router`). All of it adds about
5 µs to a bare handler, so the code is plain: no context managers, nothing built before it is needed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any, Final, Protocol

import orjson
import structlog
from aiohttp import web
from aiohttp.hdrs import ACCEPT, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HOST, ORIGIN

from kosreg.api import body as bodies
from kosreg.api import media
from kosreg.api.hosts import HostGuard
from kosreg.api.http import Call, Reply, Route
from kosreg.api.metrics import Metrics, RouteMeter
from kosreg.api.response import Writer, plain
from kosreg.api.router import Router
from kosreg.log import serving
from kosreg.problems import Problem

if TYPE_CHECKING:
    from kosreg.api.node import Node

log: Final = structlog.get_logger("kosreg.api")
LOGGED: Final = 50
"""Refusals logged a second. The metrics count them all."""
_JSON_NAMES: Final = frozenset({media.JSON, "text/json"})


class Door:
    """Answers requests: give `Door.handle` to `web.Server`."""

    def __init__(self, app: Node, routes: Sequence[Route], hosts: HostGuard, metrics: Metrics) -> None:
        self.app = app
        self.routes = tuple(routes)
        self.hosts = hosts
        self.metrics = metrics
        self._router: Router[_Prepared] = Router([_Prepared(route, metrics) for route in self.routes])
        self._lost = metrics.route("", "(none)")
        self._any = media.Negotiator()
        self.writer = Writer()
        self._log_second = self._logged = self._unlogged = 0
        self._verbose = app.settings.log.level == "debug"

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """One request, from its headers to its answer. Raises only what ends the connection."""
        started = perf_counter()
        metrics = self.metrics
        metrics.in_flight += 1
        call = Call(self.app, request)
        serving(call)  # each request runs in a task of its own, so this needs no reset
        meter = self._lost
        response: web.StreamResponse
        try:
            headers = request.headers
            path = request.raw_path
            host = headers.get(HOST)
            if path[:1] != "/":
                path, host = request.rel_url.raw_path, _host_of_absolute(request)
            elif "?" in path:
                path = path[: path.index("?")]
            self.hosts.check(host, headers.get(ORIGIN))
            prepared, call.params = self._router.find(request.method, path)
            if prepared is None:
                response = self._unrouted(request, path)
            elif prepared.websocket:
                return await self._upgrade(call, prepared)
            else:
                meter = prepared.meter
                route = call.route = prepared.route
                if route.waits:
                    _end_with_client(request)
                token = self._admit(call, prepared) if prepared.looks_at_token else None
                if prepared.negotiator is not None:
                    accepted = prepared.negotiator.choose(headers.get(ACCEPT))
                    if accepted is None:
                        raise _not_acceptable(prepared.negotiator)
                    call.accepted = accepted
                if prepared.takes_body:
                    body = bodies.at_hand(request)
                    if body is None:
                        body = await bodies.read(request, route.max_body)
                        if token is not None:
                            call.caller = self.app.auth.verify(token)  # it may have been revoked meanwhile
                    self._take(call, prepared, body)
                elif not request.content.is_eof() and not await bodies.drop(request):
                    raise Problem.of("too-large", "This route takes no body. Send none.")
                response = self._render(request, await route.handler(call), call.accepted)
        except Problem as problem:
            response = await self._refuse(call, problem)
        except ConnectionError:
            raise  # the client is gone: there is nobody to answer
        except Exception:
            log.exception("call failed", method=request.method, path=request.path[:256])
            response = await self._refuse(call, Problem.of("internal"), logged=True)
        finally:
            metrics.in_flight -= 1
        took = perf_counter() - started
        meter.count(response.status, took)
        if self._verbose:
            log.debug(
                "call answered", method=request.method, path=request.path[:256], status=response.status,
                ms=round(took * 1000, 3),
            )  # fmt: skip
        return response

    async def _upgrade(self, call: Call, prepared: _Prepared) -> web.StreamResponse:
        call.route = prepared.route
        if call.headers.get("Upgrade", "").lower() != "websocket":
            raise Problem.of("malformed", "This route speaks WebSocket. Open it with ws:// or wss://.")
        self.metrics.in_flight -= 1  # a socket is counted as such, not as a call that never ends
        try:
            return await prepared.route.handler(call)  # type: ignore[no-any-return]
        finally:
            self.metrics.in_flight += 1

    def _admit(self, call: Call, prepared: _Prepared) -> str | None:
        """Token, scope, rate. The token's text, or None where the route does without and none was sent."""
        header = call.request.headers.get(AUTHORIZATION)
        if header is None and not prepared.needs_token:
            return None
        try:
            if header is None:
                raise Problem.unauthenticated(error=None)
            if header[:7] != "Bearer " and header[:7].lower() != "bearer ":
                raise Problem.unauthenticated("The Authorization header is not `Bearer TOKEN`. Send the token so.")
            token = header[7:]
            caller = call.caller = self.app.auth.verify(token)
        except Problem:
            self.app.limits.charge_failure(call.request.remote or "")
            raise
        route = prepared.route
        if not caller.admin:
            scope = route.scope
            if scope is not None and not caller.may(*scope):
                raise Problem.out_of_scope(f"{scope[0]}:{scope[1]}:*")
            if route.rate is not None:
                self.app.limits.charge(caller, route.rate)
        return token

    def _take(self, call: Call, prepared: _Prepared, body: bytes) -> None:
        """The body becomes `call.raw`."""
        route = prepared.route
        if not body:
            if route.body_required:
                raise Problem.of("malformed", "The request has no body. See /docs for what this route expects.")
            return
        if len(body) > route.max_body:
            raise bodies.too_large(route.max_body)
        headers = call.request.headers
        if CONTENT_ENCODING in headers and headers[CONTENT_ENCODING].lower() != "identity":
            raise Problem.of(
                "unsupported-media-type", "Send the body uncompressed.", headers={"Accept-Encoding": "identity"}
            )
        call.content_type, packed = prepared.body_type(headers.get(CONTENT_TYPE))
        call.raw = bodies.json_of_msgpack(body) if packed else body

    def _render(self, request: web.BaseRequest, reply: Reply, accepted: str) -> web.StreamResponse:
        body = reply.body
        content_type = reply.content_type
        if body is None:
            return plain(reply.status, None, None, reply.headers)
        if not isinstance(body, bytes):
            body = orjson.dumps(body)
        if content_type is None:
            content_type = accepted
            if accepted == media.MSGPACK:
                body = media.msgpack_of_json(body)
        return self.writer.answer(request, reply.status, body, content_type, reply.headers)

    def _may_log(self) -> bool:
        """Whether one more refusal is worth a line: at most `LOGGED` a second, so that no client fills the log."""
        second = int(monotonic())
        if second != self._log_second:
            if self._unlogged:
                log.warning("refusals not logged", count=self._unlogged)
            self._log_second, self._logged, self._unlogged = second, 0, 0
        self._logged += 1
        if self._logged <= LOGGED:
            return True
        self._unlogged += 1
        return False

    def unreadable(self, status: int, error: BaseException | None, message: str | None) -> web.Response:
        """The answer to what is no HTTP request that can be read; there is no request to look at."""
        if status >= 500:
            log.error("call failed outside of its handler", exc_info=error)
            problem = Problem.of("internal")
        else:
            first = (message or "").strip().partition("\n")[0].rstrip(" :")[:200]
            problem = Problem.of("malformed", f"This is no HTTP request that can be read: {first or error}.")
            if self._may_log():
                log.info("unreadable request", slug=problem.slug, detail=problem.detail)
        self.metrics.refused(problem.slug)
        self._lost.count(problem.status, 0.0)
        return plain(problem.status, orjson.dumps(problem.to_dict()), media.PROBLEM, {"Cache-Control": "no-store"})

    def _unrouted(self, request: web.BaseRequest, path: str) -> web.Response:
        allowed = self._router.allowed(path)
        if not allowed:
            raise Problem.of("not-found", "There is no such route. /docs lists those that there are.")
        if request.method == "OPTIONS":
            return plain(204, None, None, {"Allow": ", ".join(sorted(allowed))})
        raise Problem.method_not_allowed(allowed)

    async def _refuse(self, call: Call, problem: Problem, *, logged: bool = False) -> web.Response:
        request = call.request
        self.metrics.refused(problem.slug)
        if not logged and self._may_log():
            log.info(
                "call refused", slug=problem.slug, status=problem.status, method=request.method,
                path=request.path[:256], detail=problem.detail[:500],
            )  # fmt: skip
        document: dict[str, Any] = {**problem.to_dict(), "request_id": call.request_id}
        accepted = self._any.choose(request.headers.get("Accept"))
        if accepted == media.MSGPACK:
            body, content_type = media.msgpack_of_json(orjson.dumps(document)), media.MSGPACK
        else:
            body, content_type = orjson.dumps(document), media.PROBLEM
        headers = {**problem.headers, "X-Request-Id": call.request_id, "Cache-Control": "no-store"}
        response = plain(problem.status, body, content_type, headers)
        if not request.content.at_eof() and not await bodies.drop(request):
            response.force_close()
        return response


def _host_of_absolute(request: web.BaseRequest) -> str | None:
    """Of `GET http://host/path`: its host counts (RFC 9112 §3.2.2). Of `OPTIONS *` and the like: the header."""
    return request.url.authority or request.headers.get(HOST)


class Waiting(Protocol):
    """A connection that ends a waiting handler when its client goes away."""

    waiting: asyncio.Task[Any] | None


def _end_with_client(request: web.BaseRequest) -> None:
    connection: Any = request.protocol
    if hasattr(connection, "waiting"):
        connection.waiting = asyncio.current_task()


def _not_acceptable(negotiator: media.Negotiator) -> Problem:
    return Problem.of("not-acceptable", f"This route answers {' or '.join(negotiator.offers)}. Ask for one of these.")


class _Prepared:
    """A route with what can be worked out beforehand."""

    __slots__ = (
        "_json_like", "_kept", "_others", "_packs", "looks_at_token", "meter", "method", "needs_token", "negotiator",
        "path", "route", "takes_body", "websocket",
    )  # fmt: skip

    def __init__(self, route: Route, metrics: Metrics) -> None:
        self.route = route
        self.method = route.method
        self.path = route.path
        self.meter: RouteMeter = metrics.route(route.method, route.path)
        self.websocket = route.kind == "websocket"
        self.looks_at_token = route.auth != "open"
        self.needs_token = route.auth == "token"
        self.negotiator = media.Negotiator(route.produces or ()) if route.negotiates else None
        self.takes_body = route.body is not None
        self._packs = media.MSGPACK in route.body_types
        self._kept: dict[str, tuple[str, bool]] = {}

    def body_type(self, header: str | None) -> tuple[str, bool]:
        """(media type of the body, whether it is MessagePack). Problem(unsupported-media-type)."""
        if header is None:
            return self.route.body_types[0], False
        kept = self._kept.get(header)
        if kept is None:
            kept = self._judge(header)
            if len(self._kept) < 64:
                self._kept[header] = kept
        return kept

    def _judge(self, header: str) -> tuple[str, bool]:
        name, *parameters = header.lower().split(";")
        name = name.strip()
        if name in media.MSGPACK_NAMES and self._packs:
            return media.MSGPACK, True
        if name not in self.route.body_types and not (name in _JSON_NAMES and media.JSON in self.route.body_types):
            raise Problem.of(
                "unsupported-media-type",
                f"This route takes {', '.join(self.route.body_types)}, not {name[:100]!r}.",
                headers={"Accept": ", ".join(self.route.body_types)},
            )
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key.strip() == "charset" and value.strip(' "') not in ("utf-8", "utf8", "us-ascii"):
                raise Problem.of("unsupported-media-type", "JSON is sent in UTF-8 (RFC 8259 §8.1).")
        return name, False
