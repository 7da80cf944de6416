"""What reconciliation costs: `python -m tests.bench.reconcile [items [differences]]`. No network: CPU, bytes, memory.

Two sets of `items` (default 1,000,000) with `differences` (100) between them, half on each side, reconciled with the
limits of the wire; then the same where a tenth of the origins is left out, and where a tenth is all there is.
"""

import random
import sys
import time
import tracemalloc
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import TypeVar

from crdt.held_set import HeldSet, Together, Without, gather
from crdt.ordered_set import OrderedSet, item_key
from crdt.reconcile import Initiator, Responder

NOW = 1_764_000_000_000
MONTH_MS = 30 * 86_400_000
ORIGINS = 1000

Result = TypeVar("Result")


@dataclass(slots=True)
class Side:
    cpu: float = 0.0
    longest: float = 0.0
    sent: int = 0
    slices: int = 0

    def run(self, work: Generator[object, None, Result], found: set[bytes]) -> Result:
        """Runs one `receive` slice by slice."""
        while True:
            started = time.process_time()
            try:
                some = next(work)
            except StopIteration as end:
                self._spent(time.process_time() - started)
                result: Result = end.value
                return result
            self._spent(time.process_time() - started)
            if some is not None:
                found.update(*some)  # type: ignore[misc]  # Found is a pair of lists

    def _spent(self, seconds: float) -> None:
        self.cpu += seconds
        self.longest = max(self.longest, seconds)
        self.slices += 1


@dataclass(slots=True)
class Run:
    client: Side = field(default_factory=Side)
    server: Side = field(default_factory=Side)
    found: set[bytes] = field(default_factory=set)
    trips: int = 0


def reconcile(ours: HeldSet, theirs: HeldSet, run: Run | None = None) -> Run:
    run = Run() if run is None else run
    initiator, responder = Initiator(ours), Responder(theirs)
    message: bytes | None = run.client.run(initiator.initiate(), run.found)
    while message is not None:
        run.trips += 1
        run.client.sent += len(message)
        answer = run.server.run(responder.receive(message), run.found)
        run.server.sent += len(answer)
        message = run.client.run(initiator.receive(answer), run.found)
    assert initiator.complete
    return run


def show(title: str, run: Run) -> None:
    print(
        f"{title}: {run.trips} round trips, {(run.client.sent + run.server.sent) / 1000:.1f} kB,"
        f" {len(run.found)} differences found"
    )
    for name, side in (("initiator", run.client), ("responder", run.server)):
        print(
            f"  {name}: {side.cpu * 1000:.0f} ms CPU in {side.slices} slices, the longest {side.longest * 1000:.1f} ms,"
            f" {side.sent / 1000:.1f} kB sent"
        )


class Parts:
    """A tenth of the origins, as each side holds them. `odd`: 0 where the left side lacks a key, 1 where the right."""

    def __init__(self, keys: list[bytes], odd: dict[bytes, int]) -> None:
        self.left = [OrderedSet() for _ in range(ORIGINS // 10)]
        self.right = [OrderedSet() for _ in range(ORIGINS // 10)]
        for key in keys:
            origin = int.from_bytes(key[-2:], "big") % ORIGINS
            for side, lacks in ((self.left, 0), (self.right, 1)):
                if origin < len(side) and odd.get(key) != lacks:
                    side[origin].insert(key)


def micro(keys: list[bytes], held: OrderedSet) -> None:
    some = random.Random(3).sample(keys, min(20_000, len(keys)))
    rows = (("mark", held.mark), ("remove", held.remove), ("insert", held.insert))
    for name, work in rows:
        started = time.process_time()
        for key in some:
            work(key)
        print(f"  {name}: {(time.process_time() - started) / len(some) * 1e6:.1f} µs")


def main(items: int = 1_000_000, differences: int = 100) -> None:
    rng = random.Random(1)
    keys = sorted({item_key(NOW + rng.randrange(MONTH_MS), rng.randbytes(32)) for _ in range(items)})
    odd = {key: place % 2 for place, key in enumerate(rng.sample(keys, differences))}
    mine = [key for key in keys if odd.get(key) != 0]

    tracemalloc.start()
    started_memory = tracemalloc.get_traced_memory()[0]
    measured = OrderedSet(mine)
    memory = tracemalloc.get_traced_memory()[0] - started_memory
    tracemalloc.stop()
    del measured
    started = time.process_time()
    ours = OrderedSet(mine)
    print(f"{len(ours)} items: built in {time.process_time() - started:.2f} s, {memory / len(ours):.1f} bytes an item")
    theirs = OrderedSet(key for key in keys if odd.get(key) != 1)
    show("all", reconcile(ours, theirs))
    show("again", reconcile(ours, theirs))

    some = Parts(keys, odd)
    views: list[tuple[str, Callable[[OrderedSet, list[OrderedSet]], HeldSet]]] = [
        ("without", Without),
        ("only", lambda _, parts: Together(parts)),
    ]
    for title, view in views:
        title = f"{title} {ORIGINS // 10} of {ORIGINS} origins"
        show(title, reconcile(view(ours, some.left), view(theirs, some.right)))
        run = Run()
        left = run.client.run(gather(some.left), run.found)
        right = run.server.run(gather(some.right), run.found)
        show(f"{title}, gathered first", reconcile(view(ours, [left]), view(theirs, [right]), run))
    print("one by one:")
    micro(mine, ours)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
