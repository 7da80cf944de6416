"""The mesh: what this node says to its peers and what it makes of what they say. Values in, effects out.

No I/O, no clock, no randomness. The way of a delta:

    received(entries) → known ids are passed by → judged in slices (`Replica.receive`: partition, lapse, signature)
        → Store → (the shell commits and merges) → merged → pushed on to the others

and the way of news of our own begins at `merged`. What gets lost on the way is found by reconciliation: when a link or
a partition opens, and when pings have found a difference that lasts.

Work that may take long (judging a block, a message of a session) is queued and done in slices by `work`, so that
whoever runs the mesh can let others run in between; `backlog` says how much a peer has made us do, so that no more is
read from it meanwhile.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final, Protocol

from crdt.entry import TRUST_KINDS, Class, Entry
from federation import messages
from federation.broadcast import Broadcast
from federation.budget import Bounds, Chained
from federation.effects import Close, Effect, Landed, Lane, Send, Store, Verify
from federation.judge import SLICE, Judge, Spoilt
from federation.membership import MESSAGES, Membership
from federation.messages import Entries, Message, Ping, Pong, Round
from federation.pair import Pair, View
from federation.partitions import PUBLIC_FACTS, PUBLIC_TRUST, Tree, internal, is_later_tree, tree_of
from federation.questions import Questions, answer
from federation.quotas import Part, Quotas
from federation.reconciler import LIMITS, Answered, Asked
from federation.refusals import Refusals
from federation.replica import Persist, Replica
from federation.turns import Turns, Work

PING_MS: Final = 5_000
STRIKES: Final = 3  # pings in a row that find a difference, before the first of the two reconciles
LATE_STRIKES: Final = 5  # … before the other does, where the first has not
WAITING: Final = 64  # entries that a message which waits counts as: one of a session may have 64 KiB


DEFAULTS: Final = Bounds()


class Beliefs(Chained, Protocol):
    """What the mesh asks of trust (`federation.trust.Trust`)."""

    @property
    def version(self) -> int: ...

    def keys(self) -> Iterable[bytes]: ...

    def over(self) -> Iterable[bytes]: ...

    def is_over(self, key: bytes) -> bool: ...

    def learn(self, entry: Entry) -> bool: ...

    def learn_all(self, entries: Iterable[Entry]) -> None: ...

    def expire(self, now_ms: int) -> bool: ...

    def roots_of(self, key: bytes, now_ms: int) -> frozenset[bytes]: ...

    def admits(self, origin: bytes, cls: Class, root: bytes | None, kind: str, now_ms: int) -> bool: ...


class Mesh:
    """All links of one node. Each call gets the time (`now_ms`) and gives what is to be done, in order."""

    def __init__(self, replica: Replica, trust: Beliefs, incarnation: int = 1, bounds: Bounds = DEFAULTS) -> None:
        """`incarnation`: of this node, higher with each start; `bounds`: what each origin may bring."""
        self.replica = replica
        self.trust = trust
        self.pairs: dict[bytes, Pair] = {}
        self.refusals = Refusals()
        self._broadcast = Broadcast()
        self._turns = Turns()
        self.quotas = Quotas(replica.origin, trust, bounds)
        self._questions = Questions(self.quotas)
        self._judge = Judge(replica, self._turns, self.quotas)
        self.membership = Membership(replica.key, incarnation, self._believes, self._may_know)
        self._seen = (-1, 0)  # versions of trust and of the quotas
        self._admits_seen = -1
        self._admits: dict[Tree, frozenset[bytes]] = {}
        trust.learn_all(replica.map)
        self._handlers: Mapping[str, Callable[[Pair, Message, int], Iterable[Effect]]] = {
            "admits": self._on_admits,
            "entries": self._on_entries,
            "ihave": self._on_ihave,
            "want": self._on_want,
            "prune": self._on_prune,
            "sync.round": self._on_round,
            "sync.end": self._on_end,
            "ping": self._on_ping,
            "pong": self._on_pong,
            "quota.ask": self._on_quota_ask,
            "quota.told": self._on_quota_told,
        }

    # Links

    def opened(self, peer: bytes, now_ms: int) -> list[Effect]:
        """A link to `peer` stands: both have proven who they are, and it may have one."""
        self.closed(peer, now_ms)
        pair = self.pairs[peer] = Pair(self.replica.origin, peer, self.replica.holdings, self.refusals.of(peer))
        pair.next_ping_ms = now_ms
        quotas = self.quotas.begin(self.replica.holdings, self.replica.map.get, now_ms)
        return [*quotas, *self._offer(pair, now_ms), *self._ping(pair, now_ms), *self.membership.opened(peer, now_ms)]

    def closed(self, peer: bytes, now_ms: int) -> list[Effect]:
        """The link to `peer` is gone, and with it all that was under way."""
        if self.pairs.pop(peer, None) is not None:
            self._broadcast.closed(peer)
            self._turns.closed(peer)
            self.membership.closed(peer, now_ms)
        return []

    def refused(self, peer: bytes, now_ms: int) -> list[Effect]:
        """`peer` is dialled, and nobody listens there."""
        return self.membership.refused(peer, now_ms)

    def heard(self, peer: bytes, silent_ms: int, now_ms: int) -> None:
        """The last byte from `peer`, of a part of a message perhaps, came `silent_ms` ago."""
        self.membership.heard(peer, silent_ms, now_ms)

    def beacon_of(self, peer: bytes) -> bytes:
        """The newest beacon of `peer`, as it travels; b"" where none came."""
        lease = self.membership.reach.leases.get(peer)
        return b"" if lease is None else lease.beacon.raw

    def twin(self, beacon: bytes) -> list[Effect]:
        """Somebody shows `beacon`, by another node with this node's key."""
        return self.membership.shown(beacon)

    def claimed(self, incarnation: int, now_ms: int) -> list[Effect]:
        """This node goes on as `incarnation`, which is on disk."""
        return self.membership.claimed(incarnation, now_ms)

    def farewell(self, now_ms: int) -> list[Effect]:
        """This node stops, and means to come back."""
        return self.membership.farewell(now_ms)

    def received(self, peer: bytes, message: Message, now_ms: int) -> list[Effect]:
        """One message of `peer`. Names that are not known are passed by, trees too: a later node may say more."""
        self.membership.heard(peer, 0, now_ms)
        if (name := str(message.get("t"))) in MESSAGES:
            return self.membership.received(peer, message, now_ms)
        pair = self.pairs.get(peer)
        handler = self._handlers.get(name)
        if pair is None or handler is None:
            return []
        if is_later_tree(message.get("tree")):
            pair.refused["a tree that is not known here"] += 1
            return []
        return [*self.trust_changed(now_ms), *handler(pair, message, now_ms)]

    def sent(self, peer: bytes, now_ms: int) -> list[Effect]:
        """The bulk queue to `peer` has room for another block."""
        pair = self.pairs.get(peer)
        if pair is None:
            return []
        pair.room = True
        return [*self.trust_changed(now_ms), *pair.bulk(now_ms), *self._settle(pair, now_ms)]

    def overflowed(self, peer: bytes) -> None:
        """Something for `peer` was dropped, since its queue was full: what it misses is found by reconciliation."""
        pair = self.pairs.get(peer)
        if pair is not None:
            pair.unsure = True
            for opening in pair.trees.values():
                opening.due = True

    # What is held

    def merged(self, landed: Sequence[Landed], now_ms: int) -> list[Effect]:
        """What is in `landed` is on disk and merged, each with the peer that it came from (None: it was said here).
        Pushes on what is new: to each peer in one go, however many parts it came in."""
        parts: list[Landed] = []
        for entries, source in landed:
            newest = [entry for entry in entries if self.replica.map.get(entry.key) is entry]
            for entry in newest:
                if entry.kind in TRUST_KINDS:
                    self.trust.learn(entry)
            parts.append((newest, source))
        if not self.pairs and not self._judge.landing:
            return []
        for entries, _ in landed:
            for entry in entries:
                self._judge.landed(entry)
                self._broadcast.came(entry.id)
        effects = [*self.quotas.landed(_from_peers(landed), now_ms), *self.trust_changed(now_ms)]
        made: dict[tuple[bytes, ...], list[Message]] = {}  # most peers are told the same, which is then encoded once
        for pair in self.pairs.values():
            told: list[Entry] = []
            for news, source in parts:
                if source == pair.peer:  # but for what this node said above what the peer brought
                    told += [entry for entry in news if self.replica.is_said_here(entry)]
                else:
                    told += news
            if told:
                effects += self._push(pair, told, made)
        for source in dict.fromkeys(source for _, source in landed):
            if source is not None and (pair_of := self.pairs.get(source)) is not None:
                effects += self._settle(pair_of, now_ms)
        return effects

    def failed(self, entries: Iterable[Entry]) -> None:
        """`entries` did not get onto the disk: they are as unknown as before."""
        for entry in entries:
            self._judge.landed(entry)

    def trust_changed(self, now_ms: int) -> list[Effect]:
        """See whether trust says something else than before, also because time went on, or who is frozen, and tell the
        peers what is open now."""
        self.trust.expire(now_ms)
        quotas = self.quotas.tick(now_ms, trust_changed=True) if self.trust.version != self._seen[0] else []
        if (seen := (self.trust.version, self.quotas.version)) == self._seen:
            return list(quotas)
        self._seen = seen
        offers = [effect for pair in self.pairs.values() for effect in self._offer(pair, now_ms)]
        return [*quotas, *offers, *self.membership.expect(self.trust.keys(), now_ms)]

    # Time

    def tick(self, now_ms: int) -> list[Effect]:
        """To be called about four times a second."""
        self.trust.expire(now_ms)
        effects: list[Effect] = [*self.quotas.tick(now_ms), *self.trust_changed(now_ms)]
        effects += [*self._questions.ask(self.pairs, now_ms), *self.membership.tick(now_ms)]
        for peer, ids in self._broadcast.overdue(now_ms).items():
            pair = self.pairs.get(peer)
            ids = [identity for identity in ids if pair is not None and not self._judge.is_known(pair, identity)]
            if pair is not None and ids:
                effects += pair.graft(ids, now_ms)
        for pair in self.pairs.values():
            if not 0 < pair.next_ping_ms - now_ms <= PING_MS:  # due, or the clock was set back
                effects += self._ping(pair, now_ms)
            effects += (Send(pair.peer, again, Lane.PUSH) for again in pair.make_sure())
            effects += pair.announcements()
            pair.ask_again(now_ms)
            effects += self._settle(pair, now_ms)  # what was asked for may have come from others
            for tree in pair.reconciler.give_up(now_ms):
                pair.trees[tree].due = True
            self._reconcile(pair, now_ms)
        return effects

    def work(self, now_ms: int) -> list[Effect]:
        """Does one slice of what waits, about a millisecond; see `busy`. The peers take turns."""
        return [*self.trust_changed(now_ms), *self._turns.next()]

    def verified(self, asked: Verify, verdicts: list[bool]) -> None:
        """Which signatures of `asked` hold, in its order: `work` goes on with what came from this peer."""
        self._turns.verified(asked, verdicts)

    @property
    def busy(self) -> bool:
        """Whether `work` has something to do."""
        return self._turns.busy

    def backlog(self, peer: bytes) -> int:
        """Entries from `peer` that wait to be judged, and messages that wait for their turn, each as `WAITING` entries:
        while there are many, no more should be read from it."""
        pair = self.pairs.get(peer)
        return 0 if pair is None else pair.judging + WAITING * self._turns.waiting(peer)

    def view(self, peer: bytes, now_ms: int) -> View | None:
        """What `peers list` shows of a link; None where there is none."""
        pair = self.pairs.get(peer)
        return None if pair is None else pair.view(now_ms)

    # Partitions

    def _believes(self, key: bytes, now_ms: int) -> bool:
        return not self.trust.is_over(key) and self.trust.admits(key, Class.PUBLIC, None, "node", now_ms)

    def _may_know(self, peer: bytes, key: bytes) -> bool:
        pair = self.pairs.get(peer)
        return pair is not None and any(key in opening.both for opening in pair.trees.values())

    def _offer(self, pair: Pair, now_ms: int) -> list[Effect]:
        told = pair.offer(self._open_to(pair.peer, now_ms))
        self._reconcile(pair, now_ms)
        return [Send(pair.peer, message, Lane.PUSH) for message in told]

    def _open_to(self, peer: bytes, now_ms: int) -> dict[Tree, frozenset[bytes]]:
        """Of which origins this node takes entries from `peer`, tree by tree."""
        trust = self.trust
        roots = trust.roots_of(self.replica.origin, now_ms)
        shared = {root for root in roots if trust.admits(peer, Class.INTERNAL, root, "service", now_ms)}
        trees = {
            PUBLIC_TRUST: "node",
            PUBLIC_FACTS: "service",
            **{internal(root): "service" for root in sorted(shared)},
        }
        return {tree: self._admitted(tree, kind, now_ms) - self.quotas.closed(tree) for tree, kind in trees.items()}

    def _admitted(self, tree: Tree, kind: str, now_ms: int) -> frozenset[bytes]:
        """Of which origins entries are taken in `tree`, from whomever. Worked out once, until trust has changed."""
        trust = self.trust
        if self._admits_seen != trust.version:
            self._admits_seen = trust.version
            self._admits.clear()
        if tree not in self._admits:
            keys = {self.replica.origin, *trust.keys(), *trust.over()}
            self._admits[tree] = frozenset(key for key in keys if trust.admits(key, tree.cls, tree.root, kind, now_ms))
        return self._admits[tree]

    def _on_admits(self, pair: Pair, message: Message, now_ms: int) -> Iterable[Effect]:
        said = messages.parse_admits(message)
        if said is None:
            return [_malformed(pair, "admits")]
        if not pair.take_offer(said):
            return [Close(pair.peer, "too-much", "more origins or trees than one link may name")]
        self._questions.offered(said, now_ms)
        self._reconcile(pair, now_ms)
        return []

    def _on_quota_ask(self, pair: Pair, message: Message, now_ms: int) -> Iterable[Effect]:
        if (asked := messages.parse_quota(message)) is None:
            return [_malformed(pair, "quota.ask")]
        return answer(pair, self.replica.holdings, *asked)

    def _on_quota_told(self, pair: Pair, message: Message, now_ms: int) -> Iterable[Effect]:
        part, used = messages.parse_quota(message), messages.parse_quota_told(message)
        if part is None or used is None:
            return [_malformed(pair, "quota.told")]
        changed = self._questions.told(pair, self.replica.holdings, Part(*part), used, now_ms)
        return [*changed, *self.trust_changed(now_ms)]

    # Entries

    def _on_entries(self, pair: Pair, message: Message, now_ms: int) -> Iterable[Effect]:
        said = messages.parse_entries(message)
        if said is None:
            return [_malformed(pair, "entries")]
        pair.judging += len(said.raws)
        if len(said.raws) <= SLICE and not self._turns.waiting(pair.peer):  # news: at once
            return [effect for effects in self._take(pair, said, now_ms, here=True) for effect in effects]
        self._turns.later(pair.peer, self._take(pair, said, now_ms, here=False), early=True)
        return []

    def _take(self, pair: Pair, said: Entries, now_ms: int, *, here: bool) -> Work:
        """Takes the entries of one message all together, or, where one is spoilt, not at all."""
        try:
            taken, stale = yield from self._judge.judge(pair, said, now_ms, here=here)
        except Spoilt as spoilt:
            yield [Close(pair.peer, "bad-entry", str(spoilt))]
        else:
            yield self._judged(pair, said, taken, stale, now_ms)

    def _judged(self, pair: Pair, said: Entries, taken: list[Entry], stale: set[Tree], now_ms: int) -> list[Effect]:
        """What follows from a message whose entries were all looked at."""
        effects: list[Effect] = []
        if said.answers is not None:
            pair.answered(said.answers, now_ms, more=said.more)
        if not said.news:
            pair.received += len(said.raws)
        for tree in sorted(stale, key=Tree.to_wire) if not taken else ():  # one order, whatever that of the set
            if self._broadcast.make_lazy(pair.peer, tree):
                effects.append(Send(pair.peer, messages.prune(tree), Lane.PUSH))
        for entry in taken if said.news else ():
            if (news_in := tree_of(entry)) is not None:  # what this node says again above it may be private
                self._broadcast.make_eager(pair.peer, news_in)
        if taken:
            effects.append(Store(Persist(tuple(taken), now_ms), pair.peer))
        return [*effects, *self._settle(pair, now_ms)]

    def _push(
        self, pair: Pair, news: Iterable[Entry], made: dict[tuple[bytes, ...], list[Message]]
    ) -> Iterator[Effect]:
        whole: list[Entry] = []
        announced: list[bytes] = []
        for entry in news:
            if pair.may_hold(entry):
                tree = tree_of(entry)
                if tree is not None and self._broadcast.is_eager(pair.peer, tree):
                    whole.append(entry)
                else:
                    announced.append(entry.id)
        key = tuple(entry.id for entry in whole)
        if key not in made:
            made[key] = messages.pushes(whole)
        pair.announce(announced)
        for message in made[key]:
            yield Send(pair.peer, message, Lane.PUSH)

    def _on_ihave(self, pair: Pair, message: Message, now_ms: int) -> Iterable[Effect]:
        some = messages.parse_ids(message)
        if some is None:
            return [_malformed(pair, "ihave")]
        if over := self._broadcast.announced(pair.peer, some, partial(self._judge.is_known, pair), now_ms):
            pair.refused["announced more than is waited for"] += over
        return []

    def _on_want(self, pair: Pair, message: Message, now_ms: int) -> Iterable[Effect]:
        want = messages.parse_want(message)
        if want is None:
            return [_malformed(pair, "want")]
        if want.graft:
            for identity in want.ids:
                entry = self.replica.holdings.by_id.get(identity)
                tree = None if entry is None or not pair.may_hold(entry) else tree_of(entry)
                if tree is not None:
                    self._broadcast.make_eager(pair.peer, tree)
        if not pair.answer(want):
            return [Close(pair.peer, "too-much", "more questions than a peer may ask at once")]
        return pair.bulk(now_ms)

    def _on_prune(self, pair: Pair, message: Message, now_ms: int) -> Iterable[Effect]:
        tree = messages.parse_tree(message)
        if tree is None:
            return [_malformed(pair, "prune")]
        if tree in pair.trees:
            self._broadcast.make_lazy(pair.peer, tree)
        return []

    # Reconciliation

    def _reconcile(self, pair: Pair, now_ms: int) -> None:
        """Begins a session in each tree that is due. The trust kinds go first: nothing else is looked at before."""
        for tree in sorted(pair.trees, key=lambda tree: not tree.trust):
            opening = pair.trees[tree]
            if not (opening.due and opening.ready() and pair.first) or pair.reconciler.is_asking(tree):
                continue
            if not tree.trust and pair.reconciler.is_asking(PUBLIC_TRUST):
                continue
            self._begin(pair, tree, now_ms)

    def _begin(self, pair: Pair, tree: Tree, now_ms: int) -> None:
        opening = pair.trees[tree]
        opening.due = False
        opening.strikes = 0
        holdings = self.replica.holdings
        size = holdings.count(tree, opening.both)
        held = holdings.snapshot(tree, opening.both)
        work = pair.reconciler.begin(tree, pair.next_number(), held, size, now_ms)
        self._turns.later(pair.peer, self._ask(pair, work, now_ms))

    def _ask(self, pair: Pair, work: Asked, now_ms: int) -> Work:
        """One step of a session of ours: what was found is asked for or sent at once."""
        while True:
            try:
                found = next(work)
            except StopIteration as end:
                effects: list[Effect] = []
                if end.value is not None:
                    effects.append(Send(pair.peer, messages.sync_round(end.value), Lane.PUSH))
                yield [*effects, *self._settle(pair, now_ms)]
                return
            have = found.have
            pair.haves.extend(have)
            need = [identity for identity in found.need if not self._judge.is_known(pair, identity)]
            pair.want(need)
            pair.expected += len(need)
            pair.differing += len(have) + len(need)
            yield [*pair.wants(now_ms), *pair.bulk(now_ms)]

    def _on_round(self, pair: Pair, message: Message, now_ms: int) -> Iterable[Effect]:
        said = messages.parse_round(message, LIMITS.message)
        if said is None:
            return [_malformed(pair, "sync.round")]
        opening = pair.trees.get(said.tree)
        if opening is None or not opening.ready():
            return []  # what is open changed a moment ago: whoever asks gives up, and begins again
        if said.asks and not pair.reconciler.may_answer(said, now_ms):
            pair.refused["began too many comparisons"] += 1
            return []
        holdings = self.replica.holdings
        size = holdings.count(said.tree, opening.both)
        if said.asks:
            if not pair.first:
                pair.expected = max(pair.expected, said.size - size + pair.received)
            held = holdings.snapshot(said.tree, opening.both)
            self._turns.later(pair.peer, _answer(pair, said, opening.both, pair.reconciler.answer(said, held, size)))
        else:
            self._turns.later(pair.peer, self._ask(pair, pair.reconciler.hear(said, size, now_ms), now_ms))
        return []

    def _settle(self, pair: Pair, now_ms: int) -> list[Effect]:
        """What comes next for a peer: further questions, further blocks, and the end of sessions that are over."""
        effects: list[Effect] = [*pair.wants(now_ms), *pair.bulk(now_ms)]
        if not pair.busy():
            for tree, number, complete in pair.reconciler.finished():
                if complete:
                    pair.trees[tree].equal = True
                    pair.equal_ms = now_ms
                    pair.differing = 0
                    effects.append(Send(pair.peer, messages.sync_end(tree, number), Lane.BULK))
                else:
                    pair.trees[tree].due = True  # the rounds ran out: much was found, and the rest is next
            self._reconcile(pair, now_ms)
        return effects

    def _on_end(self, pair: Pair, message: Message, now_ms: int) -> Iterable[Effect]:
        tree, number = messages.parse_tree(message), message.get("session")
        if tree is None or type(number) is not int:
            return [_malformed(pair, "sync.end")]
        pair.reconciler.ended(tree, number)
        if tree in pair.trees:
            pair.trees[tree].equal = True
        pair.equal_ms = now_ms
        pair.differing = 0
        return []

    # Pings

    def _ping(self, pair: Pair, now_ms: int) -> list[Effect]:
        pair.next_ping_ms = now_ms + PING_MS
        ping = Ping(pair.next_number(), now_ms, now_ms, pair.digests(now_ms))
        return [Send(pair.peer, messages.ping(ping), Lane.BARE)]

    def _on_ping(self, pair: Pair, message: Message, now_ms: int) -> Iterable[Effect]:
        ping = messages.parse_ping(message)
        if ping is None:
            return [_malformed(pair, "ping")]
        if not pair.takes_ping(now_ms):
            return []
        ours = pair.digests(ping.cut)
        differ = {tree for tree, digest in ping.digests.items() if tree in ours and ours[tree] != digest}
        if ours and not differ and ours.keys() == ping.digests.keys() and not pair.busy():
            pair.equal_ms = now_ms
            pair.differing = 0
        effects: list[Effect] = []
        for tree, opening in pair.trees.items():
            unheard = (tree in ours) != (tree in ping.digests) or (bool(opening.mine) and not opening.known)
            if tree not in differ and not unheard:
                opening.strikes = opening.repeats = 0
                opening.equal = opening.equal or tree in ours
                continue
            opening.strikes += 1
            if opening.strikes >= (STRIKES if pair.first else LATE_STRIKES):
                opening.strikes = 0
                effects += (Send(pair.peer, again, Lane.PUSH) for again in pair.offer_again(tree))
                if tree in differ and not pair.reconciler.is_asking(tree):
                    self._begin(pair, tree, now_ms)
        return [*effects, Send(pair.peer, messages.pong(Pong(ping.number, ping.at, now_ms)), Lane.BARE)]

    def _on_pong(self, pair: Pair, message: Message, now_ms: int) -> Iterable[Effect]:
        pong = messages.parse_pong(message)
        if pong is None:
            return [_malformed(pair, "pong")]
        if 0 <= (taken := now_ms - pong.at) < 60_000:
            pair.rtt_ms = taken
            pair.offset_ms = pong.now - (pong.at + now_ms) // 2
        return []


def _answer(pair: Pair, said: Round, both: frozenset[bytes], work: Answered) -> Work:
    """Answers `said` over what was open then (`both`). Where less is open by the time, it is not said any more."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            if both <= pair.trees[said.tree].both:
                yield [Send(pair.peer, messages.sync_round(end.value), Lane.PUSH)]
            else:
                pair.reconciler.ended(said.tree, said.session)
            return
        yield []


def _from_peers(landed: Iterable[Landed]) -> Counter[bytes]:
    """How many entries of each origin peers have brought."""
    return Counter(entry.origin for entries, peer in landed if peer is not None for entry in entries)


def _malformed(pair: Pair, name: str) -> Close:
    return Close(pair.peer, "malformed", f"a {name} message is not as the protocol says")
