"""Who brings more than its quota is frozen, alone, and opens again by itself: nodes with a real Mesh, on one clock."""

from __future__ import annotations

from itertools import pairwise

import pytest

from crdt.entry import Class, Fact
from federation import messages
from federation.budget import Bounds, Budget
from federation.cose import sign_entry
from federation.effects import QuotaChanged
from federation.identity import NodeKey
from federation.messages import Message
from federation.partitions import PUBLIC_FACTS, Usage
from federation.quotas import FIRST_WAIT_MS, GRACE_MS, Part
from federation.trust import Anchor, Role, Scope, Trust, issue_cert
from tests.unit.meshes import LIFE, MEMBER, NOW, ROOT, Net, Node, full, line
from tests.unit.test_succession import NEXT, OLD, node_entry, rotated

SMALL = Bounds(records=10, bytes=100_000, entries_per_s=1_000, keys=8, below_records=30, below_bytes=300_000)
PUBLIC = frozenset({Class.PUBLIC})


def many(node: Node, count: int, prefix: str = "s", body: object = "x") -> None:
    for n in range(count):
        node.say(f"{prefix}{n}", body=body)


def of(node: Node, origin: Node) -> set[str]:
    return {e.name for e in node.replica.map.of(origin.key.public) if e.live and e.kind == "service"}


def frozen(node: Node, origin: Node, *, trust: bool = False) -> str:
    freeze = node.mesh.quotas.frozen.get(Part(origin.key.public, trust))
    return "" if freeze is None else freeze.reason


def news(raw: bytes) -> Message:
    return {"t": "entries", "entries": [raw]}


def agree(net: Net, one: Node, other: Node) -> bool:
    """Whether the digests of the two, over what both admit, are equal, tree by tree."""
    a, b = one.mesh.pairs[other.key.public], other.mesh.pairs[one.key.public]
    digests = a.digests(net.now), b.digests(net.now)
    return bool(digests[0]) and digests[0] == digests[1]


def test_who_has_too_many_records_is_frozen_with_the_reason_and_others_go_on() -> None:
    net = full(3, bounds=SMALL)
    a, b, c = net.nodes
    many(a, 20)
    many(b, 5, "b")
    net.run(2000)
    for node in (b, c):
        assert frozen(node, a) == "it has 11 records here, and may have 10"
        assert [change for change in node.quota if change.origin == a.key.public] == [
            QuotaChanged(a.key.public, False, frozen(node, a))
        ]
        assert len(of(node, a)) == 11, "the one that was too many, and no more"
    b.say("later")
    net.run(1000)
    assert {"b0", "later"} <= of(c, b) & of(a, b)
    assert all(agree(net, one, other) for one, other in ((a, b), (b, c), (a, c)))
    assert not [close for node in net.nodes for close in node.closes]


def test_it_opens_again_by_itself_once_it_has_shrunk_at_its_origin() -> None:
    net = full(3, bounds=SMALL)
    a, b, c = net.nodes
    many(a, 20)
    net.run(2000)
    assert frozen(b, a)
    for n in range(12):
        a.say(f"s{n}", body=None)
    net.run(FIRST_WAIT_MS + 2000)
    for node in (b, c):
        assert not frozen(node, a)
        assert of(node, a) == {f"s{n}" for n in range(12, 20)}
        assert node.quota[-1] == QuotaChanged(a.key.public, False, "")
    assert agree(net, a, b)
    assert agree(net, b, c)


def test_while_it_does_not_fit_it_is_asked_after_less_and_less_often() -> None:
    net = full(2, bounds=SMALL)
    a, b = net.nodes
    asked: list[int] = []

    def tap(source: Node, target: Node, message: Message) -> None:
        if message["t"] == "quota.ask":
            asked.append(net.now - NOW)

    net.tap = tap
    many(a, 20)
    net.run(3_600_000)
    assert frozen(b, a)
    waits = [later - sooner for sooner, later in pairwise(asked)]
    assert waits[:4] == [10_000, 20_000, 40_000, 80_000]
    assert set(waits[7:]) == {600_000}


def test_a_relay_opens_first_and_whoever_is_behind_it_follows() -> None:
    net = line(3, bounds=SMALL)
    a, b, c = net.nodes
    many(a, 20)
    net.run(60_000)
    assert frozen(b, a)
    assert not frozen(c, a), "nothing came of it any more: it holds what it may"
    net.cut(b, c)
    for n in range(15):
        a.say(f"s{n}", body=None)
    net.run(700_000)
    net.link(b, c)
    net.run(30_000)
    assert not frozen(b, a)
    assert of(c, a) == {f"s{n}" for n in range(15, 20)}


def test_who_says_that_it_fits_and_brings_more_is_frozen_again_at_twice_its_bound() -> None:
    net = full(2, bounds=SMALL)
    a, b = net.nodes
    many(a, 40)
    net.run(1000)
    before = net.do

    def lie(node: Node, effects: object) -> None:
        effects = list(effects)  # type: ignore[call-overload]
        for effect in effects:
            if getattr(effect, "message", {}).get("t") == "quota.told":
                effect.message["records"] = 1
        before(node, effects)

    net.do = lie  # type: ignore[method-assign]
    net.run(GRACE_MS + 60_000)
    assert "may have" in frozen(b, a)
    assert len(of(b, a)) == 40, "one block; its next ones were refused"
    freeze = b.mesh.quotas.frozen[Part(a.key.public)]
    assert freeze.wait_ms >= 4 * FIRST_WAIT_MS, "it waits longer each time"


def test_what_comes_while_it_is_frozen_is_refused_as_the_origins_fault() -> None:
    net = full(2, bounds=SMALL)
    a, b = net.nodes
    many(a, 11)
    net.run(0)
    assert frozen(b, a)
    entry = a.replica.map.get(a.say("more").key)
    assert entry is not None
    net.do(b, b.mesh.received(a.key.public, news(entry.raw), net.now))
    assert "more" not in of(b, a)
    assert b.mesh.view(a.key.public, net.now).refused == {"over its quota": 1}  # type: ignore[union-attr]
    assert b.mesh.quotas.counts["refused"] == 1
    assert not b.closes


def forged(node: Node, name: str) -> bytes:
    """An entry as `node` would have said it, but for the signature."""
    raw = bytearray(sign_entry(node.key, Fact("service", name, NOW << 16, Class.PUBLIC, NOW + LIFE, {"name": "f"})).raw)
    raw[-1] ^= 1
    return bytes(raw)


def test_a_forged_entry_counts_for_nothing() -> None:
    """Else whoever relays could have an honest origin frozen: by its own bounds, or by what it shares with others."""
    net, watcher, (_, honest, *others) = federated(6)
    for n in range(20):
        relay = others[n % len(others)]
        net.do(watcher, watcher.mesh.received(relay.key.public, news(forged(honest, f"f{n}")), net.now))
        if (watcher.key.public, relay.key.public) not in net.links:
            net.link(watcher, relay)
    assert len(watcher.closes) == 20
    assert not watcher.mesh.quotas.frozen
    for n, node in enumerate(others):
        many(node, 9, f"{n}-")
    net.run(1000)
    assert frozen(watcher, others[-1])
    net.do(watcher, watcher.mesh.received(others[0].key.public, news(forged(honest, "f")), net.now))
    net.run(1000)
    assert not frozen(watcher, honest)


def test_too_many_entries_a_second_freeze_for_some_seconds_and_the_newest_arrives() -> None:
    net = full(2, bounds=Bounds(records=10, entries_per_s=100))
    a, b = net.nodes
    a.say("s")
    net.run(70_000)  # what came first may come at any rate
    for n in range(300):
        a.say("s", body=n)
    net.run(0)
    assert frozen(b, a) == "more than 100 entries a second came of it"
    assert frozen(b, a, trust=True), "what it says about keys would flood as well"
    net.run(FIRST_WAIT_MS + 3000)
    assert not b.mesh.quotas.frozen
    held = b.replica.map.view(a.key.public, "service", "s", net.now)
    assert held == a.replica.view("service", "s", net.now)
    assert agree(net, a, b)


def test_a_first_sync_may_come_at_any_rate() -> None:
    net = Net(2, Bounds(records=5_000, entries_per_s=10))
    a, b = net.nodes
    many(a, 2_000)
    for one, other in ((a, b), (b, a)):
        one.trusts(other)
    net.link(a, b)
    net.run(1000)
    assert len(of(b, a)) == 2_000
    assert not b.quota


def test_tombstones_count_by_their_bytes() -> None:
    net = full(2, bounds=Bounds(records=10, bytes=20_000))
    a, b = net.nodes
    for n in range(200):
        a.say(f"s{n}")
        a.say(f"s{n}", body=None)
    net.run(1000)
    assert "bytes here, and may have 20,000" in frozen(b, a)


@pytest.mark.parametrize("number", [5, 15])
def test_the_number_of_an_anchor_goes_before_the_default(number: int) -> None:
    net = full(2, bounds=SMALL)
    a, b = net.nodes
    b.trust.put(Anchor(a.key.public, Role.PEER, scope=Scope(PUBLIC, records=number)))
    net.run(500)
    many(a, number)
    net.run(1000)
    assert len(of(b, a)) == number
    assert not b.quota
    a.say("more")
    net.run(1000)
    assert frozen(b, a) == f"it has {number + 1} records here, and may have {number}"
    b.trust.put(Anchor(a.key.public, Role.PEER, scope=Scope(PUBLIC, records=100)))
    net.run(1000)
    assert not frozen(b, a), "an admin gave it more: at once"


def federated(count: int, *, number: int | None = None) -> tuple[Net, Node, list[Node]]:
    """A watcher, and a delegate of depth 1 that has certified `count` nodes; all are linked to the watcher."""
    net = Net(count + 2, SMALL)
    watcher, delegate, *below = net.nodes
    for node in net.nodes:
        node.trust.put(Anchor(ROOT.public, Role.ROOT, scope=MEMBER))
    certs = [
        issue_cert(ROOT, watcher.key.public, now_ms=NOW),
        issue_cert(ROOT, delegate.key.public, now_ms=NOW, depth=1, scope=Scope(MEMBER.classes, records=number)),
        *(issue_cert(delegate.key, node.key.public, federation=ROOT.public, now_ms=NOW) for node in below),
    ]
    for node in net.nodes:
        for cert in certs:
            node.take(cert)
    for node in net.nodes[1:]:
        net.link(watcher, node)
    net.run(1000)
    return net, watcher, [delegate, *below]


@pytest.mark.parametrize("number", [None, 17])
def test_what_is_below_a_delegate_counts_together(number: int | None) -> None:
    net, watcher, (delegate, *below) = federated(6, number=number)
    most = number or SMALL.below_records
    for n, node in enumerate(below):
        many(node, 9, f"{n}-")
        net.run(250)
    held = sum(watcher.replica.holdings.used(node.key.public).records for node in (delegate, *below))
    assert most - 1 <= held <= most, "its certificates count as well"
    late = [node for node in below if frozen(watcher, node)]
    assert late
    assert delegate.key.did in frozen(watcher, late[0])
    assert f"and may have {most}" in frozen(watcher, late[0])
    assert not frozen(watcher, below[0]), "who does not grow goes on"
    delegate_cert = issue_cert(
        ROOT, delegate.key.public, now_ms=NOW + 1, depth=1, scope=Scope(MEMBER.classes, records=most - 5)
    )
    watcher.take(delegate_cert)  # it may have fewer now: who does not grow goes on all the same
    net.run(2500)
    below[0].say("0-0", body="c")
    below[0].say("0-1", body=None)
    net.run(1000)
    assert of(watcher, below[0]) == {f"0-{n}" for n in range(9) if n != 1}
    watcher.take(
        issue_cert(ROOT, delegate.key.public, now_ms=NOW + 2, depth=1, scope=Scope(MEMBER.classes, records=number))
    )
    for node in below[:5]:
        for name in of(node, node):
            node.say(name, body=None)
    net.run(700_000)
    assert not watcher.mesh.quotas.frozen, "there is room for the rest"
    assert {name for node in below for name in of(watcher, node)} == {name for node in below for name in of(node, node)}


def twice_frozen() -> tuple[Net, Node, Node]:
    """a, frozen at b for the second time: it said that it fits, and brought more."""
    net = full(2, bounds=SMALL)
    a, b = net.nodes
    many(a, 11)
    net.run(100)
    told: Message = {"t": "quota.told", "origin": a.key.public, "trust": False, "records": 1, "bytes": 1}
    b.mesh.quotas.asking(Part(a.key.public), a.key.public, net.now)
    net.do(b, b.mesh.received(a.key.public, told, net.now))
    net.run(1000)
    assert not frozen(b, a)
    many(a, 21)
    net.run(1000)
    assert frozen(b, a)
    return net, a, b


def test_who_was_frozen_again_waits_longer_for_room() -> None:
    """Else it would be opened and closed with each record that goes."""
    net, a, b = twice_frozen()
    for entry in list(b.replica.map.of(a.key.public))[:15]:
        b.replica.holdings.drop(entry)
    net.run(FIRST_WAIT_MS)
    assert frozen(b, a)
    net.run(3 * FIRST_WAIT_MS)
    assert [change.reason for change in b.quota][3:4] == [""]


def test_an_admin_who_gives_it_more_is_obeyed_at_once() -> None:
    net, a, b = twice_frozen()
    b.trust.put(Anchor(a.key.public, Role.PEER, scope=Scope(PUBLIC, records=100)))
    net.run(500)
    assert not frozen(b, a)


def test_who_is_certified_by_others_instead_counts_there() -> None:
    net, watcher, (delegate, *below) = federated(6)
    second = NodeKey(b"\xee" * 32)
    for n, node in enumerate(below):
        many(node, 9, f"{n}-")
        net.run(250)
    late = [node for node in below if frozen(watcher, node)]
    assert late
    watcher.take(issue_cert(ROOT, second.public, now_ms=NOW, depth=1, scope=Scope(MEMBER.classes, records=100)))
    for node in below[:4]:
        watcher.take(issue_cert(second, node.key.public, federation=ROOT.public, now_ms=NOW))
        watcher.take(issue_cert(delegate.key, node.key.public, federation=ROOT.public, now_ms=NOW + 1, state="revoked"))
    net.run(60_000)
    assert not watcher.mesh.quotas.frozen
    assert all(of(watcher, node) == of(node, node) for node in below)


def test_another_chain_of_an_honest_origin_goes_on_where_one_is_full() -> None:
    """A delegate that fills its own certificate cannot shut out whom somebody else has certified too."""
    net, watcher, (delegate, honest, greedy, greedier, greediest, last) = federated(5)
    second = NodeKey(b"\xee" * 32)
    for node in net.nodes:
        node.take(issue_cert(ROOT, second.public, now_ms=NOW, depth=1))
        node.take(issue_cert(second, honest.key.public, federation=ROOT.public, now_ms=NOW))
    for node in (greedy, greedier, greediest, last):
        many(node, 9, str(node.key.public[:2]))
        net.run(250)
    assert watcher.mesh.quotas.frozen
    many(honest, 9, "honest")
    net.run(1000)
    assert len(of(watcher, honest)) == 9
    assert not frozen(watcher, honest)
    assert delegate


def test_who_says_too_much_about_keys_is_frozen_in_that_alone() -> None:
    net = full(3, bounds=SMALL)
    a, b, c = net.nodes
    for n in range(20):
        a.take(issue_cert(a.key, bytes([n + 100]) * 32, now_ms=NOW, federation=ROOT.public))
    a.say("fact")
    net.run(1000)
    assert frozen(b, a, trust=True) == "it says 9 things about keys, and may say 8"
    assert b.replica.holdings.statements(a.key.public) == 9
    assert of(b, a) == {"fact"}
    assert agree(net, a, b)
    assert agree(net, b, c)


def test_a_root_is_heard_whatever_else_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("federation.quotas.ROOT_KEYS", 30)
    net = full(2, federation=True, bounds=SMALL)
    a, b = net.nodes
    for n in range(40):
        a.take(issue_cert(ROOT, bytes([n + 100]) * 32, now_ms=NOW))
    net.run(1000)
    assert b.replica.holdings.statements(ROOT.public) == 30
    assert not frozen(b, a, trust=True)
    for n in (3, 39):
        a.take(issue_cert(ROOT, bytes([n + 100]) * 32, now_ms=NOW + 1000, state="revoked"))
    net.run(1000)
    revoked = {
        key for key in (bytes([103]) * 32, bytes([139]) * 32) if not b.trust.certificates_of(key)[ROOT.public].granted
    }
    assert len(revoked) == 2
    assert b.mesh.quotas.counts["refused"] >= 8


def test_a_restart_freezes_what_is_over_at_once_and_no_other() -> None:
    net = full(2, bounds=SMALL)
    a, b = net.nodes
    many(a, 20)
    net.run(1000)
    again = Node(net, 1, SMALL)
    again.trust.put(Anchor(a.key.public, Role.PEER))
    for entry in b.replica.map:
        again.replica.load(entry.raw, entry.id)
    net.cut(a, b)
    net.nodes[1] = again
    net.link(a, again)
    net.run(500)
    assert frozen(again, a) == "it has 11 records here, and may have 10"
    assert len(of(again, a)) == 11
    assert not frozen(a, again)


def test_who_was_not_asked_cannot_say_that_it_fits() -> None:
    net = full(3, bounds=SMALL)
    a, b, c = net.nodes
    c.trust.put(Anchor(a.key.public, Role.PEER, scope=Scope(PUBLIC, records=100)))
    net.run(500)
    many(a, 20)
    net.run(100)
    assert not frozen(c, a)
    told: Message = {"t": "quota.told", "origin": a.key.public, "trust": False, "records": 1, "bytes": 1}
    b.mesh.quotas.asking(Part(a.key.public), a.key.public, net.now)
    net.do(b, b.mesh.received(c.key.public, told, net.now))
    assert frozen(b, a)
    net.do(b, b.mesh.received(a.key.public, told, net.now))
    assert not frozen(b, a)


def test_who_takes_it_again_is_asked_soon() -> None:
    net = full(2, bounds=SMALL)
    a, b = net.nodes
    many(a, 20)
    net.run(3_000_000)
    freeze = b.mesh.quotas.frozen[Part(a.key.public)]
    asked = net.said["quota.ask"]
    assert freeze.next_ms - net.now > 2 * FIRST_WAIT_MS
    again = messages.admits(PUBLIC_FACTS, [a.key.public], [], fresh=False)
    net.do(b, b.mesh.received(a.key.public, again[0], net.now))
    net.run(FIRST_WAIT_MS + 500)
    assert net.said["quota.ask"] == asked + 1


def test_messages_that_are_not_as_they_should_be_close_the_link() -> None:
    for message in (
        {"t": "quota.ask", "origin": b"short", "trust": False},
        {"t": "quota.ask", "origin": bytes(32)},
        {"t": "quota.told", "origin": bytes(32), "trust": False, "records": -1, "bytes": 0},
    ):
        net = full(2)
        a, b = net.nodes
        net.do(b, b.mesh.received(a.key.public, message, net.now))
        assert [close.code for close in b.closes] == ["malformed"], message


def test_how_much_is_held_is_told_to_those_alone_who_may_hold_it() -> None:
    net = line(3)
    a, b, c = net.nodes
    a.say("internal", Class.INTERNAL, ROOT.public)
    net.run(1000)
    b.trust.put(Anchor(c.key.public, Role.PEER))
    b.trust.put(Anchor(a.key.public, Role.PEER, revoked=NOW))
    net.run(1000)
    before = net.said["quota.told"]
    net.do(b, b.mesh.received(c.key.public, {"t": "quota.ask", "origin": a.key.public, "trust": False}, net.now))
    assert net.said["quota.told"] == before
    net.do(b, b.mesh.received(c.key.public, {"t": "quota.ask", "origin": b.key.public, "trust": False}, net.now))
    assert net.said["quota.told"] == before + 1


def test_what_an_old_key_holds_counts_where_its_heir_does() -> None:
    """Else a key that is succeeded again and again would get room each time."""
    made = Trust(NodeKey(b"\x01" * 32).public)
    made.put(Anchor(ROOT.public, Role.ROOT, scope=MEMBER))
    delegate = NodeKey(b"\xd0" * 32)
    for cert in (
        issue_cert(ROOT, delegate.public, now_ms=NOW, depth=1),
        issue_cert(delegate, OLD.public, federation=ROOT.public, now_ms=NOW),
    ):
        made.learn(cert)
    budget = Budget(made, SMALL)
    budget.charge(OLD.public, Usage(20, 20))
    for entry in (node_entry(OLD, NEXT), rotated()):
        made.learn(entry)
    budget.refresh()
    assert made.successions.latest(OLD.public) == NEXT.public
    grown = Usage(10, 10)
    assert budget.over(NEXT.public, grown, grown, NOW) == ""
    assert budget.charge(NEXT.public, grown) == grown
    one = Usage(1, 1)
    assert "may have 30" in budget.over(delegate.public, one, one, NOW)
