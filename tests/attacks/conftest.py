"""Two honest nodes of one federation, each a process, and what is asked of them around each attack."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from federation.identity import NodeKey, did_of, load, parse_did
from tests.attacks.hostile import Hostile, link
from tests.harness import Client, until
from tests.integration.cli.conftest import Node, start, stop

Link = AbstractAsyncContextManager[Hostile]


@dataclass
class Site:
    """`victim`: whom the attacks meet; `other`: its honest neighbour in the federation of `root`."""

    victim: Node
    other: Node
    root: NodeKey

    async def address(self, node: Node | None = None) -> str:
        """Where a node takes links."""
        return str((await self.ask("/api/node", node=node))["federation"])

    def client(self, node: Node) -> Client:
        return Client(node.ready["api"], (node.directory / "admin.token").read_text().strip())

    async def ask(self, path: str, body: Any = None, *, node: Node | None = None, method: str = "", **head: str) -> Any:
        """What a node answers its admin; the victim, where not said."""
        client = self.client(node or self.victim)
        try:
            method = method or ("GET" if body is None else "POST")
            status, answer, _ = await client.call(method, path, body, **head)
        finally:
            await client.close()
        assert status in (200, 201, 204), answer
        return answer

    async def trusts(self, *keys: NodeKey, **how: Any) -> None:
        """The victim's admin trusts these keys."""
        for key in keys:
            await self.ask("/api/peers", {"did": did_of(key.public), **how})

    async def register(self, node: Node, visibility: str = "public", uid: str = "") -> str:
        uid = uid or f"honest-{os.urandom(6).hex()}"
        record = {"id": uid, "name": uid, "type": "agent", "visibility": visibility, "ttl": 0}
        await self.ask("/api/services/register", record, node=node)
        return uid

    async def shows(self, uid: str, node: Node | None = None) -> bool:
        client = self.client(node or self.victim)
        try:
            return (await client.get(f"/api/services/{uid}"))[0] == 200
        finally:
            await client.close()

    async def refused(self, key: NodeKey | bytes) -> dict[str, int]:
        """What `peers show` tells of a key."""
        public = key if isinstance(key, bytes) else key.public
        refused: dict[str, int] = (await self.ask(f"/api/peers/{did_of(public)}"))["refused"]
        return refused

    async def metric(self, name: str, **labels: str) -> float:
        text = (await self.ask("/metrics")).decode()
        wanted = "".join(rf'(?=[^}}]*{label}="{re.escape(value)}")' for label, value in labels.items())
        found = re.search(rf"^{name}_total(?:\{{{wanted}[^}}]*\}})? ([0-9.e+]+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    async def log(self, event: str, **fields: str) -> bool:
        """Whether the victim's log has such a line."""
        lines = Path(f"{self.victim.directory}.log").read_text().splitlines()
        told = [json.loads(line) for line in lines if line.startswith("{")]
        return any(one.get("event") == event and fields.items() <= one.items() for one in told)

    def memory(self) -> int:
        """Bytes that the victim has in memory."""
        status = Path(f"/proc/{self.victim.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) * 1024

    def processor(self) -> float:
        """Seconds of a core that the victim has used."""
        fields = Path(f"/proc/{self.victim.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @asynccontextmanager
    async def meets(self, *, trusted: bool = True, **how: Any) -> AsyncIterator[Hostile]:
        """A hostile peer with a link to the victim, whose key is trusted as an admin trusts a node. Around it all that
        is honest must go on: the same link, and facts both ways."""
        key = NodeKey(os.urandom(32))
        if trusted:
            await self.trusts(key, **how)
        async with self.unharmed(), await self.link(key) as peer:
            yield peer

    @asynccontextmanager
    async def unharmed(self) -> AsyncIterator[None]:
        kept = await self.register(self.other)
        await until(lambda: self.shows(kept))
        before, began = await self._link(), time.monotonic()
        yield
        gone = (time.monotonic() - began) * 1000
        after = await self._link()
        assert (before["state"], after["state"]) == ("up", "up")
        assert after["up_ms"] >= before["up_ms"] + gone - 200, "the honest link is another one now"
        assert await self.shows(kept), "what an honest node said is lost"
        for here, there in ((self.other, self.victim), (self.victim, self.other)):
            uid = await self.register(here)
            await until(lambda uid=uid, there=there: self.shows(uid, there), 5)
        assert await self.refused(parse_did(self.other.ready["did"])) == {}

    async def _link(self) -> dict[str, Any]:
        told: dict[str, Any] = (await self.ask(f"/api/peers/{self.other.ready['did']}"))["link"]
        return told

    async def link(self, key: NodeKey, certs: Mapping[bytes, Sequence[bytes]] | None = None) -> Link:
        """With the victim, by hand. To be entered."""
        return link(await self.address(), self.did, key, certs)

    @property
    def did(self) -> bytes:
        return parse_did(self.victim.ready["did"])


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    place = tmp_path_factory.mktemp("attacks")
    with ExitStack() as stack:
        nodes = []
        for name in ("victim", "other"):
            options = ("--api", "127.0.0.1:0", "--federation", "127.0.0.1:0", "--name", name)
            node = start(place / name, *options)
            stack.callback(stop, node)
            nodes.append(node)
        victim, other = nodes
        victim.run("federation", "create", "acme", "--key", str(place / "root.key"))
        line = victim.run("peers", "invite", "--federation", "acme").stdout
        other.run("peers", "join", "-", input=line)
        yield Site(victim, other, load(place / "root.key"))
