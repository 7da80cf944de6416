"""Commands to a running lab from outside: a Unix socket in its directory, one JSON object a line and one back.

`{"do": "cut", "one": "n1", "other": "n2"}` gives `{"done": null}`; what fails gives `{"error": "…"}`. The names are
those of `COMMANDS`, which call the same methods that a test calls.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any, Final

from kosreg.client.errors import ClientError
from kosreg.lab.asking import LINE, NAME
from kosreg.lab.convergence import explain
from kosreg.lab.errors import LabError
from kosreg.lab.lab import Lab


def _nodes(lab: Lab) -> list[dict[str, object]]:
    return [
        {
            "name": node.name,
            "did": node.did,
            "state": node.state,
            "api": node.url,
            "token_file": str(node.token_file),
            "data_dir": str(node.directory),
            "log": str(node.log),
            "clock_s": node.offset_ms / 1000,
            "neighbours": [other.name for other in lab.neighbours(node)],
        }
        for node in lab
    ]


async def _drop(lab: Lab, node: str, t: str | None, to: str | None, count: int | None) -> None:
    await lab[node].drop(t, to=None if to is None else lab[to], count=count)


async def _differences(lab: Lab) -> list[str]:
    return explain(await lab.differences()).splitlines()


COMMANDS: Final[dict[str, Callable[..., Any]]] = {
    "nodes": _nodes,
    "links": lambda lab: [asdict(link.info) for link in lab.links],
    "cut": lambda lab, one, other, how="silent": lab.cut(one, other, how),
    "split": lambda lab, groups, how="silent": lab.split(*groups, how=how),
    "heal": lambda lab, one=None, other=None: lab.heal(one, other),
    "delay": lambda lab, one, other, seconds: lab.link(one, other).delay(seconds),
    "throttle": lambda lab, one, other, rate: lab.link(one, other).throttle(rate),
    "reset": lambda lab, one, other: lab.link(one, other).reset(),
    "half_open": lambda lab, one, other, keeps: lab.link(one, other).half_open(keeps),
    "start": lambda lab, node: lab.start(node),
    "stop": lambda lab, node: lab.stop(node),
    "kill": lambda lab, node: lab.kill(node),
    "restart": lambda lab, node: lab.restart(node),
    "freeze": lambda lab, node: lab.freeze(node),
    "thaw": lambda lab, node: lab.thaw(node),
    "wipe": lambda lab, node, everything=False: lab.wipe(node, everything=everything),
    "clock": lambda lab, node, seconds: lab[node].clock(seconds),
    "drop": lambda lab, node, t=None, to=None, count=1: _drop(lab, node, t, to, count),
    "keep": lambda lab, node: lab[node].keep(),
    "trace": lambda lab, node, on=True: lab[node].trace(on),
    "messages": lambda lab, node: lab[node].messages(),
    "differences": _differences,
    "converged": lambda lab, within=30.0: lab.converged(within),
}


class Control:
    """Serves a lab's commands. `ended`: set once somebody said `end`."""

    def __init__(self, lab: Lab) -> None:
        self.ended = asyncio.Event()
        self._lab = lab
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Control:
        path = self._lab.directory / NAME
        self._server = await asyncio.start_unix_server(self._accepted, path, limit=LINE)
        os.chmod(path, 0o600)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        (self._lab.directory / NAME).unlink(missing_ok=True)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(json.dumps(await self._do(line)).encode() + b"\n")
                await writer.drain()
        except (OSError, ValueError):  # whoever asked has gone, or said more than a line may hold
            pass
        finally:
            writer.close()

    async def _do(self, line: bytes) -> dict[str, object]:
        try:
            wish = json.loads(line)
            name = wish.pop("do")
            if name == "end":
                self.ended.set()
                return {"done": os.getpid()}
            if name not in COMMANDS:
                raise LabError(f"a lab cannot {name!r}; it can {', '.join(sorted(COMMANDS))}")
            done = COMMANDS[name](self._lab, **wish)
            return {"done": await done if isinstance(done, Awaitable) else done}
        except (LabError, ClientError) as error:
            return {"error": str(error)}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return {"error": f"that is no command: {type(error).__name__}: {error}"}
