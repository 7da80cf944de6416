"""The store alone: `python -m tests.bench.store [COMMITS] [CLIENTS]`.

So many clients each commit one entry at a time, as registrations do. Prints rows a second, CPU time a row (all threads,
and the loop's share), the size of the groups, and how long it takes to open and read back what was written.
"""

import asyncio
import sys
import tempfile
import time
from pathlib import Path

import uvloop

from kosreg.store import Batch, Row
from tests.integration.store.kit import entry, open_store


async def main(commits: int, clients: int) -> None:
    entries = [entry(f"service-{i * 7919 % 1000003}", stamp=i + 1, size=400) for i in range(commits)]
    with tempfile.TemporaryDirectory() as folder:
        store = await open_store(Path(folder))
        waiting = iter(entries)

        async def client() -> None:
            for one in waiting:
                await store.commit(Batch([Row(one)]))

        wall, cpu, loop = time.perf_counter(), time.process_time(), time.thread_time()
        await asyncio.gather(*(client() for _ in range(clients)))
        wall, cpu, loop = time.perf_counter() - wall, time.process_time() - cpu, time.thread_time() - loop
        stats = store.stats()
        print(
            f"{commits / wall:,.0f} rows/s; "
            f"CPU a row {cpu / commits * 1e6:.1f} µs ({loop / commits * 1e6:.1f} in the loop); "
            f"{stats.rows / stats.commits:.1f} rows a group; {stats.busy_s / stats.commits * 1e3:.2f} ms a commit"
        )
        await store.close()

        began = time.perf_counter()
        store = await open_store(Path(folder))
        opened = time.perf_counter()
        count = 0
        async for chunk in store.load():
            count += len(chunk)
        loaded = time.perf_counter()
        size = (Path(folder) / "registry.db").stat().st_size
        print(f"opened in {opened - began:.3f} s, {count:,} rows read in {loaded - opened:.3f} s ({size >> 20} MiB)")
        await store.close()


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:]]
    uvloop.run(main(*(numbers + [20_000, 64][len(numbers) :])))
