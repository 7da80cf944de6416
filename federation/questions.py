"""What two peers say of the quotas of a third: a frozen part is asked after, and opened where the answer fits.

A question says no more than `admits` does, that this node takes the origin; it is answered where the asked one takes it
too, and then it would be given everything of it anyway.
"""

from collections.abc import Iterable, Mapping

from federation import messages
from federation.effects import Lane, QuotaChanged, Send
from federation.messages import Admits
from federation.pair import Pair
from federation.partitions import Holdings, Usage
from federation.quotas import Part, Quotas


class Questions:
    """Those of one node."""

    def __init__(self, quotas: Quotas) -> None:
        self._quotas = quotas

    def ask(self, pairs: Mapping[bytes, Pair], now_ms: int) -> list[Send]:
        """What is to be asked now: of the origin itself where it is linked, else of the peers that take it, in turn."""
        asked: list[Send] = []
        for part, freeze in self._quotas.due(now_ms):
            peers = sorted(
                peer for peer, pair in pairs.items() if pair.shared(part.origin, trust=part.trust, mine=False)
            )
            peer = part.origin if part.origin in peers else peers[freeze.asked % len(peers)] if peers else None
            self._quotas.asking(part, peer, now_ms)
            if peer is not None:
                asked.append(Send(peer, messages.quota_ask(part.origin, trust=part.trust), Lane.PUSH))
        return asked

    def offered(self, said: Admits, now_ms: int) -> None:
        """A peer takes further origins."""
        if self._quotas.frozen:
            for origin in said.add:
                self._quotas.offered(Part(origin, said.tree.trust), now_ms)

    def told(self, pair: Pair, holdings: Holdings, part: Part, used: Usage, now_ms: int) -> list[QuotaChanged]:
        """What `pair` answered. What is held here of trees that it has no part in counts as well."""
        theirs = pair.shared(part.origin, trust=part.trust, mine=False)
        here = holdings.used(part.origin).less(holdings.used(part.origin, theirs))
        return self._quotas.told(part, pair.peer, used, here, now_ms)


def answer(pair: Pair, holdings: Holdings, origin: bytes, trust: bool) -> Iterable[Send]:
    """How much is held here of `origin`, as far as `pair` could have it."""
    trees = pair.shared(origin, trust=trust, mine=True)
    if not trees:
        return []
    used = holdings.used(origin, trees)
    if trust:  # entries that live no more count as well
        used = used._replace(records=holdings.statements(origin))
    return [Send(pair.peer, messages.quota_told(origin, used, trust=trust), Lane.PUSH)]
