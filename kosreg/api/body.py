"""The body of a request, bounded in bytes, time and depth, as JSON bytes whatever it was sent as.

- `read` takes at most `limit` bytes. What is over is read and dropped (up to `DROP_BYTES` and `DROP_SECONDS`), since a
  client that is cut off while it still sends never sees the answer that tells it why.
- MessagePack becomes JSON at the door, so that all that follows has one form to deal with. What JSON cannot say
  (binary, extension types, keys that are not text, NaN and infinities) is refused instead of being guessed at.
- Compressed bodies are refused (415): on a loopback address they gain nothing, and a bomb needs no defence.
"""

from __future__ import annotations

import asyncio
import math
import re
from typing import Final

import msgpack
import orjson
from aiohttp import EMPTY_PAYLOAD, HttpVersion11, web
from aiohttp.http_exceptions import HttpProcessingError

from kosreg.problems import Problem

READ_SECONDS: Final = 30.0
"""For the whole body. A 4 MiB batch then needs 140 kB/s; a client that drips bytes holds a connection no longer."""
DROP_BYTES: Final = 16 * 1024 * 1024
DROP_SECONDS: Final = 5.0
MAX_ARRAY: Final = 50_000
MAX_MAP: Final = 50_000
"""Of one MessagePack array or map: the decoder sets room aside for what a header claims before any is there."""

_NOT_FINITE: Final = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]|\xca[\x7f\xff][\x80-\xff]", re.DOTALL)
"""Where a NaN or an infinity may be (float64 and float32 with all exponent bits set). It can match inside a text too:
it only decides whether the values are looked at one by one, which costs 100 ns each."""


class TooSlow(Exception):
    """The body did not arrive in `READ_SECONDS`."""


def at_hand(request: web.BaseRequest) -> bytes | None:
    """The body where all of it came with the headers (nearly always), else None. Nothing to wait for, so no `await`."""
    payload = request.content
    if payload is EMPTY_PAYLOAD:
        return b""
    if not payload.is_eof() or payload.exception() is not None:
        return None
    return payload.read_nowait()


async def read(request: web.BaseRequest, limit: int) -> bytes:
    """The whole body, at most `limit` bytes. Problem: too-large, malformed, timeout; the rest is for `drop` then."""
    try:
        return await _read_slowly(request, limit)
    except (HttpProcessingError, web.PayloadAccessError, ValueError) as error:
        raise Problem.of("malformed", f"The body breaks HTTP's framing: {error}. Send it again.") from error


async def _read_slowly(request: web.BaseRequest, limit: int) -> bytes:
    payload = request.content
    length = request.content_length
    if length is not None and length > limit:
        raise too_large(limit)
    if expects_continue(request):
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # else a later error counts as one in the middle of an answer
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(READ_SECONDS):
            while not payload.at_eof():
                chunk = await payload.readany()
                size += len(chunk)
                if size > limit:
                    break
                chunks.append(chunk)
    except TimeoutError:
        raise Problem.of("timeout", f"The body did not arrive within {READ_SECONDS:.0f} s. Send it again.") from None
    if size > limit:
        raise too_large(limit)
    return b"".join(chunks)


def expects_continue(request: web.BaseRequest) -> bool:
    """Whether the client sends its body only when told to (RFC 9110 §10.1.1), and has not been told yet."""
    return (
        request.writer.output_size == 0
        and request.headers.get("Expect", "").lower() == "100-continue"
        and request.version >= HttpVersion11
    )


async def drop(request: web.BaseRequest) -> bool:
    """Reads the rest of the body and forgets it, within bounds. False: there is more; the connection must be closed."""
    payload = request.content
    if payload is EMPTY_PAYLOAD:
        return True
    if expects_continue(request):
        return False  # it waits for our word before it sends anything
    dropped = 0
    try:
        async with asyncio.timeout(DROP_SECONDS):
            while not payload.at_eof() and dropped < DROP_BYTES:
                dropped += len(await payload.readany())
    except (TimeoutError, HttpProcessingError, web.PayloadAccessError, ConnectionError):
        return False
    return payload.at_eof()


def too_large(limit: int) -> Problem:
    """413 that names the limit."""
    if limit % 1024 == 0:
        size = f"{limit // 1024} KiB" if limit % (1024 * 1024) else f"{limit // (1024 * 1024)} MiB"
    else:
        size = f"{limit} bytes"
    return Problem.of("too-large", f"The body is larger than the {size} that this route takes. Send less at once.")


def json_of_msgpack(body: bytes) -> bytes:
    """The same value as JSON. Problem(malformed) says what JSON has no word for, and where if that is known."""
    try:
        value = msgpack.unpackb(
            body,
            raw=False,
            strict_map_key=True,
            timestamp=0,
            max_array_len=MAX_ARRAY,
            max_map_len=MAX_MAP,
            ext_hook=_refuse_extension,
        )
    except Problem:
        raise
    except Exception as error:  # msgpack raises from six unrelated classes, StackError and OverflowError among them
        text = str(error) or type(error).__name__
        raise Problem.of("malformed", f"The body is not one complete MessagePack value: {text}.") from error
    if _NOT_FINITE.search(body):
        _refuse_not_finite(value)
    try:
        return orjson.dumps(value)
    except TypeError as error:
        text = str(error)
        if "bytes" in text or "Dict key" in text:
            text = "it holds binary data, or a key that is not text, where JSON has only text (use base64url)"
        elif "Timestamp" in text:
            text = "it holds a MessagePack timestamp (send RFC 3339 as text)"
        elif "Recursion" in text:
            text = "it is nested too deeply (254 levels at most)"
        raise Problem.of("malformed", f"The MessagePack body cannot be said in JSON: {text}.") from error


def _refuse_extension(code: int, _data: bytes) -> object:
    raise Problem.of("malformed", f"MessagePack extension types are not taken (type {code}). Send text or numbers.")


def _refuse_not_finite(value: object) -> None:
    stack = [(value, "")]
    while stack:
        item, pointer = stack.pop()
        if isinstance(item, float) and not math.isfinite(item):
            raise Problem.of("malformed", f"{pointer or 'The body'}: {item} is not a JSON number. Leave it out.")
        if isinstance(item, dict):
            stack.extend((child, f"{pointer}/{name}") for name, child in item.items())
        elif isinstance(item, list):
            stack.extend((child, f"{pointer}/{index}") for index, child in enumerate(item))
