"""One peer as this node's mesh sees it: which partitions are open between the two, and what still has to go each way.

Each side says, tree by tree, of which origins it would take entries (`admits`). What both have named is *open*: only
that is compared, pushed, announced or given out. `may_hold` is the one guard; an id outside it is answered exactly like
an id that nobody knows.
"""

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from crdt.entry import Entry
from crdt.ordered_set import INFINITY, TIME_SIZE, fingerprint
from federation import messages
from federation.allowance import Allowance
from federation.effects import Lane, Send
from federation.messages import Admits, Message, Want
from federation.partitions import Holdings, Tree, tree_of
from federation.reconciler import SILENCE_MS, Reconciler

MAX_ORIGINS: Final = 100_000  # that a peer may name in one tree
MAX_TREES: Final = messages.MAX_TREES
MAX_REPEATS: Final = 3
MAX_WANTS: Final = 16  # of a peer that wait for their answer
MAX_FRESH: Final = 20_000  # ids to be announced with the next tick; what goes beyond is left to reconciliation
WANTS_AT_ONCE: Final = 2  # of ours that a peer has not answered
MAX_PINGS: Final = 10  # of a peer that are looked at, though they come at once: after a stall, say
PING_EVERY_MS: Final = 1_000  # and one more each so often; each may cost a fingerprint over all that is held


@dataclass(slots=True)
class Opening:
    """One tree between the two. `mine`: what was told to the peer; `theirs`: what it told, complete once `known`;
    `both`: what is open; `strikes`: pings in a row that found the two sides to differ; `repeats`: how often `mine` was
    told again since they last agreed; `due`: they are to be reconciled."""

    mine: frozenset[bytes] = frozenset()
    theirs: set[bytes] = field(default_factory=set)
    known: bool = False
    both: frozenset[bytes] = frozenset()
    strikes: int = 0
    repeats: int = 0
    due: bool = False
    equal: bool = False  # the two sides were found to hold the same since more was opened

    def ready(self) -> bool:
        """Whether both sides have said what they take."""
        return self.known and bool(self.both)


@dataclass(slots=True)
class View:
    """What `peers list` shows. Times in ms, None where not known yet; `lag_ms`: since the two sides were last found to
    be equal; `differing`: entries that the last comparison found on one side only; `expected`, `received`: of a first
    sync; `refused`: reason to count."""

    rtt_ms: float | None = None
    offset_ms: int | None = None
    lag_ms: int | None = None
    differing: int = 0
    expected: int = 0
    received: int = 0
    synced: bool = False
    refused: dict[str, int] = field(default_factory=dict)


class Pair:
    """The state of one link. Values in, messages out; the clock comes in."""

    def __init__(self, own: bytes, peer: bytes, holdings: Holdings, refused: Counter[str]) -> None:
        """`refused`: what was not taken from the peer, by reason, on earlier links too."""
        self.peer = peer
        self.first = own < peer  # begins to reconcile, so that not both do
        self.trees: dict[Tree, Opening] = {}
        self.refused = refused
        self.fresh: dict[bytes, None] = {}  # ids of news that the peer is told of with the next tick
        self.haves: deque[bytes] = deque()  # ids that the peer lacks
        self.wanted: deque[tuple[int, deque[bytes]]] = deque()  # what it asked for: number, ids
        self.needs: dict[bytes, None] = {}  # ids that we lack and the peer has
        self.asked: dict[int, list[bytes]] = {}  # wants without an answer: number, ids
        self.asked_ms = 0  # when something of that was last asked or answered
        self.reconciler = Reconciler()
        self.unsure = False  # what was told may have been lost
        self.room = True  # in the shell's queue for bulk
        self.judging = 0  # entries from this peer that wait to be looked at
        self.rtt_ms: float | None = None
        self.offset_ms: int | None = None
        self.equal_ms: int | None = None
        self.differing = 0
        self.expected = 0
        self.received = 0
        self.next_ping_ms = 0
        self._pings = Allowance(MAX_PINGS, PING_EVERY_MS)
        self._holdings = holdings
        self._number = 0

    # What is open

    def opening(self, tree: Tree) -> Opening | None:
        """The state of `tree`; made when first asked for, None where there are too many."""
        if tree not in self.trees and len(self.trees) >= MAX_TREES:
            return None
        return self.trees.setdefault(tree, Opening())

    def offer(self, mine: dict[Tree, frozenset[bytes]]) -> list[Message]:
        """Tell the peer what this side takes now: in full what was never told, else what changed."""
        told: list[Message] = []
        for tree in (*mine, *(tree for tree, opening in self.trees.items() if opening.mine and tree not in mine)):
            opening = self.opening(tree)
            now = mine.get(tree, frozenset())
            if opening is None or (opening.mine == now and now):
                continue
            if now or opening.mine:
                told += messages.admits(tree, now - opening.mine, opening.mine - now, fresh=not opening.mine)
            opening.mine = now
            self._meet(tree, opening)
        return told

    def offer_again(self, tree: Tree) -> list[Message]:
        """Tell the peer in full what this side takes in `tree`: the two differ, and it may be that something of that
        was lost. A few times only: where the two see their trust differently, nothing helps."""
        opening = self.trees[tree]
        if opening.repeats >= MAX_REPEATS:
            return []
        opening.repeats += 1
        return messages.admits(tree, opening.mine, (), fresh=True)

    def make_sure(self) -> list[Message]:
        """After something was lost: tell the peer all that this side takes once more."""
        if not self.unsure:
            return []
        self.unsure = False
        return [
            again
            for tree, opening in self.trees.items()
            if opening.mine or opening.theirs
            for again in messages.admits(tree, opening.mine, (), fresh=True)
        ]

    def take_offer(self, said: Admits) -> bool:
        """What the peer takes; False where it is more than may be."""
        opening = self.opening(said.tree)
        if opening is None:
            return False
        if said.fresh:
            opening.theirs.clear()
            opening.known = False
        opening.theirs.difference_update(said.drop)
        opening.theirs.update(said.add)
        if len(opening.theirs) > MAX_ORIGINS:
            return False
        opening.known |= not said.more
        self._meet(said.tree, opening)
        return True

    def _meet(self, tree: Tree, opening: Opening) -> None:
        """What is open may be more now, and is to be reconciled; or less, and then no session may go on over it."""
        before = opening.both
        opening.both = opening.mine & opening.theirs if opening.known else frozenset()
        if not before <= opening.both:
            self.reconciler.forget(tree)
        if opening.both != before:
            opening.due = True
            opening.repeats = 0

    def may_hold(self, entry: Entry) -> bool:
        """Whether `entry` may be on both sides: what leaves for this peer, and what comes from it, passes here."""
        tree = tree_of(entry)
        opening = None if tree is None else self.trees.get(tree)
        return opening is not None and entry.origin in opening.both

    def may_come(self, entry: Entry) -> bool:
        """The same for what arrives: what was opened a moment ago on the other side only may be on its way already."""
        tree = tree_of(entry)
        opening = None if tree is None else self.trees.get(tree)
        return opening is not None and entry.origin in opening.mine

    def shared(self, origin: bytes, *, trust: bool, mine: bool) -> list[Tree]:
        """The trees, of trust or of facts, in which this side (`mine`) or the peer takes `origin`."""
        return [
            tree
            for tree, opening in self.trees.items()
            if tree.trust == trust and origin in (opening.mine if mine else opening.theirs)
        ]

    # What the two sides compare

    def digests(self, cut_ms: int) -> dict[Tree, bytes]:
        """Of each tree that is open, a fingerprint of what lives beyond `cut_ms`."""
        found: dict[Tree, bytes] = {}
        floor = (cut_ms + 1).to_bytes(TIME_SIZE, "big")
        for tree, opening in self.trees.items():
            if opening.ready():
                held = self._holdings.among(tree, opening.both)
                all_of_it, lapsed = held.mark(INFINITY), held.mark(floor)
                found[tree] = fingerprint(all_of_it.size - lapsed.size, all_of_it.total - lapsed.total)
        return found

    def takes_ping(self, now_ms: int) -> bool:
        """Whether a ping that has come is looked at; False, and counted, where they come too often."""
        if self._pings.take(now_ms):
            return True
        self.refused["pings come too often"] += 1
        return False

    # What has to go out

    def announce(self, ids: Iterable[bytes]) -> None:
        """Tell the peer of this news, in no hurry: it is told by others, and an envelope for each id costs as much as
        the entry itself."""
        for identity in ids:
            if len(self.fresh) < MAX_FRESH:
                self.fresh[identity] = None

    def announcements(self) -> list[Send]:
        """What is to be announced by now: what is still held, and may still be."""
        if not self.fresh:
            return []
        ids, self.fresh = [identity for identity in self.fresh if self._has(identity)], {}
        return [Send(self.peer, message, Lane.PUSH) for message in messages.ihave(ids)]

    def want(self, ids: Iterable[bytes]) -> None:
        """Ask the peer for `ids` as it can answer."""
        self.needs.update(dict.fromkeys(ids))

    def answer(self, want: Want) -> bool:
        """Take down what the peer wants; False where it asks too much at once."""
        if len(self.wanted) >= MAX_WANTS:
            return False
        outside = sum(identity in self._holdings.by_id and not self._has(identity) for identity in want.ids)
        if outside:  # answered like what nobody has, and told to the admin alone
            self.refused["asked for what it may not have"] += outside
        self.wanted.append((want.number, deque(want.ids)))
        return True

    def answered(self, number: int, now_ms: int, *, more: bool) -> None:
        """A want of ours was answered."""
        self.asked_ms = now_ms
        if not more:
            self.asked.pop(number, None)

    def ask_again(self, now_ms: int) -> None:
        """Wants that get no answer were lost, or their answers were: they are asked once more."""
        if self.asked and not 0 <= now_ms - self.asked_ms <= SILENCE_MS:
            lost, self.asked = self.asked, {}
            for ids in lost.values():
                self.want(ids)

    def next_number(self) -> int:
        self._number += 1
        return self._number

    def graft(self, ids: list[bytes], now_ms: int) -> Iterator[Send]:
        """Ask for what was announced and did not come, and to be pushed news again. Where many questions are open
        these ids wait, so that a slow peer is not asked more than it takes; where many wait, they are left to
        reconciliation."""
        if len(self.needs) < MAX_FRESH:
            self.want(ids)
        while self.needs and len(self.asked) < MAX_WANTS // 2:
            yield from self._ask(now_ms, graft=True)

    def wants(self, now_ms: int) -> Iterator[Send]:
        """The next questions, as many as may be open at a time."""
        while self.needs and len(self.asked) < WANTS_AT_ONCE:
            yield from self._ask(now_ms, graft=False)

    def _ask(self, now_ms: int, *, graft: bool) -> Iterator[Send]:
        some = [identity for identity, _ in zip(self.needs, range(messages.MAX_IDS), strict=False)]
        for identity in some:
            del self.needs[identity]
        some = [identity for identity in some if not self._has(identity)]
        if some:
            number = self.next_number()
            self.asked[number] = some
            self.asked_ms = now_ms
            yield Send(self.peer, messages.want(number, some, graft=graft), Lane.PUSH)

    def _has(self, identity: bytes) -> bool:
        """Whether it is held, as far as the peer may know."""
        entry = self._holdings.by_id.get(identity)
        return entry is not None and self.may_hold(entry)

    def bulk(self, now_ms: int) -> Iterator[Send]:
        """The next block, where there is room for one: answers first, then what reconciliation found."""
        while self.room and (self.wanted or self.haves):
            number: int | None = None
            ids = self.haves
            if self.wanted:
                number, ids = self.wanted[0]
            raws = self._gather(ids, now_ms)
            if number is not None and not ids:
                self.wanted.popleft()
            if raws or number is not None:
                self.room = False
                yield Send(self.peer, messages.block(raws, number, more=number is not None and bool(ids)), Lane.BULK)

    def _gather(self, ids: deque[bytes], now_ms: int) -> list[bytes]:
        raws: list[bytes] = []
        size = 0
        while ids and len(raws) < messages.MAX_ENTRIES:
            entry = self._holdings.by_id.get(ids[0])
            if entry is not None and entry.valid_until > now_ms and self.may_hold(entry):
                size += len(entry.raw)
                if raws and size > messages.BLOCK_BYTES:
                    break
                raws.append(entry.raw)
            ids.popleft()
        return raws

    def busy(self) -> bool:
        """Whether something that reconciliation found is still on its way, in either direction."""
        return bool(self.haves or self.needs or self.asked or self.wanted or self.judging)

    def view(self, now_ms: int) -> View:
        """For `peers list`."""
        equal = [opening.equal for opening in self.trees.values() if opening.ready()]
        return View(
            rtt_ms=self.rtt_ms,
            offset_ms=self.offset_ms,
            lag_ms=None if self.equal_ms is None else max(0, now_ms - self.equal_ms),
            differing=self.differing,
            expected=self.expected,
            received=self.received,
            synced=bool(equal) and all(equal) and not self.busy(),
            refused=dict(self.refused),
        )
