"""federation.replica: the order of work on what comes from outside, equivocation, and own entries that come back."""

import pytest

from crdt.entry import DAY_MS, MAX_LIFE_MS, MAX_LIFE_TRUST_MS, Class, Entry
from crdt.lww_map import LWWMap
from crdt.stamp import OWN_MAX, STAMP_MAX
from federation import replica as engine
from federation.cose import fact_of, verify_entry
from federation.identity import NodeKey
from federation.replica import Alert, Changed, Fault, Persist, Refused, Replica, Statement
from tests.unit.replicas import BODY, KEY, NOW, PEER, ROOT, foreign, received, say, spoilt, started


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> list[Entry]:
    """Every entry whose signature the engine checks, in order. The check itself is the real one."""
    seen: list[Entry] = []

    def counting(entry: Entry) -> bool:
        seen.append(entry)
        return verify_entry(entry)

    monkeypatch.setattr(engine, "verify_entry", counting)
    return seen


def test_a_good_foreign_entry_is_persisted_then_shown() -> None:
    replica, entry = started(), foreign()
    (persist,) = replica.receive(entry.raw, NOW)
    assert persist == Persist((entry,), NOW)
    assert replica.map.get(entry.key) is None
    assert replica.persisted(persist) == [Changed(PEER.public, "service", "f", None, entry)]
    assert replica.map.get(entry.key) == entry


def test_nobody_is_admitted_by_default(verified: list[Entry]) -> None:
    replica = Replica(KEY)
    replica.loaded()
    assert replica.receive(foreign().raw, NOW) == [
        Refused(Fault.ORIGIN, "this origin is not admitted here", PEER.public)
    ]
    assert verified == []


def test_a_copy_costs_no_signature_check(verified: list[Entry]) -> None:
    replica, entry = started(), foreign()
    (persist,) = replica.receive(entry.raw, NOW)
    assert isinstance(persist, Persist)
    assert replica.receive(entry.raw, NOW) == [], "in flight"
    replica.persisted(persist)
    for _ in range(10):
        assert replica.receive(entry.raw, NOW) == []
    assert len(verified) == 1
    assert replica.counts["known"] == 11


def test_what_is_lower_than_what_is_held_costs_no_signature_check(verified: list[Entry]) -> None:
    replica, entry = started(), foreign(stamp=10)
    for effect in replica.receive(entry.raw, NOW):
        assert isinstance(effect, Persist)
        replica.persisted(effect)
    assert replica.receive(foreign(stamp=9).raw, NOW) == []
    assert replica.receive(foreign(stamp=10, valid_until=NOW + 1).raw, NOW) == [], "what was renewed since"
    assert replica.counts["older"] == 2
    assert len(verified) == 1


def test_a_copy_with_a_spoilt_signature_does_not_censor_the_good_one() -> None:
    replica, entry = started(), foreign()
    assert replica.receive(spoilt(entry), NOW) == [Refused(Fault.RELAY, "the signature does not hold", PEER.public)]
    assert isinstance(replica.receive(entry.raw, NOW)[0], Persist)


def test_a_copy_with_a_spoilt_signature_is_stopped_when_the_good_one_is_known(verified: list[Entry]) -> None:
    replica, entry = started(), foreign()
    replica.receive(entry.raw, NOW)
    assert replica.receive(spoilt(entry), NOW) == []
    assert len(verified) == 1


def test_a_received_entry_whose_commit_failed_is_taken_again() -> None:
    replica, entry = started(), foreign()
    (persist,) = replica.receive(entry.raw, NOW)
    assert isinstance(persist, Persist)
    replica.failed(persist)
    assert replica.receive(entry.raw, NOW) == [persist]


@pytest.mark.parametrize("raw", [b"", b"\xff" * 70_000, foreign().raw + b"\x00", b"\xd2\x84"])
def test_what_is_no_entry_is_the_relays_fault(raw: bytes) -> None:
    (refused,) = started().receive(raw, NOW)
    assert isinstance(refused, Refused)
    assert (refused.fault, refused.origin) == (Fault.RELAY, None)


@pytest.mark.parametrize(
    ("kind", "valid_until", "taken"),
    [
        ("service", NOW + MAX_LIFE_MS + DAY_MS, True),
        ("service", NOW + MAX_LIFE_MS + DAY_MS + 1, False),
        ("cert", NOW + MAX_LIFE_TRUST_MS + DAY_MS, True),
        ("cert", NOW + MAX_LIFE_TRUST_MS + DAY_MS + 1, False),
        ("what", NOW + MAX_LIFE_MS + DAY_MS + 1, False),
        ("service", 2**64 - 1, False),
        ("service", NOW - DAY_MS, True),
        ("service", NOW - DAY_MS - 1, False),
        ("service", 0, False),
    ],
)
def test_life_is_judged_within_a_day(kind: str, valid_until: int, taken: bool, verified: list[Entry]) -> None:
    (effect,) = started().receive(foreign(kind=kind, valid_until=valid_until).raw, NOW)
    if taken:
        assert isinstance(effect, Persist)
    else:
        assert isinstance(effect, Refused)
        assert effect.fault is Fault.ORIGIN
        assert verified == []


def test_foreign_stamps_do_not_move_ours() -> None:
    replica = started()
    (persist,) = replica.receive(foreign(stamp=2**64 - 1).raw, NOW)
    assert isinstance(persist, Persist)
    replica.persisted(persist)
    (entry,), _ = say(replica)
    assert entry.stamp == NOW << 16


def test_foreign_stamps_do_not_move_ours_at_a_start_either() -> None:
    (entry,), _ = say(started(entries=[foreign(stamp=2**64 - 1)]))
    assert entry.stamp == NOW << 16


def test_what_lapsed_a_moment_ago_is_held_and_not_shown() -> None:
    replica, entry = started(), foreign(valid_until=NOW)
    (persist,) = replica.receive(entry.raw, NOW)
    assert isinstance(persist, Persist)
    assert replica.persisted(persist) == []
    assert replica.map.get(entry.key) == entry


def test_unknown_kinds_from_outside_are_held_and_not_told() -> None:
    replica, entry = started(), foreign(kind="what")
    (persist,) = replica.receive(entry.raw, NOW)
    assert isinstance(persist, Persist)
    assert replica.persisted(persist) == []
    assert replica.map.get(entry.key) == entry


def test_what_others_let_lapse_is_found_without_reading_all(monkeypatch: pytest.MonkeyPatch) -> None:
    replica = started()
    say(replica, name="own")
    end = NOW + 1000
    for entry in (
        foreign(name="a", valid_until=end),
        foreign(name="b", valid_until=end + 1),
        foreign(name="c", kind="status", valid_until=end),
        foreign(name="d", body=None, valid_until=end),
        foreign(name="e", cls=Class.INTERNAL, root=ROOT, valid_until=end),
        foreign(name="f", valid_until=end),
        foreign(name="f", stamp=(NOW << 16) + 1),
        *(foreign(name=f"long {number}") for number in range(100)),
    ):
        received(replica, entry, NOW)
    assert replica.ended(NOW, NOW) == []
    monkeypatch.setattr(LWWMap, "__iter__", lambda self: pytest.fail("it reads the whole map"))
    assert replica.ended(NOW, end - 1) == []
    ended = replica.ended(end - 1, end)
    assert sorted((kind, name) for _, kind, name in ended) == [("service", "a"), ("service", "e"), ("status", "c")]
    assert replica.ended(end, end + 1) == [(PEER.public, "service", "b")]
    far = [(origin, name) for origin, _, name in replica.ended(end + 1, NOW + 2 * MAX_LIFE_MS)]
    assert len(far) == 101
    assert (KEY.public, "own") not in far, "of its own entries the node renews first what it stands behind"


def test_a_node_that_holds_nothing_of_others_does_without_ordered_sets() -> None:
    replica = started()
    say(replica)
    assert replica.ended(NOW, NOW + 2 * MAX_LIFE_MS) == []
    assert replica._holdings is None


def test_purge_drops_what_others_let_lapse() -> None:
    replica, entry = started(), foreign()
    (persist,) = replica.receive(entry.raw, NOW)
    assert isinstance(persist, Persist)
    replica.persisted(persist)
    say(replica)
    assert replica.purge(NOW + MAX_LIFE_MS + DAY_MS + 1) == [entry]
    assert len(replica.map) == 1


# Equivocation


def test_two_bodies_with_one_stamp_raise_an_alert_once() -> None:
    replica = started()
    one, other = foreign(body={"v": 1}), foreign(body={"v": 2})
    effects = [effect for entry in (one, other, one, other) for effect in received(replica, entry, NOW)]
    (alert,) = [effect for effect in effects if isinstance(effect, Alert)]
    assert alert.kind == "equivocation"
    assert set(alert.entries) == {one, other}
    assert PEER.did in alert.text
    assert replica.map.get(one.key) == max(one, other, key=lambda entry: entry.order)


def test_the_lower_of_two_raises_the_alert_too_but_not_unless_it_is_signed() -> None:
    one, other = sorted((foreign(body={"v": 1}), foreign(body={"v": 2})), key=lambda entry: entry.order)
    replica = started()
    received(replica, other, NOW)
    assert [type(effect) for effect in replica.receive(spoilt(one), NOW)] == [Refused]
    assert [type(effect) for effect in replica.receive(one.raw, NOW)] == [Alert]


def test_a_renewal_is_no_equivocation_in_either_order() -> None:
    one = foreign()
    renewed = foreign(valid_until=one.valid_until + 1)
    for order in ((one, renewed), (renewed, one)):
        replica = started()
        effects = [effect for entry in order for effect in received(replica, entry, NOW)]
        assert not [effect for effect in effects if isinstance(effect, Alert)]
        assert replica.map.get(one.key) == renewed


@pytest.mark.parametrize(
    "changes",
    [
        {"body": None},
        {"extra": {9: 1}},
        {"body": {"name": "x", "n": 1}},
        {"body": {"name": "x", "n": 1.0}},
        {"body": {"name": "x", "n": True}},
    ],
)
def test_what_counts_as_two_bodies(changes: dict[str, object]) -> None:
    one = foreign(body={"name": "x", "n": 2})
    replica = started()
    effects = [effect for entry in (one, foreign(**changes)) for effect in received(replica, entry, NOW)]
    assert [type(effect) for effect in effects].count(Alert) == 1


def test_one_and_one_point_zero_are_two_bodies() -> None:
    replica = started()
    effects = [e for body in ({"n": 1}, {"n": 1.0}) for e in received(replica, foreign(body=body), NOW)]
    assert Alert in [type(effect) for effect in effects]


def contradict(replica: Replica, key: NodeKey, name: str) -> list[Alert]:
    """`key` signs two things about `name` with one stamp; the alerts."""
    some = [foreign(key, name=name, body={"v": version}) for version in (1, 2)]
    return [effect for entry in some for effect in received(replica, entry, NOW) if isinstance(effect, Alert)]


def test_who_contradicts_itself_without_end_does_not_fill_the_log(verified: list[Entry]) -> None:
    replica = started()
    alerts = [alert for number in range(200) for alert in contradict(replica, PEER, str(number))]
    assert len(alerts) == engine._MAX_ALERTED
    assert ["not told again" in alert.text for alert in alerts] == [False] * (len(alerts) - 1) + [True]
    assert replica.counts["equivocations"] > len(alerts), "the others are counted"
    before = len(verified)
    lower = min((foreign(name="199", body={"v": version}) for version in (1, 2)), key=lambda entry: entry.order)
    assert replica.receive(lower.raw, NOW) == []
    assert len(verified) == before, "nor does it cost a signature check"
    assert len(contradict(replica, NodeKey(b"\x03" * 32), "a")) == 1, "another origin is told of"


def test_keys_that_contradict_themselves_without_end_do_not_fill_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_MAX_EQUIVOCAL", 20)
    replica = started()
    alerts = [alert for n in range(100) for alert in contradict(replica, NodeKey(bytes([n + 10]) * 32), "a")]
    assert len(alerts) == 19
    assert len(contradict(replica, KEY, "a")) == 1, "of this node's own key it is always told"


# Amnesia: own entries that come back


def test_an_own_entry_that_comes_back_is_adopted_and_stamps_go_on_above_it() -> None:
    ahead = NOW + 10 * 365 * DAY_MS
    (lost,), _ = say(started(), now=ahead)
    replica = started(admits=False)
    (persist,) = replica.receive(lost.raw, NOW)
    assert persist == Persist((lost,), NOW)
    assert replica.persisted(persist) == [Changed(KEY.public, "service", "a", None, lost)]
    (entry,), _ = say(replica, name="b")
    assert entry.stamp == lost.stamp + 1


def test_stamps_go_on_above_an_adopted_entry_even_before_it_is_persisted() -> None:
    (lost,), _ = say(started(), now=NOW + DAY_MS)
    replica = started()
    replica.receive(lost.raw, NOW)
    assert replica.put([Statement("service", "b", Class.PUBLIC, BODY)], NOW).entries[0].stamp == lost.stamp + 1


def test_a_forged_own_entry_moves_nothing() -> None:
    replica = started()
    forged = foreign(key=KEY, stamp=2**64 - 1)
    assert replica.receive(spoilt(forged), NOW) == [Refused(Fault.RELAY, "the signature does not hold", KEY.public)]
    (entry,), _ = say(replica)
    assert entry.stamp == NOW << 16


@pytest.mark.parametrize("stamp", [STAMP_MAX, STAMP_MAX - 1, OWN_MAX + 1])
def test_an_own_entry_above_which_nothing_can_be_said_is_not_adopted(stamp: int) -> None:
    replica = started()
    say(replica)
    refused, alert = replica.receive(foreign(key=KEY, name="a", stamp=stamp).raw, NOW)
    assert isinstance(refused, Refused)
    assert (refused.fault, refused.origin) == (Fault.ORIGIN, KEY.public)
    assert isinstance(alert, Alert)
    assert "a new key" in alert.text
    (again,) = replica.receive(foreign(key=KEY, name="b", stamp=stamp).raw, NOW)
    assert isinstance(again, Refused), "and the alert is raised once"
    (entry,), _ = say(replica, body={"v": 2})
    assert entry.stamp == (NOW << 16) + 1
    assert replica.view("service", "a", NOW) == entry


def test_what_was_said_by_a_clock_out_of_its_mind_comes_back() -> None:
    mad = started()
    say(mad, now=1 << 62)
    (lost,), _ = say(mad, now=1 << 62)
    replica = started()
    received(replica, lost, NOW)
    (entry,), _ = say(replica)
    assert entry.stamp == lost.stamp + 1


def test_own_entries_that_come_back_while_they_are_held_cost_nothing(verified: list[Entry]) -> None:
    replica = started()
    (entry,), _ = say(replica)
    assert replica.receive(entry.raw, NOW) == []
    assert verified == []


def test_what_was_said_since_the_disk_was_lost_is_said_again_above_what_comes_back() -> None:
    (lost,), _ = say(started(), body={"v": "old"}, now=NOW + DAY_MS)
    replica = started()
    say(replica, body={"v": "new"})
    effects = received(replica, lost, NOW)
    shown = replica.view("service", "a", NOW)
    assert shown is not None
    assert fact_of(shown).body == {"v": "new"}
    assert shown.stamp > lost.stamp
    assert [type(effect) for effect in effects] == [Changed]


def test_a_deletion_since_the_disk_was_lost_is_said_again() -> None:
    (lost,), _ = say(started(), now=NOW + DAY_MS)
    replica = started()
    say(replica)
    say(replica, body=None)
    received(replica, lost, NOW)
    assert replica.view("service", "a", NOW) is None
    held = replica.map.get(lost.key)
    assert held is not None
    assert held.stamp > lost.stamp


def test_another_class_since_the_disk_was_lost_buries_what_comes_back() -> None:
    (lost,), _ = say(started(), cls=Class.PUBLIC, now=NOW - DAY_MS)
    replica = started()
    say(replica, cls=Class.INTERNAL)
    received(replica, lost, NOW)
    held = replica.map.get(lost.key)
    shown = replica.view("service", "a", NOW)
    assert held is not None
    assert not held.live
    assert shown is not None
    assert shown.cls is Class.INTERNAL


def test_a_restored_backup_takes_what_was_said_after_it() -> None:
    first = started()
    (backed_up,), _ = say(first, body={"v": 1})
    (later,), _ = say(first, body={"v": 2}, now=NOW + 5)
    (latest,), _ = say(first, body={"v": 3}, now=NOW + 6)
    replica = started(entries=[backed_up])
    for entry in (later, latest):
        received(replica, entry, NOW)
    assert replica.view("service", "a", NOW) == latest, "nothing was said in this run: the newest stands"


def test_two_machines_with_one_key_raise_an_alert() -> None:
    one, twin = started(), started()
    (ours,), _ = say(one, body={"v": 1})
    (theirs,), _ = say(twin, body={"v": 2})
    assert ours.stamp == theirs.stamp
    effects = received(one, theirs, NOW)
    (alert,) = [effect for effect in effects if isinstance(effect, Alert)]
    assert "this node's own key" in alert.text


def test_a_deletion_since_the_disk_was_lost_outlives_own_tombstones_that_come_back_first() -> None:
    first = started()
    (private,), _ = say(first, cls=Class.PRIVATE, now=NOW + DAY_MS)
    public = say(first, cls=Class.PUBLIC, now=NOW + DAY_MS)[0][-1]
    (tombstone,), _ = say(first, body=None, now=NOW + DAY_MS)
    assert tombstone.key == public.key
    replica = started()
    say(replica, cls=Class.PUBLIC)
    say(replica, body=None)
    for entry in (tombstone, private):
        received(replica, entry, NOW)
    assert replica.view("service", "a", NOW) is None
    assert not any(entry.live for entry in replica.map)
