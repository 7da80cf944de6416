"""What tests run against: a node in this loop, and a daemon in a process of its own. Both are the real thing."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from kosreg.auth import DEFAULT_SCOPES
from kosreg.config import load
from kosreg.node import Node

KOSREG = [str(Path(sys.executable).with_name("kosreg"))]


async def until(condition: Callable[[], Any], within: float = 10.0) -> Any:
    """What `condition` gives once it is true; fails when `within` s are over. A coroutine function may be given."""
    async with asyncio.timeout(within):
        while True:
            value = condition()
            if asyncio.iscoroutine(value):
                value = await value
            if value:
                return value
            await asyncio.sleep(0.02)


class Client:
    """An HTTP client of one node with one token: aiohttp, no code of ours between."""

    def __init__(self, url: str, token: str | None) -> None:
        self.url = url
        self.token = token
        self.session = aiohttp.ClientSession()

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, Any]:
        """(status, decoded body or bytes, headers)."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.token is not None:
            sent.setdefault("Authorization", f"Bearer {self.token}")
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        if data is not None:
            sent.setdefault("Content-Type", "application/json")
        payload = io.BytesIO(data) if data is not None and len(data) > 2**20 else data  # aiohttp's own advice
        async with self.session.request(method, self.url + path, data=payload, headers=sent) as answer:
            raw = await answer.read()
            if raw and answer.content_type.endswith("json") and answer.content_type != "application/jose+json":
                return answer.status, json.loads(raw), answer.headers
            return answer.status, raw, answer.headers

    async def get(self, path: str, **headers: str) -> tuple[int, Any, Any]:
        return await self.call("GET", path, **headers)

    async def post(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any, Any]:
        return await self.call("POST", path, body, **headers)

    def ws(self, query: str = "", **options: Any) -> Any:
        """A WebSocket on `/ws/registry`, as an async context manager."""
        headers = {} if self.token is None else {"Authorization": f"Bearer {self.token}"}
        options.setdefault("headers", headers)
        options.setdefault("protocols", ("kosreg.v1",))
        return self.session.ws_connect(f"{self.url}/ws/registry{query}", max_msg_size=0, **options)

    async def close(self) -> None:
        await self.session.close()


@asynccontextmanager
async def running_node(directory: Path, **options: object) -> AsyncIterator[Node]:
    """A node in this loop, on a free port. `options`: settings, `table__key=value`."""
    dotted = {name.replace("__", ".", 1): value for name, value in options.items()}
    directory.mkdir(mode=0o700, exist_ok=True)
    settings = load(
        directory,
        options={"api.listen": "127.0.0.1:0", "federation.listen": "off", "node.name": "test"} | dotted,
        environ={},
    )
    node = await Node.start(settings, directory)
    try:
        yield node
    finally:
        await node.stop()


async def client_of(node: Node, subject: str = "admin", *scopes: str) -> Client:
    """A client with a token of `subject`; `admin` has all, others the default scopes unless said."""
    if subject == "admin":
        token = (node.data_dir / "admin.token").read_text().strip()
    else:
        token = (await node.auth.issue(subject, scopes or DEFAULT_SCOPES)).token
    return Client(node.server.url, token)


class Daemon:
    """`kosreg run` in a process of its own. `program`: what is run in place of `kosreg`."""

    program = KOSREG

    def __init__(self, data_dir: Path, *arguments: str, environ: dict[str, str] | None = None) -> None:
        self.data_dir = data_dir
        self.arguments = arguments
        self.environ = os.environ | {"KOSREG_LOG__FORMAT": "json"} | (environ or {})
        self.process: subprocess.Popen[bytes] | None = None
        self.log = data_dir.with_name(data_dir.name + ".log")

    async def start(self, within: float = 20.0) -> None:
        """Start it and wait until it is ready."""
        (self.data_dir / "run.json").unlink(missing_ok=True)
        command = [*self.program, "run", "--data-dir", str(self.data_dir), "--federation", "off"]
        if "--api" not in self.arguments:
            command += ["--api", "127.0.0.1:0"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: ASYNC220 - fork and exec alone, nothing to wait for
                [*command, *self.arguments],
                stdout=subprocess.DEVNULL,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=self.environ,
            )
        await until(self._ready, within)

    def _ready(self) -> bool:
        assert self.process is not None
        code = self.process.poll()
        if code is not None:
            raise AssertionError(f"the daemon ended with {code}:\n{self.log.read_text()[-4000:]}")
        return (self.data_dir / "run.json").exists()

    @property
    def url(self) -> str:
        return str(json.loads((self.data_dir / "run.json").read_text())["api"])

    def admin_token(self) -> str:
        """What `admin.token` holds now."""
        return (self.data_dir / "admin.token").read_text().strip()

    def admin(self) -> Client:
        """A client with the admin token."""
        return Client(self.url, self.admin_token())

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def stop(self, within: float = 10.0) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(within)

    def cli(self, *arguments: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        """One command of the command line against this daemon."""
        return subprocess.run(
            [*KOSREG, *arguments, "--data-dir", str(self.data_dir)],
            input=stdin,
            capture_output=True,
            timeout=60,
            check=False,
        )


@asynccontextmanager
async def running_daemon(data_dir: Path, *arguments: str, **environ: str) -> AsyncIterator[Daemon]:
    """A daemon that is ready, ended at the end whatever happened."""
    daemon = Daemon(data_dir, *arguments, environ=environ)
    try:
        await daemon.start()
        yield daemon
    finally:
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.process.kill()
            daemon.process.wait(10)
