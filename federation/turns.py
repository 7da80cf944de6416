"""Work that may take long is done in slices, and the peers take turns: judging a block, a message of a session.

The work of one peer is finished in its order. It may ask for signatures to be checked elsewhere (`Verify`) and wait for
the verdicts; meanwhile what came next may begin, as far as it only looks at entries, so that who checks has always
something to check. No I/O, no clock.
"""

from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from crdt.reconcile import ReconcileError
from federation.effects import Close, Effect, Verify

AHEAD: Final = 4  # works of one peer that are begun at once

Work = Generator[list[Effect], None, None]


@dataclass(slots=True, eq=False)
class _Task:
    work: Work
    early: bool  # may begin while what stands before it waits for verdicts
    waits: Verify | None = None


class Turns:
    """What waits, by peer."""

    def __init__(self) -> None:
        self._tasks: dict[bytes, deque[_Task]] = {}  # whose turn it is stands first
        self._asked: dict[int, Verify] = {}  # what is being checked elsewhere, by id()
        self._verdicts: dict[int, tuple[Verify, list[bool]]] = {}
        self._now: _Task | None = None

    def later(self, peer: bytes, work: Work, *, early: bool = False) -> None:
        """Do `work` after what waits already from `peer`. `early`: it may begin before that has ended."""
        self._tasks.setdefault(peer, deque()).append(_Task(work, early))

    def next(self) -> list[Effect]:
        """Does one slice."""
        while (found := self._found()) is not None:
            peer, task = found
            queue = self._tasks[peer]
            self._now = task
            try:
                effects = next(task.work)
            except StopIteration:
                queue.remove(task)
                effects = []
            except ReconcileError as error:
                return [Close(peer, "malformed", str(error))]
            del self._tasks[peer]
            if queue:
                self._tasks[peer] = queue  # behind the others
            if effects and isinstance(effects[-1], Verify):
                self._asked[id(effects[-1])] = effects[-1]
            if effects or queue:
                return effects
        return []

    def _found(self) -> tuple[bytes, _Task] | None:
        """What can go on now."""
        for peer, queue in self._tasks.items():
            for place, task in enumerate(islice(queue, AHEAD)):
                if place and not task.early:
                    break
                if task.waits is None or (not place and id(task.waits) in self._verdicts):
                    return peer, task
        return None

    @property
    def busy(self) -> bool:
        """Whether `next` has something to do."""
        return self._found() is not None

    def waiting(self, peer: bytes) -> int:
        """How much waits from `peer`."""
        return len(self._tasks.get(peer, ()))

    @property
    def peers(self) -> int:
        """From how many peers something waits."""
        return len(self._tasks)

    def closed(self, peer: bytes) -> None:
        """Forget what waits from `peer`."""
        for task in self._tasks.pop(peer, ()):
            task.work.close()
        self._asked = {key: asked for key, asked in self._asked.items() if asked.peer != peer}
        self._verdicts = {key: done for key, done in self._verdicts.items() if done[0].peer != peer}

    # Signatures that are checked elsewhere

    def verified(self, asked: Verify, verdicts: list[bool]) -> None:
        """Which signatures of `asked` hold, in its order. (Not so where the link has closed meanwhile.)"""
        if self._asked.pop(id(asked), None) is asked:
            self._verdicts[id(asked)] = asked, verdicts

    def verdicts(self, asked: Verify) -> Generator[list[Effect], None, list[bool]]:
        """Waits for the verdicts of `asked`, which the work that now goes on gave out, and for its turn."""
        assert self._now is not None
        self._now.waits = asked
        yield []
        assert self._now is not None
        self._now.waits = None
        return self._verdicts.pop(id(asked))[1]
