"""The lab's end of the lines to its daemons (the other end: `kosreg.lab.hook`)."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from kosreg.lab.errors import LabError
from kosreg.lab.hook import LINE

ANSWER: Final = 20.0  # s for a daemon to do as it is told
ENDS: Final = 5.0  # s for it to be seen that a line ended


class HookLine:
    """The line to one daemon. One question at a time."""

    def __init__(self, pid: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.pid = pid
        self._reader = reader
        self._writer = writer
        self._turn = asyncio.Lock()
        self._number = 0

    async def ask(self, commands: dict[str, object], within: float = ANSWER) -> dict[str, Any]:
        """Have the daemon do `commands`; what each of them gives. Raises LabError."""
        async with self._turn:
            self._number += 1
            wish = {"id": self._number} | commands
            try:
                self._writer.write(json.dumps(wish).encode() + b"\n")
                async with asyncio.timeout(within):
                    await self._writer.drain()
                    while True:
                        line = await self._reader.readline()
                        if not line:
                            raise LabError("the daemon has ended")
                        answer = json.loads(line)
                        if answer.get("id") == self._number:  # else the answer to what was not waited for
                            break
            except TimeoutError:
                raise LabError(f"the daemon did not answer within {within:g} s; is it frozen?") from None
            except OSError as error:
                raise LabError(f"the daemon has ended: {error}") from None
        if "error" in answer:
            raise LabError(f"the daemon cannot do {', '.join(commands)}: {answer['error']}")
        done: dict[str, Any] = answer["done"]
        return done

    def close(self) -> None:
        self._writer.transport.abort()


class HookServer:
    """Takes the lines of daemons. `orders`: what a node's first line is, by its directory; None: not ours."""

    def __init__(self, path: Path, orders: Callable[[Path], dict[str, object] | None]) -> None:
        self.path = path
        self._orders = orders
        self._server: asyncio.Server | None = None
        self._lines: dict[Path, HookLine] = {}

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._accepted, self.path, limit=LINE)
        os.chmod(self.path, 0o600)

    def line(self, directory: Path, pid: int) -> HookLine | None:
        """The line to the process `pid` that runs in `directory`, once it has called."""
        line = self._lines.get(directory)
        return line if line is not None and line.pid == pid else None

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
        for line in self._lines.values():
            line.close()
        await asyncio.sleep(0)  # an aborted transport closes its socket in the next turn of the loop

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            hello = json.loads(await reader.readline() or b"{}")
            directory = Path(hello["node"])
            orders = self._orders(directory)
        except (OSError, ValueError, KeyError):
            orders = None
        if orders is None:
            writer.close()
            return
        writer.write(json.dumps(orders).encode() + b"\n")
        if directory in self._lines:
            self._lines[directory].close()
        self._lines[directory] = HookLine(int(hello["pid"]), reader, writer)
