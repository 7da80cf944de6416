"""The API's server: opens the address, bounds connections, and ends them in order.

Each connection is an aiohttp `RequestHandler` that answers what is no HTTP with a problem document too, and that is
counted: over `max_connections` the newest is closed at once, so that files remain for the store.
"""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
import ssl
import stat
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog
from aiohttp import web

from kosreg.api.door import Door
from kosreg.api.hosts import HostGuard
from kosreg.api.http import Route
from kosreg.api.openapi import document
from kosreg.listen import Listen

if TYPE_CHECKING:
    from kosreg.api.node import Node

KEEP_ALIVE: Final = 120.0
"""Seconds that an idle connection stays; also the most that sending the headers may take. Agents beat every ttl/3, most
of them within this, so that they keep their connection."""
DRAIN: Final = 1.2
"""Seconds that a call under way gets to end, and then once more to be cancelled: stopping takes 2.4 s at most."""
MAX_LINE: Final = 8 * 1024
MAX_FIELD: Final = 16 * 1024
"""Bytes of one header: a token has at most 8 KiB, and a longer one should hear that from `auth`, not from HTTP."""
MAX_HEADERS: Final = 64
SPARE_FILES: Final = 64
MAX_CONNECTIONS: Final = 60_000

log: Final = structlog.get_logger("kosreg.api")


class CannotListen(OSError):
    """The API's address cannot be opened; the text says why and what to do."""

    title = "the API's address cannot be opened"

    def __str__(self) -> str:
        return str(self.args[0])


class Server:
    """Serves the routes of one node. `url`: where, once it is started."""

    def __init__(self, node: Node, routes: Sequence[Route]) -> None:
        api = node.settings.api
        self.node = node
        self.listen: Listen = api.listen
        hosts = HostGuard(None if self.listen.kind == "unix" else self.listen.host, api.allowed_hosts)
        self.door = Door(node, routes, hosts, node.metrics)
        self.url = ""
        self.gate: Gate | None = None
        self._runner: web.ServerRunner | None = None
        self._socket: tuple[Path, int] | None = None  # the Unix socket that is ours, and its inode

    @cached_property
    def openapi(self) -> bytes:
        """The OpenAPI document of the routes that are served, as JSON."""
        return document(self.door.routes, self.node.version)

    async def start(self) -> None:
        """Raises CannotListen."""
        tls = self._tls()
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.gate = Gate(self.door, min(MAX_CONNECTIONS, max(16, soft - SPARE_FILES)))
        self._runner = web.ServerRunner(self.gate, shutdown_timeout=DRAIN)
        await self._runner.setup()
        try:
            if self.listen.kind == "unix":
                await self._open_unix(self._runner)
            else:
                await self._open_tcp(self._runner, tls)
        except BaseException:
            await self._runner.cleanup()
            self._runner = None
            raise

    async def stop(self) -> None:
        """Takes no more connections, lets the calls under way end, then closes what is left. Within 2 × `DRAIN`."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()
        if self._socket is not None:
            _unlink(*self._socket)
            self._socket = None

    # ---- TCP

    async def _open_tcp(self, runner: web.ServerRunner, tls: ssl.SSLContext | None) -> None:
        host, port = self.listen.host, self.listen.port
        site = web.TCPSite(runner, host, port, ssl_context=tls, backlog=1024)
        try:
            await site.start()
        except OSError as error:
            raise CannotListen(self._why(error)) from error
        port = runner.addresses[0][1]
        shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 compares, does not bind
        self.url = f"{'http' if tls is None else 'https'}://{Listen('tcp', shown, port).authority}"

    def _why(self, error: OSError) -> str:
        where, port = self.listen.authority, self.listen.port
        if isinstance(error, socket.gaierror):
            return f"api.listen = {where}: this machine knows no host {self.listen.host!r}. Write its address instead"
        if error.errno == errno.EADDRINUSE:
            return (
                f"port {port} is in use on {self.listen.host}, perhaps by another node. Stop that one, "
                f"or choose another port: --api {Listen('tcp', self.listen.host, port + 10 if port < 65_526 else 0)}"
            )
        if error.errno == errno.EADDRNOTAVAIL:
            return f"api.listen = {where}: this machine has no such address. `ip address` shows those that it has"
        if error.errno in (errno.EACCES, errno.EPERM):
            return f"api.listen = {where}: this user may not open port {port}. Choose one above 1023"
        return f"api.listen = {where}: {error.strerror or error}"

    def _tls(self) -> ssl.SSLContext | None:
        api = self.node.settings.api
        if api.tls_cert is None or api.tls_key is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(api.tls_cert, api.tls_key, password=_no_password)
        except ssl.SSLError as error:
            reason = error.reason or str(error)
            if reason == "KEY_VALUES_MISMATCH":
                text = f"the key in {api.tls_key} does not belong to the certificate in {api.tls_cert}"
            else:
                text = f"{api.tls_cert} or {api.tls_key} is not what it should be ({reason})"
            raise CannotListen(
                f"api.tls_cert, api.tls_key: {text}. Both are PEM files, the certificate before its chain, the key "
                "without a password"
            ) from error
        except OSError as error:
            raise CannotListen(
                f"api.tls_cert, api.tls_key: {error.strerror or error}. Both must be readable by the user that runs "
                "the node"
            ) from error
        return context

    # ---- Unix socket

    async def _open_unix(self, runner: web.ServerRunner) -> None:
        path = self.listen.path
        assert path is not None, "Listen of kind unix has a path"
        opened, inode = _bind(path)
        try:
            await web.SockSite(runner, opened, backlog=1024).start()
        except BaseException:
            opened.close()
            raise
        self._socket = (path, inode)
        self.url = f"unix:{path}"


def _bind(path: Path) -> tuple[socket.socket, int]:
    """A socket bound to `path`, and its inode. Raises CannotListen."""
    _remove_stale(path)
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        opened.setblocking(False)
        # 0660 from its first moment: whoever may connect can try tokens. The mask is the whole process's, but nothing
        # else of this loop runs in between.
        mask = os.umask(0o117)
        try:
            opened.bind(str(path))
        finally:
            os.umask(mask)
        return opened, path.lstat().st_ino
    except OSError as error:
        opened.close()
        raise CannotListen(
            f"api.listen = unix:{path}: {error.strerror or error}. Its directory must be there, and writable by the "
            "user that runs the node"
        ) from error


def _unlink(path: Path, inode: int) -> None:
    """Removes our socket, unless somebody else has put theirs there."""
    try:
        if path.lstat().st_ino == inode:
            path.unlink()
    except OSError:
        pass  # it is gone already


def _no_password() -> str:
    return ""  # otherwise OpenSSL asks at the terminal


def _remove_stale(path: Path) -> None:
    """Removes a socket that nobody answers. Raises CannotListen where somebody does, or where it is no socket."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise CannotListen(
                f"api.listen = unix:{path}: something else has this name. Remove it, or choose another path"
            )
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as knock:
            knock.settimeout(1)
            knock.connect(str(path))
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        path.unlink(missing_ok=True)
    except CannotListen:
        raise
    except OSError as error:
        raise CannotListen(f"api.listen = unix:{path}: {error.strerror or error}. Choose another path") from error
    else:
        raise CannotListen(
            f"api.listen = unix:{path}: another program answers there, perhaps another node. Stop that one, or choose "
            "another path"
        )


class Gate(web.Server):
    """aiohttp's server with our connections."""

    def __init__(self, door: Door, max_connections: int) -> None:
        super().__init__(
            door.handle,
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=KEEP_ALIVE,
            lingering_time=0,  # the door reads and drops what is too much, before it answers
            max_line_size=MAX_LINE,
            max_field_size=MAX_FIELD,
            max_headers=MAX_HEADERS,
        )
        self.door = door
        self.max_connections = max_connections

    def __call__(self) -> web.RequestHandler:
        return Connection(self, loop=self._loop, **self._kwargs)


class Connection(web.RequestHandler):
    """One client's connection."""

    __slots__ = ("_counted", "_gate", "waiting")

    def __init__(self, gate: Gate, **options: object) -> None:
        super().__init__(gate, **options)  # type: ignore[arg-type]
        self._gate = gate
        self._counted = False
        self.waiting: asyncio.Task[Any] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        metrics = self._gate.door.metrics
        if metrics.connections >= self._gate.max_connections:
            metrics.connections_refused += 1
            assert isinstance(transport, asyncio.Transport)
            transport.abort()
            return
        metrics.connections += 1
        self._counted = True
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._counted:
            self._counted = False
            self._gate.door.metrics.connections -= 1
            if self.waiting is not None:
                self.waiting.cancel()
            super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What cannot be read as HTTP, and what escaped the door (nothing should)."""
        response = self._gate.door.unreadable(status, exc, message)
        response.force_close()
        return response
