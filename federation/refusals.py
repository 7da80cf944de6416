"""What peers sent and was not taken: counted by peer and reason since the start, over all links.

A bad peer is often known by links that end, so what it did must outlive them. Reasons are texts of this program, never
a peer's words, so there are few. No I/O, no clock.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Final

MAX_PEERS: Final = 1_024  # of which it is known who sent what; of others, the sums


class Refusals:
    """By peer, and in all."""

    def __init__(self) -> None:
        self._of: dict[bytes, Counter[str]] = {}  # the one that was asked for last stands last
        self._past: Counter[str] = Counter()  # of peers that are not told apart any more

    def of(self, peer: bytes) -> Counter[str]:
        """Of one peer, to count on."""
        known = self._of.pop(peer, None)
        if known is None:
            known = Counter()
            while len(self._of) >= MAX_PEERS:
                self._past += self._of.pop(next(iter(self._of)))
        self._of[peer] = known
        return known

    def told(self, peer: bytes) -> Mapping[str, int]:
        """Of one peer, to show."""
        return dict(self._of.get(peer, {}))

    def total(self) -> Counter[str]:
        """By reason, of all peers."""
        return sum(self._of.values(), self._past.copy())
