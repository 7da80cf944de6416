"""A TCP proxy that behaves as badly as a network can: what a lab puts between two nodes.

Bytes flow through two `Wire`s, one a direction; a cut, a delay and a rate belong to the wire, so that both proxies of
a pair (one for each who may dial) share them. A cut wire loses nothing: bytes wait, as TCP would send them again, and
a dial hangs. `reset` and `half_open` are for connections; `refuse` makes a port look closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import Any, Final, Literal

from kosreg.lab.ports import HOST, Port

CHUNK: Final = 64 * 1024  # bytes taken at once
WAITING: Final = 128  # chunks under way in one direction of one connection: what a delayed wire holds at most
SLICE: Final = 0.02  # s of a throttled wire's rate that pass at once
CONNECTIONS: Final = 256  # of one proxy; more are refused
DIAL: Final = 10.0  # s to reach the node behind

_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST


class Wire:
    """One direction between two nodes. `passed`: bytes that came through."""

    def __init__(self) -> None:
        self.delay = 0.0  # s, one way
        self.rate: float | None = None  # bytes/s, over all connections
        self.passed = 0
        self._free = 0.0  # when the rate allows the next slice
        self._open = asyncio.Event()
        self._open.set()

    @property
    def is_cut(self) -> bool:
        return not self._open.is_set()

    def cut(self) -> None:
        self._open.clear()

    def heal(self) -> None:
        self._open.set()

    async def opened(self) -> None:
        """Returns once the wire is not cut."""
        await self._open.wait()

    async def carry(self, data: bytes, taken: float, writer: asyncio.StreamWriter) -> None:
        """Give `data`, taken at loop time `taken`, to `writer` when the wire allows it."""
        loop = asyncio.get_running_loop()
        while True:
            await self._open.wait()
            wait = taken + self.delay - loop.time()
            if wait <= 0:
                break
            await asyncio.sleep(wait)
        for piece in self._pieces(data):
            if self.rate is not None:
                now = loop.time()
                self._free = max(self._free, now) + len(piece) / self.rate
                if self._free > now:
                    await asyncio.sleep(self._free - now)
            await self._open.wait()
            writer.write(piece)
            self.passed += len(piece)
            await writer.drain()

    def _pieces(self, data: bytes) -> list[bytes]:
        if self.rate is None:
            return [data]
        size = max(1, int(self.rate * SLICE))
        return [data[start : start + size] for start in range(0, len(data), size)]


class _Connection:
    """One dialled connection: two sockets and what flows between them."""

    def __init__(self, accepted: socket.socket) -> None:
        self.accepted = accepted
        self.near: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.far: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.swallows = False  # one side is gone, and the other is not told

    def abort(self) -> None:
        for end in (self.near, self.far):
            if end is not None:
                _reset(end[1])


class Proxy:
    """Listens on a port of the lab, `port`, and forwards to `target`, a port of 127.0.0.1.

    `there` carries what the dialling node says, `back` the answers.
    """

    def __init__(self, target: int, there: Wire, back: Wire) -> None:
        self.target = target
        self._port = Port()
        self._there = there
        self._back = back
        self._listening: socket.socket | None = None
        self._running: dict[asyncio.Task[None], _Connection] = {}

    @property
    def port(self) -> int:
        return self._port.number

    @property
    def address(self) -> str:
        """What the dialling node is told: `127.0.0.1:PORT`."""
        return self._port.address

    @property
    def connections(self) -> int:
        return len(self._running)

    def accept(self) -> None:
        """Take connections. A second call does nothing."""
        if self._listening is None:
            # By hand: a server of asyncio that is closed just after it accepted forgets what it accepted, unclosed.
            self._listening = socket.create_server((HOST, self.port), backlog=128)
            self._listening.setblocking(False)
            asyncio.get_running_loop().add_reader(self._listening, self._accepted, self._listening)

    def refuse(self) -> None:
        """Refuse new connections, as a port does where nobody listens; those that are there stay."""
        listening, self._listening = self._listening, None
        if listening is not None:
            asyncio.get_running_loop().remove_reader(listening)
            listening.close()

    def reset(self) -> None:
        """Break all connections (RST to both sides)."""
        for connection in self._running.values():
            connection.abort()

    def half_open(self, keeps: Literal["dialler", "target"]) -> None:
        """Break all connections for one side alone: the side that `keeps` one hears nothing, ever, and what it says is
        swallowed."""
        for connection in self._running.values():
            connection.swallows = True
            gone = connection.far if keeps == "dialler" else connection.near
            if gone is not None:
                _reset(gone[1])

    async def close(self) -> None:
        self.refuse()
        for task, connection in tuple(self._running.items()):
            connection.abort()
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        self._port.close()

    # Inside

    def _accepted(self, listening: socket.socket) -> None:
        try:
            accepted, _ = listening.accept()
        except OSError:  # it has gone again
            return
        accepted.setblocking(False)
        connection = _Connection(accepted)
        if len(self._running) >= CONNECTIONS:
            accepted.close()
            return
        task = asyncio.create_task(self._serve(connection))
        self._running[task] = connection
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        connection = self._running.pop(task)
        if connection.near is None:  # it ended before it began
            connection.accepted.close()
        if not task.cancelled():
            task.exception()  # seen: what can happen to a socket is no fault of the lab

    async def _serve(self, connection: _Connection) -> None:
        try:
            near = connection.near = await asyncio.open_connection(sock=connection.accepted)
            await self._there.opened()
            await self._back.opened()
            if self._there.delay or self._back.delay:  # a dial takes a round trip
                await asyncio.sleep(self._there.delay + self._back.delay)
            async with asyncio.timeout(DIAL):
                far = connection.far = await asyncio.open_connection(HOST, self.target)
            for _, writer in (near, far):
                _no_delay(writer)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._flow(connection, near[0], far[1], self._there))
                both.create_task(self._flow(connection, far[0], near[1], self._back))
        finally:
            connection.abort()

    async def _flow(
        self, connection: _Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, wire: Wire
    ) -> None:
        loop = asyncio.get_running_loop()
        # b"": its end; None: it was reset. Both travel as bytes do, so that no cut and no delay is outrun.
        waiting: asyncio.Queue[tuple[bytes | None, float]] = asyncio.Queue(WAITING)

        async def take() -> None:
            data: bytes | None = b"-"
            while data:
                try:
                    data = await reader.read(CHUNK)
                except OSError:
                    data = None
                await waiting.put((data, loop.time()))

        async def give() -> None:
            while True:
                data, taken = await waiting.get()
                if not connection.swallows:
                    try:
                        await wire.carry(data or b"", taken, writer)
                        if data is None:
                            raise ConnectionResetError
                        if not data:
                            writer.write_eof()
                    except OSError:
                        if not connection.swallows:  # else it was this side that went while the bytes were under way
                            raise
                if not data:
                    return

        async with asyncio.TaskGroup() as two:
            two.create_task(take())
            two.create_task(give())


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close at once, with RST."""
    opened: Any = writer.get_extra_info("socket")
    if opened is not None:
        with contextlib.suppress(OSError):
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


def _no_delay(writer: asyncio.StreamWriter) -> None:
    opened: Any = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
