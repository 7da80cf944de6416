"""The whole story in a minute: `make demo`, or `python -m examples.demo`.

A node in a directory of its own, three live agents in processes of their own, the 471 real servers of the public MCP
registry, discovery, a call to what was discovered, an agent killed and seen offline on the WebSocket, brought back, and
a clean end. Everything that you see done is done with the `kosreg` command or with forty lines of `agent.py`; nothing
is staged. Exit code 0 if all of it went as told.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from kosreg.client import Client, find_node, follow

HERE = Path(__file__).parent
SERVERS = HERE / "data" / "mcp-servers-2025-05-16.json"
LONGEST = 45.0
"""Seconds for all of it but the end; it takes some fifteen."""
TTL = 3
COLOUR = sys.stdout.isatty()


class Failed(Exception):
    """The story did not go as told."""


def say(text: str) -> None:
    print(f"\n\x1b[1m{text}\x1b[0m" if COLOUR else f"\n== {text}", flush=True)


class Program:
    """A process of ours: its first line on stdout is JSON and says that it is ready."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.process = process
        self.ready: Mapping[str, Any] = {}

    @classmethod
    @asynccontextmanager
    async def start(cls, name: str, *command: str, env: Mapping[str, str] | None = None) -> AsyncIterator[Program]:
        """Runs it until the block ends, then asks it to end (SIGTERM), and kills it if it does not in 8 s."""
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=sys.stderr, env={**os.environ, **(env or {})}
        )
        program = cls(name, process)
        try:
            assert process.stdout is not None
            async with asyncio.timeout(20):
                line = await process.stdout.readline()
            if not line:
                raise Failed(f"{name} ended before it was ready (exit code {await process.wait()})")
            program.ready = json.loads(line)
            yield program
        finally:
            await program.end()

    async def end(self) -> None:
        """Raises Failed where it did not end in good order."""
        if self.process.returncode is not None:
            return
        self.process.terminate()
        try:
            async with asyncio.timeout(8):
                code = await self.process.wait()
        except TimeoutError:
            self.process.kill()
            await self.process.wait()
            raise Failed(f"{self.name} did not end when it was asked to") from None
        if code:
            raise Failed(f"{self.name} ended with exit code {code}")

    async def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()


class Story:
    """The demo with its data directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.stack = AsyncExitStack()
        self.environment = {**os.environ, "KOSREG_DATA_DIR": str(directory)}

    async def kosreg(self, *words: str, allowed: tuple[int, ...] = (0,)) -> None:
        """Runs the command before the reader's eyes."""
        print(f"$ kosreg {shlex.join(words)}", flush=True)
        process = await asyncio.create_subprocess_exec(
            *KOSREG, *words, stderr=asyncio.subprocess.STDOUT, env=self.environment
        )
        _check(words, await process.wait(), allowed)

    async def token_for(self, name: str) -> str:
        words = ("token", "issue", name, "--ttl", "1h")
        process = await asyncio.create_subprocess_exec(
            *KOSREG, *words, stdout=asyncio.subprocess.PIPE, env=self.environment
        )
        out, _ = await process.communicate()
        _check(words, process.returncode, (0,))
        return out.decode().strip()

    async def agent(self, name: str, *words: str) -> Program:
        """A live agent with a token of its own."""
        token = await self.token_for(name)
        command = [sys.executable, str(HERE / "agent.py"), *words, "--id", name, "--ttl", str(TTL)]
        program = await self.stack.enter_async_context(
            Program.start(name, *command, "--data-dir", str(self.directory), env={"KOSREG_TOKEN": token})
        )
        print(f"  {name} serves {program.ready['url']} (process {program.process.pid})", flush=True)
        return program

    async def event(self, wanted: Callable[[Mapping[str, Any]], bool], act: Callable[[], Any]) -> float:
        """Does something and waits for an event of the node's WebSocket; the seconds in between."""
        async with aclosing(follow(lambda: find_node(self.directory), {"tag": "demo"})) as frames:
            began = 0.0
            async for frame in frames:
                if frame.op == "snapshot" and not frame.value.get("more"):
                    began = time.monotonic()
                    await act()
                if frame.op == "event":
                    service = frame.value["service"]
                    print(f"  WebSocket: {service['id']} {frame.value['event']}", flush=True)
                    if wanted(frame.value):
                        return time.monotonic() - began
        raise Failed("the WebSocket ended")

    async def tell(self) -> None:
        say("1. A node, with keys, store and admin token of its own")
        command = (*KOSREG, "run", "--json", "--data-dir", str(self.directory), "--api", "127.0.0.1:0")
        node = await self.stack.enter_async_context(
            Program.start("node", *command, "--federation", "off", env={"KOSREG_LOG__LEVEL": "warning"})
        )
        print(f"  {node.ready['did']}\n  API {node.ready['api']}", flush=True)

        say("2. Three agents: each registers itself and sends heartbeats")
        await self.agent("echo-1", "echo")
        german = await self.agent("translate-de", "translate", "--lang", "de")
        french = await self.agent("translate-fr", "translate", "--lang", "fr")

        say("3. The 471 real servers of the public MCP registry (7 rows of the list are blank)")
        await self.kosreg("services", "import", str(SERVERS), allowed=(5,))

        say("4. Discovery")
        await self.kosreg("services", "list", "--type", "agent")
        await self.kosreg("services", "list", "-q", "search web", "--limit", "5", "--fields", "name,status,description")
        await self.kosreg(
            "services", "list", "--tag", "mcp", "--tag", "docker", "--limit", "5", "--fields", "name,tags,version"
        )

        say("5. A call to whoever can translate into German")
        async with Client(find_node(self.directory)) as client:
            found = (await client.discover([("capability", "translate"), ("tag", "de"), ("status", "active")]))[0]
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session,
            session.post(f"{found['url']}/translate", json={"text": "hello world"}) as response,
        ):
            answer = (await response.json())["text"]
        print(f"  {found['id']} at {found['url']}: hello world → {answer}", flush=True)
        if answer != "hallo Welt":
            raise Failed(f"the agent answered {answer!r}")

        say(f"6. translate-de is killed (SIGKILL). Its ttl is {TTL} s")
        took = await self.event(_is("offline", "translate-de"), german.kill)
        print(f"  seen offline {took:.1f} s after it was killed", flush=True)
        if took > TTL + 1.5:
            raise Failed(f"that took longer than its ttl and a second: {took:.1f} s")
        await self.kosreg("services", "list", "--capability", "translate")

        say("7. It comes back under the same name; translate-fr is asked to end, and deregisters")
        await self.event(_is("active", "translate-de"), lambda: self.agent("translate-de", "translate", "--lang", "de"))
        await self.event(_is("deregistered", "translate-fr"), french.end)
        await self.kosreg("status")

    async def close(self) -> None:
        say("8. The end: agents deregister, the node writes what it has and stops")
        await self.stack.aclose()
        if (self.directory / "run.json").exists():
            raise Failed("the node left its run.json behind")


def _check(words: Sequence[str], code: int | None, allowed: Sequence[int]) -> None:
    if code not in allowed:
        raise Failed(f"kosreg {shlex.join(words)} ended with exit code {code}")


def _is(event: str, service_id: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda frame: frame["event"] == event and frame["service"]["id"] == service_id


KOSREG = (sys.executable, "-c", "from kosreg.cli import main; main()")


async def main() -> int:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kosreg-demo-") as name:
        story = Story(Path(name))
        try:
            async with asyncio.timeout(LONGEST):
                try:
                    await story.tell()
                finally:
                    await story.close()
        except (Failed, TimeoutError) as error:
            print(f"\nthe demo failed: {error or 'it took too long'}", file=sys.stderr)
            return 1
    print(f"\nAll of it took {time.monotonic() - began:.0f} s. Your own node: make run", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
