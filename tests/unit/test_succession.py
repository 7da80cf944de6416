"""federation.succession and what trust makes of it: who stands in whose place, and who gets nowhere."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

import pytest

from crdt.entry import MAX_LIFE_MS, MAX_LIFE_TRUST_MS, Class, Entry, Fact
from federation.cose import fact_of, sign_entry
from federation.identity import NodeKey
from federation.succession import MAX_STEPS, Known, Successions, read_succession, succeed
from federation.trust import Anchor, Role, Trust, issue_cert

NOW = 1_800_000_000_000
ROOT, ME, OLD, NEXT, LATER, LAST, THIEF, OTHER = (NodeKey(bytes([number]) * 32) for number in range(1, 9))


def node_entry(key: NodeKey, following: NodeKey, now: int = NOW) -> Entry:
    body = {"next": sha256(following.public).digest()}
    return sign_entry(key, Fact("node", "", now << 16, Class.PUBLIC, now + MAX_LIFE_MS, body))


def rotated(old: NodeKey = OLD, new: NodeKey = NEXT, then: NodeKey = LATER, now: int = NOW) -> Entry:
    return succeed(old, new, then.public, now)


def forged(**fields: object) -> Entry:
    """A succession of OLD with other fields in its body."""
    fact = fact_of(rotated())
    return sign_entry(OLD, replace(fact, stamp=fact.stamp + 1, body={**(fact.body or {}), **fields}))


def trust(*anchors: Anchor) -> Trust:
    made = Trust(ME.public)
    for anchor in anchors or (Anchor(OLD.public, Role.PEER, "berlin", ("b:1",)),):
        made.put(anchor)
    return made


def believes(made: Trust, key: NodeKey) -> bool:
    return made.admits(key.public, Class.PUBLIC, None, "service", NOW)


def alerts(made: Trust) -> list[str]:
    found = [alert.kind for alert in made.successions.alerts]
    made.successions.alerts.clear()
    return found


def test_the_new_key_stands_where_the_old_one_stood() -> None:
    made = trust()
    made.learn(node_entry(OLD, NEXT))
    assert believes(made, OLD)
    assert not believes(made, NEXT)
    version = made.version
    assert made.learn(rotated())
    assert made.version > version
    assert not believes(made, OLD)
    assert believes(made, NEXT)
    assert made.anchors() == {NEXT.public: Anchor(NEXT.public, Role.PEER, "berlin", ("b:1",))}
    assert made.may_link(NEXT.public, NOW)
    assert not made.may_link(OLD.public, NOW)
    assert made.admits(OLD.public, Class.PUBLIC, None, "succession", NOW)  # so that others learn of it
    assert made.shows(OLD.public, Class.PUBLIC, None, "", frozenset(), NOW)  # until the new one says it
    assert not made.learn(rotated(now=NOW + 5))
    assert alerts(made) == []


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_succession_may_come_before_the_hash(order: tuple[int, int]) -> None:
    made = trust()
    said = (node_entry(OLD, NEXT), rotated())
    for one in order:
        made.learn(said[one])
    assert believes(made, NEXT)


def test_a_thief_of_the_key_names_no_heir() -> None:
    made = trust()
    made.learn(node_entry(OLD, NEXT))
    for wrong in (rotated(new=THIEF), forged(next=THIEF.public), forged(proof=bytes(64))):
        assert not made.takes(wrong)
        assert not made.learn(wrong)
    assert believes(made, OLD)
    assert not believes(made, THIEF)
    assert set(alerts(made)) == {"succession"}
    assert made.successions.counts["refused"] > 0
    made.learn(node_entry(OLD, THIEF, NOW + 1))  # another next key: held, and an alert
    assert alerts(made) == ["next key"]
    made.learn(rotated(new=THIEF, now=NOW + 2))
    assert not believes(made, THIEF)
    made.learn(rotated())
    assert believes(made, NEXT)


def test_what_takes_the_place_of_the_right_succession_is_not_held() -> None:
    made = trust()
    made.learn(node_entry(OLD, NEXT))
    right = rotated()
    assert made.takes(right)
    made.learn(right)
    assert made.takes(rotated(now=NOW + 1))
    fact = fact_of(right)
    assert not made.takes(sign_entry(OLD, replace(fact, stamp=fact.stamp + 9, body=None)))
    assert not made.takes(rotated(new=THIEF, now=NOW + 2))
    assert believes(made, NEXT)


def test_what_nobody_signed_raises_no_alert() -> None:
    made = trust()
    made.learn(node_entry(OLD, NEXT))
    spoilt = rotated(new=THIEF)
    raw = spoilt.raw[:-1] + bytes([spoilt.raw[-1] ^ 1])
    spoilt.raw = raw
    assert not made.takes(spoilt)
    assert alerts(made) == []


def test_the_old_key_certifies_nobody_any_more() -> None:
    made = trust(Anchor(ROOT.public, Role.ROOT))
    made.learn(issue_cert(ROOT, OLD.public, now_ms=NOW, depth=1))
    made.learn(issue_cert(OLD, OTHER.public, now_ms=NOW, federation=ROOT.public))
    made.learn(node_entry(OLD, NEXT))
    made.learn(rotated())
    [chain] = made.chains_to(OTHER.public)
    assert chain.keys == (ROOT.public, NEXT.public, OTHER.public)  # no depth was used up
    assert made.roots_of(NEXT.public, NOW) == {ROOT.public}
    assert made.roots_of(OLD.public, NOW) == frozenset()
    assert not made.learn(issue_cert(OLD, THIEF.public, now_ms=NOW + 1, federation=ROOT.public))
    assert made.roots_of(THIEF.public, NOW) == frozenset()
    assert made.learn(issue_cert(NEXT, THIEF.public, now_ms=NOW + 1, federation=ROOT.public))
    made.learn(issue_cert(ROOT, OLD.public, now_ms=NOW + 2, state="revoked"))  # a revoked key's heir is revoked too
    assert made.roots_of(NEXT.public, NOW + 2) == made.roots_of(OTHER.public, NOW + 2) == frozenset()


def test_a_start_reads_what_is_held_in_any_order() -> None:
    held = [
        issue_cert(OLD, THIEF.public, now_ms=NOW, federation=ROOT.public),
        rotated(),
        issue_cert(ROOT, OLD.public, now_ms=NOW, depth=1),
        node_entry(OLD, NEXT),
    ]
    made = trust(Anchor(ROOT.public, Role.ROOT))
    made.learn_all(held)
    assert made.roots_of(NEXT.public, NOW) == {ROOT.public}
    assert made.roots_of(THIEF.public, NOW) == frozenset()


def test_who_was_revoked_stays_revoked() -> None:
    made = trust(Anchor(OLD.public, Role.PEER, revoked=5))
    made.learn(node_entry(OLD, NEXT))
    made.learn(rotated())
    both = trust(Anchor(OLD.public, Role.PEER, revoked=5), Anchor(NEXT.public, Role.PEER))
    both.learn(node_entry(OLD, NEXT))
    both.learn(rotated())
    assert not believes(both, NEXT)
    assert made.is_revoked(OLD.public)
    assert made.is_revoked(NEXT.public)
    assert not believes(made, NEXT)


def test_two_ends_of_one_succession_freeze_all_and_the_admin_decides() -> None:
    made = trust()
    made.learn(node_entry(OLD, NEXT))
    made.learn(rotated())
    made.learn(rotated(NEXT, LATER, LAST))
    assert not made.takes(rotated(then=OTHER, now=NOW + 9))  # both files were in two hands
    assert [believes(made, key) for key in (OLD, NEXT, LATER)] == [False] * 3
    assert not made.may_link(LATER.public, NOW)
    assert not made.admits(OLD.public, Class.PUBLIC, None, "succession", NOW)
    [alert] = made.successions.alerts
    assert alert.kind == "fork"
    assert f"kosreg peers restore {LATER.did}" in alert.text
    again = trust()
    for key in (OLD, NEXT, LATER):
        again.successions.restore(key.public, made.successions.known(key.public))
    assert not again.may_link(LATER.public, NOW)
    assert made.settle(LATER.public)
    assert believes(made, LATER)
    assert not made.settle(LATER.public)


def test_where_nothing_is_pinned_two_successions_freeze_the_key() -> None:
    made = trust()
    assert not made.learn(rotated())
    assert believes(made, OLD)
    assert made.learn(rotated(new=THIEF, now=NOW + 1))
    assert not believes(made, OLD)
    assert not believes(made, NEXT)


def test_no_key_succeeds_two_and_no_row_of_keys_is_a_ring() -> None:
    made = trust(Anchor(OLD.public, Role.PEER), Anchor(OTHER.public, Role.PEER))
    made.learn(node_entry(OLD, NEXT))
    made.learn(node_entry(OTHER, NEXT))
    made.learn(rotated())
    assert not made.learn(rotated(OTHER))
    assert believes(made, OTHER)
    assert made.learn(rotated(NEXT, LATER, OLD)) is not None
    made.learn(rotated(LATER, OLD, NEXT))
    assert made.successions.latest(OLD.public) == LATER.public


def test_roots_and_this_node_itself_are_not_succeeded() -> None:
    made = trust(Anchor(OLD.public, Role.ROOT))
    made.learn(node_entry(OLD, NEXT))
    assert not made.learn(rotated())
    made.learn(node_entry(ME, NEXT))
    assert not made.learn(rotated(ME))
    assert made.own == ME.public


def test_a_row_of_successions_is_followed_from_what_is_pinned() -> None:
    keys = [NodeKey(bytes([0x20 + number]) * 32) for number in range(MAX_STEPS + 2)]
    raws = [succeed(a, b, c.public, NOW).raw for a, b, c in zip(keys, keys[1:], keys[2:], strict=False)]
    known = Successions()
    assert known.follow(raws) == []
    known.restore(keys[0].public, Known(pin=sha256(keys[1].public).digest()))
    assert [entry.origin for entry in known.follow(raws)] == [key.public for key in keys[:MAX_STEPS]]
    assert len(known.follow(raws[:2])) == 2
    assert known.follow(raws[1:]) == []
    assert known.follow([raws[0], raws[2]]) == []
    stolen = succeed(keys[1], THIEF, OTHER.public, NOW).raw  # the key of the middle, and not the one after it
    assert known.follow([raws[0], stolen]) == []
    beside = succeed(THIEF, keys[2], keys[3].public, NOW).raw  # names the right key, and is by nobody in the row
    assert known.follow([raws[0], beside]) == []
    spoilt = raws[1][:-1] + bytes([raws[1][-1] ^ 1])
    assert known.follow([raws[0], spoilt]) == []


def test_a_pledge_that_the_new_key_did_not_make_pins_nothing() -> None:
    said = read_succession(forged(then=sha256(THIEF.public).digest()))
    assert said is not None
    assert said.then == b""
    assert fact_of(rotated()).valid_until == NOW + MAX_LIFE_TRUST_MS
