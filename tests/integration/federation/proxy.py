"""A TCP proxy before a node: it can cut, freeze and hold back what passes, and count connections."""

from __future__ import annotations

import asyncio

from tests.integration.federation.nodes import Running


class Proxy:
    """`most`: connections that it takes. Frozen, it passes nothing and tells nobody."""

    def __init__(self, to: Running) -> None:
        self._to = to
        self.most = 100
        self._pairs: list[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._flows = asyncio.Event()
        self._answers = asyncio.Event()
        self._flows.set()
        self._answers.set()

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.cut()
        await asyncio.sleep(0)

    def cut(self, *, last: bool = False) -> None:
        """Breaks the connections that stand; `last`: the newest one alone."""
        pairs = self._pairs[-1:] if last else self._pairs[:]
        for pair in pairs:
            self._pairs.remove(pair)
            for writer in pair:
                writer.transport.abort()

    def freeze(self) -> None:
        self._flows.clear()

    def hold_answers(self) -> None:
        """Lets through what the dialling side sends, and of the answers only what TLS, the upgrade and the challenge
        need: what comes after the first answer to a hello waits."""
        self._answers.clear()

    def let_go(self) -> None:
        self._answers.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._pairs) >= self.most:
            writer.transport.abort()
            return
        there, to = await asyncio.open_connection("127.0.0.1", self._to.node.port)
        self._pairs.append((writer, to))
        for source, sink, answers in ((reader, to, False), (there, writer, True)):
            task = asyncio.create_task(self._pass(source, sink, answers))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, answers: bool) -> None:
        try:
            while data := await source.read(65_536):
                if answers and self._to.mesh.opens:
                    await self._answers.wait()
                await self._flows.wait()
                sink.write(data)
                await sink.drain()
            await self._flows.wait()
        except OSError:
            pass
        sink.close()
