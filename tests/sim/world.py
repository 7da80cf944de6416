"""The virtual clock: what is to happen, in order, and the one source of randomness. Nothing here waits."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from random import Random
from typing import Final

START: Final = 1_764_000_000_000  # ms since 1970
MOST_EVENTS: Final = 3_000_000  # a run that makes more does not come to rest


class Violation(AssertionError):
    """Something that must always hold did not."""


class World:
    """`now`: true time, ms since 1970; the clocks of the nodes are off by what their `offset` says. `lines`: what
    happened, for people; None where nobody reads it."""

    def __init__(self, seed: int, *, trace: bool = False) -> None:
        self.random = Random(seed)
        self.now = START
        self.lines: list[str] | None = [] if trace else None
        self.echo = False  # print each line at once
        self.events = 0
        self._queue: list[tuple[int, int, Callable[[], object]]] = []
        self._number = 0

    def after(self, ms: int, do: Callable[[], object]) -> None:
        """`do` happens `ms` from now; of what is due in one millisecond, what was asked for first."""
        self._number += 1
        heappush(self._queue, (self.now + ms, self._number, do))

    def run(self, ms: int) -> None:
        """Let `ms` go by, with all that happens in them."""
        end = self.now + ms
        queue = self._queue
        while queue and queue[0][0] <= end:
            at, _, do = heappop(queue)
            if at > self.now:
                self.now = at
            self.events += 1
            if self.events > MOST_EVENTS:
                raise Violation(f"{MOST_EVENTS:,} events: it does not come to rest")
            do()
        self.now = max(self.now, end)

    def leap(self, ms: int) -> None:
        """`ms` go by in which nobody does anything; what was due happens as soon as time runs on."""
        self.now += ms

    def tell(self, text: str) -> None:
        """Write down what happened. Ask `lines` first where the text costs something."""
        if self.lines is not None:
            line = f"{_clock(self.now - START):>16}  {text}"
            self.lines.append(line)
            if self.echo:
                print(line)

    def chance(self, probability: float) -> bool:
        return probability > 0 and self.random.random() < probability


def _clock(ms: int) -> str:
    seconds, ms = divmod(ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{f'{days}d ' if days else ''}{hours:02}:{minutes:02}:{seconds:02}.{ms:03}"
