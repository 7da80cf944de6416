"""Who brings more than its quota: its partition is frozen at this node, until it fits again. Values in, no I/O.

A *part* of an origin is its facts, or what it says about keys. A frozen part is taken out of what this node admits, so
that it is compared, taken and passed on with nobody, and the digests of pairs go on agreeing; what is held stays, and
is shown. What comes of it meanwhile is refused, as the origin's fault. It opens again

- where there were too many entries a second: after some seconds, since the newest of each key is all that matters;
- where too much is held: at once when there is room (a purge, another bound); or when a peer that holds the part too
  says that it has shrunk there: a frozen part gets no tombstones, so by itself it would never fit. While it catches up
  it may have twice its bound. Who freezes again waits longer.

A root is never closed: what it revokes counts whatever else it says. Beyond `ROOT_KEYS` its further grants are refused.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from crdt.entry import Entry, Key
from federation.budget import Bounds, Budget, Chained
from federation.effects import QuotaChanged
from federation.grant import read_cert
from federation.partitions import Holdings, Tree, Usage, tree_of, usage_of
from federation.trust import Role

ROOT_KEYS: Final = 100_000  # that a root may speak of
FIRST_WAIT_MS: Final = 5_000  # before a peer is asked for the first time, or the rate is forgiven
MOST_WAIT_MS: Final = 600_000  # between two questions
MOST_PAUSE_MS: Final = 60_000  # for too many entries a second
GRACE_MS: Final = 60_000  # to catch up in, once a peer has said that it fits
QUIET_MS: Final = 600_000  # without a freeze: the next one is a first one again
LOOK_MS: Final = 2_000  # between two looks at whether there is room
CREDIT_MS: Final = 60_000  # after a link came up: a first sync may come at any rate
CREDIT_EVERY_MS: Final = 600_000
BURST_S: Final = 2  # seconds' worth that may come at once, beside one entry for each record that is held


_NOTHING: Final = Usage()
_SOME: Final = Usage(1, 1)


class Part(NamedTuple):
    """`trust`: what the origin says about keys, else its facts."""

    origin: bytes
    trust: bool = False


@dataclass(slots=True)
class Freeze:
    """`timed`: it ends at `next_ms`; else a peer is asked then, and from `soonest_ms` on room is looked for here too.
    `peer`: who is asked now; `asked`: how often one was; `refused`: entries that came meanwhile."""

    reason: str
    since_ms: int
    soonest_ms: int
    wait_ms: int
    next_ms: int
    timed: bool
    peer: bytes | None = None
    asked: int = 0
    refused: int = 0


@dataclass(slots=True)
class _Eased:
    """A part that was opened again at `since_ms`, and may have more than its bound until `until_ms`."""

    since_ms: int
    until_ms: int
    wait_ms: int


@dataclass(slots=True)
class _Rate:
    left: float
    counted_ms: int
    credit_ms: int


class Quotas:
    """`frozen`: what is closed, and why; `version`: goes up when that changes; `counts`: frozen, reopened, refused.
    Give it the holdings with the first link (`begin`): before that nothing comes."""

    def __init__(self, own: bytes, trust: Chained, bounds: Bounds) -> None:
        self.bounds = bounds
        self.frozen: dict[Part, Freeze] = {}
        self.version = 0
        self.counts: Counter[str] = Counter()
        self._own = own
        self._trust = trust
        self._budget = Budget(trust, bounds)
        self._holdings: Holdings | None = None
        self._get: Callable[[Key], Entry | None]
        self._rates: dict[bytes, _Rate] = {}
        self._eased: dict[Part, _Eased] = {}
        self._changed: list[QuotaChanged] = []
        self._linked_ms = 0
        self._looked_ms = 0
        self._placed = 0  # version of trust, as of which everybody counts where it should

    # What happens

    def begin(self, holdings: Holdings, get: Callable[[Key], Entry | None], now_ms: int) -> list[QuotaChanged]:
        """A link came up: what it brings first may come at any rate. `get`: what is held under a key."""
        self._linked_ms = now_ms
        if self._holdings is None:
            self._holdings, self._get = holdings, get
            holdings.touched.clear()
            for origin in holdings.origins():
                self._follow(origin, now_ms, loading=True)
        return self._news()

    def landed(self, counts: Mapping[bytes, int], now_ms: int) -> list[QuotaChanged]:
        """So many entries of each origin came from peers and are merged."""
        self._catch_up(now_ms)
        for origin, count in counts.items():
            if origin != self._own and not self._in_time(origin, count, now_ms):
                why = f"more than {self.bounds.entries_per_s:,} entries a second came of it"
                for part in (Part(origin), Part(origin, trust=True)):
                    if part not in self.frozen and not (part.trust and self._is_root(origin)):
                        self._freeze(part, why, now_ms, timed=True)
        return self._news()

    def tick(self, now_ms: int, *, trust_changed: bool = False) -> list[QuotaChanged]:
        """To be called a few times a second."""
        if self._holdings is None:
            return []
        self._catch_up(now_ms)
        if (trust_changed and self.frozen) or not 0 <= now_ms - self._looked_ms < LOOK_MS:
            self._looked_ms = now_ms
            if self._placed != self._trust.version:
                self._placed = self._trust.version
                self._budget.refresh()
            for part, freeze in list(self.frozen.items()):
                if trust_changed or now_ms >= freeze.soonest_ms:
                    self._look(part, now_ms)
        for part, freeze in list(self.frozen.items()):
            if freeze.timed and not 0 < freeze.next_ms - now_ms <= MOST_PAUSE_MS:
                self._open(part, now_ms)
        for part, eased in list(self._eased.items()):
            if eased.until_ms <= now_ms and eased.until_ms > eased.since_ms:
                eased.until_ms = eased.since_ms
                self._look(part, now_ms, _SOME)
            if not 0 <= now_ms - eased.since_ms <= QUIET_MS:
                self._eased.pop(part, None)
        return self._news()

    def refusal(self, entry: Entry) -> str:
        """Why `entry`, which came from a peer, is not looked at; "" where nothing here is against it."""
        tree = tree_of(entry)
        if tree is None or not (self.frozen or tree.trust):
            return ""
        freeze = self.frozen.get(Part(entry.origin, tree.trust))
        if freeze is not None:
            freeze.refused += 1
        elif not (tree.trust and self._is_one_too_many(entry)):
            return ""
        self.counts["refused"] += 1
        return "over its quota"

    def overdraws(self, entry: Entry, now_ms: int) -> str:
        """Why `entry`, whose signature holds, is not taken: what it shares with others is full, and it would make it
        more. Its origin is frozen then. "" where it may be taken: the bounds of its own are looked at when it landed.
        """
        self._catch_up(now_ms)  # what was merged a moment ago is not told by `landed` at once
        if self.frozen and (why := self.refusal(entry)):
            return why
        if not self._budget.full or self._holdings is None or entry.origin == self._own:
            return ""
        tree, held = tree_of(entry), self._get(entry.key)
        grew = usage_of(entry).less(usage_of(held) if held is not None else Usage())
        used = self._holdings.used(entry.origin).plus(grew)
        part = Part(entry.origin, tree is not None and tree.trust)
        if part.trust and self._is_root(entry.origin):
            return ""
        why = self._budget.over(entry.origin, used, grew, now_ms, own=False, times=self._times(part, now_ms))
        if why and part not in self.frozen:
            self._freeze(part, why, now_ms)
        self.counts["refused"] += bool(why)
        return "over its quota" if why else ""

    # Asking whether it fits

    def due(self, now_ms: int) -> list[tuple[Part, Freeze]]:
        """Of what a peer is to be asked now."""
        return [
            (part, freeze)
            for part, freeze in self.frozen.items()
            if not freeze.timed and not 0 < freeze.next_ms - now_ms <= MOST_WAIT_MS
        ]

    def asking(self, part: Part, peer: bytes | None, now_ms: int) -> None:
        """`peer` is asked; None: there is nobody to ask."""
        freeze = self.frozen[part]
        freeze.peer = peer
        if peer is not None:
            freeze.asked += 1
            freeze.wait_ms = min(2 * freeze.wait_ms, MOST_WAIT_MS)
        freeze.next_ms = now_ms + (FIRST_WAIT_MS if peer is None else freeze.wait_ms)

    def told(self, part: Part, peer: bytes, used: Usage, elsewhere: Usage, now_ms: int) -> list[QuotaChanged]:
        """`peer`, which was asked, holds `used` of `part`; `elsewhere`: what is held here beside that."""
        freeze = self.frozen.get(part)
        if freeze is None or freeze.timed or freeze.peer != peer:
            return []
        freeze.peer = None
        if self._fits(part, used, used.plus(elsewhere), now_ms):
            self._open(part, now_ms, GRACE_MS)
        return self._news()

    def offered(self, part: Part, now_ms: int) -> None:
        """A peer takes `part` again: it may fit there, so it is asked soon."""
        if (freeze := self.frozen.get(part)) is not None and not freeze.timed:
            freeze.next_ms = min(freeze.next_ms, now_ms + FIRST_WAIT_MS)

    # Answers

    def closed(self, tree: Tree) -> frozenset[bytes]:
        """The origins that are frozen in `tree`."""
        return frozenset(part.origin for part in self.frozen if part.trust == tree.trust)

    def used(self, origin: bytes) -> Usage | None:
        """What is held of `origin`; None before the first link."""
        return None if self._holdings is None else self._holdings.used(origin)

    def bound(self, origin: bytes, now_ms: int) -> Usage:
        """How much `origin` may hold by itself."""
        return self._budget.bound(origin, now_ms)

    # Inside

    def _catch_up(self, now_ms: int) -> None:
        """See what the map holds more or less of than when it was last looked at."""
        if self._holdings is not None and self._holdings.touched:
            touched, self._holdings.touched = self._holdings.touched, set()
            for origin in touched:
                self._follow(origin, now_ms)

    def _follow(self, origin: bytes, now_ms: int, *, loading: bool = False) -> None:
        assert self._holdings is not None
        used = self._holdings.used(origin)
        grew = self._budget.charge(origin, used)
        if origin == self._own:
            return
        fits = self._budget.has_room(origin, used) and self._holdings.statements(origin) <= self.bounds.keys
        for part in (Part(origin), Part(origin, trust=True)):
            if not fits and part not in self.frozen:
                self._look(part, now_ms, _NOTHING if loading else grew)
        if used == _NOTHING:
            self._rates.pop(origin, None)

    def _look(self, part: Part, now_ms: int, grew: Usage = _NOTHING) -> None:
        """Freezes `part` where it is over, opens it where there is room. Over what it shares with others: only one that
        grew is frozen."""
        assert self._holdings is not None
        freeze = self.frozen.get(part)
        said = Usage(self._holdings.statements(part.origin)) if part.trust else _NOTHING
        used = self._holdings.used(part.origin)
        if freeze is None:
            if why := self._over(part, said, used, grew, now_ms, self._times(part, now_ms)):
                self._freeze(part, why, now_ms)
        elif not freeze.timed and self._fits(part, said, used, now_ms):
            self._open(part, now_ms)

    def _over(self, part: Part, said: Usage, used: Usage, grew: Usage, now_ms: int, times: int = 1) -> str:
        """`said`: of a part that speaks of keys; `used`: of both parts together, as they share all bounds but one."""
        if part.trust:
            if self._is_root(part.origin):
                return ""
            if said.records > times * self.bounds.keys:
                return f"it says {said.records:,} things about keys, and may say {self.bounds.keys:,}"
        return self._budget.over(part.origin, used, grew, now_ms, times=times, own=not part.trust)

    def _fits(self, part: Part, said: Usage, used: Usage, now_ms: int) -> bool:
        return not self._over(part, said, used, _SOME, now_ms)

    def _times(self, part: Part, now_ms: int) -> int:
        """How many times its bounds a part may have, as it catches up."""
        eased = self._eased.get(part)
        return 2 if eased is not None and now_ms < eased.until_ms else 1

    def _freeze(self, part: Part, why: str, now_ms: int, *, timed: bool = False) -> None:
        eased = self._eased.pop(part, None)
        most = MOST_PAUSE_MS if timed else MOST_WAIT_MS
        wait = FIRST_WAIT_MS if eased is None else min(2 * eased.wait_ms, most)
        soonest = now_ms if eased is None else now_ms + wait
        self.frozen[part] = Freeze(why, now_ms, soonest, wait, now_ms + wait, timed)
        self.counts["frozen"] += 1
        self._tell(part, why)

    def _open(self, part: Part, now_ms: int, grace_ms: int = 0) -> None:
        freeze = self.frozen.pop(part)
        self._eased[part] = _Eased(now_ms, now_ms + grace_ms, freeze.wait_ms)
        if freeze.timed and (rate := self._rates.get(part.origin)) is not None:
            rate.left = float(self._most_at_once(part.origin))
        self.counts["reopened"] += 1
        self._tell(part, "")

    def _tell(self, part: Part, why: str) -> None:
        self.version += 1
        self._changed.append(QuotaChanged(part.origin, part.trust, why))

    def _news(self) -> list[QuotaChanged]:
        news, self._changed = self._changed, []
        return news

    def _in_time(self, origin: bytes, count: int, now_ms: int) -> bool:
        """Whether `count` entries more of `origin` are not too many at once."""
        speed = self.bounds.entries_per_s
        most = self._most_at_once(origin)
        rate = self._rates.get(origin)
        if rate is None:
            rate = self._rates[origin] = _Rate(most + self.bounds.records, now_ms, now_ms)
        elapsed = max(0, now_ms - rate.counted_ms)
        rate.counted_ms = now_ms
        if rate.credit_ms + CREDIT_EVERY_MS <= self._linked_ms:
            rate.credit_ms = self._linked_ms
            rate.left += self.bounds.records
        if not 0 <= now_ms - rate.credit_ms < CREDIT_MS:
            rate.left = min(rate.left, most)
        if rate.left < most:
            rate.left = min(most, rate.left + elapsed * speed / 1000)
        if rate.left < count:
            return False
        rate.left -= count
        return True

    def _most_at_once(self, origin: bytes) -> int:
        assert self._holdings is not None
        return BURST_S * self.bounds.entries_per_s + self._holdings.used(origin).records

    def _is_root(self, key: bytes) -> bool:
        anchor = self._trust.anchors().get(key)
        return anchor is not None and anchor.role is Role.ROOT

    def _is_one_too_many(self, entry: Entry) -> bool:
        """Whether it is a root's word about one key more than a root may speak of, and takes nothing back."""
        if self._holdings is None or not self._is_root(entry.origin):
            return False
        if self._holdings.statements(entry.origin) < ROOT_KEYS or self._get(entry.key) is not None:
            return False
        return not (entry.live and entry.kind == "cert") or read_cert(entry).granted
