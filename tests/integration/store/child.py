"""A process that uses a store, for tests that kill it, starve it of room, or find the file taken.

`python -m tests.integration.store.child hold FOLDER`: prints "opening", opens, prints "ready", waits for the end of
stdin. `… write FOLDER FIRST`: commits as fast as it can from 32 tasks, batches of one and of three, until it is killed;
prints a line for each batch: "try NUMBER ROWS" when it is handed over and "ack NUMBER" when it is acknowledged.
"""

import asyncio
import itertools
import os
import sys
from pathlib import Path

from kosreg.store import Batch, Row
from tests.integration.store.kit import entry, open_store

WRITERS = 32
WIDE = 3  # rows of every second batch


def names(number: int) -> list[str]:
    """The services of batch `number`; half of the batches write over those of the batch before."""
    own = number - number % 4 // 3
    return [f"b{own}-{i}" for i in range(WIDE if number % 2 else 1)]


async def hold(folder: Path) -> None:
    print("opening", flush=True)
    store = await open_store(folder)
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await store.close()


async def write(folder: Path, first: int) -> None:
    store = await open_store(folder)
    numbers = itertools.count(first)

    async def writer() -> None:
        for number in numbers:
            rows = [Row(entry(name, stamp=number)) for name in names(number)]
            os.write(1, b"try %d %d\n" % (number, len(rows)))
            await store.commit(Batch(rows, secrets=[(f"s{number}", store.seal(b"secret"))] if number % 5 == 0 else []))
            os.write(1, b"ack %d\n" % number)

    await asyncio.gather(*(writer() for _ in range(WRITERS)))


if __name__ == "__main__":
    if sys.argv[1] == "hold":
        asyncio.run(hold(Path(sys.argv[2])))
    else:
        asyncio.run(write(Path(sys.argv[2]), int(sys.argv[3])))
