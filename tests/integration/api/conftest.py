"""A real node behind a second server that has some routes more, and bytes on a bare socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest
import pytest_asyncio

from kosreg.api.http import Answer, Call, Reply, Route
from kosreg.api.server import Server
from kosreg.node import Node
from kosreg.problems import Problem

BODY = {"type": "object"}


@asynccontextmanager
async def serving(node: Node, routes: Sequence[Route]) -> AsyncIterator[Server]:
    """Another server of the same node, on a free port."""
    server = Server(node, routes)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@dataclass
class Probe:
    """Handlers that show what a handler sees, and one that waits until it is let go."""

    entered: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    calls: list[Call] = field(default_factory=list)

    async def echo(self, call: Call) -> Reply:
        self.calls.append(call)
        return Reply(200, call.raw or b"null", {"Echo-Type": call.content_type})

    async def take(self, call: Call) -> Reply:
        self.calls.append(call)
        return Reply(200, call.raw, content_type="application/octet-stream")

    async def see(self, call: Call) -> Reply:
        self.calls.append(call)
        shown = {"params": dict(call.params), "query": list(call.query.items()), "sub": call.sub}
        return Reply(200, shown, {"X-Seen": call.request_id})

    async def fail(self, call: Call) -> Reply:
        raise RuntimeError("a secret of the inside")

    async def refuse(self, call: Call) -> Reply:
        raise Problem.of("conflict", "It is so.", headers={"X-Extra": "1"})

    async def nothing(self, call: Call) -> Reply:
        return Reply(204)

    async def wait(self, call: Call) -> Reply:
        self.entered.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return Reply(200, {"waited": True})

    async def large(self, call: Call) -> Reply:
        return Reply(200, b'"' + b"x" * int(call.query["size"]) + b'"')

    def routes(self) -> list[Route]:
        any_json = Answer(dict[str, Any])
        replies = {200: any_json}
        return [
            Route("POST", "/echo", self.echo, body=dict, rate=None, replies=replies),
            Route("POST", "/echo/optional", self.echo, body=dict, body_required=False, rate=None, replies=replies),
            Route("POST", "/echo/small", self.echo, body=dict, max_body=1_000, rate=None, replies=replies),
            Route("POST", "/echo/open", self.echo, body=dict, auth="open", rate=None, replies=replies),
            Route("POST", "/take", self.take, body=bytes, body_types=("application/cose",), replies=replies),
            Route("GET", "/see/{one}/and/{two}", self.see, replies=replies),
            Route("GET", "/see", self.see, auth="optional", replies=replies),
            Route("GET", "/see/writers", self.see, scope=("write", "service"), replies=replies),
            Route("GET", "/see/metrics", self.see, scope=("read", "metrics"), replies=replies),
            Route("GET", "/fail", self.fail, auth="open", replies=replies),
            Route("GET", "/refuse", self.refuse, auth="open", replies=replies),
            Route("DELETE", "/nothing", self.nothing, auth="open", replies={204: None}),
            Route("GET", "/wait", self.wait, auth="open", waits=True, replies=replies),
            Route("POST", "/wait", self.wait, auth="open", replies=replies),
            Route("GET", "/large", self.large, auth="open", replies=replies),
        ]


@pytest.fixture
def probe() -> Probe:
    return Probe()


@pytest_asyncio.fixture
async def server(node: Node, probe: Probe) -> AsyncIterator[Server]:
    """A server with the routes of `probe`."""
    async with serving(node, probe.routes()) as server:
        yield server


@dataclass(frozen=True)
class Told:
    """An answer, read from a bare socket."""

    status: int
    headers: dict[str, str]
    body: bytes
    closed: bool

    @property
    def problem(self) -> Any:
        return orjson.loads(self.body)

    @property
    def slug(self) -> str:
        return str(self.problem["type"]).rpartition(":")[2]


Send = Callable[..., Awaitable[Told]]


class Bare:
    """A connection that sends exactly what it is given."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def told(self, within: float = 10.0) -> Told:
        """One answer. `closed`: the server said that it will close."""
        async with asyncio.timeout(within):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.strip().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return Told(int(first.split()[1]), headers, body, headers.get("connection") == "close")

    async def ended(self, within: float = 10.0) -> bool:
        """Waits until the server has closed; False where it sends more."""
        async with asyncio.timeout(within):
            try:
                return await self.reader.read(1) == b""
            except ConnectionResetError:
                return True

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except OSError:
            pass


@asynccontextmanager
async def bare(server: Server) -> AsyncIterator[Bare]:
    """A connection to `server`."""
    host, _, port = server.url.removeprefix("http://").rpartition(":")
    connection = Bare(*await asyncio.open_connection(host, int(port)))
    try:
        yield connection
    finally:
        await connection.close()
