"""Plumtree (Leitão, Pereira, Rodrigues 2007): news travels at once along a tree that the nodes find by themselves.

News is pushed whole to *eager* peers and only announced by id to *lazy* ones. Everybody is eager at first. Who pushes
what I have already is asked to be lazy (`prune`), so that what remains of the eager links is a tree. Who announces what
I still miss after a moment is asked for it and made eager again (`graft`), so the tree heals by itself where a link or
a node is gone. What is lost nevertheless is found by reconciliation.

Each tree of entries (`partitions.Tree`) has a tree of links of its own, since not every peer may have everything. No
I/O, no clock, no randomness.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from federation.partitions import Tree

PATIENCE_MS: Final = 150  # from an announcement to asking for what did not come by itself
RETRY_MS: Final = 600  # then the next one who announced it is asked
MAX_MISSING: Final = 10_000  # ids first announced by one peer that are waited for; the rest is for reconciliation
MAX_ANNOUNCERS: Final = 8


@dataclass(slots=True)
class _Missing:
    first: bytes  # who announced it before all others that are linked: it counts as one of this peer's
    due_ms: int
    peers: list[bytes] = field(default_factory=list)  # who announced it, in the order in which they are to be asked


class Broadcast:
    """Which peer gets news whole, and what was announced and has not come yet."""

    def __init__(self) -> None:
        self._lazy: set[tuple[bytes, Tree]] = set()
        self._missing: dict[bytes, _Missing] = {}
        self._counts: Counter[bytes] = Counter()  # of what is missing, by who announced it first

    def is_eager(self, peer: bytes, tree: Tree) -> bool:
        """Whether `peer` gets news of `tree` whole."""
        return (peer, tree) not in self._lazy

    def make_lazy(self, peer: bytes, tree: Tree) -> bool:
        """`peer` gets only announcements from now on; False where that was so."""
        if (peer, tree) in self._lazy:
            return False
        self._lazy.add((peer, tree))
        return True

    def make_eager(self, peer: bytes, tree: Tree) -> None:
        """`peer` gets news whole from now on."""
        self._lazy.discard((peer, tree))

    def announced(self, peer: bytes, ids: Iterable[bytes], is_known: Callable[[bytes], bool], now_ms: int) -> int:
        """`peer` has `ids`: what is not known is waited for. For how many there was no room."""
        over = 0
        for identity in ids:
            if is_known(identity):
                continue
            missing = self._missing.get(identity)
            if missing is None:
                if self._counts[peer] >= MAX_MISSING:
                    over += 1
                    continue
                missing = self._missing[identity] = _Missing(peer, now_ms + PATIENCE_MS)
                self._counts[peer] += 1
            if peer not in missing.peers and len(missing.peers) < MAX_ANNOUNCERS:
                missing.peers.append(peer)
        return over

    def came(self, identity: bytes) -> None:
        """`identity` is known now, however it came, or given up."""
        missing = self._missing.pop(identity, None)
        if missing is not None:
            self._counts[missing.first] -= 1

    def overdue(self, now_ms: int) -> dict[bytes, list[bytes]]:
        """Whom to ask for what, now: ids by peer. Each id is asked of one peer at a time, and given up where all that
        announced it were asked."""
        asked: dict[bytes, list[bytes]] = {}
        done: list[bytes] = []
        for identity, missing in self._missing.items():
            if 0 < missing.due_ms - now_ms <= RETRY_MS:  # later than that it is where the clock was set back
                continue
            if not missing.peers:
                done.append(identity)
                continue
            asked.setdefault(missing.peers.pop(0), []).append(identity)
            missing.due_ms = now_ms + RETRY_MS
        for identity in done:
            self.came(identity)
        return asked

    def closed(self, peer: bytes) -> None:
        """The link to `peer` is gone. A new one begins eager."""
        self._lazy = {(other, tree) for other, tree in self._lazy if other != peer}
        over: list[bytes] = []
        for identity, missing in self._missing.items():
            if peer in missing.peers:
                missing.peers.remove(peer)
            if missing.first == peer:
                if missing.peers:
                    missing.first = missing.peers[0]
                    self._counts[missing.first] += 1
                else:
                    over.append(identity)
        for identity in over:
            del self._missing[identity]
        del self._counts[peer]
