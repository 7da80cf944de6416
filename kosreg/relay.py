"""When the mesh is told of what came from peers, to be pushed on: at once where it is quiet, else gathered.

What this node said itself goes at once, and so does what comes first. What comes within `GATHER_S` of that goes
together: a message costs each node that it passes as much as several entries, and a commit on top, so where much is
said by many, relaying one by one is what fills the machines. In a busy federation a hop takes 100 ms more at most.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from federation.effects import Landed

GATHER_S = 0.1
BULK = 32  # entries: so many are not news, and whoever sent them waits to be asked for more


class Relay:
    """`tell`: what gets all of it, in order. `has_others`: whether there is anybody to push it on to."""

    def __init__(self, tell: Callable[[Sequence[Landed]], None], has_others: Callable[[], bool]) -> None:
        self._tell = tell
        self._has_others = has_others
        self._gathered: list[Landed] = []
        self._window: asyncio.TimerHandle | None = None  # runs while something has just gone

    def landed(self, landed: Sequence[Landed]) -> None:
        """`landed` is on disk and shown."""
        self._gathered += landed
        news = sum(len(entries) for entries, _ in self._gathered)
        if self._window is None or news >= BULK or not self._has_others() or any(peer is None for _, peer in landed):
            self._go()

    def _go(self) -> None:
        gathered, self._gathered = self._gathered, []
        if self._window is not None:
            self._window.cancel()
        self._window = asyncio.get_running_loop().call_later(GATHER_S, self._over)
        self._tell(gathered)

    def _over(self) -> None:
        self._window = None
        if self._gathered:
            self._go()

    def stop(self) -> None:
        """Nothing more is told."""
        if self._window is not None:
            self._window.cancel()
