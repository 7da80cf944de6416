"""`make bench-federation`: how fast facts travel between nodes, and what that costs.

Real daemons on this machine, linked directly (through the lab's proxies only where bytes are counted), all from one
process that measures: it wants two quiet cores and some minutes. `--quick` only shows that it runs; `--only NAME` runs
one measurement. Latencies are from before the POST is sent to when the event is read from the other node's WebSocket.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import statistics
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import orjson
import uvloop
from rich.console import Console
from rich.table import Table

from federation.cose import decode_entry, verify_entry
from kosreg.lab import Lab, LabNode
from tests.bench.load import record
from tests.harness import until

LIMITS = {"limits.calls_per_s": 1_000_000, "limits.calls_burst": 1_000_000}


def cpu(node: LabNode) -> float:
    """CPU seconds of its process so far, and of the one that checks signatures for it."""
    ticks = 0
    children = Path(f"/proc/{node.pid}/task/{node.pid}/children").read_text().split()
    for pid in (str(node.pid), *children):
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += sum(map(int, fields[11:15]))  # its own, and that of children that have ended
    return ticks / os.sysconf("SC_CLK_TCK")


def p99(values: Sequence[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * 0.99))]


class Watched:
    """WebSockets on some nodes, and when each service was told of there."""

    def __init__(self) -> None:
        self.told: list[dict[str, float]] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def on(self, node: LabNode, stack: AsyncExitStack) -> None:
        socket = await stack.enter_async_context(
            node.api.session.ws_connect(f"{node.url}/ws/registry?subscribe=0", protocols=("kosreg.v1",), max_msg_size=0)
        )
        await socket.send_json({"op": "subscribe", "id": "all", "filter": {"type": "agent"}})
        frame = await socket.receive_json()
        while frame["op"] != "snapshot" or frame.get("more"):
            frame = await socket.receive_json()
        told: dict[str, float] = {}
        self.told.append(told)
        self._tasks.append(asyncio.create_task(self._read(socket, told)))

    async def _read(self, socket: aiohttp.ClientWebSocketResponse, told: dict[str, float]) -> None:
        async for message in socket:
            now = time.perf_counter()
            frame = orjson.loads(message.data)
            if frame["op"] == "event":
                told.setdefault(frame["service"]["id"], now)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def watching(*nodes: LabNode) -> AsyncIterator[Watched]:
    watched = Watched()
    async with AsyncExitStack() as stack:
        try:
            for node in nodes:
                await watched.on(node, stack)
            yield watched
        finally:
            await watched.close()


async def post(node: LabNode, number: int) -> str:
    """Register a service of some 250 bytes; its id."""
    answer = await node.api.call("POST", "/api/services/register", body=record(number, visibility="public"))
    return str(answer.object()["id"])


class Bench:
    """The measurements; each gives rows of (what, value, goal)."""

    def __init__(self, quick: bool) -> None:
        self.quick = quick

    async def pushed(self) -> list[tuple[str, str, str]]:
        """Two nodes: one POST at a time."""
        count = 50 if self.quick else 1000
        async with Lab(2, network="direct", settings=LIMITS) as lab:
            await lab.converged()
            async with watching(lab[1]) as watched:
                sent: dict[str, float] = {}
                for number in range(count):
                    began = time.perf_counter()
                    sent[await post(lab[0], number)] = began
                    await asyncio.sleep(0.02)
                await until(lambda: len(watched.told[0]) >= count, 20)
            took = [(watched.told[0][uid] - began) * 1000 for uid, began in sent.items()]
        return [
            ("2 nodes: POST to WebSocket event, median", f"{statistics.median(took):.1f} ms", "< 10 ms"),
            ("  p99", f"{p99(took):.1f} ms", "< 50 ms"),
        ]

    async def graph(self) -> list[tuple[str, str, str]]:
        """Twenty nodes, a hundred registrations a second in all."""
        nodes, seconds = (6, 2) if self.quick else (20, 15)
        rng = Random(1)
        async with Lab(nodes, "random", degree=4, network="direct", settings=LIMITS) as lab:
            await lab.converged(within=60)
            watchers = rng.sample(lab.nodes, 3)
            async with watching(*watchers) as watched:
                sent: dict[str, float] = {}
                tasks: list[asyncio.Task[None]] = []

                async def one(number: int) -> None:
                    began = time.perf_counter()
                    sent[await post(rng.choice(lab.nodes), number)] = began

                began = time.perf_counter()
                used = [cpu(node) for node in lab]
                for number in range(100 * seconds):
                    await asyncio.sleep(max(0.0, began + number / 100 - time.perf_counter()))
                    tasks.append(asyncio.create_task(one(number)))
                await asyncio.gather(*tasks)
                busy = [(cpu(node) - before) / (time.perf_counter() - began) for node, before in
                        zip(lab, used, strict=True)]  # fmt: skip
                await until(lambda: all(len(told) >= len(sent) for told in watched.told), 60)
            took = [(told[uid] - began) * 1000 for told in watched.told for uid, began in sent.items()]
        return [
            (f"{nodes} nodes, degree 4, 100 registrations/s: p99", f"{p99(took):.0f} ms", "< 1000 ms"),
            ("  median", f"{statistics.median(took):.0f} ms", ""),
            ("  CPU of a node meanwhile", f"{statistics.mean(busy) * 100:.1f} %", ""),
        ]

    async def bytes(self) -> list[tuple[str, str, str]]:
        """What passes the proxies between two nodes for each entry, both ways, beyond what passes without any."""
        count = 50 if self.quick else 500
        async with Lab(2, settings=LIMITS) as lab:
            await lab.converged()
            link, node = lab.links[0], lab[0]
            await asyncio.sleep(2 if self.quick else 10)  # what two nodes say when they meet is no part of it
            began, before = time.perf_counter(), link.passed
            await asyncio.sleep(5 if self.quick else 20)
            idle = (link.passed - before) / (time.perf_counter() - began)

            async def measured(send: Callable[[], Any], first: int) -> tuple[float, float]:
                """(bytes that passed for an entry, bytes of an entry)."""
                began, before = time.perf_counter(), link.passed
                await send()
                await lab.converged()
                passed = link.passed - before - idle * (time.perf_counter() - began)
                part = [node.did, 2, None, False]
                entries = (await node.hook(entries={"partition": part, "cut": 0}))["entries"]
                sizes = [
                    entry[6]
                    for entry in entries
                    if entry[0] == "service" and int(entry[1].removeprefix("svc-")) >= first
                ]
                return passed / count, statistics.mean(sizes)

            async def singly() -> None:
                for number in range(count):
                    await post(node, number)
                    await asyncio.sleep(0.02)

            async def at_once() -> None:
                await asyncio.gather(*(post(node, number) for number in range(count, 2 * count)))

            await post(node, 10**6)
            single = await measured(singly, 0)
            many = await measured(at_once, count)
        return [
            ("bytes on the wire for an entry, pushed alone", f"{single[0]:.0f}", f"≤ {single[1]:.0f} + 400"),
            (f"  {count} registered at once", f"{many[0]:.0f}", f"≤ 1.3 × {many[1]:.0f} = {1.3 * many[1]:.0f}"),
            ("  without any entry", f"{idle:.0f} B/s", ""),
        ]

    async def idle(self) -> list[tuple[str, str, str]]:
        """Twenty nodes that have nothing to say."""
        nodes, seconds = (6, 3) if self.quick else (20, 30)
        async with Lab(nodes, "random", degree=4, network="direct") as lab:
            await lab.converged(within=60)
            await asyncio.sleep(seconds / 3)
            began, used = time.perf_counter(), [cpu(node) for node in lab]
            await asyncio.sleep(seconds)
            took = time.perf_counter() - began
            busy = [(cpu(node) - before) / took * 100 for node, before in zip(lab, used, strict=True)]
        return [(f"idle CPU of each of {nodes} nodes, mean (most)",
                 f"{statistics.mean(busy):.2f} % ({max(busy):.2f} %)", "< 2 % of a core")]  # fmt: skip

    async def first(self) -> list[tuple[str, str, str]]:
        """A node with nothing meets one with many entries."""
        count = 3_000 if self.quick else 100_000
        async with Lab(2, network="direct", join=False, settings=LIMITS) as lab:
            full, empty = lab
            gate = asyncio.Semaphore(128)

            async def one(number: int) -> None:
                async with gate:
                    await post(full, number)

            for start in range(0, count, 5_000):
                await asyncio.gather(*(one(number) for number in range(start, min(start + 5_000, count))))
            verify = await asyncio.to_thread(_verify_rate, await _an_entry(full))
            gets: list[float] = []
            ends = asyncio.Event()

            async def ask(node: LabNode) -> None:
                while not ends.is_set():
                    began = time.perf_counter()
                    await node.api.get(node.did)
                    gets.append((time.perf_counter() - began) * 1000)
                    await asyncio.sleep(0.02)

            async def total() -> int:
                page = await empty.api.call("GET", "/api/services", query=[("limit", "1"), ("type", "agent")])
                return int(page.object()["total"])

            asking = [asyncio.create_task(ask(node)) for node in lab]
            began, used = time.perf_counter(), [cpu(node) for node in lab]
            await lab.introduce()
            while await total() < count:
                if time.perf_counter() - began > 600:
                    raise AssertionError(f"only {await total()} of {count} came in 600 s")
                await asyncio.sleep(0.2)  # a count of all costs some ms
            took = time.perf_counter() - began
            spent = [(cpu(node) - before) / count * 1e6 for node, before in zip(lab, used, strict=True)]
            ends.set()
            await asyncio.gather(*asking)
        rate = count / took
        return [
            (f"first sync of {count:,} entries", f"{rate:,.0f}/s ({took:.1f} s)", ""),
            ("  beside the Ed25519 verify rate of a core", f"{rate / verify:.2f} × {verify:,.0f}/s", "≥ 0.5"),
            (
                "  CPU for an entry: who gives, who takes",
                f"{spent[0]:.0f} µs, {spent[1]:.0f} µs",
                f"a signature: {1e6 / verify:.0f} µs",
            ),
            ("  p99 of a GET on both meanwhile", f"{p99(gets):.1f} ms", "< 50 ms"),
        ]


async def _an_entry(node: LabNode) -> bytes:
    return (await node.api.call("GET", "/api/services/svc-0/signed", accept="application/cose")).body


def _verify_rate(raw: bytes) -> float:
    """How many signatures of such entries one core checks in a second of its own."""
    entry = decode_entry(raw)
    done, began = 0, time.thread_time()
    while time.thread_time() - began < 1.0:
        for _ in range(100):
            assert verify_entry(entry)
        done += 100
    return done / (time.thread_time() - began)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", help="run one of: pushed, graph, bytes, idle, first")
    options = parser.parse_args()
    bench = Bench(options.quick)
    table = Table("what", "measured", "goal", title="Federation on one machine")
    gc.disable()  # of this process: it measures
    for measurement in (bench.pushed, bench.graph, bench.bytes, bench.idle, bench.first):
        if options.only in (None, measurement.__name__):
            for row in await measurement():
                table.add_row(*row)
                print(*row, sep="   ", flush=True)
    Console(width=120).print(table)


if __name__ == "__main__":
    uvloop.run(main())
