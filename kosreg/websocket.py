"""`/ws/registry`: watch, register and heartbeat over one socket.

Two tasks a socket: one reads frames and answers them, one tells what changed. Both wait when the client does not
read, so that a slow client holds up itself and nobody else. Before authentication nothing is sent but the close.

aiohttp reads frames, answers pings and closes; our own frames go to the transport, all of one turn of the loop in one
write: with a system call for each answer, a heartbeat cost four times as much (measured).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgpack
import orjson
import structlog
from aiohttp import WSMsgType, web

from kosreg.api.body import json_of_msgpack
from kosreg.auth import Caller
from kosreg.problems import Problem
from kosreg.query import filter_of, parse_filter
from kosreg.schemas.service_schema import BEAT, BEATS, check
from kosreg.subscriptions import Subscription
from kosreg.times import now_ms, rfc3339

if TYPE_CHECKING:
    from kosreg.api.http import Call
    from kosreg.api.node import Node

JSON_PROTOCOL = "kosreg.v1"
MSGPACK_PROTOCOL = "kosreg.v1.msgpack"
BEARER = "bearer."

AUTH_WITHIN = 5.0  # s for a first frame that authenticates
STALL = 120.0  # s that a client may take none of what is sent, before it is taken for dead
CLOSE_WITHIN = 1.5  # s for the client to take what waits and say goodbye
PREPAID = 16  # heartbeats charged at once
HEARD_EVERY = 65_536  # bytes of frames read between two looks at whether the client takes its answers
TEXT, BINARY = 1, 2  # opcodes
MAX_SUBSCRIPTIONS = 64  # of one socket
MAX_NAME = 256  # bytes of the id of a subscription: each of its frames carries it
MAX_UNSENT = 256 * 1024  # bytes that wait for a client before the next are made: a slow one gets newer states instead
MAX_SOCKETS = 1024  # of one subject

CLOSE_TOKEN, CLOSE_SCOPE, CLOSE_LATE, CLOSE_LARGE, CLOSE_RESTART = 4401, 4403, 4408, 4413, 1012
CLOSE_AGAIN = 1013

log = structlog.get_logger("kosreg.websocket")


class _Closed(Exception):
    """The socket is to be closed with `code` and `reason`."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class RegistrySocket(web.WebSocketResponse):
    """aiohttp's socket with our code for a frame that is too large."""

    async def close(self, *, code: int = 1000, message: bytes = b"", drain: bool = True) -> bool:
        if code == 1009:
            code, message = CLOSE_LARGE, b"frame too large"
        return await super().close(code=code, message=message, drain=drain)


class Session:
    """One authenticated or not yet authenticated client."""

    def __init__(self, node: Node, call: Call) -> None:
        self.node = node
        self.registry = node.registry
        self.call = call
        self.caller: Caller | None = None
        self.ws = RegistrySocket(
            protocols=(JSON_PROTOCOL, MSGPACK_PROTOCOL),
            max_msg_size=node.settings.limits.max_body,
            compress=False,
            timeout=1.0,
        )
        self.packed = False
        self.subscriptions: dict[bytes, Subscription] = {}
        self._unsent = 0  # bytes since the client last took what was sent
        self._out: list[bytes] = []  # heads and frames of this turn of the loop
        self._prepaid = 0  # heartbeats
        self._more = asyncio.Event()  # a subscription came
        self._talk: asyncio.Task[None] | None = None
        self._ended: _Closed | None = None

    # -- life ----------------------------------------------------------------------------------------------------

    async def run(self) -> web.WebSocketResponse:
        """From the upgrade to the close. Raises Problem (400) where it is no upgrade."""
        try:
            await self.ws.prepare(self.call.request)
        except web.HTTPBadRequest as error:
            raise Problem.of("malformed", f"This is no WebSocket handshake (RFC 6455): {error.text}") from None
        self.packed = self.ws.ws_protocol == MSGPACK_PROTOCOL
        self.node.sockets.add(self)
        self._talk = asyncio.create_task(self._converse(), name="websocket")
        closed = _Closed(1000, "")
        try:
            await self._talk
        except _Closed as error:
            closed = error
        except asyncio.CancelledError:
            if self._ended is None:
                self._talk.cancel()
                raise
            closed = self._ended
        except (ConnectionResetError, TimeoutError):
            pass  # the client is gone
        finally:
            self.node.sockets.discard(self)
        await self._close(closed)
        return self.ws

    async def _converse(self) -> None:
        if not self.node.ready:
            raise _Closed(CLOSE_RESTART, "the node restarts")
        caller = self.caller = await self._authenticate()
        if (
            sum(other.caller is not None and other.caller.sub == caller.sub for other in self.node.sockets)
            > MAX_SOCKETS
        ):
            raise _Closed(CLOSE_AGAIN, "too many sockets of one subject")
        left = max(0.0, caller.exp - now_ms() / 1000)
        expiry = asyncio.get_running_loop().call_later(left, self.end, CLOSE_TOKEN, "token expired")
        await self._auto_subscribe(caller)
        telling = asyncio.create_task(self._tell(), name="websocket-tell")
        try:
            await self._read(caller)
        finally:
            expiry.cancel()
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)

    def end(self, code: int, reason: str) -> None:
        """Close from outside: the token ended, or the node restarts."""
        if self._ended is None and self._talk is not None:
            self._ended = _Closed(code, reason)
            # closed by the task that reads: aiohttp waits for the client's own close only there
            self._talk.cancel()

    async def _close(self, closed: _Closed) -> None:
        self._flush()
        try:
            async with asyncio.timeout(CLOSE_WITHIN):
                await self.ws.close(code=closed.code, message=closed.reason.encode()[:123])
        except (TimeoutError, ConnectionResetError):
            self._abort()

    def _abort(self) -> None:
        transport = self.call.request.transport
        if transport is not None:
            transport.abort()

    async def _authenticate(self) -> Caller:
        headers = self.call.request.headers
        text = headers.get("Authorization")
        if text is not None:
            scheme, _, token = text.partition(" ")
            if scheme.lower() != "bearer":
                raise _Closed(CLOSE_TOKEN, "Authorization must be a Bearer token")
            return self._verified(token.strip())
        for offered in headers.get("Sec-WebSocket-Protocol", "").split(","):
            if offered.strip().startswith(BEARER):
                return self._verified(offered.strip()[len(BEARER) :])
        try:
            message = await self.ws.receive(timeout=AUTH_WITHIN)
        except TimeoutError:
            raise _Closed(CLOSE_LATE, f"no token within {AUTH_WITHIN:.0f} s") from None
        if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
            raise ConnectionResetError
        try:
            frame = self._decoded(message.data)
        except Problem:
            frame = None
        if not isinstance(frame, dict) or frame.get("op") != "auth" or not isinstance(frame.get("token"), str):
            raise _Closed(CLOSE_TOKEN, 'the first frame must be {"op":"auth","token":…}')
        return self._verified(frame["token"])

    def _verified(self, token: str) -> Caller:
        try:
            return self.node.auth.verify(token)
        except Problem as problem:
            raise _Closed(CLOSE_TOKEN, problem.title) from None

    async def _auto_subscribe(self, caller: Caller) -> None:
        query: dict[str, list[str]] = {}
        for key, value in self.call.query.items():
            query.setdefault(key, []).append(value)
        wanted = query.pop("subscribe", ["1"])[-1]
        since = query.pop("since", [None])[-1]
        if wanted == "0":
            return
        if caller.names("read", "service") == frozenset():
            raise _Closed(CLOSE_SCOPE, "the token may not read services")
        try:
            asked = parse_filter(query)
        except Problem as problem:
            self._put(_error(None, problem))
            return
        name = said("auto")
        self.subscriptions[name] = Subscription(self.registry, caller, name, asked, since)

    # -- sending -------------------------------------------------------------------------------------------------

    def _put(self, frame: bytes) -> None:
        """Send `frame` (JSON) in this turn of the loop, with all others of this turn in one write."""
        if self.packed:
            frame = msgpack.packb(orjson.loads(frame))
        self._unsent += len(frame)
        self._out.append(head_of_frame(len(frame), BINARY if self.packed else TEXT))
        self._out.append(frame)
        if len(self._out) == 2:
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        out, self._out = self._out, []
        transport = self.call.request.transport
        if out and transport is not None and not self.ws.closed:
            transport.write(b"".join(out))

    async def _taken(self) -> None:
        """Wait until the client takes what was sent, so that a slow one holds up itself."""
        self._flush()
        self._unsent = 0
        async with asyncio.timeout(STALL):
            await self.call.request.writer.drain()

    async def _tell(self) -> None:
        """Tell each subscription what it has not been told, and wait for more."""
        journal = self.registry.catalog.journal
        try:
            while not self.ws.closed:
                seen = journal.head
                for subscription in tuple(self.subscriptions.values()):
                    for frame in subscription.next_frames():
                        self._put(frame)
                    if self._unsent > MAX_UNSENT:
                        await self._taken()
                await self._taken()
                if any(s.behind for s in self.subscriptions.values()):
                    await asyncio.sleep(0)
                    continue
                self._more.clear()
                waits = [asyncio.ensure_future(journal.wait(seen, None)), asyncio.ensure_future(self._more.wait())]
                try:
                    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for wait in waits:
                        wait.cancel()
        except (ConnectionResetError, TimeoutError):
            self._abort()

    # -- reading -------------------------------------------------------------------------------------------------

    def _decoded(self, data: str | bytes) -> Any:
        try:
            return orjson.loads(json_of_msgpack(data) if self.packed and isinstance(data, bytes) else data)
        except orjson.JSONDecodeError as error:
            raise Problem.of("malformed", f"The frame is not JSON: {error}.") from None

    async def _read(self, caller: Caller) -> None:
        receive = self.ws.receive
        unheard = 0  # bytes read since the client was last seen to take its answers
        while True:
            message = await receive()
            if message.type is not WSMsgType.TEXT and message.type is not WSMsgType.BINARY:
                return  # closed, or broken: aiohttp has answered it
            ident: Any = None
            try:
                frame = self._decoded(message.data)
                if not isinstance(frame, dict):
                    raise Problem.of("malformed", "A frame is one object.")
                if isinstance(frame.get("id"), list | dict):
                    said(frame["id"])
                ident = frame.get("id")
                op = frame.get("op")
                act = OPS.get(op) if isinstance(op, str) else None
                if act is None:
                    raise Problem.of("malformed", f"op must be one of {', '.join(OPS)}.")
                answer = act(self, caller, frame)
                if not isinstance(answer, bytes):
                    answer = await answer
            except Problem as problem:
                self.node.metrics.refused(problem.slug)
                answer = _error(ident, problem)
            except (ConnectionError, TimeoutError):
                raise
            except Exception:
                log.exception("frame failed")
                self.node.metrics.refused("internal")
                answer = _error(ident, Problem.of("internal"))
            if answer:
                self._put(answer)
            unheard += len(message.data)
            if unheard > HEARD_EVERY:
                unheard = 0
                await self._taken()

    # -- operations: the answer, or a coroutine that gives it ------------------------------------------------------

    def _subscribe(self, caller: Caller, frame: dict[str, Any]) -> bytes:
        self._charge(caller)
        if frame.get("id") is None:
            raise Problem.of("malformed", "subscribe needs an id: events carry it as sub.")
        if caller.names("read", "service") == frozenset():
            raise Problem.out_of_scope("read:service:*")
        name = said(frame["id"])
        if len(name) > MAX_NAME:
            raise Problem.of("malformed", f"The id of a subscription has at most {MAX_NAME} bytes: events carry it.")
        if name in self.subscriptions:
            raise Problem.of("conflict", "A subscription with this id is there: unsubscribe it, or choose another id.")
        if len(self.subscriptions) >= MAX_SUBSCRIPTIONS:
            raise Problem.of("conflict", f"A socket has at most {MAX_SUBSCRIPTIONS} subscriptions: end one first.")
        since = frame.get("since")
        if since is not None and not isinstance(since, str):
            raise Problem.invalid([{"pointer": "/since", "detail": "must be a text"}])
        self.subscriptions[name] = Subscription(self.registry, caller, name, filter_of(frame.get("filter")), since)
        self._more.set()  # told after the answer: that is put before the other task runs
        return _ok(frame["id"], b'{"sub":' + name + b"}")

    def _unsubscribe(self, caller: Caller, frame: dict[str, Any]) -> bytes:
        name = said(frame.get("sub"))
        if self.subscriptions.pop(name, None) is None:
            raise Problem.of("not-found", "There is no subscription with this sub on this socket.")
        return _ok(frame.get("id"), b'{"sub":' + name + b"}")

    async def _register(self, caller: Caller, frame: dict[str, Any]) -> bytes:
        self._charge(caller)
        if not isinstance(frame.get("service"), dict):
            raise Problem.of("malformed", "register needs the record as service.")
        done = await self.registry.register(caller, said(frame["service"]))
        return _ok(frame.get("id"), done.service.json())

    def _heartbeat(self, caller: Caller, frame: dict[str, Any]) -> bytes:
        if "beats" in frame:
            beats = check(BEATS, {"beats": frame["beats"]})["beats"]
            self.node.limits.charge(caller, "beats", max(1, len(beats)))
            return _ok(frame.get("id"), orjson.dumps(self.registry.heartbeats(caller, beats)))
        uid = frame.get("service_id")
        if not isinstance(uid, str):
            raise Problem.of("malformed", "heartbeat needs service_id, or beats.")
        if self._prepaid == 0:  # charging each by itself would be a third of its cost
            self.node.limits.charge(caller, "beats", PREPAID)
            self._prepaid = PREPAID
        self._prepaid -= 1
        status, load = frame.get("status"), frame.get("load")
        if status is not None or load is not None:
            check(BEAT, {"status": status, "load": load})
        service = self.registry.heartbeat(caller, uid, status, load)
        return _ok(frame.get("id"), beat_answer(service))

    async def _deregister(self, caller: Caller, frame: dict[str, Any]) -> bytes:
        self._charge(caller)
        uid = frame.get("service_id")
        if not isinstance(uid, str):
            raise Problem.of("malformed", "deregister needs service_id.")
        await self.registry.deregister(caller, uid)
        return _ok(frame.get("id"), b"null")

    def _ping(self, caller: Caller, frame: dict[str, Any]) -> bytes:
        self._charge(caller)
        return _ok(frame.get("id"), b'{"at":"' + rfc3339(now_ms()).encode() + b'"}')

    def _charge(self, caller: Caller) -> None:
        self.node.limits.charge(caller, "calls", 1)


Operation = Callable[[Session, Caller, dict[str, Any]], bytes | Awaitable[bytes]]
OPS: dict[str, Operation] = {
    "subscribe": Session._subscribe,
    "unsubscribe": Session._unsubscribe,
    "register": Session._register,
    "heartbeat": Session._heartbeat,
    "deregister": Session._deregister,
    "ping": Session._ping,
}


def head_of_frame(size: int, opcode: int) -> bytes:
    """The head of one whole, unmasked frame (RFC 6455 §5.2)."""
    if size < 126:
        return bytes((0x80 | opcode, size))
    if size < 65536:
        return bytes((0x80 | opcode, 126)) + size.to_bytes(2, "big")
    return bytes((0x80 | opcode, 127)) + size.to_bytes(8, "big")


def beat_answer(service: Any) -> bytes:
    """`{"id","status","ttl"}`; an id needs no escaping."""
    return f'{{"id":"{service.uid}","status":"{service.status}","ttl":{service.ttl}}}'.encode()


def said(value: Any) -> bytes:
    """`value`, which came in a frame, as JSON bytes. Problem(malformed) where it is nested too deeply to be said."""
    try:
        return orjson.dumps(value)
    except TypeError as error:
        raise Problem.of("malformed", f"The frame cannot be answered in JSON: {error}.") from None


def _ok(ident: Any, result: bytes) -> bytes:
    return b'{"op":"ok","id":' + orjson.dumps(ident) + b',"result":' + result + b"}"


def _error(ident: Any, problem: Problem) -> bytes:
    return b'{"op":"error","id":' + orjson.dumps(ident) + b',"problem":' + orjson.dumps(problem.to_dict()) + b"}"


async def serve(node: Node, call: Call) -> web.WebSocketResponse:
    """The handler of `/ws/registry`."""
    return await Session(node, call).run()
