"""Frames of bytes over WebSocket over TLS: who listens (`Server`), who dials (`dial`), and one connection (`Socket`).

It knows addresses and bytes, not keys or trust: whoever uses a socket compares its `certificate`, and calls `trusted`
once it knows who is there. Until then an accepted connection has 5 s and 16 KiB, and an address has 8 of them.

A `Meter` stands between TLS and aiohttp on each connection and sees every byte as it comes, also in the middle of a
long frame: that is what counts as life.
"""

import asyncio
import errno
import ipaddress
import logging
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, cast

import aiohttp
from aiohttp import web

from federation.envelope import MAX_FRAME

PATH: Final = "/klp/v1"
SUBPROTOCOL: Final = "klp.1"
PENDING_S: Final = 5.0  # until a connection is trusted
PENDING_BYTES: Final = 24 * 1024  # 16 KiB of messages, and the upgrade request
PENDING_PER_ADDRESS: Final = 8
PENDING: Final = 256
CLOSE_S: Final = 1.0  # for a connection to end in good order
_OVERHEAD: Final = 14  # bytes of a WebSocket header, at most


class Listening(Protocol):
    """Where to listen; port 0 lets the system choose."""

    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...


class SocketClosed(Exception):
    """The connection is over. The text says how it ended."""


class DialError(Exception):
    """No connection to this address. The text says why; `refused`: nobody listens there."""

    def __init__(self, text: str, *, refused: bool = False) -> None:
        super().__init__(text)
        self.refused = refused


class Meter(asyncio.Protocol):
    """Counts what one connection brings, and ends it where it brings too much before it is trusted."""

    def __init__(self, inner: asyncio.Protocol, pending: "_Pending | None" = None) -> None:
        self.bytes_in = 0
        self.last_byte = 0.0  # loop time
        self._inner = inner
        self._pending = pending
        self._host = ""
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None

    @classmethod
    def put_on(cls, transport: asyncio.Transport) -> "Meter":
        """Meters a connection that stands already."""
        meter = cls(cast(asyncio.Protocol, transport.get_protocol()))
        meter._transport = transport
        meter.last_byte = meter._loop.time()
        transport.set_protocol(meter)
        return meter

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.last_byte = self._loop.time()
        self._inner.connection_made(transport)
        if self._pending is not None:
            peer = transport.get_extra_info("peername")
            self._host = _network(peer[0]) if peer else ""
            if not self._pending.enter(self._host):
                self._pending = None
                self._transport.abort()
                return
            self._deadline = self._loop.call_later(PENDING_S, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        self.bytes_in += len(data)
        self.last_byte = self._loop.time()
        if self._pending is not None and self.bytes_in > PENDING_BYTES:
            assert self._transport is not None
            self._transport.abort()
            return
        self._inner.data_received(data)

    def trusted(self) -> None:
        """Lifts the bounds on who is not known yet."""
        if self._pending is not None:
            self._pending.leave(self._host)
            self._pending = None
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        self.trusted()
        self._inner.connection_lost(error)

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()


class _Pending:
    """Connections that nobody vouches for yet, by address."""

    def __init__(self) -> None:
        self._hosts: Counter[str] = Counter()
        self.refused = 0

    def enter(self, host: str) -> bool:
        if self._hosts[host] >= PENDING_PER_ADDRESS or self._hosts.total() >= PENDING:
            self.refused += 1
            return False
        self._hosts[host] += 1
        return True

    def leave(self, host: str) -> None:
        self._hosts[host] -= 1
        if not self._hosts[host]:
            del self._hosts[host]


def _network(host: str) -> str:
    """An address as it is counted: IPv6 by the /64 that one machine can have for itself."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    return str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else host


class Socket:
    """One WebSocket connection: binary frames in and out. `certificate`: the server's, DER; `address`: of the other
    side."""

    def __init__(
        self,
        ws: web.WebSocketResponse | aiohttp.ClientWebSocketResponse,
        transport: asyncio.Transport,
        meter: Meter,
        certificate: bytes,
        address: str,
        session: aiohttp.ClientSession | None = None,
    ) -> None:
        """`session`: aiohttp's, where this side dialled; it ends with the socket."""
        self.certificate = certificate
        self.address = address
        self.bytes_out = 0
        self._ws = ws
        self._transport = transport
        self._meter = meter
        self._session = session

    @property
    def bytes_in(self) -> int:
        """Inside TLS."""
        return self._meter.bytes_in

    @property
    def last_byte(self) -> float:
        """When something came last, loop time."""
        return self._meter.last_byte

    def trusted(self) -> None:
        """The other side is known: the bounds of a stranger no longer hold."""
        self._meter.trusted()

    async def receive(self) -> bytes:
        """The next frame. Raises SocketClosed."""
        message = await self._ws.receive()
        if message.type is aiohttp.WSMsgType.BINARY:
            return cast(bytes, message.data)
        if message.type is aiohttp.WSMsgType.TEXT:
            raise SocketClosed("a text frame: messages are binary")
        if message.type is aiohttp.WSMsgType.ERROR:
            raise SocketClosed(f"not readable: {message.data}")
        raise SocketClosed(f"closed by the other side ({self._ws.close_code})")

    async def send(self, frame: bytes) -> None:
        """Hands over one frame, and waits while too much is on its way already. Raises SocketClosed."""
        self.bytes_out += len(frame) + _OVERHEAD
        try:
            await self._ws.send_bytes(frame)
        except (OSError, RuntimeError) as error:  # aiohttp: a RuntimeError once it is closing
            raise SocketClosed(f"cannot send: {error}") from None

    async def ping(self) -> None:
        """Makes the other side send something. Raises SocketClosed."""
        try:
            await self._ws.ping()
        except (OSError, RuntimeError) as error:
            raise SocketClosed(f"cannot send: {error}") from None

    async def close(self, last: bytes | None = None) -> None:
        """Sends `last`, if it can be sent, and ends the connection; within a second or two, whatever the other side
        does."""
        try:
            async with asyncio.timeout(CLOSE_S):
                if last is not None:
                    await self._ws.send_bytes(last)
                await self._ws.close()
        except (TimeoutError, OSError, RuntimeError):
            pass
        finally:
            self._transport.abort()
            if self._session is not None:
                await self._session.close()


class Server:
    """Listens, and gives each connection that speaks the protocol to `serve`, which has it until it returns."""

    def __init__(
        self, listen: Listening, context: ssl.SSLContext, certificate: bytes, serve: Callable[[Socket], Awaitable[None]]
    ) -> None:
        self._listen = listen
        self._context = context
        self._certificate = certificate
        self._serve = serve
        self._pending = _Pending()
        self._web = web.Server(self._handle, access_log=None, logger=_SILENT)
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int | None:
        """The port that it listens on; None while it does not."""
        return int(self._server.sockets[0].getsockname()[1]) if self._server and self._server.sockets else None

    @property
    def bound(self) -> tuple[str, ...]:
        """The addresses that it listens at."""
        return tuple(one.getsockname()[0] for one in self._server.sockets) if self._server else ()

    @property
    def refused(self) -> int:
        """Connections that were turned away because their address had too many."""
        return self._pending.refused

    async def start(self) -> None:
        """Raises OSError where the address cannot be had."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Meter(self._web(), self._pending),
            self._listen.host,
            self._listen.port,
            ssl=self._context,
            ssl_handshake_timeout=PENDING_S,
            ssl_shutdown_timeout=CLOSE_S,
            backlog=256,
        )

    async def stop(self) -> None:
        """Listens no more, and ends what is still open."""
        if self._server is not None:
            self._server.close()
            await self._web.shutdown(CLOSE_S)
            await self._server.wait_closed()
            self._server = None

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        offered = request.headers.get("Sec-WebSocket-Protocol", "")
        if request.method != "GET" or request.path != PATH:
            return web.Response(status=404)
        if SUBPROTOCOL not in (name.strip() for name in offered.split(",")):
            return web.Response(status=400, text=f"the subprotocol must be {SUBPROTOCOL}\n")
        ws = web.WebSocketResponse(
            protocols=(SUBPROTOCOL,), compress=False, max_msg_size=MAX_FRAME, timeout=CLOSE_S, autoclose=False
        )
        await ws.prepare(request)
        transport = request.transport
        if transport is None:
            return ws
        meter = cast(Meter, transport.get_protocol())
        peer = transport.get_extra_info("peername")
        socket = Socket(ws, transport, meter, self._certificate, _authority(peer))
        try:
            await self._serve(socket)
        finally:
            await socket.close()
        return ws


async def dial(address: str, context: ssl.SSLContext) -> Socket:
    """A connection to HOST:PORT. Who answered is not checked here. Raises DialError."""
    transports: list[asyncio.Transport] = []

    async def upgraded(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        response = await handler(request)
        if response.status != 101 or response.connection is None or response.connection.transport is None:
            response.close()  # a redirect is not followed: it is an answer by nobody that was dialled
            raise DialError(f"no kosreg node: it answers {response.status}")
        transports.append(response.connection.transport)
        return response

    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=context, force_close=True, use_dns_cache=False),
        cookie_jar=aiohttp.DummyCookieJar(),
        middlewares=(upgraded,),
    )
    try:
        ws = await session.ws_connect(
            f"wss://{address}{PATH}",
            protocols=(SUBPROTOCOL,),
            timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_S),
            autoclose=False,
            max_msg_size=MAX_FRAME,
        )
        if ws.protocol != SUBPROTOCOL:
            raise DialError(f"no kosreg node: it does not speak {SUBPROTOCOL}")
        tls = cast(ssl.SSLObject, transports[0].get_extra_info("ssl_object"))
        certificate = tls.getpeercert(binary_form=True) or b""
        return Socket(ws, transports[0], Meter.put_on(transports[0]), certificate, address, session)
    except BaseException as error:
        await session.close()
        if isinstance(error, aiohttp.ClientError | OSError | ValueError):
            refused = isinstance(error, aiohttp.ClientConnectorError) and error.os_error.errno == errno.ECONNREFUSED
            raise DialError(str(error) or type(error).__name__, refused=refused) from None
        raise


def _authority(peer: tuple[str, int] | None) -> str:
    """HOST:PORT of a socket's other end."""
    if not peer:
        return ""
    return f"[{peer[0]}]:{peer[1]}" if ":" in peer[0] else f"{peer[0]}:{peer[1]}"


_SILENT: Final = logging.getLogger("federation.transport")
"""Where aiohttp says what strangers send that is no HTTP. Nobody has to hear it: they can send it as often as they
like."""
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False
