"""Who is alive: this node's own beacon, those of others, and the links that they speak of. Values in, effects out.

What follows from beacons is found in `reachability`; here they are said, taken, passed on and asked for, and links are
watched. A link ends for this purpose when the peer refuses to be dialled again (proof: its process is gone),
`CLOSED_MS` after it was closed, or after `SILENT_MS` without a byte, though the peer was asked (`probe`) from
`QUIET_MS` on; its two ends say so at once.

How beacons travel: what says something new goes over all links at once. The rest goes, a few together, along a tree for
each node, which remains when whoever brings what came by another way already is asked to send no more of it
(`beacon.prune`). What is late is asked for (`beacon.want`), which puts the link back into the tree, and a new link
begins with the two tables being compared in the same way.

A stall of this process, a suspend and a clock that jumps are one: nobody was silent, and all times move along. No I/O,
no clock, no randomness.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final
from zlib import crc32

from federation.allowance import Allowance
from federation.beacon import LEVEL, MAX_LEVEL, Beacon, is_signed, make_beacon, read_beacon
from federation.effects import Close, Effect, Lane, Send, Twin
from federation.identity import NodeKey
from federation.messages import Message
from federation.reachability import Lease, Reachability
from federation.replica import Alert

QUIET_MS: Final = 2_000  # without a byte: the peer is asked whether it is there
PROBE_MS: Final = 500
SILENT_MS: Final = 7_000
CLOSED_MS: Final = 3_000  # from the end of a link to taking it out, where no redial was refused
GONE_MS: Final = 60_000  # for which a peer that refused is named in beacons
SAY_MS: Final = 500  # between two beacons of our own, whatever happens
STALL_MS: Final = 2_000  # a tick that is so late, or early: no time has gone by
JUDGE_MS: Final = 1_000
WINDOW: Final = 128  # leases compared in one `beacon.want`
CHUNK: Final = 8 * 1024  # bytes of beacons in one message
PIECE: Final = 64  # beacons in one message
ANSWER: Final = 3 * CHUNK  # … in one answer
RETRY_MS: Final = 2_000
TRIES: Final = 5  # questions without an answer, before the comparison is given up
PRUNES: Final = 256  # keys in one `beacon.prune`

SHORTEST_S, LONGEST_S, NODES_PER_S = 5, 120, 50  # the interval between two beacons: a 50th of a second for each node


@dataclass(slots=True)
class _Near:
    """A link. `pruned`: of these nodes only news goes over it; `later`, `prunes`: beacons, and keys, that wait for the
    next tick; `cursor`: where the comparison of the tables goes on, None once it is done."""

    heard_ms: int
    probed_ms: int = 0
    asked_ms: int = 0
    silent: bool = False
    cursor: bytes | None = b""
    tries: int = 0
    pruned: set[bytes] = field(default_factory=set)
    later: list[bytes] = field(default_factory=list)
    prunes: list[bytes] = field(default_factory=list)
    wants: Allowance = field(default_factory=lambda: Allowance(16, 200))
    beacons: Allowance = field(default_factory=lambda: Allowance(4_000, 4))


@dataclass(slots=True)
class _Lost:
    """A link that ended. `out`: it is taken out; `refused`: the peer refuses to be dialled."""

    since_ms: int
    out: bool = False
    refused: bool = False


class Membership:
    """Made with the mesh. `believes`: whether the beacons of a key count here; `may_know`: whether a peer may hear of
    it (peer, key). `counts`: what was passed by, and why."""

    def __init__(
        self,
        key: NodeKey,
        incarnation: int,
        believes: Callable[[bytes, int], bool],
        may_know: Callable[[bytes, bytes], bool],
    ) -> None:
        self.incarnation = incarnation
        self.yielded = False  # another node has this key, and goes on
        self.level = incarnation // LEVEL  # the highest that was claimed for this key
        self._claiming = 0  # what this node claims, while that is not on disk
        self.reach = Reachability(key.public)
        self.counts: Counter[str] = Counter()
        self._key = key
        self._own = key.public
        self._believes = believes
        self._may_know = may_know
        self._seq = 0
        self._said: Beacon | None = None
        self._said_ms = 0
        self._due_ms = 0  # of the next beacon
        self._links: dict[bytes, _Near] = {}
        self._lost: dict[bytes, _Lost] = {}
        self._order: list[bytes] | None = None  # of the leases by key, for comparisons
        self._seen_ms = 0
        self._judge_ms = 0
        self._asking = 0  # whose turn it is to be asked for what is late

    # Links

    def opened(self, peer: bytes, now_ms: int) -> list[Effect]:
        """A link to `peer` stands."""
        self._look_at_clock(now_ms)
        self._links[peer] = _Near(now_ms)
        self._lost.pop(peer, None)
        self.reach.linked(peer)
        self._judge_ms = 0
        effects = self._say_soon(now_ms)
        if self._said is not None:
            effects.append(_send(peer, [self._said.raw]))
        return effects

    def closed(self, peer: bytes, now_ms: int) -> None:
        """It is over: the peer is dialled again, or dials, or is gone."""
        self._look_at_clock(now_ms)
        if self._links.pop(peer, None) is not None and self._believes(peer, now_ms):
            lease = self.reach.leases.get(peer)
            stops = lease is not None and lease.beacon.stops
            self._lost[peer] = _Lost(now_ms, out=stops)
            if stops:
                self._due_ms = self._judge_ms = 0

    def refused(self, peer: bytes, now_ms: int) -> list[Effect]:
        """`peer`, whose link is over, refused to be dialled: nobody listens there any more."""
        self._look_at_clock(now_ms)
        lost = self._lost.get(peer)
        if lost is None or lost.refused or peer in self._links:
            return []
        lost.refused = lost.out = True
        lost.since_ms = now_ms
        self.reach.refused(peer)
        return [*self._say_soon(now_ms), *self._judge(now_ms)]

    def heard(self, peer: bytes, silent_ms: int, now_ms: int) -> None:
        """The last byte from `peer` came `silent_ms` ago."""
        self._look_at_clock(now_ms)
        near = self._links.get(peer)
        if near is not None:
            near.heard_ms = max(near.heard_ms, now_ms - silent_ms)

    def expect(self, keys: Iterable[bytes], now_ms: int) -> list[Effect]:
        """Trust has changed. `keys`: of whom anything may count now."""
        self._look_at_clock(now_ms)
        believed = {key for key in keys if key != self._own and self._believes(key, now_ms)}
        for peer in [peer for peer in self._lost if peer not in believed]:
            del self._lost[peer]
        self._order = None
        self._judge_ms = 0
        return [*self.reach.expect(believed, now_ms)]

    # Messages

    def received(self, peer: bytes, message: Message, now_ms: int) -> list[Effect]:
        """One of `MESSAGES`."""
        self._look_at_clock(now_ms)
        near = self._links.get(peer)
        if near is None:
            return []
        match message["t"]:
            case "probe":
                return [Send(peer, {"t": "probed"}, Lane.BARE)] if near.wants.take(now_ms) else []
            case "beacon.prune":
                keys = message.get("keys")
                if not isinstance(keys, list) or len(keys) > PRUNES or any(type(key) is not bytes for key in keys):
                    return [_malformed(peer)]
                near.pruned.update(key for key in keys if key in self.reach.leases or key == self._own)
            case "beacon.want":
                return self._on_want(peer, near, message, now_ms)
            case "beacon":
                return self._on_beacons(peer, near, message, now_ms)
        return []

    def _on_beacons(self, peer: bytes, near: _Near, message: Message, now_ms: int) -> list[Effect]:
        raws, goes_on = message.get("beacons"), message.get("next")
        if not isinstance(raws, list) or len(raws) > PIECE or not (goes_on is None or type(goes_on) is bytes):
            return [_malformed(peer)]
        if goes_on is not None and near.cursor is not None and (not goes_on or goes_on > near.cursor):
            near.cursor = goes_on or None
            near.asked_ms = near.tries = 0
        effects: list[Effect] = []
        for raw in raws:
            if not near.beacons.take(now_ms):
                self.counts["too many of one peer"] += 1
                continue
            beacon = read_beacon(raw)
            if beacon is None:
                return [*effects, _malformed(peer)]
            if beacon.origin == self._own:
                effects += self._on_own(peer, beacon)
                continue
            known = self.reach.leases.get(beacon.origin)
            if known is not None and known.beacon.order >= beacon.order:
                self.counts["known"] += 1
                if known.beacon.order == beacon.order and not known.spread and goes_on is None:
                    self._prune(near, beacon.origin)
                continue
            if not self._believes(beacon.origin, now_ms):
                self.counts["not believed"] += 1
                continue
            if not is_signed(beacon):  # before it counts as said by that node
                return [*effects, Close(peer, "bad-beacon", "a beacon is not by the node that it names")]
            rate = Allowance(10, 1_000) if known is None else known.rate
            if not rate.take(now_ms):
                self.counts["too often"] += 1
                continue
            self._take(beacon, known, rate, now_ms)
            effects += self._pass_on(peer, self.reach.leases[beacon.origin])
        return effects

    def _prune(self, near: _Near, origin: bytes) -> None:
        """It came by another way already: neither side sends it to the other any more."""
        if origin not in near.pruned and len(near.prunes) < PRUNES:
            near.pruned.add(origin)
            near.prunes.append(origin)

    def _take(self, beacon: Beacon, known: Lease | None, rate: Allowance, now_ms: int) -> None:
        self.counts["taken"] += 1
        news = beacon.has_news(None if known is None else known.beacon)
        if known is None:
            self._order = None
        elif known.beacon.incarnation < beacon.incarnation:
            self._is_back(beacon.origin)
        if news:
            self._judge_ms = 0
        self.reach.put(Lease(beacon, now_ms, news, rate))

    def _is_back(self, origin: bytes) -> None:
        """It has started again: that it refused to be dialled is over."""
        lost = self._lost.get(origin)
        if lost is not None and lost.refused:
            lost.refused = False
            self._due_ms = 0

    def _pass_on(self, source: bytes, lease: Lease) -> Iterator[Effect]:
        for peer, near in self._links.items():
            if peer == source or (not lease.spread and lease.beacon.origin in near.pruned):
                continue
            if self._may_know(peer, lease.beacon.origin):
                if lease.spread:
                    yield _send(peer, [lease.beacon.raw])
                else:
                    near.later.append(lease.beacon.raw)

    # Tables

    def _on_want(self, peer: bytes, near: _Near, message: Message, now_ms: int) -> list[Effect]:
        """`known`: [key, incarnation, seq] that the peer has; `from`, `to`: it has no others between these two keys
        (`to` empty: to the end); neither: it asks for these alone, since they are late."""
        known, begin, end = message.get("known"), message.get("from"), message.get("to")
        if not isinstance(known, list) or len(known) > WINDOW:
            return [_malformed(peer)]
        has: dict[bytes, tuple[int, int]] = {}
        for item in known:
            match item:
                case [bytes(key), int(incarnation), int(seq)]:
                    has[key] = incarnation, seq
                case _:
                    return [_malformed(peer)]
        if not near.wants.take(now_ms):
            self.counts["asked too often"] += 1
            return []
        if begin is None:
            near.pruned -= has.keys()  # what did not come by another way comes by this one from now on
            raws = [found.beacon.raw for key, order in has.items() if (found := self._newer(peer, key, order))]
            return [*_messages(peer, raws[:WINDOW])]
        if type(begin) is not bytes or type(end) is not bytes:
            return [_malformed(peer)]
        raws, size, goes_on = [], 0, end
        for key in self._ordered():
            if key < begin or (end and key >= end):
                continue
            if (found := self._newer(peer, key, has.get(key, (-1, -1)))) is not None:
                size += len(found.beacon.raw)
                if size > ANSWER:
                    goes_on = key
                    break
                raws.append(found.beacon.raw)
        return [*_messages(peer, raws, goes_on)]

    def _newer(self, peer: bytes, key: bytes, order: tuple[int, int]) -> Lease | None:
        lease = self.reach.leases.get(key)
        if lease is None or lease.beacon.order <= order or key == peer or not self._may_know(peer, key):
            return None
        return lease

    def _ordered(self) -> list[bytes]:
        if self._order is None:
            self._order = sorted(self.reach.leases)
        return self._order

    def _compare(self, now_ms: int) -> Iterator[Effect]:
        """The next window of the table, to each peer with whom it is not compared yet."""
        for peer, near in self._links.items():
            if near.cursor is None or 0 <= now_ms - near.asked_ms < RETRY_MS:
                continue
            near.asked_ms = now_ms
            near.tries += 1
            if near.tries > TRIES:
                near.cursor = None
                continue
            window = [key for key in self._ordered() if key >= near.cursor][: WINDOW + 1]
            end = window.pop() if len(window) > WINDOW else b""
            yield Send(
                peer, {"t": "beacon.want", "from": near.cursor, "to": end, "known": self._have(window)}, Lane.BARE
            )

    def _ask_for_late(self, now_ms: int) -> Iterator[Effect]:
        """What should have come by now is asked of one peer after the other."""
        late = [
            key
            for key, lease in self.reach.leases.items()
            if now_ms - lease.came_ms > lease.beacon.interval * 1250 + 1_000 and not lease.is_over(now_ms)
        ]
        peers = [peer for peer, near in self._links.items() if not near.silent]
        if not late or not peers:
            return
        self._asking += 1
        peer = peers[self._asking % len(peers)]
        del late[WINDOW:]
        self._links[peer].pruned.difference_update(late)
        yield Send(peer, {"t": "beacon.want", "known": self._have(late)}, Lane.BARE)

    def _have(self, keys: list[bytes]) -> list[object]:
        return [[key, *self.reach.leases[key].beacon.order] for key in keys]

    # This node's own beacon

    def _say_soon(self, now_ms: int) -> list[Effect]:
        """Something is new."""
        if 0 <= now_ms - self._said_ms < SAY_MS:
            self._due_ms = min(self._due_ms, self._said_ms + SAY_MS)
            return []
        return self._say(now_ms)

    def _say(self, now_ms: int, *, stops: bool = False) -> list[Effect]:
        if self.yielded:
            return []
        interval = min(max(SHORTEST_S, (len(self.reach.leases) + 1) // NODES_PER_S), LONGEST_S)
        self._seq += 1
        order = self.incarnation, self._seq
        gone = [peer for peer, lost in self._lost.items() if lost.refused]
        before = self._said
        said = self._said = make_beacon(self._key, order, now_ms, interval, self._hears(), gone, stops=stops)
        self._said_ms = now_ms
        early = crc32(said.raw) % (interval * 100)  # up to a tenth: nodes that start together do not speak together
        self._due_ms = now_ms + interval * 1000 - early
        news = said.has_news(before)
        return [_send(peer, [said.raw]) for peer, near in self._links.items() if news or self._own not in near.pruned]

    def _hears(self) -> Iterator[bytes]:
        """The peers that this node takes to be there."""
        yield from (peer for peer, near in self._links.items() if not near.silent)
        yield from (peer for peer, lost in self._lost.items() if not lost.out)

    def farewell(self, now_ms: int) -> list[Effect]:
        """This node stops, and means to come back."""
        return self._say(now_ms, stops=True)

    # Two nodes with one key

    def _on_own(self, peer: bytes, beacon: Beacon) -> list[Effect]:
        if beacon.order > (self.incarnation, self._seq) and not is_signed(beacon):
            return [Close(peer, "bad-beacon", "a beacon is not by the node that it names")]
        return self.shown(beacon.raw)

    def shown(self, raw: bytes) -> list[Effect]:
        """A beacon that names this node, whoever brings it. Nothing follows from one of its own, or of an earlier
        start, or from what it did not sign.

        The one that started first claims the key: it goes on, a level higher. Whoever sees a claim yields: it says
        nothing more until its admin claims the key for it.
        """
        beacon = read_beacon(raw)
        if self.yielded or beacon is None or beacon.origin != self._own:
            return []
        if beacon.order <= (self.incarnation, self._seq) or beacon.incarnation < self._claiming:
            return []
        if not is_signed(beacon):
            return []
        self.level = beacon.incarnation // LEVEL
        if self.level > self.incarnation // LEVEL:
            self.yielded = True
            return [Alert("twin", _YIELDS, ()), Twin(None)]
        self._claiming = self.claim()
        return [Alert("twin", _CLAIMS, ()), Twin(self._claiming)]

    def claim(self) -> int:
        """An incarnation that is above all that any node with this key was heard to have; or the highest, which who
        has stolen the key can take: then only another key helps."""
        return min(self.level + 1, MAX_LEVEL) * LEVEL + self.incarnation % LEVEL

    def not_claimed(self) -> None:
        """The claim could not be put on the disk: the next beacon of the other node asks again."""
        self._claiming = 0

    def claimed(self, incarnation: int, now_ms: int) -> list[Effect]:
        """The claim is on disk."""
        self.incarnation = max(incarnation, self.incarnation)
        return self._say(now_ms)

    # Time

    def tick(self, now_ms: int) -> list[Effect]:
        """To be called about four times a second."""
        self._look_at_clock(now_ms)
        effects: list[Effect] = []
        for peer, near in self._links.items():
            effects += self._look_at(peer, near, now_ms)
        for peer, lost in list(self._lost.items()):
            if not lost.out and now_ms - lost.since_ms >= CLOSED_MS:
                lost.out = True
                self._due_ms = self._judge_ms = 0
            elif lost.out and now_ms - lost.since_ms >= GONE_MS:
                del self._lost[peer]
        if now_ms >= self._due_ms and now_ms - self._said_ms >= SAY_MS:
            effects += self._say(now_ms)
        effects += self._compare(now_ms)
        if now_ms - self._judge_ms >= JUDGE_MS:
            effects += self._ask_for_late(now_ms)
            effects += self._judge(now_ms)
        for peer, near in self._links.items():
            if near.later:
                effects += _messages(peer, near.later)
                near.later = []
            if near.prunes:
                effects.append(Send(peer, {"t": "beacon.prune", "keys": near.prunes}, Lane.BARE))
                near.prunes = []
        return effects

    def _look_at(self, peer: bytes, near: _Near, now_ms: int) -> Iterator[Effect]:
        quiet = now_ms - near.heard_ms
        if quiet >= QUIET_MS and now_ms - near.probed_ms >= PROBE_MS:
            near.probed_ms = now_ms
            yield Send(peer, {"t": "probe"}, Lane.BARE)
        if near.silent != (quiet >= SILENT_MS):
            near.silent = not near.silent
            self._due_ms = self._judge_ms = 0

    def _look_at_clock(self, now_ms: int) -> None:
        """To be called before any time is noted: what is noted after a jump must not be moved by it."""
        gone_by = now_ms - self._seen_ms
        if self._seen_ms and not 0 <= gone_by <= STALL_MS:
            self._shift(gone_by)
        self._seen_ms = now_ms

    def _shift(self, ms: int) -> None:
        """`ms` went by in which this node did nothing, or its clock was set: for it they did not."""
        for near in self._links.values():
            near.heard_ms += ms
            near.probed_ms += ms
        for lost in self._lost.values():
            lost.since_ms += ms
        self.reach.shift(ms)
        self._said_ms += ms
        self._due_ms = self._judge_ms = 0

    def _judge(self, now_ms: int) -> list[Effect]:
        self._judge_ms = now_ms
        return [*self.reach.judge(self._hears(), now_ms)]


_CLAIMS: Final = (
    "another node runs with this node's key (a copied data directory?) and started later. This one goes on, the other "
    "one is told to be quiet: find it, stop it, and give it a data directory of its own"
)
_YIELDS: Final = (
    "another node runs with this node's key (a copied data directory?), and it goes on. This one says nothing more to "
    "others: stop it, or, if it is the right one, stop the other and run `kosreg doctor --claim` here"
)

MESSAGES: Final = frozenset({"beacon", "beacon.want", "beacon.prune", "probe", "probed"})
"""Names of what `Membership.received` takes; they travel bare."""


def _send(peer: bytes, raws: list[bytes]) -> Send:
    return Send(peer, {"t": "beacon", "beacons": list(raws)}, Lane.BARE)


def _messages(peer: bytes, raws: list[bytes], goes_on: bytes | None = None) -> Iterator[Send]:
    """`raws` in messages of at most `CHUNK`. `goes_on`: where a comparison goes on, b"" where it is done."""
    piece: list[bytes] = []
    size = 0
    for raw in raws:
        if piece and (size + len(raw) > CHUNK or len(piece) == PIECE):
            yield _send(peer, piece)
            piece, size = [], 0
        piece.append(raw)
        size += len(raw)
    if goes_on is not None:
        yield Send(peer, {"t": "beacon", "beacons": list(piece), "next": goes_on}, Lane.BARE)
    elif piece:
        yield _send(peer, piece)


def _malformed(peer: bytes) -> Close:
    return Close(peer, "malformed", "a message about who is alive is not as the protocol says")
