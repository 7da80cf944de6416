"""Which nodes live, as far as their beacons and this node's own links tell: beacons in, words out.

Each node says in its beacon whom it hears (`beacon`). Together they are a graph, and a node is *up* while a way leads
to it: a link of this node's own, or a row of nodes each two of which name each other. So nobody can call another dead:
whoever lies takes away no link but its own. When a node dies, its neighbours stop naming it one after the other, and
with the last of them it is unreachable; at once where one says that it refused to be dialled again, else after
`DOUBT_MS`. Where its beacon names a neighbour that is not known here, which may hear it still, its lease decides: it
has run out after `LEASES` intervals.

Isolation guard: of the nodes that were up `RECENT_MS` ago and are not proven to be gone, if this node sees less than
half (itself with them), and they were at least 3, the cut is its own, and they are called *isolated* instead.

No I/O, no clock, no randomness.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from federation.allowance import Allowance
from federation.beacon import MAX_NEIGHBOURS, SHORT, Beacon
from federation.effects import NodeChanged, NodeState, Word

DOUBT_MS: Final = 1_000  # no way leads to a node, and nothing proves that it is gone
RETURN_MS: Final = 5_000  # the same of a node that said that it comes back, and did
STOPS_MS: Final = 60_000  # that a node which stops may take to come back
GRACE_MS: Final = 30_000  # to hear of a node for the first time
RECENT_MS: Final = 30_000
FRESH_MS: Final = 120_000  # between the clock of a beacon and ours, where it is believed without a way
LEASES: Final = 6  # intervals

REFUSES: Final = "its links were closed, and it refuses new ones"
NO_WAY: Final = "no node that can be heard hears it"
SILENT: Final = "it has not been heard of for several beacons"
UNHEARD: Final = "it has not been heard of yet"
STOPS: Final = "it stopped, and said that it means to come back"

_Found = tuple[Word, str]


@dataclass(slots=True)
class Lease:
    """The newest beacon of a node. `spread`: it said something new; `rate`: how often such a node may say something."""

    beacon: Beacon
    came_ms: int
    spread: bool
    rate: Allowance
    fresh: bool = False  # our clocks agreed when it came

    def __post_init__(self) -> None:
        self.fresh = abs(self.beacon.at - self.came_ms) <= FRESH_MS

    def is_over(self, now_ms: int) -> bool:
        return now_ms - self.came_ms > LEASES * self.beacon.interval * 1000


class Reachability:
    """`own`: this node's key; `leases`: to read, `put` and `drop` change them; `isolated`: the cut is this node's."""

    def __init__(self, own: bytes) -> None:
        self.leases: dict[bytes, Lease] = {}
        self.isolated = False
        self._own = own
        self._by_short: dict[bytes, bytes] = {}
        self._states: dict[bytes, NodeState] = {}
        self._expected: dict[bytes, int] = {}  # believed keys that were never heard of: since when
        self._doubt: dict[bytes, int] = {}  # since when no way leads there
        self._up_ms: dict[bytes, int] = {}  # when last up
        self._gone: set[bytes] = set()  # proven
        self._measured: set[bytes] = set()  # what the isolation goes by, while it lasts

    @property
    def states(self) -> Mapping[bytes, NodeState]:
        """Of all nodes of which something is known. To read."""
        return MappingProxyType(self._states)

    def put(self, lease: Lease) -> None:
        """A newer beacon came."""
        origin = lease.beacon.origin
        self.leases[origin] = lease
        self._by_short[origin[:SHORT]] = origin
        self._expected.pop(origin, None)
        self._gone.discard(origin)

    def refused(self, key: bytes) -> None:
        """It refused to be dialled again."""
        self._gone.add(key)

    def linked(self, key: bytes) -> None:
        """It is there."""
        self._gone.discard(key)

    def expect(self, believed: set[bytes], now_ms: int) -> list[NodeChanged]:
        """Of these keys, and of no others, words are wanted."""
        for key in [key for key in self.leases if key not in believed]:
            del self.leases[key]
            self._by_short.pop(key[:SHORT], None)
        forgotten = [NodeChanged(key, state, None) for key, state in self._states.items() if key not in believed]
        for change in forgotten:
            del self._states[change.origin]
            self._doubt.pop(change.origin, None)
            self._up_ms.pop(change.origin, None)
        self._gone &= believed
        self._measured &= believed
        self._expected = {key: self._expected.get(key, now_ms) for key in believed if key not in self.leases}
        return forgotten

    def shift(self, ms: int) -> None:
        """Time moved by so much, and nobody was silent in it."""
        for lease in self.leases.values():
            lease.came_ms += ms
        for table in (self._doubt, self._up_ms, self._expected):
            for key in table:
                table[key] += ms

    def judge(self, heard: Iterable[bytes], now_ms: int) -> list[NodeChanged]:
        """What is to be thought of each node now, as far as that is new. `heard`: the peers that this node hears."""
        reached = self._reached(heard, now_ms)
        self._gone |= self._said_gone(reached)
        self._gone -= reached
        found: dict[bytes, _Found | None] = {}  # None: as it was
        for origin in {*reached, *self.leases, *self._expected, *self._states}:
            if origin in reached:
                self._doubt.pop(origin, None)
                found[origin] = Word.UP, ""
            else:
                found[origin] = self._without_way(origin, now_ms)
        self._guard(found, now_ms)
        changed: list[NodeChanged] = []
        for origin, word in found.items():
            before = self._states.get(origin)
            if word is not None and (before is None or (before.word, before.reason) != word):
                same = before is not None and before.word is word[0]
                after = NodeState(*word, before.since_ms if before is not None and same else now_ms)
                self._states[origin] = after
                changed.append(NodeChanged(origin, before, after))
        return sorted(changed, key=lambda change: change.origin)  # one order, whatever that of the sets

    def _reached(self, heard: Iterable[bytes], now_ms: int) -> set[bytes]:
        """Where a way leads: the peers that are heard, and from each node on to whoever it and they hear each other."""
        todo = list(heard)
        reached = set(todo)
        while todo:
            key = todo.pop()
            lease = self.leases.get(key)
            if lease is None or lease.is_over(now_ms):
                continue
            for other in self._named_by(lease.beacon):
                theirs = self.leases.get(other)
                if other in reached or theirs is None or theirs.is_over(now_ms):
                    continue
                if _may_hear(theirs.beacon, key):
                    reached.add(other)
                    todo.append(other)
        return reached

    def _named_by(self, beacon: Beacon) -> list[bytes]:
        if len(beacon.neighbours) < MAX_NEIGHBOURS:
            return [key for short in beacon.neighbours if (key := self._by_short.get(short)) is not None]
        return [key for key in self.leases if _may_hear(beacon, key)]  # there may be more than it could name

    def _said_gone(self, reached: set[bytes]) -> set[bytes]:
        """Who refused to be dialled again, as nodes say that can be heard, and that it had named as its neighbours."""
        return {
            key
            for origin in reached
            if (lease := self.leases.get(origin)) is not None
            for short in lease.beacon.gone
            if (key := self._by_short.get(short)) is not None
            if lease.came_ms > self.leases[key].came_ms and _may_hear(self.leases[key].beacon, origin)
        }

    def _without_way(self, origin: bytes, now_ms: int) -> _Found | None:
        """What is to be thought of a node to which no way leads; None where that is to stay as it is."""
        lease = self.leases.get(origin)
        if origin in self._gone and not (lease is not None and lease.beacon.stops):
            return Word.UNREACHABLE, REFUSES
        if lease is None and origin in self._expected and origin not in self._states:
            return (Word.UNREACHABLE, UNHEARD) if now_ms - self._expected[origin] >= GRACE_MS else None
        state = self._states.get(origin)
        if lease is not None:
            if lease.beacon.stops and now_ms - lease.came_ms < STOPS_MS:
                return Word.RESTARTING, STOPS
            if lease.is_over(now_ms):
                return Word.UNREACHABLE, SILENT
            if lease.fresh and not lease.beacon.stops and self._names_a_stranger(lease.beacon):
                return Word.UP, ""  # somebody may hear it whom this node does not know
        if state is not None and state.word is Word.UNREACHABLE:
            return None
        back = state is not None and state.word is Word.RESTARTING  # its links come one after the other
        if now_ms - self._doubt.setdefault(origin, now_ms) < (RETURN_MS if back else DOUBT_MS):
            return None
        return Word.UNREACHABLE, NO_WAY

    def _names_a_stranger(self, beacon: Beacon) -> bool:
        return any(short not in self._by_short and short != self._own[:SHORT] for short in beacon.neighbours)

    def _guard(self, found: dict[bytes, _Found | None], now_ms: int) -> None:
        """The isolation guard: changes what was `found`."""
        words = {origin: self._word(origin, word) for origin, word in found.items()}
        up = [origin for origin, word in words.items() if word is Word.UP]
        self._up_ms.update(dict.fromkeys(up, now_ms))
        recent = {
            origin
            for origin, at in self._up_ms.items()
            if (now_ms - at <= RECENT_MS or origin in self._measured)
            and origin not in self._gone
            and words.get(origin) is not Word.RESTARTING
        }
        self.isolated = len(recent) >= 2 and (len(up) + 1) * 2 < len(recent) + 1
        self._measured = recent if self.isolated else set()
        for origin in self._measured:
            if words.get(origin) in (Word.UNREACHABLE, Word.ISOLATED):
                found[origin] = Word.ISOLATED, f"this node hears {len(up)} of {len(recent)} others: it is cut off"
        if not self.isolated:
            for origin, word in words.items():
                if word is Word.ISOLATED:  # it stayed as it was, which is true no longer
                    found[origin] = Word.UNREACHABLE, NO_WAY

    def _word(self, origin: bytes, found: _Found | None) -> Word | None:
        if found is not None:
            return found[0]
        state = self._states.get(origin)
        return None if state is None else state.word


def _may_hear(beacon: Beacon, key: bytes) -> bool:
    return beacon.hears(key) or (len(beacon.neighbours) >= MAX_NEIGHBOURS and key[:SHORT] not in beacon.gone)
