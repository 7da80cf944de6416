"""crdt.lww_map: what is kept, what is shown, what is dropped."""

import hashlib
from dataclasses import replace

import pytest

from crdt.entry import DAY_MS, Class, Entry, Fact, Key
from crdt.lww_map import LWWMap, Merge, Outcome, Partition
from federation.cose import sign_entry
from federation.identity import NodeKey

OWN, PEER = NodeKey(b"\x01" * 32), NodeKey(b"\x02" * 32)
ROOT = b"r" * 32
NOW = 1000
FACT = Fact("service", "a", 5, Class.PUBLIC, NOW + 10, {"v": 1})


def entry(key: NodeKey = OWN, **changes: object) -> Entry:
    return sign_entry(key, replace(FACT, **changes))  # type: ignore[arg-type]


@pytest.fixture
def held() -> LWWMap:
    return LWWMap(OWN.public)


def test_first_entry_is_shown(held: LWWMap) -> None:
    one = entry()
    assert held.merge(one, NOW) == Merge(Outcome.MERGED, None, one)
    assert held.view(OWN.public, "service", "a", NOW) is one
    assert held.get(one.key) is one
    assert list(held) == [one]
    assert len(held) == 1


def test_a_second_copy_changes_nothing(held: LWWMap) -> None:
    one = entry()
    held.merge(one, NOW)
    assert held.merge(replace(one), NOW) == Merge(Outcome.KNOWN, one, one)
    assert held.get(one.key) is one


def test_higher_wins_and_lower_is_older_in_either_order() -> None:
    lower, higher = entry(), entry(stamp=6, body={"v": 2})
    for order in ((lower, higher), (higher, lower)):
        held = LWWMap(OWN.public)
        for each in order:
            held.merge(each, NOW)
        assert list(held) == [higher]
    assert held.merge(lower, NOW).outcome is Outcome.OLDER


def test_renewal_wins_over_what_it_renews_and_is_told_as_rival(held: LWWMap) -> None:
    one, renewed = entry(), entry(valid_until=NOW + 20)
    held.merge(one, NOW)
    assert held.merge(renewed, NOW) == Merge(Outcome.MERGED, one, renewed, rival=one, replaced=one)
    assert held.merge(one, NOW) == Merge(Outcome.OLDER, renewed, renewed, rival=renewed)


def test_renewal_never_beats_a_later_deletion(held: LWWMap) -> None:
    deletion, renewed = entry(stamp=6, valid_until=NOW + 1, body=None), entry(valid_until=2**63)
    held.merge(deletion, NOW)
    assert held.merge(renewed, NOW) == Merge(Outcome.OLDER, None, None)
    assert held.view(OWN.public, "service", "a", NOW) is None


def test_tombstone_hides_and_is_held(held: LWWMap) -> None:
    one, deletion = entry(), entry(stamp=6, body=None)
    held.merge(one, NOW)
    assert held.merge(deletion, NOW) == Merge(Outcome.MERGED, one, None, replaced=one)
    assert held.get(one.key) is deletion
    assert len(held) == 1


def test_equal_stamps_with_two_bodies_are_told_as_rivals(held: LWWMap) -> None:
    one, other = sorted((entry(), entry(body={"v": 2})), key=lambda each: each.order)
    held.merge(one, NOW)
    assert held.merge(other, NOW).rival is one
    assert held.get(one.key) is other


def test_class_is_part_of_the_key(held: LWWMap) -> None:
    public, private = entry(), entry(cls=Class.PRIVATE, stamp=6)
    under_root, no_root = entry(cls=Class.INTERNAL, root=ROOT, stamp=4), entry(cls=Class.INTERNAL, stamp=3)
    for each in (public, private, under_root, no_root):
        held.merge(each, NOW)
    assert len(held) == 4
    assert [held.get(each.key) for each in (public, private, under_root, no_root)] == [
        public,
        private,
        under_root,
        no_root,
    ]
    assert held.view(OWN.public, "service", "a", NOW) is private


def test_change_of_class_shows_the_new_one_whatever_comes_first() -> None:
    old, gone, new = entry(), entry(stamp=6, body=None), entry(cls=Class.PRIVATE, stamp=7)
    for order in ((old, gone, new), (old, new, gone), (new, gone, old), (gone, old, new)):
        held = LWWMap(OWN.public)
        for each in order:
            held.merge(each, NOW)
        assert held.view(OWN.public, "service", "a", NOW) is new


def test_who_sees_only_the_old_class_learns_that_it_is_gone(held: LWWMap) -> None:
    held.merge(entry(), NOW)
    assert held.merge(entry(stamp=6, body=None), NOW).after is None


def test_a_deletion_in_a_class_that_was_never_shown_changes_no_view(held: LWWMap) -> None:
    shown = entry(cls=Class.PRIVATE)
    held.merge(shown, NOW)
    assert held.merge(entry(stamp=9, body=None), NOW) == Merge(Outcome.MERGED, shown, shown)


def test_what_has_lapsed_is_hidden_and_held(held: LWWMap) -> None:
    one = entry()
    held.merge(one, NOW)
    assert held.view(OWN.public, "service", "a", one.valid_until - 1) is one
    assert held.view(OWN.public, "service", "a", one.valid_until) is None
    assert held.get(one.key) is one
    assert list(held.shown(OWN.public, "service", one.valid_until)) == []


def test_the_view_falls_back_to_another_class_when_the_highest_lapses(held: LWWMap) -> None:
    long, short = entry(valid_until=NOW + 100), entry(cls=Class.PRIVATE, stamp=9, valid_until=NOW + 1)
    held.merge(long, NOW)
    held.merge(short, NOW)
    assert held.view(OWN.public, "service", "a", NOW) is short
    assert held.view(OWN.public, "service", "a", NOW + 1) is long


def test_purge_drops_foreign_entries_a_day_after_they_lapsed(held: LWWMap) -> None:
    lapsed = [entry(PEER), entry(PEER, name="b", body=None), entry(PEER, kind="what")]
    alive = entry(PEER, name="c", valid_until=NOW + 10 * DAY_MS)
    for each in (*lapsed, alive):
        held.merge(each, NOW)
    assert held.purge(NOW + 10 + DAY_MS) == []
    assert held.purge(NOW + 11 + DAY_MS) == lapsed
    assert list(held) == [alive]
    assert len(held) == 1
    assert held.purge(NOW + 11 * DAY_MS + 1) == [alive]
    assert list(held) == []
    assert held.origins == {OWN.public: OWN.public}


def test_purge_drops_one_class_and_keeps_another(held: LWWMap) -> None:
    short, long = entry(PEER), entry(PEER, cls=Class.PRIVATE, valid_until=NOW + 10 * DAY_MS)
    held.merge(short, NOW)
    held.merge(long, NOW)
    assert held.purge(NOW + 2 * DAY_MS) == [short]
    assert held.get(long.key) is long
    assert held.get(short.key) is None
    assert len(held) == 1


def test_own_entries_are_never_dropped(held: LWWMap) -> None:
    own = [entry(), entry(name="b", body=None), entry(kind="status", cls=Class.PRIVATE)]
    for each in own:
        held.merge(each, NOW)
    assert held.purge(2**70) == []
    assert set(held) == set(own)


def test_origins_share_one_object(held: LWWMap) -> None:
    held.merge(entry(PEER), NOW)
    assert held.origins[PEER.public] == PEER.public


def test_of_goes_on_where_it_ended(held: LWWMap) -> None:
    entries = [entry(name=name, kind=kind) for kind in ("service", "status") for name in ("b", "a", "c")]
    entries.insert(1, entry(name="b", cls=Class.PRIVATE))
    for each in entries:
        held.merge(each, NOW)
    assert list(held.of(OWN.public)) == entries
    assert list(held.of(OWN.public, entries[1])) == entries[2:]
    assert list(held.of(OWN.public, entries[3])) == entries[4:]
    assert list(held.of(OWN.public, entries[-1])) == []
    assert list(held.of(PEER.public)) == []


def test_nothing_is_held_of_the_unknown(held: LWWMap) -> None:
    assert held.get(Key(PEER.public, Class.PUBLIC, None, "service", "a")) is None
    assert held.view(PEER.public, "service", "a", NOW) is None
    assert held.group(PEER.public, "service", "a") == ()
    assert list(held.shown(PEER.public, "service", NOW)) == []


def test_digest_is_negentropys_fingerprint(held: LWWMap) -> None:
    entries = [entry(PEER, name=f"{number}") for number in range(200)]
    for each in (*entries, entry(PEER, cls=Class.PRIVATE), entry()):
        held.merge(each, NOW)
    total = sum(int.from_bytes(each.id, "little") for each in entries) % 2**256
    expected = hashlib.sha256(total.to_bytes(32, "little") + b"\x81\x48").digest()[:16]  # 200 = 1 * 128 + 0x48
    assert held.digest(Partition(PEER.public, Class.PUBLIC)) == expected
    nothing = hashlib.sha256(bytes(32) + b"\x00").digest()[:16]
    assert held.digest(Partition(PEER.public, Class.INTERNAL)) == nothing
    assert held.digest(Partition(PEER.public, Class.INTERNAL, ROOT)) == nothing
    assert held.digest(Partition(b"x" * 32, Class.PUBLIC)) == nothing


def test_digest_counts_what_lives_beyond_the_cut(held: LWWMap) -> None:
    short, long = entry(PEER, valid_until=10), entry(PEER, name="b", valid_until=11)
    held.merge(short, 0)
    held.merge(long, 0)
    only_long = LWWMap(OWN.public)
    only_long.merge(long, 0)
    partition = Partition(PEER.public, Class.PUBLIC)
    assert held.digest(partition, 10) == only_long.digest(partition)
    assert held.digest(partition, 9) != only_long.digest(partition)
