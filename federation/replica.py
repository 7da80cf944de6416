"""The engine: what this node says is stamped and signed here, what others say is judged here. Values in, effects out.

No I/O, no clock, no randomness: the time comes in as `now_ms`, and what the shell has to do goes out as values. The way
of a write, own or received, is one: `put` or `receive` gives a `Persist`; the shell commits it; `persisted` merges it
and says what changed in the view (or `failed` forgets it). So nothing is shown, sent or built upon that a crash could
take back. Between the two an entry is *in flight*: it counts as known, so that a second copy is stopped and a second
`put` sees which classes must get a tombstone.

`receive` works in this order (PROTOCOL.md): size, decode, known?, lower than what is held?, admitted?, lapsed or too
far ahead?, verify. An entry is known only after its signature was checked: else a copy with a spoilt signature, sent
first, would censor the good one.

Own entries that come back from outside are adopted: a node that lost its disk but not its key counts its stamps from
there. What was written in this run goes above the adopted, since it is what the people here said last. But for one
whose stamp no node comes to by itself: above that nothing could ever be said.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import islice
from typing import Final
from zlib import crc32

from crdt.entry import DAY_MS, KINDS, MAX_LIFE_MS, TRUST_KINDS, Class, Entry, EntryError, Fact, Key, max_life_ms
from crdt.lww_map import LWWMap, Outcome
from crdt.stamp import StampClock
from federation.cose import decode_entry, fact_of, restore_entry, sign_entry, verify_entry
from federation.identity import NodeKey, did_of
from federation.partitions import Holdings

_Subject = tuple[bytes, str, str]  # origin, kind, name: what a view is of

_BAD_SIGNATURE: Final = "the signature does not hold"
CLOCK_TOLERANCE_MS: Final = DAY_MS  # how far others' clocks may be from ours where life is judged
_MAX_ALERTED: Final = 8  # keys of one origin whose equivocation is reported, each once; what comes then is counted
_MAX_EQUIVOCAL: Final = 1024  # origins of which that is remembered; of further ones it is counted only


@dataclass(slots=True)
class Statement:
    """What this node is to say. `body` None retracts, in every class where (kind, name) lives: `cls` and `root` do not
    matter then."""

    kind: str
    name: str
    cls: Class
    body: Mapping[str, object] | None
    root: bytes | None = None


@dataclass(slots=True)
class Persist:
    """Commit these in one transaction, then call `persisted` (or `failed`). `at`: ms, the time of the view that the
    changes are told for."""

    entries: tuple[Entry, ...]
    at: int


@dataclass(slots=True)
class Changed:
    """The view of (origin, kind, name) showed `before` and shows `after`."""

    origin: bytes
    kind: str
    name: str
    before: Entry | None
    after: Entry | None


@dataclass(frozen=True, slots=True)
class Alert:
    """Tell the admin. `kind`: a word for the log and the metrics."""

    kind: str
    text: str
    entries: tuple[Entry, ...]


class Fault(Enum):
    """Whose fault a refused entry is: only the relay's may cost the relay its link."""

    RELAY = "relay"
    ORIGIN = "origin"


@dataclass(frozen=True, slots=True)
class Refused:
    """An entry from outside was not taken. `origin`: None where the bytes do not tell it."""

    fault: Fault
    reason: str
    origin: bytes | None


Effect = Persist | Changed | Alert | Refused


class Damaged(Exception):
    """A stored entry is not what was stored. `title`, `detail` and `advice` are for the person who runs the node."""

    title = "A stored entry is damaged"

    def __init__(self, detail: str, id: bytes) -> None:
        self.detail = f"The entry with id {id.hex()}: {detail}."
        self.advice = "Run `kosreg doctor` to see what is damaged, and put the data directory back from a backup."
        self.id = id
        super().__init__(f"{self.detail} {self.advice}")


def _nobody(entry: Entry) -> bool:
    return False


def _anything(entry: Entry) -> bool:
    return True


def _for_no_reason(entry: Entry) -> str:
    return ""


class Replica:
    """One node's facts and what it holds of others. First `load` each stored entry, then `loaded`, then the rest.

    `admits`: whether a foreign entry may be held here at all; asked after decoding and before the signature is checked.
    By default none. `adopts`: whether an own entry that comes back from outside is one that this node could have said;
    by default all are.
    """

    def __init__(
        self,
        key: NodeKey,
        admits: Callable[[Entry], bool] = _nobody,
        adopts: Callable[[Entry], bool] = _anything,
        former: Collection[bytes] = (),
    ) -> None:
        """`former`: keys that this node had before: its stamps go on from theirs."""
        self.key = key
        self._former = frozenset(former)
        self.origin = key.public
        self.counts: Counter[str] = Counter()
        self._admits = admits
        self._adopts = adopts
        self._map = LWWMap(key.public)
        self._holdings: Holdings | None = None
        self._clock = StampClock()
        self._flight: dict[_Subject, list[Entry]] = {}
        self._first_stamp = 0  # own stamps above this one were given in this run, or adopted
        self._adopted: set[bytes] = set()
        self._told_beyond = False
        self._alerted: dict[bytes, set[Key]] = {self.origin: set()}  # by origin

    # The store's side

    def load(self, raw: bytes, id: bytes) -> Entry:
        """Takes in one stored entry, and returns it. `id` is what the store noted: signatures are not checked again.
        Raises Damaged."""
        try:
            entry = restore_entry(raw, id, self._map.origins)
        except EntryError as error:
            raise Damaged(error.detail, id) from error
        self._map.merge(entry, 0)
        if entry.origin == self.origin or entry.origin in self._former:
            self._clock.observe(entry.stamp)
        return entry

    def loaded(self) -> None:
        """The store was read to the end: from here on stamps above the highest own one are of this run."""
        self._first_stamp = self._clock.last

    # What this node says

    def put(self, statements: Iterable[Statement], now_ms: int) -> Persist:
        """Stamps and signs `statements`, with a tombstone in each other class where the same (kind, name) lives. Merges
        nothing.

        Nothing has to be committed where the answer has no entries (a retraction of what nobody said). Raises
        EntryError, and then nothing is in flight, where a fact cannot be an entry (`field`, `pointer`) or is over 64
        KiB (`too_large`).
        """
        made: list[Entry] = []
        for statement in statements:
            for held in self._newest((self.origin, statement.kind, statement.name), made):
                if held.live and (statement.body is None or held.cls != statement.cls or held.root != statement.root):
                    made.append(self._sign(replace(statement, cls=held.cls, root=held.root, body=None), now_ms))
            if statement.body is not None:
                made.append(self._sign(statement, now_ms))
        if len(made) > 1:  # of what was said twice in one put, the later
            made = list({entry.key: entry for entry in made}.values())
        for entry in made:
            self._take_off(entry)
        return Persist(tuple(made), now_ms)

    def renew(self, entry: Entry, now_ms: int) -> Persist | None:
        """The same fact with the same stamp and a full life from now; None where `entry` is not the newest of its key
        any more, is a tombstone, or would not live longer.

        What was signed while this node's clock was far ahead, a tombstone too, is said again with a new stamp: nobody
        takes it as it is, and only a higher stamp takes it out of the way.
        """
        valid_until = now_ms + max_life_ms(entry.kind)
        ahead = is_far_ahead(entry, now_ms)
        if not (ahead or (entry.live and valid_until > entry.valid_until)) or self._current(entry) != entry:
            return None
        stamp = self._clock.next(now_ms) if ahead else entry.stamp
        renewed = sign_entry(self.key, replace(fact_of(entry), stamp=stamp, valid_until=valid_until))
        self._take_off(renewed)
        return Persist((renewed,), now_ms)

    def say_again(self, entry: Entry, now_ms: int, *, live: bool = True) -> Persist:
        """What a former key of this node said, said by the present one, and for as long; a tombstone where `live` is
        False."""
        fact = fact_of(entry)
        body = fact.body if live else None
        made = sign_entry(self.key, replace(fact, stamp=self._clock.next(now_ms), body=body))
        self._take_off(made)
        return Persist((made,), now_ms)

    def due_for_renewal(self, now_ms: int, start_after: Entry | None = None, limit: int = 1000) -> list[Entry]:
        """Own live entries that have used up their share of life, lapsed ones too: 40 to 60 % of it, by the hash of the
        name, so that what was registered together is not renewed together. And whatever was signed by a clock that was
        far ahead. At most `limit`; for the next ones give the last of these as `start_after`."""
        last = now_ms + MAX_LIFE_MS * 6 // 10  # beyond it no entry of the usual life is due: most are passed by here
        ahead = now_ms + MAX_LIFE_MS + CLOCK_TOLERANCE_MS
        due = (
            entry
            for entry in self._map.of(self.origin, start_after)
            if (entry.valid_until <= last or entry.valid_until > ahead or entry.kind in TRUST_KINDS)
            and (_is_due(entry, now_ms) or is_far_ahead(entry, now_ms))
        )
        return list(islice(due, limit))

    # Effects that were carried out

    def persisted(self, persist: Persist) -> list[Changed | Alert]:
        """`persist` is on disk: merges it and says what changed in the view. Call it in the order of the commits; a
        second call changes nothing.

        One Changed for each (origin, kind, name), also where its class changed. A renewal is a change too: then
        `before` and `after` have one stamp.
        """
        changes: dict[_Subject, Changed] = {}
        alerts: list[Alert] = []
        for entry in persist.entries:
            self._land(entry)
            merge = self._map.merge(entry, persist.at)
            if self._holdings is not None and merge.outcome is Outcome.MERGED:
                self._holdings.put(entry, merge.replaced)
            if merge.rival is not None:
                alerts += self._equivocation(merge.rival, entry)
            if merge.before is not merge.after and entry.kind in KINDS:
                subject = _subject(entry)
                before = changes[subject].before if subject in changes else merge.before
                changes[subject] = Changed(*subject, before, merge.after)
        return [*changes.values(), *alerts]

    def failed(self, persist: Persist) -> None:
        """`persist` did not get onto the disk: it is as if it had never been, but for the stamps, which are not given
        twice."""
        for entry in persist.entries:
            self._land(entry)

    # What others say

    def receive(self, raw: bytes, now_ms: int, why_not: Callable[[Entry], str] = _for_no_reason) -> list[Effect]:
        """Judges one entry from outside: a Persist where it is new and good, a Refused where it is not good, nothing
        where it is known or older. `why_not`: why it may not come from the peer that sent it; "" where it may."""
        found = self.examine(raw, now_ms, why_not)
        return self.accept(found, verify_entry(found), now_ms) if isinstance(found, Entry) else found

    def examine(
        self, raw: bytes, now_ms: int, why_not: Callable[[Entry], str] = _for_no_reason
    ) -> Entry | list[Effect]:
        """All of `receive` but the check of the signature, which may be made elsewhere: an entry for `accept`, or what
        became of it already."""
        try:
            entry = decode_entry(raw, self._map.origins)
        except EntryError as error:
            return self._refuse(Fault.RELAY, error.detail, None)
        if reason := why_not(entry):  # first: what follows would tell the peer whether something is held under its key
            return self._refuse(Fault.ORIGIN, reason, entry)
        if (older := self._not_newer(entry)) is not None:
            return older
        if entry.origin == self.origin:
            return entry
        if not self._admits(entry):
            return self._refuse(Fault.ORIGIN, "this origin is not admitted here", entry)
        if is_far_ahead(entry, now_ms):
            return self._refuse(Fault.ORIGIN, "valid_until is too far ahead", entry)
        if entry.valid_until < now_ms - CLOCK_TOLERANCE_MS:
            return self._refuse(Fault.ORIGIN, "lapsed more than a day ago", entry)
        return entry

    def accept(self, entry: Entry, verified: bool, now_ms: int) -> list[Effect]:
        """The rest of `receive` for what `examine` let pass. `verified`: whether its signature holds."""
        if not verified:
            return self._refuse(Fault.RELAY, _BAD_SIGNATURE, entry)
        if (older := self._not_newer(entry)) is not None:  # something came in between
            return older
        if entry.origin == self.origin:
            return self._adopt(entry, now_ms)
        self.counts["received"] += 1
        self._take_off(entry)
        return [Persist((entry,), now_ms)]

    def _not_newer(self, entry: Entry) -> list[Effect] | None:
        """What becomes of an entry that is held already, or is lower than what is held; None where it is newer."""
        held = self._current(entry)
        if held is None or held.order < entry.order:
            return None
        if held.id == entry.id:
            self.counts["known"] += 1
            return []
        self.counts["older"] += 1
        return self._judge_older(held, entry)

    # What is held and shown

    def view(self, kind: str, name: str, now_ms: int) -> Entry | None:
        """What this node itself says of (kind, name) and shows at `now_ms`; None where it says nothing, took it back,
        or let it lapse."""
        return self._map.view(self.origin, kind, name, now_ms)

    def own(self, kind: str, now_ms: int) -> Iterator[Entry]:
        """What this node shows of its own entries of `kind`. Nothing may be merged meanwhile."""
        return self._map.shown(self.origin, kind, now_ms)

    @property
    def map(self) -> LWWMap:
        """All that is held and on disk, of all origins. To read."""
        return self._map

    def lapse(self, since_ms: int, now_ms: int) -> list[Changed]:
        """What the view showed at `since_ms` and, because time went on, shows no more, or differently, at `now_ms`.
        Reads the whole map."""
        lapsed = {
            _subject(entry): None
            for entry in self._map
            if since_ms < entry.valid_until <= now_ms and entry.live and entry.kind in KINDS
        }
        changes: list[Changed] = []
        for origin, kind, name in lapsed:
            before = self._map.view(origin, kind, name, since_ms)
            after = self._map.view(origin, kind, name, now_ms)
            if before is not after:
                changes.append(Changed(origin, kind, name, before, after))
        return changes

    def ended(self, since_ms: int, now_ms: int) -> list[_Subject]:
        """Of others: of what something that lived at `since_ms` has lapsed at `now_ms`. Costs next to nothing where
        nothing has, so that it can be asked every few seconds."""
        if self._map.origins.keys() <= {self.origin}:
            return []
        ended = (entry for entry in self.holdings.ended(since_ms, now_ms) if entry.origin != self.origin)
        return list(dict.fromkeys(_subject(entry) for entry in ended if entry.live and entry.kind in KINDS))

    def purge(self, now_ms: int) -> list[Entry]:
        """Drops, and returns, foreign entries that lapsed over a day ago; own ones stay. Not to be called within an
        hour of a clock jump."""
        gone = self._map.purge(now_ms)
        if self._holdings is not None:
            for entry in gone:
                self._holdings.drop(entry)
        return gone

    def is_in_flight(self, entry: Entry) -> bool:
        """Whether something about the same (origin, kind, name) is on its way to the disk."""
        return _subject(entry) in self._flight

    def is_said_here(self, entry: Entry) -> bool:
        """Whether it is this node's own, and did not come back from outside in this run."""
        return entry.origin == self.origin and entry.id not in self._adopted

    @property
    def holdings(self) -> Holdings:
        """All that is held and may leave this node, in order, as peers compare it. Made when first asked for (3 s per
        million entries, 0.2 kB each), so a node without peers does without."""
        if self._holdings is None:
            self._holdings = Holdings(self._map)
        return self._holdings

    # Inside

    def _sign(self, statement: Statement, now_ms: int) -> Entry:
        kind = statement.kind
        valid_until = now_ms + max_life_ms(kind)
        stamp = self._clock.next(now_ms)
        fact = Fact(kind, statement.name, stamp, statement.cls, valid_until, statement.body, statement.root)
        return sign_entry(self.key, fact)

    def _take_off(self, entry: Entry) -> None:
        self._flight.setdefault(_subject(entry), []).append(entry)

    def _land(self, entry: Entry) -> None:
        subject = _subject(entry)
        flying = [other for other in self._flight.pop(subject, ()) if other is not entry]
        if flying:
            self._flight[subject] = flying

    def _newest(self, subject: _Subject, made: Sequence[Entry] = ()) -> Collection[Entry]:
        """The newest entry of `subject` in each class: held, in flight, or made a moment ago."""
        held = self._map.group(*subject)
        flying = self._flight.get(subject, ())
        if not flying and not made:
            return held
        just_made = [entry for entry in made if _subject(entry) == subject]
        newest: dict[Key, Entry] = {}
        for entry in (*held, *flying, *just_made):
            other = newest.get(entry.key)
            if other is None or entry.order > other.order:
                newest[entry.key] = entry
        return newest.values()

    def _current(self, like: Entry) -> Entry | None:
        """The newest entry, held or in flight, with the key of `like`."""
        for entry in self._newest(_subject(like)):
            if entry.cls == like.cls and entry.root == like.root:
                return entry
        return None

    def _adopt(self, entry: Entry, now_ms: int) -> list[Effect]:
        """An own entry that this node does not hold: said before the disk was lost, or before the backup that it was
        restored from."""
        if not self._clock.observe(entry.stamp):
            return [
                *self._refuse(Fault.ORIGIN, "an own entry with a stamp that no clock gives", entry),
                *self._beyond(entry),
            ]
        if not self._adopts(entry):
            return self._refuse(Fault.ORIGIN, "an own entry that this node would not say", entry)
        self.counts["adopted"] += 1
        said_now = [
            held
            for held in self._newest(_subject(entry))
            if held.stamp > self._first_stamp and held.id not in self._adopted
        ]
        self._adopted.add(entry.id)
        self._take_off(entry)
        last = max(said_now, key=lambda held: held.order, default=None)
        if last is None or not (entry.live or entry.key == last.key):
            return [Persist((entry,), now_ms)]
        again = self.put([Statement(last.kind, last.name, last.cls, fact_of(last).body, last.root)], now_ms)
        if not last.live and entry.key == last.key and not again.entries:
            # It stays dead by itself, but what comes back next must still find that it was deleted in this run.
            again = Persist((self._sign(Statement(last.kind, last.name, last.cls, None, last.root), now_ms),), now_ms)
            self._take_off(again.entries[0])
        return [Persist((entry, *again.entries), now_ms)]

    def _beyond(self, entry: Entry) -> list[Alert]:
        """An alert about an own entry that is not adopted; the first tells all there is to do."""
        if self._told_beyond:
            return []
        self._told_beyond = True
        text = (
            f"this node's own key signed {entry.kind} {entry.name!r} with stamp {entry.stamp}, which no node comes to "
            "by itself: somebody else has the key. It is not taken here; other nodes may show it. Give this node a new "
            "key, and have the old one revoked wherever it is trusted."
        )
        return [Alert("stamp", text, (entry,))]

    def _judge_older(self, held: Entry, entry: Entry) -> list[Effect]:
        """Lower than what is held: dropped, unless it proves that its origin signed two bodies with one stamp."""
        if held.stamp != entry.stamp or not self._may_alert(held.key) or _same_words(held, entry):
            return []
        if entry.origin != self.origin and not self._admits(entry):
            return []
        if not verify_entry(entry):
            return self._refuse(Fault.RELAY, _BAD_SIGNATURE, entry)
        return [*self._equivocation(held, entry)]

    def _equivocation(self, one: Entry, other: Entry) -> list[Alert]:
        """An alert where two good entries of one key and stamp say different things. A renewal says the same."""
        if _same_words(one, other):
            return []
        self.counts["equivocations"] += 1
        if not self._may_alert(one.key):
            return []
        alerted = self._alerted.setdefault(one.origin, set())
        alerted.add(one.key)
        who = "this node's own key" if one.origin == self.origin else did_of(one.origin)
        text = (
            f"{who} signed two different things about {one.kind} {one.name!r} with the same stamp: "
            "two machines use one key, or it was stolen. The higher of the two is shown."
        )
        if len(alerted) == _MAX_ALERTED:
            text += " It did so before: from here on it is counted, and not told again before a restart."
        return [Alert("equivocation", text, (one, other))]

    def _may_alert(self, key: Key) -> bool:
        """Whether equivocation under `key` is still to be told: who signs it without end does not fill the log."""
        alerted = self._alerted.get(key.origin)
        if alerted is None:
            return len(self._alerted) < _MAX_EQUIVOCAL
        return key not in alerted and len(alerted) < _MAX_ALERTED

    def _refuse(self, fault: Fault, reason: str, entry: Entry | None) -> list[Effect]:
        self.counts[f"refused_{fault.value}"] += 1
        return [Refused(fault, reason, entry.origin if entry else None)]


def _subject(entry: Entry) -> _Subject:
    return entry.origin, entry.kind, entry.name


def _same_words(one: Entry, other: Entry) -> bool:
    """Whether two entries of one key differ in nothing but valid_until."""
    return replace(fact_of(one), valid_until=0).encode() == replace(fact_of(other), valid_until=0).encode()


def is_far_ahead(entry: Entry, now_ms: int) -> bool:
    """Whether it was signed by a clock that is ahead of `now_ms` by more than is borne with."""
    return entry.valid_until > now_ms + max_life_ms(entry.kind) + CLOCK_TOLERANCE_MS


def _is_due(entry: Entry, now_ms: int) -> bool:
    life = max_life_ms(entry.kind)
    left = entry.valid_until - now_ms
    if not entry.live or left > life * 6 // 10:
        return False
    share = 400 + crc32(entry.name.encode()) % 201  # thousandths of a life
    return left <= life - life * share // 1000
