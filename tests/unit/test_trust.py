"""Whom a node believes: peers, roots, certificates by time and state, and that a local revoke wins over all of them."""

from dataclasses import replace

import pytest

from crdt.entry import DAY_MS, MAX_LIFE_TRUST_MS, Class, Fact
from federation.cose import decode_entry, fact_of, sign_entry, verify_entry
from federation.identity import NodeKey, did_of
from federation.trust import Anchor, Role, Scope, Trust, issue_cert

OWN, PEER, ROOT, OTHER_ROOT, MEMBER = (NodeKey(bytes([n]) * 32) for n in (1, 2, 3, 4, 5))
NOW = 1_764_000_000_000
INTERNAL_TOO = Scope(frozenset({Class.INTERNAL, Class.PUBLIC}))


def trusting(*anchors: Anchor) -> Trust:
    trust = Trust(OWN.public)
    for anchor in anchors:
        trust.put(anchor)
    return trust


def peer(**changes: object) -> Anchor:
    return replace(Anchor(PEER.public, Role.PEER), **changes)  # type: ignore[arg-type]


def root(key: NodeKey = ROOT, **changes: object) -> Anchor:
    return replace(Anchor(key.public, Role.ROOT), **changes)  # type: ignore[arg-type]


def admits_public(trust: Trust, key: NodeKey, kind: str = "service", now: int = NOW) -> bool:
    return trust.admits(key.public, Class.PUBLIC, None, kind, now)


def admits_internal(trust: Trust, key: NodeKey, of: NodeKey = ROOT, now: int = NOW) -> bool:
    return trust.admits(key.public, Class.INTERNAL, of.public, "service", now)


def test_a_stranger_gets_nothing() -> None:
    trust = trusting()
    assert not trust.may_link(PEER.public, NOW)
    assert not any(trust.admits(PEER.public, cls, None, "service", NOW) for cls in Class)
    assert trust.roots_of(PEER.public, NOW) == frozenset()


def test_own_facts_are_always_admitted() -> None:
    trust = trusting(Anchor(OWN.public, Role.PEER, revoked=NOW))
    assert all(trust.admits(OWN.public, cls, None, "service", NOW) for cls in Class)


def test_a_peer_anchor_brings_its_public_facts_and_no_others() -> None:
    trust = trusting(peer(scope=Scope(frozenset(Class))))
    assert trust.may_link(PEER.public, NOW)
    assert admits_public(trust, PEER)
    assert not trust.admits(PEER.public, Class.PRIVATE, None, "service", NOW)
    assert not trust.admits(PEER.public, Class.INTERNAL, None, "service", NOW)
    assert not admits_internal(trust, PEER)
    assert not admits_public(trust, MEMBER)


def test_a_peer_anchor_without_public_has_a_link_and_brings_nothing() -> None:
    trust = trusting(peer(scope=Scope(frozenset())))
    assert trust.may_link(PEER.public, NOW)
    assert not admits_public(trust, PEER)


def test_a_root_itself_speaks_of_trust_alone() -> None:
    trust = trusting(root())
    assert {kind for kind in ("service", "status", "node", "cert", "succession", "new") if
            admits_public(trust, ROOT, kind)} == {"node", "cert", "succession"}  # fmt: skip
    assert not trust.may_link(ROOT.public, NOW)


def test_a_member_is_admitted_while_its_certificate_holds() -> None:
    trust = trusting(root())
    cert = issue_cert(ROOT, MEMBER.public, now_ms=NOW, not_before=NOW + 10, not_after=NOW + 20)
    assert trust.learn(cert)
    for now, holds in ((NOW + 9, False), (NOW + 10, True), (NOW + 19, True), (NOW + 20, False)):
        assert admits_public(trust, MEMBER, now=now) is holds
        assert trust.may_link(MEMBER.public, now) is holds
        assert trust.roots_of(MEMBER.public, now) == (frozenset({ROOT.public}) if holds else frozenset())


def test_a_certificate_ends_with_its_entry() -> None:
    """not_after may be far off: what the entry itself says of its life is the bound that every node enforces."""
    body = fact_of(issue_cert(ROOT, MEMBER.public, now_ms=NOW)).body
    entry = sign_entry(ROOT, Fact("cert", MEMBER.did, NOW << 16, Class.PUBLIC, NOW + 5, body))
    trust = trusting(root())
    trust.learn(entry)
    assert trust.may_link(MEMBER.public, NOW + 4)
    assert not trust.may_link(MEMBER.public, NOW + 5)


def test_a_certificate_by_a_key_that_is_no_root_here_counts_nothing() -> None:
    trust = trusting(peer(), root(OTHER_ROOT))
    for issuer in (PEER, ROOT, MEMBER):
        trust.learn(issue_cert(issuer, MEMBER.public, now_ms=NOW))
    assert not trust.may_link(MEMBER.public, NOW)
    assert not admits_public(trust, MEMBER)
    trust.put(root())
    assert trust.may_link(MEMBER.public, NOW)


def test_internal_needs_one_root_over_both() -> None:
    trust = trusting(root(), root(OTHER_ROOT))
    trust.learn(issue_cert(ROOT, MEMBER.public, now_ms=NOW))
    assert not admits_internal(trust, MEMBER)
    trust.learn(issue_cert(OTHER_ROOT, OWN.public, now_ms=NOW))
    assert not admits_internal(trust, MEMBER)
    assert not admits_internal(trust, MEMBER, OTHER_ROOT)
    trust.learn(issue_cert(ROOT, OWN.public, now_ms=NOW, not_after=NOW + 100))
    assert admits_internal(trust, MEMBER)
    assert not admits_internal(trust, MEMBER, OTHER_ROOT)
    assert not trust.admits(MEMBER.public, Class.INTERNAL, None, "service", NOW)
    assert not admits_internal(trust, MEMBER, now=NOW + 100)  # this node's own membership ended
    assert admits_public(trust, MEMBER, now=NOW + 100)


def test_scopes_of_the_certificate_and_of_the_anchor_bound_what_a_member_brings() -> None:
    trust = trusting(root())
    trust.learn(issue_cert(ROOT, OWN.public, now_ms=NOW))
    trust.learn(issue_cert(ROOT, MEMBER.public, now_ms=NOW, scope=Scope()))
    assert (admits_public(trust, MEMBER), admits_internal(trust, MEMBER)) == (True, False)
    only_internal = Scope(frozenset({Class.INTERNAL}))
    trust.learn(issue_cert(ROOT, MEMBER.public, now_ms=NOW + 1, not_before=NOW, scope=only_internal))
    assert (admits_public(trust, MEMBER), admits_internal(trust, MEMBER)) == (False, True)
    trust.learn(issue_cert(ROOT, MEMBER.public, now_ms=NOW + 2, not_before=NOW))
    trust.put(root(scope=only_internal))
    assert (admits_public(trust, MEMBER), admits_internal(trust, MEMBER)) == (False, True)


def test_revoked_by_the_root_ends_membership_and_granting_again_restores_it() -> None:
    trust = trusting(root())
    granted = issue_cert(ROOT, MEMBER.public, now_ms=NOW)
    revoked = issue_cert(ROOT, MEMBER.public, now_ms=NOW + 1, state="revoked")
    again = issue_cert(ROOT, MEMBER.public, now_ms=NOW + 2)
    trust.learn(revoked)
    assert not trust.learn(granted)  # older, though it came later
    assert not trust.may_link(MEMBER.public, NOW + 1)
    assert trust.learn(again)
    assert trust.may_link(MEMBER.public, NOW + 2)
    assert not trust.learn(again)


def test_a_tombstone_takes_the_certificate_back() -> None:
    trust = trusting(root())
    trust.learn(issue_cert(ROOT, MEMBER.public, now_ms=NOW))
    gone = Fact("cert", MEMBER.did, (NOW + 1) << 16, Class.PUBLIC, NOW + MAX_LIFE_TRUST_MS, None)
    assert trust.learn(sign_entry(ROOT, gone))
    assert not trust.may_link(MEMBER.public, NOW + 1)


def test_a_local_revoke_wins_over_peer_and_root_and_can_be_undone() -> None:
    trust = trusting(root(), peer())
    trust.learn(issue_cert(ROOT, PEER.public, now_ms=NOW))
    trust.learn(issue_cert(ROOT, OWN.public, now_ms=NOW))
    assert (trust.may_link(PEER.public, NOW), admits_public(trust, PEER), admits_internal(trust, PEER)) == (True,) * 3
    trust.put(peer(revoked=NOW))
    assert not trust.may_link(PEER.public, NOW)
    assert not admits_public(trust, PEER)
    assert not admits_internal(trust, PEER)
    assert trust.roots_of(PEER.public, NOW) == frozenset()
    assert trust.is_revoked(PEER.public)
    trust.put(peer())
    assert (trust.may_link(PEER.public, NOW), admits_public(trust, PEER), admits_internal(trust, PEER)) == (True,) * 3


def test_a_revoked_root_takes_all_of_its_members_with_it() -> None:
    trust = trusting(root())
    trust.learn(issue_cert(ROOT, MEMBER.public, now_ms=NOW))
    trust.put(root(revoked=NOW))
    assert not trust.may_link(MEMBER.public, NOW)
    assert not admits_public(trust, ROOT, "cert")
    trust.put(root())
    assert trust.may_link(MEMBER.public, NOW)
    trust.drop(ROOT.public)
    assert not trust.may_link(MEMBER.public, NOW)


def test_forgetting_an_issuer_forgets_its_certificates() -> None:
    trust = trusting(root())
    trust.learn(issue_cert(ROOT, MEMBER.public, now_ms=NOW))
    assert set(trust.certificates_of(MEMBER.public)) == {ROOT.public}
    trust.unlearn(ROOT.public)
    assert not trust.may_link(MEMBER.public, NOW)
    assert trust.certificates_of(MEMBER.public) == {}


def test_a_word_that_has_lapsed_and_is_held_no_more_keeps_no_other_out() -> None:
    """A bad issuer's, that ends before what it said earlier: a node that has heard of it believes what all others do,
    and what it will after a restart."""
    trust = trusting(root())
    granted = issue_cert(ROOT, MEMBER.public, now_ms=NOW)
    short = replace(fact_of(issue_cert(ROOT, MEMBER.public, now_ms=NOW, state="revoked")), stamp=granted.stamp + 1)
    revoked = sign_entry(ROOT, replace(short, valid_until=NOW + DAY_MS))
    other = issue_cert(ROOT, PEER.public, now_ms=NOW)
    for entry in (granted, revoked, other):
        trust.learn(entry)
    later = NOW + 3 * DAY_MS
    assert not trust.learn(granted)
    trust.forget([granted])  # not the newest word: nothing is forgotten
    assert not trust.may_link(MEMBER.public, later)
    trust.forget([revoked])
    assert trust.learn(granted)
    assert trust.may_link(MEMBER.public, later)
    version = trust.version
    trust.forget([other])
    assert not trust.may_link(PEER.public, later)
    assert trust.version > version
    assert trust.certificates_of(PEER.public) == {}


def test_version_moves_with_every_change_and_with_no_other() -> None:
    trust = trusting()
    cert = issue_cert(ROOT, MEMBER.public, now_ms=NOW)
    steps = (
        lambda: trust.put(root()),
        lambda: trust.learn(cert),
        lambda: trust.put(root(name="x")),
        lambda: trust.drop(ROOT.public),
    )
    for step in steps:
        before = trust.version
        step()
        moved = trust.version
        step()
        assert before < moved == trust.version


def test_time_alone_is_noticed_once_at_each_edge() -> None:
    trust = trusting(root())
    trust.learn(issue_cert(ROOT, MEMBER.public, now_ms=NOW, not_before=NOW + 10, not_after=NOW + 20))
    trust.learn(issue_cert(OTHER_ROOT, MEMBER.public, now_ms=NOW, not_before=NOW + 12, not_after=NOW + 14))
    seen = [now for now in range(NOW, NOW + 30) if trust.expire(now)]
    assert seen == [NOW + 10, NOW + 20]
    version = trust.version
    assert trust.expire(NOW + 15)  # the clock was set back
    assert trust.version == version + 1


def test_what_a_jump_of_the_clock_passed_over_is_no_change() -> None:
    trust = trusting(root())
    trust.learn(issue_cert(ROOT, MEMBER.public, now_ms=NOW, not_before=NOW + 10, not_after=NOW + 20))
    trust.expire(NOW)
    assert not trust.expire(NOW + 25)


@pytest.mark.parametrize(
    "changes",
    [
        {"state": "Granted"}, {"state": 1}, {"state": None}, {"federation": ROOT.public[:31]}, {"federation": None},
        {"federation": OTHER_ROOT.public}, {"not_before": -1}, {"not_before": "0"}, {"not_before": True},
        {"not_after": None}, {"scope": []}, {"scope": {"classes": [7]}}, {"scope": {"classes": 2}},
        {"scope": {"types": [1]}}, {"scope": {"tags": ["x"] * 101}}, {"scope": {"records": -1}}, {"depth": "0"},
    ],
    ids=str,
)  # fmt: skip
def test_a_certificate_that_cannot_be_read_grants_nothing(changes: dict[str, object]) -> None:
    good = issue_cert(ROOT, MEMBER.public, now_ms=NOW)
    body = dict(fact_of(good).body or {}) | changes
    body = {name: value for name, value in body.items() if value is not None}
    entry = sign_entry(ROOT, Fact("cert", MEMBER.did, (NOW + 1) << 16, Class.PUBLIC, good.valid_until, body))
    trust = trusting(root())
    trust.learn(good)
    assert trust.learn(entry)  # it is the newest that the root said, so the older one is over
    assert not trust.may_link(MEMBER.public, NOW + 1)


@pytest.mark.parametrize(
    "changes",
    [{"kind": "service"}, {"name": "x"}, {"name": ""}, {"cls": Class.INTERNAL, "root": ROOT.public}],
    ids=str,
)
def test_other_entries_are_no_certificates(changes: dict[str, object]) -> None:
    fact = replace(fact_of(issue_cert(ROOT, MEMBER.public, now_ms=NOW)), **changes)  # type: ignore[arg-type]
    trust = trusting(root())
    version = trust.version
    assert not trust.learn(sign_entry(ROOT, fact))
    assert trust.version == version


def test_what_issue_cert_makes_is_a_strict_entry_of_the_root() -> None:
    scope = Scope(frozenset({Class.PUBLIC}), ("agent",), ("llm",), 100)
    entry = issue_cert(ROOT, MEMBER.public, now_ms=NOW, not_after=NOW + DAY_MS, scope=scope, depth=1)
    assert verify_entry(entry)
    assert decode_entry(entry.raw) == entry
    assert (entry.origin, entry.kind, entry.name, entry.cls) == (ROOT.public, "cert", MEMBER.did, Class.PUBLIC)
    assert (entry.stamp, entry.valid_until) == (NOW << 16, NOW + MAX_LIFE_TRUST_MS)
    assert fact_of(entry).body == {
        "state": "granted",
        "federation": ROOT.public,
        "scope": {"classes": [2], "types": ["agent"], "tags": ["llm"], "records": 100},
        "depth": 1,
        "not_before": NOW,
        "not_after": NOW + DAY_MS,
    }
    trust = trusting(root())
    trust.learn(entry)
    known = trust.certificates_of(MEMBER.public)[ROOT.public]
    assert (known.scope, known.depth) == (scope, 1)
    assert fact_of(issue_cert(ROOT, MEMBER.public, now_ms=NOW)).body == {
        "state": "granted", "federation": ROOT.public, "not_before": NOW, "not_after": NOW + MAX_LIFE_TRUST_MS,
    }  # fmt: skip
    assert did_of(MEMBER.public) == MEMBER.did


@pytest.mark.parametrize("end", [NOW, NOW - 1, NOW + MAX_LIFE_TRUST_MS + 1])
def test_no_certificate_holds_for_longer_than_400_days_or_never(end: int) -> None:
    with pytest.raises(ValueError, match="400 days"):
        issue_cert(ROOT, MEMBER.public, now_ms=NOW, not_after=end)


def test_who_is_no_root_here_moves_nothing_by_what_it_certifies() -> None:
    """Any peer may sign certificates: each must not make this node ask everything again."""
    trust = trusting(Anchor(PEER.public, Role.PEER))
    before = trust.version
    assert not trust.learn(issue_cert(PEER, MEMBER.public, now_ms=NOW))
    assert trust.version == before
    assert trust.keys() == {PEER.public}
    trust.put(Anchor(PEER.public, Role.ROOT))
    assert trust.keys() == {PEER.public, MEMBER.public}
    assert trust.roots_of(MEMBER.public, NOW) == {PEER.public}
