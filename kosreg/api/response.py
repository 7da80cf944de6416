"""The answer to the usual call, written at once: head and body are one piece of bytes.

aiohttp's `web.Response` builds a dictionary of headers, copies and completes it, and serializes it again: 8 µs of the
27 that a bare GET takes. `Direct` is the same answer, made from parts that are kept as bytes; what has no body (204,
304, HEAD) goes the plain way. A test holds the two against each other. It uses the public side of aiohttp alone:
`prepare`, `write_eof`, `keep_alive`, and the request's `writer` and `transport`.

A client that does not read holds up its connection alone, and not for ever: after `SEND_SECONDS` it is cut off, and
while more than `MAX_UNSENT` bytes wait for such clients, large answers are refused (503).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from email.utils import formatdate
from http import HTTPStatus
from time import time
from typing import Final, cast

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import StreamWriter

from kosreg.problems import Problem

SERVER: Final = "kosreg"
LARGE: Final = 64 * 1024
"""Bytes. What is smaller fits into the buffers of the transport and the kernel, so nobody waits for it."""
SEND_SECONDS: Final = 60.0
MAX_UNSENT: Final = 256 * 1024 * 1024
_KEPT: Final = 64


class Direct(web.StreamResponse):
    """Made by `Writer.answer`. Its `__init__` leaves out that of its base: none of what that prepares is used."""

    def __init__(self, by: Writer, status: int, head: bytes, body: bytes, keep: bool) -> None:
        self._by = by
        self._answer = status
        self._head = head
        self._bytes = body
        self._keep = keep

    @property
    def status(self) -> int:
        return self._answer

    @property
    def keep_alive(self) -> bool | None:
        return self._keep

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        writer = cast(StreamWriter, request.writer)
        await writer.write(self._head + self._bytes, drain=False)  # one system call: it costs more than the copy
        if len(self._bytes) >= LARGE:
            await self._by.drain(request, len(self._bytes))
        return writer

    async def write_eof(self, data: bytes = b"") -> None:
        assert not data, "the whole answer was written by prepare"

    def __repr__(self) -> str:
        return f"<Direct {self._answer} of {len(self._bytes)} bytes>"


class Writer:
    """Makes answers, and keeps the beginnings of heads by (status, content type), and the date of this second."""

    __slots__ = ("_date", "_heads", "_second", "unsent")

    def __init__(self) -> None:
        self.unsent = 0
        self._heads: dict[tuple[int, str], bytes] = {}
        self._second = 0
        self._date = b""

    def answer(
        self, request: web.BaseRequest, status: int, body: bytes, content_type: str, headers: Mapping[str, str] | None
    ) -> web.StreamResponse:
        """An answer with a body. Raises Problem(unavailable) where too much waits for slow clients already."""
        if request.method == "HEAD":
            return plain(status, body, content_type, headers)
        if self.unsent > MAX_UNSENT and len(body) >= LARGE:
            raise Problem.of("unavailable", "Too many clients read too slowly. Ask for less, or again in a while.")
        second = int(time())
        if second != self._second:
            self._second = second
            self._date = f"\r\nDate: {formatdate(second, usegmt=True)}\r\nContent-Length: ".encode("ascii")
        try:
            head = self._heads[status, content_type]
        except KeyError:
            head = self._begin(status, content_type)
        more = b"" if not headers else _lines(headers)
        keep = request.keep_alive and request.version >= HttpVersion11
        if not keep:
            more += b"\r\nConnection: close"
        return Direct(self, status, b"%b%b%d%b\r\n\r\n" % (head, self._date, len(body), more), body, keep)

    async def drain(self, request: web.BaseRequest, size: int) -> None:
        """Waits until the client has read most of `size` bytes. ConnectionError where it does not in time."""
        transport = request.transport
        if transport is None or transport.get_write_buffer_size() < LARGE:
            return
        self.unsent += size
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await request.writer.drain()
        except TimeoutError:
            transport.abort()
            raise ConnectionResetError("the client does not read") from None
        finally:
            self.unsent -= size

    def _begin(self, status: int, content_type: str) -> bytes:
        _check(content_type)
        phrase = HTTPStatus(status).phrase
        head = f"HTTP/1.1 {status} {phrase}\r\nServer: {SERVER}\r\nContent-Type: {content_type}".encode("ascii")
        if len(self._heads) < _KEPT:
            self._heads[status, content_type] = head
        return head


def plain(status: int, body: bytes | None, content_type: str | None, headers: Mapping[str, str] | None) -> web.Response:
    """The same answer as aiohttp makes it, for every case."""
    every = {"Server": SERVER, **(headers or {})}
    if content_type is not None:
        every["Content-Type"] = content_type
    return web.Response(status=status, body=body, headers=every)


def _lines(headers: Mapping[str, str]) -> bytes:
    text = "".join([f"\r\n{name}: {_check(value)}" for name, value in headers.items()])
    return text.encode("utf-8")


def _check(value: str) -> str:
    """ValueError for what would end the line: a header must never carry what a client sent as another header."""
    if "\n" in value or "\r" in value or "\0" in value:
        raise ValueError(f"a header cannot hold {value[:100]!r}")
    return value
