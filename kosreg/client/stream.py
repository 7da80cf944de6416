"""Watching a node: the frames of its WebSocket, and how to go on after the connection ends.

`watch` is one connection. `follow` is for programs that mean to watch for days: when the node restarts or the
connection breaks, it looks for the node again (its address and admin token may be new) and subscribes from the cursor
of the last event, so nothing is missed and nothing is told twice. It gives up after `patience` seconds without a node.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from kosreg.client.address import Target
from kosreg.client.errors import ApiError, Disconnected, UnexpectedAnswer, Unreachable
from kosreg.client.http import Client

PATIENCE_SECONDS = 30.0
SILENCE_SECONDS = 20.0
"""A ping goes out this often; a node that answers none within half of it is taken for gone (RFC 6455 §5.5.2)."""
LONGEST_FRAME = 64 * 1024 * 1024
SUBSCRIPTION = "watch"


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of the node: its text as it came, and the same as an object."""

    text: str
    value: Mapping[str, Any]

    @property
    def op(self) -> str:
        return str(self.value.get("op", ""))

    @property
    def services(self) -> list[dict[str, Any]]:
        """The services of a snapshot; [] in any other frame."""
        services = self.value.get("services")
        return services if isinstance(services, list) else []


async def watch(
    client: Client, criteria: Mapping[str, Any] | None = None, *, since: str | None = None
) -> AsyncGenerator[Frame]:
    """The frames of one subscription on one connection: snapshot (or what changed after `since`), then events.

    Raises ApiError (the subscription was refused), Disconnected (always, when the connection ends), Unreachable.
    """
    try:
        socket = await client.session.ws_connect(
            client.url("/ws/registry", [("subscribe", "0")]),
            protocols=("kosreg.v1",),
            heartbeat=SILENCE_SECONDS,
            max_msg_size=LONGEST_FRAME,
            timeout=aiohttp.ClientWSTimeout(ws_close=2.0),
        )
    except aiohttp.WSServerHandshakeError as error:
        raise ApiError(error.status, {"title": f"the node refused the WebSocket (HTTP {error.status})"}, b"") from error
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise client.unreachable(error) from error
    async with socket:
        wish: dict[str, Any] = {"op": "subscribe", "id": SUBSCRIPTION, "filter": dict(criteria or {})}
        if since is not None:
            wish["since"] = since
        try:
            await socket.send_str(orjson.dumps(wish).decode())
        except ConnectionError:
            raise Disconnected(socket.close_code or 1006) from None
        async with aclosing(_frames(socket)) as frames:
            async for frame in frames:
                if frame.op == "error":
                    problem = frame.value.get("problem")
                    problem = problem if isinstance(problem, Mapping) else {}
                    raise ApiError(int(problem.get("status") or 400), problem, orjson.dumps(dict(problem)))
                if frame.value.get("sub") == SUBSCRIPTION:
                    yield frame


async def follow(
    locate: Callable[[], Target],
    criteria: Mapping[str, Any] | None = None,
    *,
    since: str | None = None,
    patience: float = PATIENCE_SECONDS,
    lost: Callable[[str], None] = lambda why: None,
) -> AsyncGenerator[Frame]:
    """As `watch`, over as many connections as it takes. `lost(why)` is told once each time a connection ends.

    Raises what `watch` raises where trying again cannot help, and Unreachable when `patience` seconds are over.
    """
    loop = asyncio.get_running_loop()
    cursor = since
    gone_since: float | None = None
    pause = 0.1
    connected_once = False
    while True:
        try:
            async with (
                Client(locate(), connections=1) as client,
                aclosing(watch(client, criteria, since=cursor)) as frames,
            ):
                async for frame in frames:
                    connected_once, gone_since, pause = True, None, 0.1
                    # Only the last part of a snapshot stands for all of it: a cursor kept before that would lose
                    # the parts that had not come yet.
                    if frame.value.get("cursor") and not frame.value.get("more"):
                        cursor = str(frame.value["cursor"])
                    yield frame
        except Disconnected as error:
            if error.lasting:
                raise
            why: Disconnected | Unreachable = error
        except Unreachable as error:
            if not connected_once:
                raise
            why = error
        now = loop.time()
        if gone_since is None:
            gone_since = now
            lost(str(why))
        elif now - gone_since > patience:
            raise Unreachable("the node did not come back", f"waited {patience:.0f} s: {why.title}", why.hint)
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  spreads many watchers, guards nothing
        pause = min(pause * 2, 2.0)


async def _frames(socket: aiohttp.ClientWebSocketResponse) -> AsyncGenerator[Frame]:
    """Whatever comes until the end, which is always a Disconnected."""
    while True:
        message = await socket.receive()
        if message.type is aiohttp.WSMsgType.CLOSE:
            raise Disconnected(int(message.data or 1005), str(message.extra or ""))
        if message.type is not aiohttp.WSMsgType.TEXT:
            raise Disconnected(socket.close_code or 1006)
        try:
            value = orjson.loads(message.data)
        except orjson.JSONDecodeError as error:
            raise UnexpectedAnswer("a frame is not JSON", str(error), "is this a kosreg node?") from None
        if not isinstance(value, dict):
            raise UnexpectedAnswer("a frame is not a JSON object", "", "is this a kosreg node?")
        yield Frame(message.data, value)
