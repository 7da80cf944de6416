"""`make bench`: what one node does, beside a bare aiohttp handler in the same run.

The server has the first core, the load generator the second; rounds of ours and of the yardstick alternate, so that a
machine whose speed drifts does not decide. Printed are rates, their ratio to the bare GET or POST, and the goals.
Everything is on: tokens, ACL, metrics, logs. `--quick` takes a second a round and 2,000 records, to see that it runs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console
from rich.table import Table

from tests.bench.load import record
from tests.harness import Daemon, until

CONNECTIONS = 64
SUBJECT_HEADROOM = {"KOSREG_LIMITS__CALLS_PER_S": "1000000", "KOSREG_LIMITS__CALLS_BURST": "1000000",
                    "KOSREG_LIMITS__BEATS_PER_S": "10000000", "KOSREG_LIMITS__BEATS_BURST": "10000000"}  # fmt: skip


def pin(pid: int, core: int) -> None:
    """Give a process one core, where there are two."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(pid, {cores[core % len(cores)]})


def drive(job: dict[str, Any]) -> dict[str, Any]:
    """One window of load from a process of its own."""
    load = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.load"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    pin(load.pid, 1)
    out, _ = load.communicate(json.dumps(job), timeout=120)
    assert load.returncode == 0, "the load generator failed"
    result: dict[str, Any] = json.loads(out)
    return result


class Bench:
    """A node, a yardstick, and rounds between them."""

    def __init__(self, daemon: Daemon, bare_port: int, token: str, seconds: float, records: int) -> None:
        self.port = int(daemon.url.rsplit(":", 1)[1])
        self.bare_port = bare_port
        self.token = token
        self.seconds = seconds
        self.records = records
        self.round = 0

    def window(self, kind: str, **more: Any) -> dict[str, Any]:
        self.round += 1
        bare = kind.startswith("bare")
        result = drive({
            "kind": kind, "host": "127.0.0.1", "port": self.bare_port if bare else self.port, "token": self.token,
            "connections": CONNECTIONS, "records": self.records, "warm": self.seconds / 4, "seconds": self.seconds,
            "prefix": f"r{self.round}", **more,
        })  # fmt: skip
        bad = {s: n for s, n in result["statuses"].items() if not s.startswith("2")}
        assert not bad, f"{kind}: answers {bad}"
        return result

    def against(self, kind: str, yardstick: str, rounds: int = 3, **more: Any) -> tuple[float, float, float, float]:
        """(our rate, bare rate, median ratio, p99 in ms) of alternating rounds."""
        ours, bares, ratios, p99 = [], [], [], []
        for _ in range(rounds):
            bare = self.window(yardstick)["rate"]
            result = self.window(kind, **more)
            ours.append(result["rate"])
            bares.append(bare)
            ratios.append(result["rate"] / bare)
            p99.append(result["p99"])
        return statistics.median(ours), statistics.median(bares), statistics.median(ratios), statistics.median(p99)


async def fill(daemon: Daemon, token: str, count: int, **more: Any) -> None:
    """Register `count` records, many at once."""
    gate = asyncio.Semaphore(128)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    async with aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(limit=128)) as session:

        async def one(n: int) -> None:
            async with gate, session.post(f"{daemon.url}/api/services/register", data=record(n, **more)) as answer:
                assert answer.status in (200, 201), await answer.text()

        for start in range(0, count, 5000):
            await asyncio.gather(*(one(n) for n in range(start, min(start + 5000, count))))


async def sockets(daemon: Daemon, token: str, seconds: float, records: int) -> float:
    """Heartbeats per second, one a WebSocket frame, over 8 sockets: counted by their answers."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.frames", daemon.url, token, str(seconds), str(records),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    pin(process.pid, 1)
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    return float(out)


def rss(pid: int) -> float:
    """Resident memory, MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmRSS")


def cpu(pid: int) -> float:
    """CPU seconds so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def size(directory: Path, count: int, filler: int) -> tuple[float, float, float]:
    """(MB after a restart, seconds to start, idle CPU in %) with `count` records."""
    daemon = Daemon(directory, environ=SUBJECT_HEADROOM)
    await daemon.start()
    await fill(daemon, daemon.admin_token(), count, description="d" * filler)
    daemon.stop()
    began = time.perf_counter()
    await daemon.start(60)
    took = time.perf_counter() - began
    assert daemon.process is not None
    pid = daemon.process.pid
    await asyncio.sleep(3)
    before = cpu(pid)
    await asyncio.sleep(10)
    idle = (cpu(pid) - before) / 10 * 100
    memory = rss(pid)
    daemon.stop()
    return memory, took, idle


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", help="run the measurements whose name holds this")
    options = parser.parse_args()
    seconds, records, rounds = (1.0, 2_000, 1) if options.quick else (4.0, 10_000, 3)
    table = Table(
        "what", "per second", "bare", "ratio", "p99 ms", "goal", title=f"{CONNECTIONS} clients, {records:,} records"
    )
    with tempfile.TemporaryDirectory() as text:
        directory = Path(text)
        daemon = Daemon(directory / "node", environ=SUBJECT_HEADROOM)
        await daemon.start()
        token = daemon.cli("token", "issue", "bench").stdout.decode().strip()
        bare = subprocess.Popen([sys.executable, "-m", "tests.bench.bare", "7499"])  # noqa: ASYNC220
        try:
            assert daemon.process is not None
            pin(daemon.process.pid, 0)
            pin(bare.pid, 0)
            await fill(daemon, token, records)
            await until(lambda: drive_ready(7499))
            bench = Bench(daemon, 7499, token, seconds, records)
            jobs: list[tuple[str, str, str, float, dict[str, Any]]] = [
                ("heartbeats", "heartbeat", "bare-post", 0.8, {}),
                ("gets", "get", "bare-get", 0.55, {}),
                ("lists of 100, 100 match", "list", "bare-get", 0.35, {"query": "tag=group-7&limit=100"}),
                ("lists of 100, all match", "list", "bare-get", 0.35, {"query": "tag=bench&limit=100"}),
                ("the same record again", "again", "bare-post", 0.8, {}),
                ("durable registrations", "register", "bare-post", 0.32, {}),
            ]
            for name, kind, yardstick, goal, more in jobs:
                if options.only and options.only not in name:
                    continue
                ours, plain, ratio, p99 = await asyncio.to_thread(bench.against, kind, yardstick, rounds, **more)
                table.add_row(name, f"{ours:,.0f}", f"{plain:,.0f}", f"{ratio:.2f}", f"{p99:.1f}", f"≥ {goal}")
            if not options.only or options.only in "heartbeats in batches":
                batches = await asyncio.to_thread(bench.window, "beats")
                table.add_row(
                    "heartbeats in batches of 100", f"{batches['rate'] * 100:,.0f}", "", "", "", "≥ 1,000,000"
                )
            if not options.only or options.only in "frames":
                rate = await sockets(daemon, token, seconds, records)
                table.add_row("heartbeats, one a WebSocket frame", f"{rate:,.0f}", "", "", "", "≥ 100,000")
        finally:
            bare.kill()
            bare.wait()
            daemon.stop()
        count = 10_000 if options.quick else 100_000
        for filler, goal in ((0, 300), (500, 450)):
            if options.only and options.only not in "memory":
                continue
            memory, took, idle = await size(directory / f"size-{filler}", count, filler)
            table.add_row(
                f"{count:,} records of {250 + filler} bytes", f"{memory:,.0f} MB", "", "", "", f"< {goal} MB at 100,000"
            )
            table.add_row("  started in", f"{took:.2f} s", "", "", "", "< 3 s")
            table.add_row("  idle CPU", f"{idle:.1f} %", "", "", "", "0 %")
    Console(width=120).print(table)


def drive_ready(port: int) -> bool:
    """Whether something listens there."""
    import socket

    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


if __name__ == "__main__":
    asyncio.run(main())
