"""One link that stands: its sockets, what waits to go out, and the tasks that move it.

Two sockets carry it, if they can be had: the main one, and one for bulk, so that a slow reader of blocks delays no
ping. Each lane keeps its order, and what was taken is delivered or the link ends: where the bulk socket breaks, so does
the link. Where no bulk socket comes within `BULK_WAIT_S`, bulk goes over the main one, for as long as the link lasts.

Outgoing messages share envelopes: one goes at once where the link was quiet, and what comes within 5 ms of that goes
together (or as soon as there are 64 KiB). What waits is bounded; beyond that a message is dropped and the owner told.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Final, Protocol

import uuid_utils

from federation.closing import SessionError, close_frame, closed
from federation.effects import Lane
from federation.envelope import EnvelopeError, Message, decode_bare, is_bare
from federation.membership import MESSAGES
from federation.session import Session
from federation.transport import DialError, Socket, SocketClosed

FLUSH_S: Final = 0.005
FLUSH_BYTES: Final = 64 * 1024
QUEUE_BYTES: Final = {Lane.BARE: 256 * 1024, Lane.PUSH: 2 << 20, Lane.BULK: 4 << 20}
BULK_WAIT_S: Final = 2.0  # for the bulk socket, before bulk goes over the main one
BULK_PING_S: Final = 20.0  # a bulk socket without a byte is pinged that often by who dialled it
BULK_SILENT_S: Final = 60.0  # … and given up then
LAST_S: Final = 0.5  # for what still waits at the end
ASIDE: Final = 64 * 1024  # bytes: what is larger is sealed and opened in another thread (a block takes some 8 ms)
SLICE_S: Final = 0.002  # of messages taken in before others have their turn
UNCOMMITTED: Final = 256 * 1024  # bytes of entries from one peer on their way to the disk: no more bulk is read then
BACKLOG: Final = 1_000  # entries that wait to be judged: the same
_MAIN_MORE: Final = 4  # the main socket is read on for that much longer: pings come there
FEATURE_BULK: Final = "bulk"
BARE: Final = frozenset({"ping", "pong"}) | MESSAGES
"""What may come without an envelope, besides `close`. Others are passed by: a later node may say more."""


class Owner(Protocol):
    """What a link tells whoever runs it."""

    def deliver(self, link: "Link", message: Message) -> None: ...
    def overflowed(self, link: "Link") -> None: ...
    def bulk_sent(self, link: "Link") -> None: ...
    def backlog(self, link: "Link") -> int: ...
    def wall_ms(self) -> int: ...


class Outbox:
    """Encoded messages that wait, bounded by their bytes."""

    __slots__ = ("_items", "_most", "size")

    def __init__(self, most: int) -> None:
        self._items: deque[bytes] = deque()
        self._most = most
        self.size = 0

    def put(self, raw: bytes) -> bool:
        """False where there is no room. (An empty box takes anything.)"""
        if self._items and self.size + len(raw) > self._most:
            return False
        self._items.append(raw)
        self.size += len(raw)
        return True

    def take(self, most: int) -> list[bytes]:
        """The next ones: at least one, and no further one that would make more than `most` bytes."""
        taken = [self._items.popleft()]
        size = len(taken[0])
        while self._items and size + len(self._items[0]) <= most:
            taken.append(self._items.popleft())
            size += len(taken[-1])
        self.size -= size
        return taken

    def __len__(self) -> int:
        return len(self._items)


class Link:
    """Made from a session and its socket; `run` moves it until it is over, and returns why."""

    def __init__(self, session: Session, socket: Socket, owner: Owner) -> None:
        self.session = session
        self.socket = socket
        self.bulk: Socket | None = None
        self.uncommitted = 0  # bytes
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self.since = self._loop.time()
        self._out = {lane: Outbox(most) for lane, most in QUEUE_BYTES.items()}
        self._wake, self._wake_bulk, self._room = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._quiet: asyncio.TimerHandle | None = None  # runs while an envelope has just gone
        self._waiting = 0  # readers that wait for room
        self._over: asyncio.Future[SessionError] = self._loop.create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self._has_bulk = FEATURE_BULK in session.hello.features
        self._bulk_on_main = not self._has_bulk

    @property
    def peer(self) -> bytes:
        return self.session.peer

    @property
    def bytes_in(self) -> int:
        return self.socket.bytes_in + (self.bulk.bytes_in if self.bulk else 0)

    @property
    def bytes_out(self) -> int:
        return self.socket.bytes_out + (self.bulk.bytes_out if self.bulk else 0)

    @property
    def queued(self) -> int:
        """Bytes that wait to go out."""
        return sum(box.size for box in self._out.values())

    @property
    def is_over(self) -> bool:
        return self._over.done()

    def silent_for(self) -> float:
        """Seconds without a byte from the peer; 0 while it is this side that does not read."""
        last = max(self.socket.last_byte, self.bulk.last_byte if self.bulk else 0.0)
        return 0.0 if self._waiting else self._loop.time() - last

    # Out

    def send(self, raw: bytes, lane: Lane) -> None:
        """Sends an encoded message. One that finds its lane full is dropped."""
        if self._over.done():
            return
        if not self._out[lane].put(raw):
            self._owner.overflowed(self)
        elif lane is Lane.BULK and not self._bulk_on_main:
            self._wake_bulk.set()
        else:
            self._wake.set()

    async def _write(self) -> None:
        """The main socket: bare frames first, then envelopes, then bulk that has no socket of its own."""
        bare, push, bulk = (self._out[lane] for lane in (Lane.BARE, Lane.PUSH, Lane.BULK))
        while True:
            await self._wake.wait()
            self._wake.clear()
            while True:
                if bare:
                    await self.socket.send(bare.take(0)[0])
                elif push and (self._quiet is None or push.size >= FLUSH_BYTES):
                    if self._quiet is not None:
                        self._quiet.cancel()
                    self._quiet = self._loop.call_later(FLUSH_S, self._is_quiet)
                    await self.socket.send(self._seal(push.take(FLUSH_BYTES)))
                elif bulk and self._bulk_on_main:
                    await self.socket.send(await self._sealed(bulk.take(0)))
                    self._owner.bulk_sent(self)
                else:
                    break

    def _is_quiet(self) -> None:
        """The last envelope is long enough ago: what came meanwhile goes now, what comes next at once."""
        self._quiet = None
        self._wake.set()

    async def _write_bulk(self, socket: Socket) -> None:
        bulk = self._out[Lane.BULK]
        while True:
            await self._wake_bulk.wait()
            self._wake_bulk.clear()
            while bulk:
                await socket.send(await self._sealed(bulk.take(0)))
                self._owner.bulk_sent(self)

    async def _sealed(self, messages: list[bytes]) -> bytes:
        if len(messages[0]) <= ASIDE:
            return self._seal(messages)
        return await self._loop.run_in_executor(None, self._seal, messages)

    def _seal(self, messages: list[bytes]) -> bytes:
        return self.session.channel.seal(messages, uuid_utils.uuid7().bytes, self._owner.wall_ms())

    # In

    async def _read(self, socket: Socket, share: int) -> None:
        """`share`: how many times the usual bounds may be full before this socket is not read on."""
        began = self._loop.time()
        while True:
            raw = await socket.receive()
            aside = len(raw) > ASIDE and not is_bare(raw)
            for message in await self._loop.run_in_executor(None, self._opened, raw) if aside else self._opened(raw):
                self._owner.deliver(self, message)
            while self.uncommitted > share * UNCOMMITTED or self._owner.backlog(self) > share * BACKLOG:
                self._room.clear()
                self._waiting += 1
                try:
                    await self._room.wait()
                finally:
                    self._waiting -= 1
            if self._loop.time() - began > SLICE_S:
                await asyncio.sleep(0)
                began = self._loop.time()

    def _opened(self, raw: bytes) -> list[Message]:
        if not is_bare(raw):
            return self.session.channel.open(raw)
        message = decode_bare(raw)
        if (said := closed(message)) is not None:
            raise said
        return [message] if message["t"] in BARE else []

    def has_room(self) -> None:
        """Less is on its way to the disk, or waits to be judged, than before."""
        if self._waiting:
            self._room.set()

    # Life

    async def run(self, open_bulk: Callable[[], Awaitable[Socket]] | None) -> SessionError:
        """Moves the link until it is over. `open_bulk`: how this side gets the bulk socket, if it is the one that
        dialled; raises whatever it cannot do."""
        self._start(self._read(self.socket, _MAIN_MORE))
        self._start(self._write())
        if self._has_bulk:
            if open_bulk is not None:
                self._start(self._get_bulk(open_bulk))
            self._loop.call_later(BULK_WAIT_S, self._no_bulk)
        try:
            return await self._over
        finally:
            self.end("restarting")
            if self._quiet is not None:
                self._quiet.cancel()
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._close()

    def end(self, code: str, reason: str = "") -> None:
        """Ends the link, from this side. The peer is told `code`, and `reason` for people."""
        self._ended(SessionError(code, reason))

    def attach_bulk(self, socket: Socket) -> None:
        """Takes a socket that was shown to belong to this link. Where bulk goes over the main one already, it goes on
        to, and this one brings what the peer sends. Raises SessionError where there is one, or no link any more."""
        if self._over.done() or self.bulk is not None:
            raise SessionError("duplicate", "this link is over, or has its bulk socket")
        self.bulk = socket
        self._start(self._read(socket, 1))
        self._start(self._keep_bulk(socket))
        if not self._bulk_on_main:
            self._wake_bulk.set()
            self._start(self._write_bulk(socket))

    @property
    def why(self) -> SessionError | None:
        """How it ended; None while it has not."""
        return self._over.result() if self._over.done() else None

    def on_over(self, call: Callable[[], None]) -> None:
        """`call` is called soon after the end, before anybody who waits for that goes on."""
        self._over.add_done_callback(lambda _: call())

    async def wait_over(self) -> None:
        """Returns once the link is over."""
        await asyncio.wait((self._over,))

    async def _get_bulk(self, open_bulk: Callable[[], Awaitable[Socket]]) -> None:
        try:
            socket = await open_bulk()
        except (SessionError, DialError, SocketClosed, TimeoutError):
            self._no_bulk()
            return
        try:
            self.attach_bulk(socket)
        except SessionError:
            await socket.close()

    async def _keep_bulk(self, socket: Socket) -> None:
        while True:
            await asyncio.sleep(BULK_PING_S)
            silent = self._loop.time() - socket.last_byte
            if silent > BULK_SILENT_S and not self._waiting:
                raise SocketClosed("the bulk socket is silent")
            if self.session.dialled and silent >= BULK_PING_S:
                await socket.ping()

    def _no_bulk(self) -> None:
        if self.bulk is None and not self._over.done():
            self._bulk_on_main = True
            self._wake.set()

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, SessionError):
            self._ended(error)
        elif isinstance(error, EnvelopeError):
            self._ended(SessionError(error.code, error.reason))
        elif isinstance(error, SocketClosed):
            self._ended(SessionError("lost", str(error), by_peer=True))
        elif error is not None:
            self._ended(SessionError("internal", "this node made a mistake"))
            self._loop.call_exception_handler({"message": "a link ended", "exception": error})

    def _ended(self, why: SessionError) -> None:
        if not self._over.done():
            self._over.set_result(why)

    async def _last_words(self) -> None:
        """What waits in the lane that goes first: that this node stops, say."""
        bare = self._out[Lane.BARE]
        try:
            async with asyncio.timeout(LAST_S):
                while bare:
                    await self.socket.send(bare.take(0)[0])
        except (SocketClosed, TimeoutError):
            pass

    async def _close(self) -> None:
        why = self._over.result()
        last = None if why.by_peer else close_frame(why.code, why.reason)
        if last is not None:
            await self._last_words()
        await self.socket.close(last)  # first: a bulk socket that ends says nothing of why
        if self.bulk is not None:
            await self.bulk.close()
