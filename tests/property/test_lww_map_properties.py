"""The map is a join: whatever order, duplication or grouping, the same is held and shown, and digests say so."""

from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st

from crdt.entry import DAY_MS, Class, Entry
from crdt.lww_map import LWWMap, Outcome, Partition
from tests.property.strategies import KEYS, OWN, ROOTS, crowded_entries

many = st.lists(crowded_entries(), max_size=30)
PARTITIONS = [
    Partition(key.public, cls, root)
    for key in KEYS
    for cls, root in ((Class.PRIVATE, None), (Class.PUBLIC, None), (Class.INTERNAL, None), (Class.INTERNAL, ROOTS[0]))
]


def merged(entries: Iterable[Entry], into: LWWMap | None = None) -> LWWMap:
    held = LWWMap(OWN.public) if into is None else into
    for entry in entries:
        held.merge(entry, now_ms=5)
    return held


def content(held: LWWMap) -> dict[tuple[object, ...], bytes]:
    return {tuple(entry.key): entry.raw for entry in held}


def expected(entries: Iterable[Entry]) -> dict[tuple[object, ...], bytes]:
    """The rule, word for word: per key the highest (stamp, valid_until, id)."""
    winners: dict[tuple[object, ...], Entry] = {}
    for entry in sorted(entries, key=lambda each: each.order):
        winners[tuple(entry.key)] = entry
    return {key: entry.raw for key, entry in winners.items()}


@given(many)
def test_per_key_the_highest_is_held(entries: list[Entry]) -> None:
    held = merged(entries)
    assert content(held) == expected(entries)
    assert len(held) == len(list(held))


@given(many, many)
def test_commutative(left: list[Entry], right: list[Entry]) -> None:
    assert content(merged(right, merged(left))) == content(merged(left, merged(right)))


@given(many, many, many)
def test_associative(a: list[Entry], b: list[Entry], c: list[Entry]) -> None:
    left = merged(c, merged(list(merged(b, merged(a)))))
    right = merged(list(merged(c, merged(b))), merged(a))
    assert content(left) == content(right)


@given(many)
def test_idempotent(entries: list[Entry]) -> None:
    held = merged(entries)
    before = content(held)
    for entry in entries:
        merge = held.merge(entry, 5)
        assert merge.outcome in (Outcome.KNOWN, Outcome.OLDER)
        assert merge.before is merge.after
    assert content(held) == before


@given(many, st.randoms(use_true_random=False))
def test_equal_digests_for_equal_content(entries: list[Entry], random: object) -> None:
    shuffled = entries * 2
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = merged(entries), merged(shuffled)
    for cut in (-1, 5):
        assert [one.digest(each, cut) for each in PARTITIONS] == [other.digest(each, cut) for each in PARTITIONS]


@given(many, many)
def test_digests_differ_where_content_does(left: list[Entry], right: list[Entry]) -> None:
    one, other = merged(left), merged(right)
    for partition in PARTITIONS:
        mine = {entry.id for entry in one if Partition(entry.origin, entry.cls, entry.root) == partition}
        theirs = {entry.id for entry in other if Partition(entry.origin, entry.cls, entry.root) == partition}
        assert (one.digest(partition) == other.digest(partition)) == (mine == theirs)


@given(many, st.integers(-1, 10))
def test_the_view_is_the_highest_that_lives(entries: list[Entry], now: int) -> None:
    held = merged(entries)
    for origin, kind, name in {(entry.origin, entry.kind, entry.name) for entry in entries}:
        living = [
            entry
            for entry in held
            if (entry.origin, entry.kind, entry.name) == (origin, kind, name) and entry.live and entry.valid_until > now
        ]
        shown = held.view(origin, kind, name, now)
        assert shown == max(living, key=lambda entry: entry.order, default=None)
        assert (shown in list(held.shown(origin, kind, now))) == (shown is not None)


@given(many, st.integers(0, 10))
def test_merge_tells_what_the_view_showed_and_shows(entries: list[Entry], now: int) -> None:
    held = LWWMap(OWN.public)
    for entry in entries:
        before = held.view(entry.origin, entry.kind, entry.name, now)
        known = held.get(entry.key)
        merge = held.merge(entry, now)
        assert merge.before is before
        assert merge.after is held.view(entry.origin, entry.kind, entry.name, now)
        assert (merge.outcome is Outcome.MERGED) == (known is None or entry.order > known.order)
        rival = known is not None and known.stamp == entry.stamp and known.id != entry.id
        assert merge.rival is (known if rival else None)


@given(many)
def test_a_renewal_never_beats_a_later_deletion(entries: list[Entry]) -> None:
    held = merged(entries)
    for deletion in [entry for entry in entries if not entry.live]:
        winner = held.get(deletion.key)
        assert winner is not None
        if winner.live:
            assert (winner.stamp, winner.valid_until, winner.id) > deletion.order
            assert winner.stamp >= deletion.stamp


@given(many, st.integers(0, 12))
@settings(max_examples=50)
def test_purge_drops_foreign_entries_of_yesterday_and_no_other(entries: list[Entry], day: int) -> None:
    held = merged(entries)
    before = content(held)
    now = DAY_MS + day
    gone = held.purge(now)
    assert all(entry.origin != OWN.public and entry.valid_until < day for entry in gone)
    kept = [entry for entry in held if entry.origin == OWN.public or entry.valid_until >= day]
    assert len(kept) == len(held) == len(before) - len(gone)
    assert content(held).items() <= before.items()


@given(many)
def test_of_an_origin_pages_see_everything_once(entries: list[Entry]) -> None:
    held = merged(entries)
    everything = list(held.of(OWN.public))
    assert {entry.id for entry in everything} == {entry.id for entry in held if entry.origin == OWN.public}
    for place, entry in enumerate(everything):
        rest = [other for other in everything[place + 1 :] if (other.kind, other.name) != (entry.kind, entry.name)]
        assert list(held.of(OWN.public, entry)) == rest
