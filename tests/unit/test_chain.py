"""Chains of certificates: how far they go, what they let through, what breaks them, and what it costs to know."""

import time
from itertools import pairwise

import pytest

from crdt.entry import DAY_MS, MAX_LIFE_TRUST_MS, Class, Entry
from federation.chain import MAX_CHAIN, MAX_CHAINS
from federation.identity import NodeKey
from federation.trust import Anchor, Role, Scope, Trust, issue_cert

NOW = 1_764_000_000_000
OWN, ROOT, A, B, C, D, E = (NodeKey(bytes([n]) * 32) for n in range(1, 8))


def trusting(*entries: Entry) -> Trust:
    trust = Trust(OWN.public)
    trust.put(Anchor(ROOT.public, Role.ROOT))
    for entry in entries:
        trust.learn(entry)
    return trust


def cert(issuer: NodeKey, subject: NodeKey, depth: int = 0, now: int = NOW, **more: object) -> Entry:
    return issue_cert(issuer, subject.public, now_ms=now, federation=ROOT.public, depth=depth, **more)  # type: ignore[arg-type]


def is_member(trust: Trust, key: NodeKey, now: int = NOW) -> bool:
    return bool(trust.roots_of(key.public, now))


def test_a_delegate_certifies_as_far_as_its_depth_goes_and_no_further() -> None:
    trust = trusting(cert(ROOT, A, 1), cert(A, B, 3), cert(B, C, 3))
    assert [is_member(trust, key) for key in (A, B, C)] == [True, True, False]  # nobody gives more than it has
    trust.learn(cert(ROOT, A, 2, NOW + 1))
    assert is_member(trust, C, NOW + 1)
    assert [trust.may_certify(key.public, ROOT.public, NOW + 1) for key in (ROOT, A, B, C, D)] == [4, 2, 1, 0, 0]
    trust.learn(cert(ROOT, A, 0, NOW + 2))
    assert [is_member(trust, key, NOW + 2) for key in (A, B, C)] == [True, False, False]


def test_a_chain_has_at_most_as_many_certificates_as_a_hello_takes() -> None:
    row = [ROOT, A, B, C, D, E]
    trust = trusting(*(cert(one, other, 100) for one, other in pairwise(row)))
    assert [is_member(trust, key) for key in row[1:]] == [True] * MAX_CHAIN + [False]
    chain = trust.chain(ROOT.public, D.public, NOW)
    assert chain is not None
    assert chain.keys == tuple(key.public for key in row[:-1])


def test_a_certificate_counts_in_the_federation_that_it_names() -> None:
    trust = trusting(cert(ROOT, A, 3), issue_cert(A, B.public, now_ms=NOW))
    assert not is_member(trust, B)  # that was of a federation whose root would be A
    trust.learn(cert(A, B, now=NOW + 1))
    assert is_member(trust, B, NOW + 1)


def test_cycles_end() -> None:
    trust = trusting(cert(A, B, 9), cert(B, A, 9), cert(B, C, 9), cert(C, A, 9), cert(A, ROOT, 9))
    assert not any(is_member(trust, key) for key in (ROOT, A, B, C))
    trust.learn(cert(ROOT, A, 9))
    assert all(is_member(trust, key) for key in (A, B, C))
    assert not is_member(trust, ROOT)
    trust.learn(cert(ROOT, A, 9, NOW + 1, state="revoked"))
    assert not any(is_member(trust, key, NOW + 1) for key in (A, B, C))


def test_each_scope_of_a_chain_narrows_it() -> None:
    public, both = frozenset({Class.PUBLIC}), frozenset({Class.PUBLIC, Class.INTERNAL})
    trust = trusting(
        cert(ROOT, OWN), cert(ROOT, A, 1, scope=Scope(public, ("agent", "tool"))), cert(A, B, scope=Scope(both))
    )
    assert trust.admits(B.public, Class.PUBLIC, None, "service", NOW)
    assert not trust.admits(B.public, Class.INTERNAL, ROOT.public, "service", NOW)

    def shows(type: str, *tags: str) -> bool:
        return trust.shows(B.public, Class.PUBLIC, None, type, frozenset(tags), NOW)

    assert [shows(type) for type in ("agent", "tool", "api")] == [True, True, False]
    trust.learn(cert(A, B, now=NOW, scope=Scope(both, ("tool", "api"), ("x", "y")), stamp=(NOW << 16) + 1))
    assert [shows(type, "x") for type in ("agent", "tool", "api")] == [False, True, False]
    assert [shows("tool", *tags) for tags in ((), ("z",), ("z", "y"))] == [False, False, True]
    trust.put(Anchor(ROOT.public, Role.ROOT, scope=Scope(public, (), ("y",))))
    assert [shows("tool", tag) for tag in ("x", "y")] == [False, True]


def test_of_two_chains_each_gives_what_it_has() -> None:
    public, internal = frozenset({Class.PUBLIC}), frozenset({Class.INTERNAL})
    trust = trusting(
        cert(ROOT, OWN), cert(ROOT, A, 1, scope=Scope(public)), cert(ROOT, B, 1, scope=Scope(internal)),
        cert(A, C), cert(B, C),
    )  # fmt: skip
    for cls, root, through in ((Class.PUBLIC, None, A), (Class.INTERNAL, ROOT.public, B)):
        assert trust.admits(C.public, cls, root, "service", NOW)
        other = trusting(cert(ROOT, OWN), cert(ROOT, through, 1), cert(through, C), cert(ROOT, C, state="revoked"))
        assert not other.admits(C.public, cls, root, "service", NOW)


def test_a_revocation_breaks_each_chain_through_whoever_said_it() -> None:
    trust = trusting(cert(ROOT, A, 2), cert(A, B, 1), cert(B, C), cert(ROOT, D, 1), cert(D, C))
    trust.learn(cert(A, C, state="revoked"))  # it never granted C anything: B did, below it
    chain = trust.chain(ROOT.public, C.public, NOW)
    assert chain is not None
    assert chain.keys[1] == D.public  # what D says of C is not A's affair
    trust.learn(cert(ROOT, C, state="revoked"))  # the root is in every chain
    assert not is_member(trust, C)
    trust.learn(cert(D, C, now=NOW + 1))  # whoever grants it again, says nothing against the root
    assert not is_member(trust, C, NOW + 1)
    trust.learn(cert(ROOT, C, now=NOW + 2))
    assert is_member(trust, C, NOW + 2)


def test_who_is_revoked_here_carries_no_chain() -> None:
    trust = trusting(cert(ROOT, A, 1), cert(A, B))
    trust.put(Anchor(A.public, Role.PEER, revoked=NOW))
    assert not is_member(trust, A)
    assert not is_member(trust, B)
    trust.drop(A.public)
    assert is_member(trust, B)


def test_trust_is_spoken_by_every_certified_key_whatever_its_classes() -> None:
    """Else those that it certifies could not be followed by whoever it may show nothing."""
    trust = trusting(cert(ROOT, A, 1, scope=Scope(frozenset({Class.INTERNAL}))))
    assert trust.admits(A.public, Class.PUBLIC, None, "cert", NOW)
    assert not trust.admits(A.public, Class.PUBLIC, None, "service", NOW)
    assert not trust.admits(B.public, Class.PUBLIC, None, "cert", NOW)


@pytest.mark.parametrize("day", [31, 41, 399])
def test_what_an_offline_root_said_holds_for_as_long_as_it_may(day: int) -> None:
    trust = trusting(cert(ROOT, A, 1), cert(A, B), cert(ROOT, C, state="revoked"), cert(A, C, now=NOW + 1))
    later = NOW + day * DAY_MS
    assert [is_member(trust, key, later) for key in (A, B, C)] == [True, True, False]
    assert not is_member(trust, B, NOW + MAX_LIFE_TRUST_MS)


def test_what_is_granted_behind_a_revocation_comes_back_when_that_lapses() -> None:
    trust = trusting(cert(ROOT, A, 1, NOW + DAY_MS), cert(A, B, now=NOW + DAY_MS), cert(ROOT, B, state="revoked"))
    end = NOW + MAX_LIFE_TRUST_MS
    assert [is_member(trust, B, now) for now in (end - 1, end, end + DAY_MS - 1, end + DAY_MS)] == [
        False, True, True, False,
    ]  # fmt: skip
    trust.expire(end - 1)
    assert trust.expire(end)


def test_ten_thousand_below_one_that_is_revoked_cost_themselves_and_nobody_else() -> None:
    trust = trusting(cert(ROOT, A, 1), cert(ROOT, B, 1))
    for key, number in ((A, 2), (B, 3)):
        for n in range(10_000):
            subject = number.to_bytes(16, "big") + n.to_bytes(16, "big")
            trust.learn(issue_cert(key, subject, now_ms=NOW, federation=ROOT.public))
    assert len(trust.keys()) == 20_003
    looked, begun = trust.looked, time.process_time()
    trust.learn(cert(ROOT, A, now=NOW + 1, state="revoked"))
    took = time.process_time() - begun
    assert trust.looked - looked == 10_001
    assert len(trust.keys()) == 10_002
    assert took < 2  # some 60 ms of CPU: this is ten times the goal, for machines that are busy


def test_a_web_of_certificates_costs_no_more_than_there_are() -> None:
    """Everybody certifies everybody: the rows of keys are countless, and what is kept of them is not."""
    keys = [NodeKey(bytes([n]) * 32) for n in range(10, 40)]
    trust = trusting(*(cert(one, other, 9) for one in keys for other in keys if one is not other))
    looked = trust.looked
    for key in keys:
        trust.learn(cert(ROOT, key, 9))
    assert trust.looked - looked < len(keys) * (1 + len(keys) * MAX_CHAIN)
    assert all(is_member(trust, key) for key in keys)
    for key in keys[1:]:
        trust.learn(cert(ROOT, key, now=NOW + 1, stamp=(NOW + 1) << 16, depth=0, not_after=NOW + 2))
    assert all(is_member(trust, key, NOW + 3) for key in keys)  # through the one that is left


def test_many_ways_to_one_key_are_bounded() -> None:
    between = [NodeKey(bytes([n]) * 32) for n in range(10, 10 + 2 * MAX_CHAINS)]
    trust = trusting(*(cert(ROOT, key, 1) for key in between), *(cert(key, A) for key in between))
    assert len(list(trust.chains_to(A.public))) == MAX_CHAINS
    lowest = sorted(key.public for key in between)[:MAX_CHAINS]
    assert [chain.keys[1] for chain in trust.chains_to(A.public)] == lowest
