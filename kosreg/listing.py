"""Lists that are kept: the services that one kind of caller sees through one filter, in order.

The first answer to a filter scans what the indexes leave; after that the list is mended from the journal, so that a
list of 100 out of 10,000 costs the same while others write (measured on the prototype: 402 µs by scanning, 68 kept).

`version` is the number of the last change that this list covers, and so of nothing that its caller may not see:
a hidden service moves no version, no ETag and no long poll.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

from kosreg.catalog import Catalog
from kosreg.journal import Change
from kosreg.pages import KeptPage
from kosreg.query import Filter, Query
from kosreg.service import Service

MAX_LISTS = 256
MAX_HELD = 2_000_000  # services in all kept lists together, 8 bytes each and 8 for the key

Sort = tuple[tuple[str, bool], ...]
Visible = Callable[[Service], bool]


class _Down:
    """A sort key turned round."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __lt__(self, other: _Down) -> bool:
        return bool(other.value < self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Down) and self.value == other.value

    __hash__ = None  # type: ignore[assignment]


_ATTRIBUTES = {
    "id": "uid", "name": "name", "type": "type", "owner": "owner", "status": "status", "origin": "origin",
    "created": "created", "updated": "updated", "heartbeat": "beat_ms", "ttl": "ttl", "visibility": "cls",
}  # fmt: skip


def _plain(service: Service, name: str) -> Any:
    attribute = _ATTRIBUTES.get(name)
    return getattr(service, attribute) if attribute else service.value(name)


def plain_key(service: Service, sort: Sort) -> tuple[Any, ...]:
    """What `service` is ordered by: the values of `sort` and its id."""
    return (*(_plain(service, name) for name, _ in sort), service.uid)


def _ordered(plain: tuple[Any, ...], sort: Sort) -> tuple[Any, ...]:
    """`plain` as something that sorts: what is absent comes last, either way round."""
    parts: list[Any] = []
    for (_, down), value in zip(sort, plain[:-1], strict=True):
        # numbers before texts, so that a cursor which was tampered with cannot compare the two
        rank = 2 if value is None else int(isinstance(value, str))
        parts.append((rank, 0) if value is None else (rank, _Down(value) if down else value))
    return (*parts, plain[-1])


class Listing:
    """One kept list. Sorted by `keys`; `rows` stand beside them."""

    __slots__ = (
        "born", "built", "filter", "kept", "key_of", "keys", "looked_at", "rows", "sort", "version", "visible",
    )  # fmt: skip

    def __init__(self, catalog: Catalog, asked: Filter, sort: Sort, visible: Visible) -> None:
        self.filter = asked
        self.sort = sort
        self.visible = visible
        self.kept: KeptPage | None = None  # the newest answer
        self.key_of: dict[str, Any] = {}  # id → key, where the key is not the id itself
        candidates = asked.candidates(catalog)
        self.looked_at = len(candidates)
        found = [s for s in candidates if visible(s) and asked.matches(s, s.status)]
        self.version = max((s.seq for s in found), default=0)
        self.born = self.built = catalog.journal.head  # made anew at this number, mended up to that one
        if sort:
            pairs = sorted(((self._key(s), s) for s in found), key=lambda pair: pair[0])
            self.key_of = {s.uid: key for key, s in pairs}
        else:
            pairs = sorted((s.uid, s) for s in found)
        self.keys: list[Any] = [key for key, _ in pairs]
        self.rows: list[Service] = [s for _, s in pairs]

    def _key(self, service: Service) -> Any:
        return _ordered(plain_key(service, self.sort), self.sort) if self.sort else service.uid

    def __len__(self) -> int:
        return len(self.rows)

    def mend(self, catalog: Catalog) -> bool:
        """Follow the journal; False where too much has happened, and a new list is cheaper or needed."""
        journal = catalog.journal
        if journal.head == self.built:
            return True
        changes = journal.since(self.built)
        if changes is None or len(changes) > 1000 + len(self.rows) // 4:
            return False
        for change in changes:
            removed = self._remove(change.uid)
            after = change.after
            # a later change may have replaced this record already: that change is in the list too
            if after is not None and self.visible(after) and self.filter.matches(after, after.status):
                self._insert(after)
                self.version = change.seq
            elif removed:
                self.version = change.seq
        self.built = journal.head
        return True

    def _remove(self, uid: str) -> bool:
        key = self.key_of.pop(uid, None) if self.sort else uid
        if key is None:
            return False
        at = bisect_left(self.keys, key)
        if at == len(self.keys) or self.rows[at].uid != uid:
            return False
        del self.keys[at], self.rows[at]
        return True

    def _insert(self, service: Service) -> None:
        key = self._key(service)
        at = bisect_left(self.keys, key)
        self.keys.insert(at, key)
        self.rows.insert(at, service)
        if self.sort:
            self.key_of[service.uid] = key

    def page(self, query: Query) -> list[Service]:
        """The services of one page and one more, where there is one."""
        at = 0
        if query.after is not None:
            after = _ordered(query.after, self.sort) if self.sort else query.after[-1]
            at = bisect_right(self.keys, after)
        return self.rows[at : at + query.limit + 1]


class Listings:
    """The kept lists, the least recently used of them dropped."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._held: OrderedDict[Hashable, Listing] = OrderedDict()

    def get(self, who: Hashable, visible: Visible, query: Query) -> tuple[Listing, int]:
        """The list for the callers `who`, true to this moment, and how many services were looked at for it."""
        key = (who, query.filter, query.sort)
        held = self._held.get(key)
        moving = any(name == "heartbeat" for name, _ in query.sort)  # heartbeats are in no journal
        if held is not None and not moving and held.mend(self._catalog):
            self._held.move_to_end(key)
            return held, 0
        fresh = Listing(self._catalog, query.filter, query.sort, visible)
        if held is not None:
            self._carry(held, fresh)
        self._held[key] = fresh
        self._held.move_to_end(key)
        while len(self._held) > MAX_LISTS or (len(self._held) > 1 and sum(map(len, self._held.values())) > MAX_HELD):
            self._held.popitem(last=False)
        return fresh, fresh.looked_at

    def _carry(self, held: Listing, fresh: Listing) -> None:
        """A rebuilt list says that it changed where something left it, which its newest member cannot tell."""
        if {s.uid for s in held.rows} - {s.uid for s in fresh.rows}:
            fresh.version = max(fresh.version, fresh.built)
        fresh.version = max(fresh.version, held.version)

    def departed(self, listing: Listing, seq: int) -> int | None:
        """The number of the last change after `seq` by which something left `listing` before it was made, so that its
        version cannot tell: 0 where nothing did, None where the journal no longer reaches back to `seq`."""
        if seq >= listing.born:
            return 0
        changes = self._catalog.journal.since(seq)
        if changes is None:
            return None
        return max((c.seq for c in changes if c.seq <= listing.born and _left(c, listing, seq)), default=0)


def _left(change: Change, listing: Listing, seq: int) -> bool:
    if not change.knows_before(seq):
        return True
    before = change.before
    return before is not None and listing.visible(before) and listing.filter.matches(before, change.told_before)
