"""One node of a lab: a real daemon, its API, and what can be done to it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from crdt import cbor
from federation.identity import NodeKey, did_of, load_or_create
from kosreg.client.address import Target, find_node
from kosreg.client.http import Answer, Client
from kosreg.client.stream import Frame, watch
from kosreg.lab.errors import LabError
from kosreg.lab.hook import ENVIRON
from kosreg.lab.hooks import HookLine, HookServer
from kosreg.lab.namespaces import PORT, Namespace
from kosreg.lab.ports import Port
from kosreg.lab.process import Process
from kosreg.paths import ADMIN_TOKEN, RUN_FILE
from kosreg.settings import variable_of

READY: Final = 60.0  # s to start, on a machine that is busy with many other nodes
NOWHERE: Final = "127.0.0.1:1"
"""What a node says of its address: peers are to come through the lab's proxies, and by no other way."""

State = Literal["down", "starting", "up", "frozen"]


@dataclass(frozen=True, slots=True)
class Traced:
    """An inner message as it was before encryption (`way` out) or after (`way` in). `at`: ms; `peer`: a did."""

    at: int
    way: str
    peer: str
    message: dict[str, Any]


class LabNode:
    """Made by the lab. `key`: its key; `directory`: its data directory."""

    def __init__(
        self,
        name: str,
        directory: Path,
        hooks: HookServer,
        settings: Mapping[str, object],
        *,
        hidden: bool,
        namespace: Namespace | None = None,
    ) -> None:
        """`hidden`: it tells nobody its real address. `namespace`: where it runs; None: with everybody else."""
        self.name = name
        self.directory = directory
        self.log = directory.with_name(f"{name}.log")
        self.key: NodeKey
        self.blank = True  # it knows nobody yet, or not any more
        self.offset_ms = 0.0
        self.tracing = False
        self.api_port = Port()
        self.peer_port = Port()
        self.namespace = namespace
        self._hooks = hooks
        self._settings = dict(settings)
        self._hidden = hidden
        self._process: Process | None = None
        self._client: Client | None = None
        self._line: HookLine | None = None
        self._make()

    def __repr__(self) -> str:
        return f"<LabNode {self.name} {self.state}>"

    # What it is

    @property
    def did(self) -> str:
        return self.key.did

    @property
    def state(self) -> State:
        if self._process is None or not self._process.alive:
            return "down"
        if self._process.frozen:
            return "frozen"
        return "starting" if self._client is None else "up"

    @property
    def pid(self) -> int:
        """Its process id. Raises LabError where it does not run."""
        return self._running().pid

    @property
    def url(self) -> str:
        """Where its API is, whether it runs or not: it stays the same over restarts. In a namespace: `unix:PATH`."""
        return f"http://{self.api_port.address}" if self.namespace is None else self._api

    @property
    def peer_address(self) -> str:
        """Where it listens for its peers, HOST:PORT; what they are told is up to the lab."""
        return self.peer_port.address if self.namespace is None else f"{self.namespace.address}:{PORT}"

    @property
    def _api(self) -> str:
        return self.api_port.address if self.namespace is None else f"unix:{self.directory}.sock"

    @property
    def token_file(self) -> Path:
        """The file with the admin's token."""
        return self.directory / ADMIN_TOKEN

    @property
    def api(self) -> Client:
        """A client with the admin's token. A new one after each start. Raises LabError where the node is down."""
        if self._client is None:
            raise LabError(f"{self.name} is {self.state}")
        return self._client

    async def call(self, method: str, path: str, body: object = None, **more: Any) -> Answer:
        """One request as the admin, as `Client.call`."""
        return await self.api.call(method, path, body=body, **more)

    async def register(self, **record: Any) -> dict[str, Any]:
        """Register a service here: a name and a type will do. What the node shows of it."""
        service, _ = await self.api.register({"type": "service", "url": "http://127.0.0.1:9", "ttl": 0} | record)
        return service

    async def services(self, **query: str) -> list[dict[str, Any]]:
        """All services that the node lists, of all pages."""
        found: list[dict[str, Any]] = []
        words = {"limit": "1000"} | query
        while True:
            page = (await self.api.call("GET", "/api/services", query=words.items())).object()
            found += page["services"]
            if not page.get("next_cursor"):
                return found
            words["cursor"] = page["next_cursor"]

    def watch(self, criteria: Mapping[str, Any] | None = None) -> AsyncGenerator[Frame]:
        """Its WebSocket: a snapshot, then events. Close it with `contextlib.aclosing`."""
        return watch(self.api, criteria)

    # What can be done to it

    async def start(self, within: float = READY) -> None:
        """Run it, and wait until it serves. Does nothing where it runs. A node that the lab did not introduce to its
        neighbours yet (`blank`) is alone until it is: `Lab.start` does both."""
        if self.state != "down":
            return
        await self._forget()
        (self.directory / RUN_FILE).unlink(missing_ok=True)
        arguments = ["--data-dir", str(self.directory), "--name", self.name]
        arguments += ["--api", self._api, "--federation", self.peer_address]
        prefix = () if self.namespace is None else self.namespace.prefix
        process = self._process = Process(arguments, self._environ(), self.log, prefix)
        await process.until(lambda: self._hooks.line(self.directory, process.pid) is not None, within)
        await process.until((self.directory / RUN_FILE).exists, within)
        self._line = self._hooks.line(self.directory, process.pid)
        self._client = await Client(self._target()).__aenter__()

    async def stop(self) -> int:
        """End it in good order; the exit code."""
        code = await self._process.stop() if self._process is not None else 0
        await self._forget()
        return code

    async def kill(self) -> None:
        """SIGKILL: what was not on disk is lost."""
        if self._process is not None:
            await self._process.kill()
        await self._forget()

    def freeze(self) -> None:
        """SIGSTOP: its sockets stay, and nothing answers."""
        self._running().freeze()

    def thaw(self) -> None:
        """Go on where it was frozen."""
        self._running().thaw()

    async def clock(self, seconds: float) -> None:
        """From now on its wall clock is off by so much, restarts included. 0: right again."""
        self.offset_ms = seconds * 1000
        if self.state != "down":
            await self.hook(clock=self.offset_ms)

    def wipe(self, *, everything: bool = False) -> None:
        """Remove its database, and keep its key; or remove everything, so that it comes back as a new node. It must
        be down. It knows nobody then, until the lab starts it."""
        if self.state != "down":
            raise LabError(f"{self.name} runs; stop or kill it before it is wiped")
        self.blank = True
        if everything:
            shutil.rmtree(self.directory)
            self._make()
            return
        for path in self.directory.iterdir():
            if not path.name.endswith(".key"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    async def drop(self, t: str | None = None, *, to: LabNode | None = None, count: int | None = 1) -> None:
        """Lose the next `count` (None: all) messages named `t` (None: any) to one peer, or to any, before they are
        encrypted. `entries`, `ihave`, `want`, `prune`, `admits`, `sync.round`, `ping`, …"""
        await self.hook(drop={"t": t, "to": None if to is None else to.did, "count": count})

    async def keep(self) -> None:
        """Drop nothing any more."""
        await self.hook(keep=True)

    async def messages(self) -> dict[str, dict[str, int]]:
        """How many messages of each name were `sent` and `dropped` since the start."""
        found: dict[str, dict[str, int]] = (await self.hook(messages=True))["messages"]
        return found

    async def maintain(self) -> None:
        """Do now what it does every ten minutes: renew, hide what lapsed, drop what is long over."""
        await self.hook(maintain=True)
        client, self._client = self._client, await Client(self._target()).__aenter__()  # its token may be a new one
        if client is not None:
            await client.__aexit__(None, None, None)

    async def trace(self, on: bool = True) -> None:
        """Write down each message from now on, restarts included, as it is before encryption and after: 256 MiB at
        most a start."""
        self.tracing = on
        if self.state != "down":
            await self.hook(trace=str(self.trace_file) if on else None)

    @property
    def orders(self) -> dict[str, object]:
        """What its daemon is told before it starts."""
        return {"clock": self.offset_ms, "trace": str(self.trace_file) if self.tracing else None}

    @property
    def trace_file(self) -> Path:
        """Where `trace` writes: CBOR, so that what a record says stands there as it is."""
        return self.directory.with_name(f"{self.name}.trace")

    def traced(self) -> Iterator[Traced]:
        """What was written down so far, oldest first."""
        if not self.trace_file.exists():
            return
        data = self.trace_file.read_bytes()
        start = 0
        while start + 4 <= len(data):
            end = start + 4 + int.from_bytes(data[start : start + 4], "big")
            record: Any = cbor.decode(data[start + 4 : end], max_depth=64)
            yield Traced(record["at"], record["way"], did_of(record["peer"]), record["message"])
            start = end

    async def hook(self, **commands: object) -> dict[str, Any]:
        """Have the hook inside the daemon do something; what each command gives. Raises LabError."""
        if self._line is None or self.state == "down":
            raise LabError(f"{self.name} is down")
        try:
            return await self._line.ask(commands)
        except LabError as error:
            raise LabError(f"{self.name}: {error}") from None

    async def close(self) -> None:
        await self.kill()
        self.api_port.close()
        self.peer_port.close()

    # Inside

    def _make(self) -> None:
        self.directory.mkdir(mode=0o700)
        self.key, _ = load_or_create(self.directory)

    def _running(self) -> Process:
        if self._process is None or not self._process.alive:
            raise LabError(f"{self.name} is down")
        return self._process

    async def _forget(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.__aexit__(None, None, None)
        if self._line is not None:
            self._line.close()
            self._line = None

    def _target(self) -> Target:
        return find_node(self.directory)

    def _environ(self) -> dict[str, str]:
        """The environment without settings of the user's own, and with the lab's."""
        environ = {name: value for name, value in os.environ.items() if not name.startswith("KOSREG_")}
        mine: dict[str, object] = {"log.format": "json", "federation.mdns": False}
        if self._hidden:
            mine["federation.advertise"] = NOWHERE
        for name, value in (mine | self._settings).items():
            table, _, key = name.partition(".")
            environ[variable_of(table, key)] = _as_text(value)
        environ[ENVIRON] = str(self._hooks.path)
        return environ


def _as_text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else json.dumps(value)
