"""An agent as a program of its own: it serves HTTP, and its node always knows where it is and whether it lives.

    kosreg run &                                  # a node on this machine
    python examples/agent.py echo                 # POST /echo gives back what it was sent
    python examples/agent.py translate --lang de  # POST /translate {"text": "good morning"}

What an agent owes its registry stands in `Presence`: register when you start, send heartbeats, register again when the
node has forgotten you (or has moved), deregister when you end. A crash needs no code: the heartbeats stop, and the node
shows the agent offline when its `ttl` is over.

The node is found in its data directory. With KOSREG_TOKEN the agent acts as itself, without it as the node's admin.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from kosreg.client import ApiError, Client, ClientError, Target, find_node
from kosreg.paths import data_dir

WORDS = {
    "de": {"good": "guten", "morning": "Morgen", "world": "Welt", "hello": "hallo", "tool": "Werkzeug"},
    "fr": {"good": "bon", "morning": "matin", "world": "monde", "hello": "bonjour", "tool": "outil"},
}


class Presence:
    """Keeps a record registered for as long as it is entered. `locate` is asked again whenever the node was lost."""

    def __init__(self, locate: Callable[[], Target], record: dict[str, Any]) -> None:
        self.locate = locate
        self.record = record
        self.registered = asyncio.Event()
        self.load = 0.0  # 0…1, sent along with each heartbeat

    async def keep(self) -> None:
        """Registers and sends heartbeats until cancelled. A node that is down is waited for."""
        pause = 0.2
        while True:
            try:
                async with Client(self.locate()) as node:
                    await node.register(self.record)
                    self.registered.set()
                    pause = 0.2
                    await self._beat(node)
            except ClientError as error:
                if isinstance(error, ApiError) and error.status < 500 and error.status != 429:
                    raise  # the node refuses us: trying again would change nothing
                print(f"{self.record['id']}: {error}; trying again", file=sys.stderr, flush=True)
            await asyncio.sleep(pause)
            pause = min(pause * 2, 5.0)

    async def leave(self) -> None:
        """Deregisters. A node that is down learns it from the heartbeats that no longer come."""
        with contextlib.suppress(ClientError):
            async with Client(self.locate()) as node:
                await node.deregister(self.record["id"])

    async def _beat(self, node: Client) -> None:
        while True:
            await asyncio.sleep(self.record["ttl"] / 3)  # two may be lost before the third is missed
            try:
                await node.heartbeat(self.record["id"], load=self.load)
            except ApiError as error:
                if error.status != 404:
                    raise
                await node.register(self.record)  # the node has forgotten us


def echo_app() -> web.Application:
    async def echo(request: web.Request) -> web.Response:
        return web.json_response({"echo": await request.json()})

    app = web.Application()
    app.router.add_post("/echo", echo)
    return app


def translate_app(lang: str) -> web.Application:
    async def translate(request: web.Request) -> web.Response:
        text = str((await request.json()).get("text", ""))
        return web.json_response({"text": " ".join(WORDS[lang].get(word.lower(), word) for word in text.split())})

    app = web.Application()
    app.router.add_post("/translate", translate)
    return app


async def serve(kind: str, lang: str, service_id: str, ttl: int, directory: Path) -> None:
    runner = web.AppRunner(echo_app() if kind == "echo" else translate_app(lang))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    record: dict[str, Any] = {
        "id": service_id,
        "name": "Echo" if kind == "echo" else f"English to {lang}",
        "type": "agent",
        "url": f"http://127.0.0.1:{port}",
        "tags": ["demo", "text", *([] if kind == "echo" else [lang])],
        "capabilities": [kind],
        "description": "Says what it hears." if kind == "echo" else f"Translates single words from English to {lang}.",
        "endpoints": [{"path": f"/{kind}", "method": "POST"}],
        "ttl": ttl,
    }
    token = os.environ.get("KOSREG_TOKEN")
    presence = Presence(lambda: find_node(directory, token), record)
    told_to_end = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, told_to_end.set)

    async def introduce() -> None:
        await presence.registered.wait()
        print(json.dumps({"id": service_id, "url": record["url"], "pid": os.getpid()}), flush=True)

    keeping, ending = asyncio.create_task(presence.keep()), asyncio.create_task(told_to_end.wait())
    introducing = asyncio.create_task(introduce())
    await asyncio.wait((keeping, ending), return_when=asyncio.FIRST_COMPLETED)
    introducing.cancel()
    ending.cancel()
    try:
        if keeping.done():
            keeping.result()  # raises why the node refused us
        keeping.cancel()
        await presence.leave()
    finally:
        await runner.cleanup()


def main() -> int:
    options = argparse.ArgumentParser(description="A small live agent, registered at a kosreg node.")
    options.add_argument("kind", choices=["echo", "translate"])
    options.add_argument("--lang", choices=sorted(WORDS), default="de", help="what to translate into")
    options.add_argument("--id", help="its service id")
    options.add_argument("--ttl", type=int, default=10, help="seconds without a heartbeat until it is offline")
    options.add_argument("--data-dir", help="the node's data directory")
    given = options.parse_args()
    name = given.id or (given.kind if given.kind == "echo" else f"{given.kind}-{given.lang}")
    try:
        asyncio.run(serve(given.kind, given.lang, name, given.ttl, data_dir(given.data_dir)))
    except ClientError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
