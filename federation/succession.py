"""Who succeeds whom: keys that were changed for others, by hashes that were published before (as in KERI).

A node says in its `node` entry which key comes after its own, by SHA-256 (`next`). The first hash that is seen of a key
is *pinned*: another one is an alert and changes nothing. A `succession` entry, signed by the old key, names the new one
and carries a proof by it; it counts if the new key is the pinned one. So who steals a key cannot name its heir.

The entry also says, signed by the new key, the hash of the one after (`then`): that is the new key's pin. So a row of
successions can be followed by whoever was off for all of them, and nobody in between can be talked into another end.

Two successions of one key that both name the pinned key and different keys after it are a *fork*: both files were in
two hands. Then both keys are frozen, until an admin says which to go on with. Where nothing is pinned no succession
counts, and two different ones freeze the old key.

No I/O, no clock. `unsaved`: keys of which something is to be kept that is not on disk; `alerts`: for the admin.
"""

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final

from crdt.entry import MAX_LIFE_TRUST_MS, Class, Entry, EntryError, Fact
from crdt.stamp import COUNTER_BITS
from federation.cose import decode_entry, fact_of, sign_entry, verify_entry
from federation.identity import KEY_BYTES, NodeKey, did_of, verify

MAX_STEPS: Final = 8  # successions in one row, as a hello carries it
MAX_FRAME: Final = 1024  # bytes of one of them there
MAX_ALERTS: Final = 100  # that wait for whoever tells them
_MAX_TOLD: Final = 8  # alerts about one key in a run
_PROOF: Final = b"kosreg succession 1"
_PLEDGE: Final = b"kosreg succession then 1"


@dataclass(frozen=True, slots=True)
class Succession:
    """`new` stands where `old` stood. `then`: the hash of the key after `new`, b"" where `new` has not said it."""

    old: bytes
    new: bytes
    then: bytes


@dataclass(frozen=True, slots=True)
class Known:
    """What is kept of a key. `pin`: the hash of its next key, b"" where none was seen; `new`, `then`: who succeeded it,
    b"" while nobody did; `frozen`: until an admin speaks."""

    pin: bytes = b""
    new: bytes = b""
    then: bytes = b""
    frozen: bool = False


@dataclass(frozen=True, slots=True)
class KeyAlert:
    """For the admin. `kind`: a word; `key`: whose."""

    kind: str
    key: bytes
    text: str


def succeed(old: NodeKey, new: NodeKey, then: bytes, now_ms: int) -> Entry:
    """The `succession` entry by which `new` stands where `old` stood. `then`: the public key after `new`."""
    pledged = sha256(then).digest()
    body = {
        "next": new.public,
        "proof": new.sign(_PROOF + old.public + new.public),
        "then": pledged,
        "pledge": new.sign(_PLEDGE + old.public + new.public + pledged),
    }
    until = now_ms + MAX_LIFE_TRUST_MS
    return sign_entry(old, Fact("succession", "", now_ms << COUNTER_BITS, Class.PUBLIC, until, body))


def read_succession(entry: Entry) -> Succession | None:
    """What `entry` says, whose own signature was checked; None where the new key does not agree."""
    body = fact_of(entry).body if entry.live and entry.kind == "succession" and entry.cls is Class.PUBLIC else None
    if body is None or entry.name:
        return None
    new, proof, then, pledge = (body.get(field) for field in ("next", "proof", "then", "pledge"))
    if type(new) is not bytes or type(proof) is not bytes or len(new) != KEY_BYTES or new == entry.origin:
        return None
    if not verify(new, _PROOF + entry.origin + new, proof):
        return None
    if type(then) is not bytes or type(pledge) is not bytes or len(then) != 32:
        return Succession(entry.origin, new, b"")
    good = verify(new, _PLEDGE + entry.origin + new + then, pledge)
    return Succession(entry.origin, new, then if good else b"")


def read_next(entry: Entry) -> bytes:
    """The hash of the next key that a `node` entry names; b"" where it names none."""
    body = fact_of(entry).body if entry.live and entry.kind == "node" and entry.cls is Class.PUBLIC else None
    named = None if body is None else body.get("next")
    return named if type(named) is bytes and len(named) == 32 and not entry.name else b""


class Successions:
    """All that is known of who succeeds whom. `counts`: what became of successions: followed, refused, forked."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.alerts: deque[KeyAlert] = deque(maxlen=MAX_ALERTS)
        self.unsaved: dict[bytes, None] = {}
        self._known: dict[bytes, Known] = {}
        self._old: dict[bytes, bytes] = {}  # who a key succeeded
        self._waiting: dict[bytes, Succession] = {}  # by keys of which no hash was seen
        self._told: dict[bytes, set[str]] = {}

    # What is said

    def restore(self, key: bytes, known: Known) -> None:
        """What was kept of `key`, at a start."""
        self._known[key] = known
        if known.new:
            self._old[known.new] = key

    def own(self, rows: Iterable[Entry]) -> None:
        """This node's own successions, oldest first: nobody has to pin anything for them."""
        for entry in rows:
            if (said := read_succession(entry)) is not None:
                self.restore(said.old, Known(sha256(said.new).digest(), said.new, said.then))

    def named(self, entry: Entry) -> Succession | None:
        """Takes in a `node` entry: pins the hash that it names, if none is. The succession that counts from now on, if
        one waited for it."""
        key, digest = entry.origin, read_next(entry)
        known = self._known.get(key, Known())
        if not digest or known.new:
            return None
        if not known.pin:
            self._set(key, replace(known, pin=digest))
            waited = self._waiting.pop(key, None)
            return None if waited is None or known.frozen else self._judge(waited)
        if known.pin != digest:
            self._alert(
                "next key",
                key,
                f"{did_of(key)} names another next key than before. Whoever does that has its key, and may not be its "
                "node: the first one stands. Ask its admin.",
            )
        return None

    def learn(self, entry: Entry) -> Succession | None:
        """Takes in a `succession` entry; what counts from now on, None where it is nothing new."""
        said = read_succession(entry)
        if said is not None:
            return self._judge(said)
        if entry.live:
            self._refuse(entry.origin, "the key that it names has not agreed")
        return None

    def takes(self, entry: Entry) -> bool:
        """Whether a `succession` entry is to be held: not where it is known to lead nowhere, or it would take the place
        of the right one. Its signature may not have been checked yet."""
        known = self.known(entry.origin)
        if not known.pin:
            return entry.live
        said = read_succession(entry)
        good = said is not None and sha256(said.new).digest() == known.pin
        if good and said is not None and (not known.new or said.then == known.then):
            return True
        if verify_entry(entry):  # or else somebody else says it
            self.learn(entry)
        return False

    def _judge(self, said: Succession) -> Succession | None:
        key = said.old
        known = self._known.get(key, Known())
        if known.frozen:
            return None
        if not known.pin:
            waiting = self._waiting.setdefault(key, said)
            if waiting.new != said.new:
                self._set(key, replace(known, frozen=True))
                self._fork(key, (waiting.new, said.new))
            return None
        if sha256(said.new).digest() != known.pin:
            self._refuse(key, "the key that it names is not the one whose hash was published before")
            return None
        if known.new:
            if said.then and known.then and said.then != known.then:
                for one in self.line(key):
                    self._set(one, replace(self.known(one), frozen=True))
                self._fork(key, (self.latest(key),))
            return None
        if said.new in self._old or key in self.line(said.new):
            self._refuse(key, "the key that it names has succeeded another one")
            return None
        self._set(key, replace(known, new=said.new, then=said.then))
        self._old[said.new] = key
        after = self._known.get(said.new, Known())
        if said.then and not after.pin:
            self._set(said.new, replace(after, pin=said.then))
        self.counts["followed"] += 1
        return said

    def settle(self, key: bytes) -> bool:
        """An admin says that `key`, and what it succeeded, may be believed again. Whether it was frozen."""
        frozen = [one for one in (key, *self.former(key)) if self.is_frozen(one)]
        for one in frozen:
            self._set(one, replace(self._known[one], frozen=False))
        return bool(frozen)

    # Answers

    def known(self, key: bytes) -> Known:
        """What is kept of it."""
        return self._known.get(key, Known())

    def successions(self) -> Iterator[Succession]:
        """All that count."""
        return (Succession(key, known.new, known.then) for key, known in self._known.items() if known.new)

    def latest(self, key: bytes) -> bytes:
        """The key that stands where `key` stood: itself, while nobody has succeeded it."""
        while (known := self._known.get(key)) is not None and known.new:
            key = known.new
        return key

    def is_over(self, key: bytes) -> bool:
        """Whether another key stands in its place."""
        known = self._known.get(key)
        return known is not None and bool(known.new)

    def is_frozen(self, key: bytes) -> bool:
        """Whether nothing new is to be taken from it."""
        known = self._known.get(key)
        return known is not None and known.frozen

    def former(self, key: bytes) -> tuple[bytes, ...]:
        """The keys in whose place `key` stands, the newest first."""
        return tuple(self._back(key))

    def line(self, key: bytes) -> tuple[bytes, ...]:
        """`key` and the keys after it, in order."""
        line = [key]
        while (known := self._known.get(line[-1])) is not None and known.new:
            line.append(known.new)
        return tuple(line)

    def _back(self, key: bytes) -> Iterator[bytes]:
        while (old := self._old.get(key)) is not None:
            yield old
            key = old

    def follow(self, raws: Sequence[bytes]) -> list[Entry]:
        """The successions in `raws` (as they travel, oldest first) that go on from what is pinned here, each proven; []
        where they do not. Nothing is taken in. What has lapsed counts too: its proofs do not age."""
        found: list[Entry] = []
        pin = expected = b""
        for raw in raws[:MAX_STEPS]:
            try:
                entry = decode_entry(raw)
            except EntryError:
                return []
            known = self._known.get(entry.origin, Known())
            if known.frozen:
                return []
            if expected not in (b"", entry.origin):
                return []
            pin = known.pin or pin
            if not pin:
                continue  # of before this node knew them
            body = fact_of(entry).body or {}
            named = body.get("next")
            if type(named) is not bytes or sha256(named).digest() != pin or not verify_entry(entry):
                return []
            said = read_succession(entry)
            if said is None:
                return []
            expected, pin = said.new, said.then
            found.append(entry)
        return found

    # Inside

    def _set(self, key: bytes, known: Known) -> None:
        self._known[key] = known
        self.unsaved[key] = None

    def _refuse(self, key: bytes, why: str) -> None:
        self.counts["refused"] += 1
        self._alert(
            "succession",
            key,
            f"a succession of {did_of(key)} is refused: {why}. Somebody else has that key: if its admin does not know "
            f"of it, revoke it: `kosreg peers revoke {did_of(key)}`.",
        )

    def _fork(self, key: bytes, others: tuple[bytes, ...]) -> None:
        self.counts["forked"] += 1
        names = " and ".join(did_of(other) for other in others)
        self._alert(
            "fork",
            key,
            f"{did_of(key)} was succeeded twice, by {names}: its keys are in two hands. Nothing new is taken from any "
            f"of these keys. Ask its admin; then go on with the right one, `kosreg peers restore {did_of(others[0])}`, "
            f"or end it, `kosreg peers revoke {did_of(others[0])}`, and trust its new key.",
        )

    def _alert(self, kind: str, key: bytes, text: str) -> None:
        told = self._told.setdefault(key, set())
        if text not in told and len(told) < _MAX_TOLD:
            told.add(text)
            self.alerts.append(KeyAlert(kind, key, text))
