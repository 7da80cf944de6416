"""federation.replica: the way of a write, a start from the store, and what time does to entries."""

from dataclasses import replace
from itertools import pairwise

import pytest

from crdt.entry import DAY_MS, MAX_LIFE_MS, MAX_LIFE_TRUST_MS, Class, EntryError
from federation.cose import fact_of, verify_entry
from federation.replica import Changed, Damaged, Persist, Statement
from tests.unit.replicas import BODY, KEY, NOW, PEER, ROOT, foreign, say, started


def test_put_signs_and_shows_nothing_until_it_is_persisted() -> None:
    replica = started()
    persist = replica.put([Statement("service", "a", Class.PUBLIC, BODY)], NOW)
    (entry,) = persist.entries
    assert (entry.stamp, entry.valid_until, entry.origin) == (NOW << 16, NOW + MAX_LIFE_MS, KEY.public)
    assert verify_entry(entry)
    assert fact_of(entry).body == BODY
    assert replica.view("service", "a", NOW) is None
    assert replica.persisted(persist) == [Changed(KEY.public, "service", "a", None, entry)]
    assert replica.view("service", "a", NOW) is entry
    assert replica.persisted(persist) == []


def test_what_failed_is_as_if_it_had_never_been() -> None:
    replica = started()
    say(replica, cls=Class.PUBLIC)
    lost = replica.put([Statement("service", "a", Class.PRIVATE, BODY)], NOW)
    replica.failed(lost)
    before = replica.view("service", "a", NOW)
    entries, effects = say(replica, cls=Class.PUBLIC)
    assert [entry.cls for entry in entries] == [Class.PUBLIC]
    assert entries[0].stamp > max(entry.stamp for entry in lost.entries)
    assert effects == [Changed(KEY.public, "service", "a", before, entries[0])]


def test_a_change_of_class_buries_the_old_one_in_the_same_commit() -> None:
    replica = started()
    (public,), _ = say(replica, cls=Class.PUBLIC)
    entries, effects = say(replica, cls=Class.PRIVATE)
    tombstone, private = entries
    assert (tombstone.cls, tombstone.live) == (Class.PUBLIC, False)
    assert (private.cls, private.live) == (Class.PRIVATE, True)
    assert public.stamp < tombstone.stamp < private.stamp
    assert effects == [Changed(KEY.public, "service", "a", public, private)]


def test_joining_a_federation_is_a_change_of_class() -> None:
    replica = started()
    say(replica, cls=Class.INTERNAL)
    entries, _ = say(replica, cls=Class.INTERNAL, root=ROOT)
    assert [(entry.root, entry.live) for entry in entries] == [(None, False), (ROOT, True)]


def test_a_class_that_is_dead_already_gets_no_second_tombstone() -> None:
    replica = started()
    for cls in (Class.PUBLIC, Class.PRIVATE, Class.INTERNAL):
        entries, _ = say(replica, cls=cls)
    assert [(entry.cls, entry.live) for entry in entries] == [(Class.PRIVATE, False), (Class.INTERNAL, True)]


def test_a_second_put_sees_what_is_still_in_flight() -> None:
    replica = started()
    first = replica.put([Statement("service", "a", Class.PUBLIC, BODY)], NOW)
    second = replica.put([Statement("service", "a", Class.PRIVATE, BODY)], NOW)
    assert [(entry.cls, entry.live) for entry in second.entries] == [(Class.PUBLIC, False), (Class.PRIVATE, True)]
    assert len(replica.persisted(first)) == len(replica.persisted(second)) == 1
    assert replica.view("service", "a", NOW) is second.entries[1]


def test_what_is_in_flight_stays_so_when_an_earlier_write_is_told_again() -> None:
    replica = started()
    first = replica.put([Statement("service", "a", Class.PUBLIC, BODY)], NOW)
    replica.persisted(first)
    replica.put([Statement("service", "a", Class.PRIVATE, BODY)], NOW)
    replica.persisted(first)
    third = replica.put([Statement("service", "a", Class.PUBLIC, BODY)], NOW)
    assert [(entry.cls, entry.live) for entry in third.entries] == [(Class.PRIVATE, False), (Class.PUBLIC, True)]


def test_two_statements_in_one_put() -> None:
    replica = started()
    say(replica, kind="status", body={"status": "offline"})
    say(replica)
    statements = [Statement("service", "a", Class.PRIVATE, BODY), Statement("status", "a", Class.PRIVATE, None)]
    persist = replica.put(statements, NOW)
    assert [(entry.kind, entry.cls, entry.live) for entry in persist.entries] == [
        ("service", Class.PUBLIC, False),
        ("service", Class.PRIVATE, True),
        ("status", Class.PUBLIC, False),
    ]
    assert len({entry.stamp for entry in persist.entries}) == 3


def test_the_same_name_twice_in_one_put_keeps_the_later() -> None:
    replica = started()
    persist = replica.put([Statement("service", "a", cls, BODY) for cls in (Class.PUBLIC, Class.PRIVATE)], NOW)
    assert [(entry.cls, entry.live) for entry in persist.entries] == [(Class.PUBLIC, False), (Class.PRIVATE, True)]


def test_retracting_buries_every_class_where_it_lives() -> None:
    replica = started()
    say(replica, cls=Class.PUBLIC)
    entries, effects = say(replica, cls=Class.PRIVATE, body=None)
    assert [(entry.cls, entry.live, fact_of(entry).body) for entry in entries] == [(Class.PUBLIC, False, None)]
    assert [effect.after for effect in effects if isinstance(effect, Changed)] == [None]
    assert entries[0].valid_until == NOW + MAX_LIFE_MS, "a tombstone lives a full life"


def test_retracting_what_nobody_said_writes_nothing() -> None:
    replica = started()
    assert replica.put([Statement("service", "a", Class.PUBLIC, None)], NOW) == Persist((), NOW)
    say(replica)
    say(replica, body=None)
    assert replica.put([Statement("service", "a", Class.PUBLIC, None)], NOW).entries == ()


def test_an_own_entry_that_lapsed_is_buried_too_when_the_class_changes() -> None:
    replica = started()
    say(replica)
    later = NOW + MAX_LIFE_MS + 1
    entries, _ = say(replica, cls=Class.PRIVATE, now=later)
    assert [(entry.cls, entry.live) for entry in entries] == [(Class.PUBLIC, False), (Class.PRIVATE, True)]


@pytest.mark.parametrize(
    ("statement", "field", "pointer"),
    [
        (Statement("service", "a", Class.PUBLIC, {"metadata": {"x": float("nan")}}), "body", "/metadata/x"),
        (Statement("service", "a", Class.PUBLIC, {"metadata": {"x": 2**64}}), "body", "/metadata/x"),
        (Statement("service", "x" * 257, Class.PUBLIC, {}), "name", ""),
        (Statement("service", "a", Class.PUBLIC, {}, ROOT), "root", ""),
    ],
)
def test_put_refuses_what_cannot_be_an_entry(statement: Statement, field: str, pointer: str) -> None:
    replica = started()
    with pytest.raises(EntryError) as caught:
        replica.put([Statement("service", "b", Class.PUBLIC, BODY), statement], NOW)
    assert (caught.value.field, caught.value.pointer) == (field, pointer)
    assert replica.put([Statement("service", "b", Class.PRIVATE, BODY)], NOW).entries[0].live, "nothing is in flight"


def test_put_refuses_what_is_too_large() -> None:
    with pytest.raises(EntryError) as caught:
        started().put([Statement("service", "a", Class.PUBLIC, {"metadata": "x" * 65_536})], NOW)
    assert caught.value.too_large


def test_trust_kinds_live_longer() -> None:
    replica = started()
    (entry,), _ = say(replica, kind="cert", name="did:key:z6Mk", body={"state": "granted"})
    assert entry.valid_until == NOW + MAX_LIFE_TRUST_MS


def test_kinds_that_are_not_known_are_held_and_not_told() -> None:
    replica = started()
    entries, effects = say(replica, kind="root")
    assert effects == []
    assert replica.map.get(entries[0].key) is entries[0]


# Start


def test_load_takes_up_where_the_last_run_ended() -> None:
    first = started()
    entries = [entry for cls in (Class.PUBLIC, Class.PRIVATE) for entry in say(first, cls=cls)[0]]
    second = started(entries=entries)
    assert second.view("service", "a", NOW) == entries[-1]
    assert list(second.own("service", NOW)) == [entries[-1]]
    (next_entry,), _ = say(second, cls=Class.PRIVATE, now=0)
    assert next_entry.stamp == entries[-1].stamp + 1, "stamps go on whatever the clock says"


def test_load_notices_damage_and_says_what_to_do() -> None:
    (entry,), _ = say(started())
    for place in range(len(entry.raw) - 64):
        raw = bytearray(entry.raw)
        raw[place] ^= 1
        with pytest.raises(Damaged) as caught:
            started().load(bytes(raw), entry.id)
        assert entry.id.hex() in caught.value.detail
        assert "doctor" in caught.value.advice
    with pytest.raises(Damaged):
        started().load(b"", entry.id)


def test_renewal_keeps_the_stamp_and_moves_only_valid_until() -> None:
    replica = started()
    (entry,), _ = say(replica)
    persist = replica.renew(entry, NOW + DAY_MS)
    assert persist is not None
    (renewed,) = persist.entries
    assert fact_of(renewed) == replace(fact_of(entry), valid_until=NOW + DAY_MS + MAX_LIFE_MS)
    assert replica.persisted(persist) == [Changed(KEY.public, "service", "a", entry, renewed)]


def test_unknown_fields_survive_a_renewal() -> None:
    entry = foreign(key=KEY, extra={9: "new"})
    replica = started(entries=[entry])
    persist = replica.renew(entry, NOW + DAY_MS)
    assert persist is not None
    assert fact_of(persist.entries[0]).extra == {9: "new"}


def test_what_cannot_be_renewed() -> None:
    replica = started()
    (entry,), _ = say(replica)
    assert replica.renew(entry, NOW) is None, "it would not live longer"
    assert replica.renew(entry, NOW - DAY_MS) is None, "the clock went back"
    in_flight = replica.put([Statement("service", "a", Class.PUBLIC, None)], NOW)
    assert replica.renew(entry, NOW + DAY_MS) is None, "it is being deleted"
    replica.persisted(in_flight)
    assert replica.renew(entry, NOW + DAY_MS) is None, "it was deleted"
    assert replica.renew(in_flight.entries[0], NOW + DAY_MS) is None, "a tombstone lives one life"


def test_renewal_is_due_at_40_to_60_percent_of_life() -> None:
    replica = started()
    statements = [Statement("service", f"s{number}", Class.PUBLIC, BODY) for number in range(500)]
    replica.persisted(replica.put(statements, NOW))
    day = [len(replica.due_for_renewal(NOW + days * DAY_MS)) for days in range(31)]
    assert day[:12] == [0] * 12
    assert day[18:] == [500] * 13
    steps = [later - earlier for earlier, later in pairwise(day[12:19])]
    assert all(40 <= step <= 130 for step in steps), f"spread over six days: {steps}"


def test_due_for_renewal_comes_in_pages_and_leaves_out_the_dead() -> None:
    replica = started()
    statements = [Statement("service", f"s{number}", Class.PUBLIC, BODY) for number in range(25)]
    replica.persisted(replica.put(statements, NOW))
    say(replica, "s3", body=None)
    say(replica, "s4", cls=Class.PRIVATE)
    at = NOW + 40 * DAY_MS
    seen: list[str] = []
    page = replica.due_for_renewal(at, limit=10)
    while page:
        assert len(page) <= 10
        seen += [entry.name for entry in page]
        page = replica.due_for_renewal(at, page[-1], limit=10)
    assert sorted(seen) == sorted({f"s{number}" for number in range(25)} - {"s3"}), "lapsed ones too"


def test_lapse_tells_what_time_took_from_the_view() -> None:
    replica = started()
    (entry,), _ = say(replica)
    end = entry.valid_until
    assert replica.lapse(NOW, end - 1) == []
    assert replica.lapse(end - 1, end) == [Changed(KEY.public, "service", "a", entry, None)]
    assert replica.lapse(end, end + DAY_MS) == []
    assert replica.view("service", "a", end) is None
    assert replica.map.get(entry.key) is entry


def test_own_entries_lapse_and_are_never_dropped() -> None:
    replica = started()
    (entry,), _ = say(replica)
    assert replica.purge(NOW + 1000 * DAY_MS) == []
    assert replica.map.get(entry.key) is entry
    persist = replica.renew(entry, NOW + 1000 * DAY_MS)
    assert persist is not None
    assert replica.persisted(persist) == [Changed(KEY.public, "service", "a", None, persist.entries[0])]


def test_what_a_clock_far_ahead_signed_is_said_again() -> None:
    """Nobody takes such an entry, and without a higher stamp it would stand in the way for as long as it lives."""
    replica, other = started(), started(PEER)
    far = NOW + 3650 * DAY_MS
    say(replica, "a", now=far)
    say(replica, "b", now=far)
    say(replica, "b", body=None, now=far)
    say(replica, "c", now=NOW + DAY_MS // 2)  # as far as others bear with
    due = replica.due_for_renewal(NOW)
    assert [(entry.name, entry.live) for entry in due] == [("a", True), ("b", False)]
    for entry in due:
        assert not any(isinstance(effect, Persist) for effect in other.receive(entry.raw, NOW))
        persist = replica.renew(entry, NOW)
        assert persist is not None
        replica.persisted(persist)
        (again,) = persist.entries
        assert (again.stamp > entry.stamp, again.live) == (True, entry.live)
        assert again.valid_until == NOW + MAX_LIFE_MS
        assert any(isinstance(effect, Persist) for effect in other.receive(again.raw, NOW))
    assert replica.due_for_renewal(NOW) == []
