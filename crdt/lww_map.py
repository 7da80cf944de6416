"""LWWMap: what is held of all origins, one winner per key, and what is shown of it.

An origin alone writes its keys, so merging needs neither coordination nor clocks: of two entries with one key the one
with the higher (stamp, valid_until, id) is kept. That is a join: commutative, associative, idempotent. A renewal has
the same stamp as what it renews and moves only valid_until, so it never beats a later deletion.

One (origin, kind, name) may have an entry in each class, since the class is part of the key: a change of visibility
leaves a tombstone behind. The *view* is what is shown of them: of those that live and have not lapsed at the time
asked, the highest.

Layout: origin -> kind -> name -> entry, or a tuple of entries where there are several classes. Most names have one, and
a tuple each would cost 10 MB per 100,000. No I/O, no clock: the time comes in. The map trusts its caller: signatures
were checked before.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from hashlib import sha256
from typing import Final, NamedTuple

from crdt.entry import DAY_MS, Class, Entry, Key

_Held = Entry | tuple[Entry, ...]
_ID_MASK: Final = (1 << 256) - 1


class Outcome(Enum):
    """What became of an entry that was offered."""

    MERGED = "merged"  # it is held now
    KNOWN = "known"  # it was held already
    OLDER = "older"  # something higher is held


@dataclass(slots=True)
class Merge:
    """`before`, `after`: what the view showed and shows; `rival`: another entry of the same key and stamp, so a renewal
    or an equivocation; `replaced`: what was held under the key, where the offered entry is held now."""

    outcome: Outcome
    before: Entry | None
    after: Entry | None
    rival: Entry | None = None
    replaced: Entry | None = None


class Partition(NamedTuple):
    """What two nodes compare: one origin's entries in one class (and, where internal, under one root)."""

    origin: bytes
    cls: Class
    root: bytes | None = None


class LWWMap:
    """`own`: the origin whose entries are never dropped, however long they have lapsed."""

    __slots__ = ("_held", "_origins", "_size", "own")

    def __init__(self, own: bytes) -> None:
        self.own = own
        self._held: dict[bytes, dict[str, dict[str, _Held]]] = {}
        self._origins: dict[bytes, bytes] = {own: own}
        self._size = 0

    def __len__(self) -> int:
        """Entries held, tombstones included."""
        return self._size

    def __iter__(self) -> Iterator[Entry]:
        """All entries held. The map must not change meanwhile."""
        for kinds in self._held.values():
            for names in kinds.values():
                for held in names.values():
                    if type(held) is tuple:
                        yield from held
                    else:
                        yield held  # type: ignore[misc]  # mypy does not narrow by type()

    @property
    def origins(self) -> dict[bytes, bytes]:
        """origin -> the one object with its bytes, for `decode_entry`. Do not change it."""
        return self._origins

    def merge(self, entry: Entry, now_ms: int) -> Merge:
        """Takes `entry` in if it is higher than what is held under its key. `now_ms`: the time of the view."""
        try:
            names = self._held[entry.origin][entry.kind]
        except KeyError:
            names = self._held.setdefault(entry.origin, {}).setdefault(entry.kind, {})
            self._origins.setdefault(entry.origin, entry.origin)
        held = names.get(entry.name)
        if held is None:
            names[entry.name] = entry
            self._size += 1
            return Merge(Outcome.MERGED, None, entry if entry.live and entry.valid_until > now_ms else None)
        group = held if isinstance(held, tuple) else (held,)
        before = _shown(group, now_ms)
        same = _same_key(group, entry.cls, entry.root)
        rival = same if same is not None and same.stamp == entry.stamp and same.id != entry.id else None
        if same is not None and not _higher(entry, same):
            return Merge(Outcome.KNOWN if same.id == entry.id else Outcome.OLDER, before, before, rival)
        group = (*(other for other in group if other is not same), entry)
        names[entry.name] = group if len(group) > 1 else entry
        self._size += same is None
        return Merge(Outcome.MERGED, before, _shown(group, now_ms), rival, same)

    def get(self, key: Key) -> Entry | None:
        """What is held under `key`, tombstone or lapsed or not."""
        return _same_key(self.group(key.origin, key.kind, key.name), key.cls, key.root)

    def group(self, origin: bytes, kind: str, name: str) -> tuple[Entry, ...]:
        """What is held of (origin, kind, name), one entry for each class, in no order."""
        held = self._held.get(origin, {}).get(kind, {}).get(name, ())
        return held if isinstance(held, tuple) else (held,)

    def view(self, origin: bytes, kind: str, name: str, now_ms: int) -> Entry | None:
        """What is shown of (origin, kind, name) at `now_ms`: the highest that lives and has not lapsed."""
        return _shown(self.group(origin, kind, name), now_ms)

    def shown(self, origin: bytes, kind: str, now_ms: int) -> Iterator[Entry]:
        """What is shown of all names of `kind`. The map must not change meanwhile."""
        for held in self._held.get(origin, {}).get(kind, {}).values():
            entry = _shown(held if isinstance(held, tuple) else (held,), now_ms)
            if entry is not None:
                yield entry

    def of(self, origin: bytes, start_after: Entry | None = None) -> Iterator[Entry]:
        """All that is held of `origin`, or what comes after the name of `start_after`. The order is that in which names
        first came, so for the own origin, of which nothing is dropped, a later call goes on where an earlier one
        ended."""
        waiting = start_after is not None
        for kind, names in self._held.get(origin, {}).items():
            if start_after is not None and waiting and kind != start_after.kind:
                continue
            for name, held in names.items():
                if start_after is not None and waiting:
                    waiting = name != start_after.name
                elif type(held) is tuple:
                    yield from held
                else:
                    yield held  # type: ignore[misc]  # mypy does not narrow by type()

    def count(self, origin: bytes) -> int:
        """Of how many (kind, name) something is held that `origin` said."""
        return sum(map(len, self._held.get(origin, {}).values()))

    def digest(self, partition: Partition, cut_ms: int = -1) -> bytes:
        """16 bytes that are equal where two maps hold the same of `partition` with valid_until > cut_ms.

        The fingerprint of Negentropy V1: ids added as little-endian numbers mod 2^256, then the count as varint,
        SHA-256, the first 16 bytes.
        """
        total = count = 0
        for names in self._held.get(partition.origin, {}).values():
            for held in names.values():
                entry = _same_key(held if isinstance(held, tuple) else (held,), partition.cls, partition.root)
                if entry is not None and entry.valid_until > cut_ms:
                    total += int.from_bytes(entry.id, "little")
                    count += 1
        return sha256((total & _ID_MASK).to_bytes(32, "little") + _varint(count)).digest()[:16]

    def purge(self, now_ms: int) -> list[Entry]:
        """Drops, and returns, foreign entries that lapsed more than a day ago.

        Own entries are never dropped: they are the only proof of what this key said. The caller does not call this
        within an hour of a jump between wall and monotonic clock: a clock that is wrong for a minute would empty the
        map.
        """
        limit = now_ms - DAY_MS
        gone: list[Entry] = []
        for origin in [origin for origin in self._held if origin != self.own]:
            kinds = self._held[origin]
            for kind in list(kinds):
                names = kinds[kind]
                for name, held in list(names.items()):
                    group = held if isinstance(held, tuple) else (held,)
                    keep = tuple(entry for entry in group if entry.valid_until >= limit)
                    if len(keep) == len(group):
                        continue
                    gone.extend(entry for entry in group if entry.valid_until < limit)
                    if keep:
                        names[name] = keep if len(keep) > 1 else keep[0]
                    else:
                        del names[name]
                if not names:
                    del kinds[kind]
            if not kinds:
                del self._held[origin]
                del self._origins[origin]
        self._size -= len(gone)
        return gone

    def forget(self, origin: bytes) -> list[Entry]:
        """Drops, and returns, all that is held of `origin`, which must not be the own one: an admin wants it gone."""
        if origin == self.own:
            raise ValueError("own entries are never dropped")
        gone = list(self.of(origin))
        self._held.pop(origin, None)
        self._origins.pop(origin, None)
        self._size -= len(gone)
        return gone


def _higher(one: Entry, other: Entry) -> bool:
    if one.stamp != other.stamp:
        return one.stamp > other.stamp
    return (one.valid_until, one.id) > (other.valid_until, other.id)


def _same_key(group: tuple[Entry, ...], cls: Class, root: bytes | None) -> Entry | None:
    for entry in group:
        if entry.cls == cls and entry.root == root:
            return entry
    return None


def _shown(group: tuple[Entry, ...], now_ms: int) -> Entry | None:
    best: Entry | None = None
    for entry in group:
        if entry.live and entry.valid_until > now_ms and (best is None or _higher(entry, best)):
            best = entry
    return best


def _varint(number: int) -> bytes:
    """Negentropy's: base 128, most significant digit first, the high bit on all but the last."""
    digits = [number & 0x7F]
    while number := number >> 7:
        digits.append(number & 0x7F | 0x80)
    return bytes(reversed(digits))
