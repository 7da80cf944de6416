"""Work that may take long is done in slices, and the peers take turns: judging a block, a message of a session.

The work of one peer is done in its order. A slice may ask for signatures to be checked elsewhere (`Verify`); what
comes next may go on meanwhile, until it needs the verdicts. No I/O, no clock.
"""

from collections import deque
from collections.abc import Generator

from crdt.reconcile import ReconcileError
from federation.effects import Close, Effect, Verify

Work = Generator[list[Effect], None, None]


class Turns:
    """What waits, by peer."""

    def __init__(self) -> None:
        self._work: dict[bytes, deque[Work]] = {}  # whose turn it is stands first
        self._verifying: dict[bytes, Verify] = {}  # what is being checked elsewhere
        self._paused: set[bytes] = set()  # peers whose work can only go on with the verdicts
        self._verdicts: dict[bytes, list[bool]] = {}

    def later(self, peer: bytes, work: Work) -> None:
        """Do `work` after what waits already from `peer`."""
        self._work.setdefault(peer, deque()).append(work)

    def next(self) -> list[Effect]:
        """Does one slice."""
        while waiting := [peer for peer in self._work if peer not in self._paused]:
            peer, queue = waiting[0], self._work[waiting[0]]
            try:
                effects = next(queue[0])
            except StopIteration:
                queue.popleft()
                effects = []
            except ReconcileError as error:
                return [Close(peer, "malformed", str(error))]
            del self._work[peer]
            if queue:
                self._work[peer] = queue  # behind the others
            if effects and isinstance(effects[-1], Verify):
                self._verifying[peer] = effects[-1]
            if effects or queue:
                return effects
        return []

    @property
    def busy(self) -> bool:
        """Whether `next` has something to do."""
        return len(self._work) > len(self._paused)

    def waiting(self, peer: bytes) -> int:
        """How much waits from `peer`."""
        return len(self._work.get(peer, ()))

    @property
    def peers(self) -> int:
        """From how many peers something waits."""
        return len(self._work)

    def closed(self, peer: bytes) -> None:
        """Forget what waits from `peer`."""
        self._verifying.pop(peer, None)
        self._paused.discard(peer)
        self._verdicts.pop(peer, None)
        for work in self._work.pop(peer, ()):
            work.close()

    # Signatures that are checked elsewhere

    def verified(self, asked: Verify, verdicts: list[bool]) -> None:
        """Which signatures of `asked` hold, in its order: what came from this peer goes on."""
        if self._verifying.get(asked.peer) is asked:  # not so where the link has closed meanwhile
            del self._verifying[asked.peer]
            self._paused.discard(asked.peer)
            self._verdicts[asked.peer] = verdicts

    def verdicts(self, peer: bytes) -> Generator[list[Effect], None, list[bool]]:
        """Waits for what `peer`'s work asked to be checked last."""
        if peer in self._verifying:
            self._paused.add(peer)
            yield []
        return self._verdicts.pop(peer)
