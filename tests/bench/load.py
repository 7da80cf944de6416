"""A load generator: one process, N keep-alive connections, each sending its next request when its answer is whole.

Requests are made before the clock starts, and an answer is read no further than its status and length, so that the
server is what is measured. Run on a core of its own: `python -m tests.bench.load`, a job as JSON on stdin, the figures
as JSON on stdout.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import uvloop

Requests = Callable[[int], Iterator[bytes]]


class Connection(asyncio.Protocol):
    """One client."""

    def __init__(self, requests: Iterator[bytes], run: Run) -> None:
        self.requests = requests
        self.run = run
        self.buffer = b""
        self.sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.send()

    def send(self) -> None:
        if self.run.over:
            self.transport.close()
            return
        self.sent_at = time.perf_counter()
        self.transport.write(next(self.requests))

    def data_received(self, data: bytes) -> None:
        buffer = self.buffer = self.buffer + data if self.buffer else data
        head = buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        at = buffer.find(b"Content-Length: ", 0, head)
        length = int(buffer[at + 16 : buffer.find(b"\r\n", at)]) if at >= 0 else 0
        if len(buffer) < head + 4 + length:
            return
        self.buffer = b""
        self.run.done(buffer[9:12], time.perf_counter() - self.sent_at)
        self.send()

    def connection_lost(self, exc: Exception | None) -> None:
        self.run.gone()


class Run:
    """One measured window."""

    def __init__(self, connections: int) -> None:
        self.statuses: Counter[bytes] = Counter()
        self.times: list[float] = []
        self.measuring = False
        self.over = False
        self.open = connections
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def done(self, status: bytes, seconds: float) -> None:
        if self.measuring:
            self.statuses[status] += 1
            self.times.append(seconds)

    def gone(self) -> None:
        self.open -= 1
        if self.open == 0 and not self.ended.done():
            self.ended.set_result(None)


async def drive(
    host: str, port: int, requests: Requests, *, connections: int, warm: float, seconds: float
) -> dict[str, Any]:
    """Requests per second and latencies (ms) of one window."""
    run = Run(connections)
    loop = asyncio.get_running_loop()
    for n in range(connections):
        await loop.create_connection(lambda n=n: Connection(requests(n), run), host, port)  # type: ignore[misc]
    await asyncio.sleep(warm)
    run.measuring = True
    start = time.perf_counter()
    await asyncio.sleep(seconds)
    run.measuring = False
    took = time.perf_counter() - start
    run.over = True
    await asyncio.wait_for(run.ended, 10)
    times = sorted(run.times)
    return {
        "rate": len(times) / took,
        "p50": times[len(times) // 2] * 1000 if times else None,
        "p99": times[len(times) * 99 // 100] * 1000 if times else None,
        "statuses": {status.decode(): count for status, count in run.statuses.items()},
    }


def request(method: str, path: str, token: str | None, body: bytes = b"") -> bytes:
    """One HTTP/1.1 request as bytes."""
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    if token:
        head += f"Authorization: Bearer {token}\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


def record(n: int | str, **more: Any) -> bytes:
    """A record of about 250 bytes. Its `ttl` outlives the run: each service that expired would be a write more."""
    return json.dumps({
        "id": f"svc-{n}", "name": f"Service {n}", "type": "agent", "tags": ["bench", f"group-{hash(n) % 100}"],
        "url": f"http://10.0.0.1:9000/{n}", "capabilities": ["translate"], "version": "1.2.3", "region": "eu-1",
        "description": "An agent that is measured", "ttl": 3600, **more,
    }).encode()  # fmt: skip


def make(job: dict[str, Any]) -> Requests:
    """The request streams of a job."""
    kind, token = job["kind"], job.get("token")
    connections, count = job["connections"], job.get("records", 10_000)

    def stream(n: int) -> Iterator[bytes]:
        if kind == "register":
            i = 0
            while True:
                yield request("POST", "/api/services/register", token, record(f"{job['prefix']}-{n}-{i}"))
                i += 1
        ids = [i for i in range(count) if i % connections == n]
        if kind == "again":
            requests = [request("POST", "/api/services/register", token, record(i)) for i in ids]
        elif kind == "get":
            requests = [request("GET", f"/api/services/svc-{i}", token) for i in ids]
        elif kind == "heartbeat":
            requests = [request("POST", f"/api/services/svc-{i}/heartbeat", token) for i in ids]
        elif kind == "beats" or (kind == "list" and n == 0):  # one client beats while the others list
            batches = [[(n * 100 + at + j) % count for j in range(100)] for at in range(0, count, 100)]
            bodies = [json.dumps({"beats": [{"id": f"svc-{i}"} for i in batch]}).encode() for batch in batches]
            requests = [request("POST", "/api/heartbeats", token, body) for body in bodies]
        elif kind == "list":
            requests = [request("GET", f"/api/services?{job['query']}", token)]
        elif kind == "bare-get":
            requests = [request("GET", "/bare", token)]
        else:
            requests = [request("POST", "/bare", token, record(n))]
        while True:
            yield from requests

    return stream


async def main() -> None:
    job = json.load(sys.stdin)
    result = await drive(
        job["host"], job["port"], make(job), connections=job["connections"], warm=job["warm"], seconds=job["seconds"]
    )
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    uvloop.run(main())
