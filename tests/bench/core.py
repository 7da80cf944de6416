"""What one entry costs, in CPU and memory: `python -m tests.bench.core`. No server, no disk; the best of many runs."""

import gc
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace

from nacl import bindings

from crdt import cbor
from crdt.entry import MAX_LIFE_MS, Class, Fact
from federation.cose import decode_entry, fact_of, restore_entry, sign_entry, verify_entry
from federation.identity import NodeKey
from federation.replica import Replica, Statement

COUNT = 100_000
NOW = 1_764_000_000_000
KEY = NodeKey(b"\x01" * 32)
BODY = {
    "ttl": 60, "url": "http://127.0.0.1:9001/api", "auth": {"type": "none"}, "name": "Weather forecast agent",
    "tags": ["weather", "forecast", "eu"], "type": "agent", "owner": "alice", "region": "eu-west", "created": NOW,
    "updated": NOW, "version": "1.2.3", "metadata": {"team": "meteo", "model": "icon-d2"}, "protocol": "http",
    "description": "Gives the weather for any place in Europe, hourly", "capabilities": ["forecast", "alerts"],
}  # fmt: skip
FACT = Fact("service", "weather-agent-000000", NOW << 16, Class.PUBLIC, NOW + MAX_LIFE_MS, BODY)


def cpu(work: Callable[[], object], times: int = 2000, runs: int = 15) -> float:
    """µs of CPU of one call, the best of `runs`."""
    best = float("inf")
    for _ in range(runs):
        started = time.process_time_ns()
        for _ in range(times):
            work()
        best = min(best, (time.process_time_ns() - started) / times / 1000)
    return best


def single() -> None:
    entry = sign_entry(KEY, FACT)
    payload = FACT.encode()
    secret = KEY.seed + KEY.public
    replica = Replica(KEY)
    replica.loaded()
    statement = Statement("service", "weather-agent-000000", Class.PUBLIC, BODY)
    other = Replica(KEY)
    other.load(entry.raw, entry.id)
    rows: list[tuple[str, Callable[[], object], int]] = [
        ("Ed25519 alone", lambda: bindings.crypto_sign(payload, secret), 300),
        ("Fact.encode", FACT.encode, 2000),
        ("sign_entry", lambda: sign_entry(KEY, FACT), 300),
        ("cbor.decode of the payload", lambda: cbor.decode(payload, uint_keys=True), 2000),
        ("decode_entry (strict)", lambda: decode_entry(entry.raw), 2000),
        ("restore_entry (start)", lambda: restore_entry(entry.raw, entry.id), 2000),
        ("fact_of", lambda: fact_of(entry), 2000),
        ("verify_entry", lambda: verify_entry(entry), 200),
        ("put and persisted", lambda: replica.persisted(replica.put([statement], NOW)), 300),
        ("receive of a known entry", lambda: other.receive(entry.raw, NOW), 1000),
    ]
    print(f"an entry of {len(entry.raw)} bytes, {len(BODY)} fields in its body")
    for name, work, times in rows:
        print(f"  {name:28} {cpu(work, times):7.2f} µs")


def many() -> None:
    entries = [sign_entry(KEY, replace(FACT, name=f"weather-agent-{number:06}")) for number in range(COUNT)]
    stored = [(entry.raw, entry.id) for entry in entries]
    del entries
    gc.collect()
    replica = Replica(KEY)
    started = time.process_time()
    for raw, id in stored:
        replica.load(raw, id)
    replica.loaded()
    print(f"{COUNT:,} entries loaded in {time.process_time() - started:.2f} s of CPU")
    started = time.process_time()
    for entry in replica.own("service", NOW):
        fact_of(entry)
    print(f"{COUNT:,} bodies read in {time.process_time() - started:.2f} s of CPU")
    for name, work in {
        "due_for_renewal, none due": lambda: replica.due_for_renewal(NOW),
        "lapse, none lapsed": lambda: replica.lapse(NOW - 1, NOW),
    }.items():
        started = time.process_time()
        work()
        print(f"{name}: {(time.process_time() - started) * 1000:.1f} ms")
    del replica
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    replica = Replica(KEY)
    for raw, id in stored:
        replica.load(bytes(bytearray(raw)), bytes(bytearray(id)))
    used = (tracemalloc.get_traced_memory()[0] - before) / COUNT
    tracemalloc.stop()
    size = sum(len(raw) for raw, _ in stored) / COUNT
    print(f"{used:.0f} bytes of memory for an entry of {size:.0f} bytes, its place in the map included")


if __name__ == "__main__":
    single()
    many()
