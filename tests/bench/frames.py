"""Heartbeats over WebSockets, one a frame: frames are made beforehand, answers are counted by their frame heads."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from base64 import b64encode
from typing import Any
from urllib.parse import urlsplit

import uvloop

SOCKETS = 8
WINDOW = 64  # frames under way on a socket


def frame(text: bytes) -> bytes:
    """A masked text frame (RFC 6455 §5.2)."""
    mask = os.urandom(4)
    size = len(text)
    head = bytes((0x81, 0x80 | size)) if size < 126 else bytes((0x81, 0xFE)) + size.to_bytes(2, "big")
    return head + mask + bytes(b ^ mask[i & 3] for i, b in enumerate(text))


class Socket(asyncio.Protocol):
    def __init__(self, token: str, frames: list[bytes]) -> None:
        self.token = token
        self.frames = frames
        self.at = 0
        self.open = False
        self.buffer = b""
        self.answers = 0
        self.errors = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        key = b64encode(os.urandom(16)).decode()
        self.transport.write(
            f"GET /ws/registry?subscribe=0 HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
            f"Authorization: Bearer {self.token}\r\n\r\n".encode()
        )

    def send(self, count: int) -> None:
        frames = self.frames
        self.transport.write(b"".join(frames[(self.at + i) % len(frames)] for i in range(count)))
        self.at += count

    def data_received(self, data: bytes) -> None:
        buffer = self.buffer + data if self.buffer else data
        at = 0
        if not self.open:
            end = buffer.find(b"\r\n\r\n")
            if end < 0:
                self.buffer = buffer
                return
            assert b" 101 " in buffer[:20], buffer[:200]
            self.open = True
            at = end + 4
            self.send(WINDOW)
        got = 0
        while at + 2 <= len(buffer):
            size = buffer[at + 1]
            head = 2
            if size == 126:
                if at + 4 > len(buffer):
                    break
                size, head = int.from_bytes(buffer[at + 2 : at + 4], "big"), 4
            if at + head + size > len(buffer):
                break
            if buffer[at + head : at + head + 10] != b'{"op":"ok"':
                self.errors += 1
            at += head + size
            got += 1
        self.buffer = buffer[at:]
        self.answers += got
        if got:
            self.send(got)


async def main(url: str, token: str, seconds: str, records: str) -> None:
    parts = urlsplit(url)
    frames = [
        frame(json.dumps({"op": "heartbeat", "id": i, "service_id": f"svc-{i}"}).encode()) for i in range(int(records))
    ]
    loop = asyncio.get_running_loop()
    sockets: list[Socket] = []
    for n in range(SOCKETS):
        _, socket = await loop.create_connection(
            lambda n=n: Socket(token, frames[n::SOCKETS]), parts.hostname, parts.port
        )  # type: ignore[misc]
        sockets.append(socket)
    await asyncio.sleep(float(seconds) / 4)
    began, before = time.perf_counter(), sum(s.answers for s in sockets)
    await asyncio.sleep(float(seconds))
    rate = (sum(s.answers for s in sockets) - before) / (time.perf_counter() - began)
    assert not any(s.errors for s in sockets), "a heartbeat was refused"
    print(rate)
    for socket in sockets:
        socket.transport.abort()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
