"""The mesh on perfect wires: push, announce, ask, reconcile, and what is open between whom."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest

from crdt.entry import DAY_MS, Class, Entry, Fact
from crdt.ordered_set import OrderedSet
from crdt.reconcile import Initiator, finish
from federation import messages
from federation.cose import fact_of, sign_entry, verify_entry
from federation.effects import Effect
from federation.identity import NodeKey
from federation.link import BACKLOG
from federation.membership import MESSAGES
from federation.mesh import PING_MS, STRIKES
from federation.messages import Message, Ping, Round
from federation.pair import MAX_FRESH, MAX_PINGS, PING_EVERY_MS
from federation.partitions import PUBLIC_FACTS, internal
from federation.trust import Scope, issue_cert
from tests.unit.meshes import LIFE, MEMBER, NOW, ROOT, Net, Node, full, line


def test_news_is_pushed_at_once() -> None:
    net = full(2)
    a, b = net.nodes
    a.say("one")
    net.run()
    assert b.names() == {"one"}
    a.say("one", body=None)
    net.run()
    assert b.names() == set()


@pytest.mark.parametrize("count", [1, 40, 3000])
def test_what_was_there_before_the_link_is_found(count: int) -> None:
    net = Net(2)
    a, b = net.nodes
    for n in range(count):
        a.say(f"a{n}")
        b.say(f"b{n}")
    a.trusts(b)
    b.trusts(a)
    net.link(a, b)
    net.run(1000)
    assert a.names() == b.names() == {f"{x}{n}" for x in "ab" for n in range(count)}
    for node, peer in ((a, b), (b, a)):
        view = node.mesh.view(peer.key.public, net.now)
        assert view is not None
        assert (view.synced, view.differing) == (True, 0)


def test_a_first_sync_is_not_told_as_done_between_two_trees() -> None:
    net = Net(2)
    a, b = net.nodes
    for n in range(300):
        a.say(f"a{n}")
    a.trusts(b)
    b.trusts(a)
    held: set[int] = set()  # by b, whenever one of the two tells that all is there

    def look(source: Node, target: Node, message: Message) -> None:
        for node, peer in ((a, b), (b, a)):
            view = node.mesh.view(peer.key.public, net.now)
            if view is not None and view.synced:
                held.add(len(b.names()))

    net.tap = look
    net.link(a, b)
    net.run(6000)
    assert held == {300}


def test_nothing_is_taken_from_whom_one_does_not_trust() -> None:
    net = Net(2)
    a, b = net.nodes
    a.say("a")
    b.say("b")
    a.trusts(b)
    net.link(a, b)
    net.run(6000)
    assert b.names() == {"b"}, "b takes nothing of a (and its node would let a have no link)"
    b.trusts(a)
    net.run(1000)
    assert a.names() == b.names() == {"a", "b"}


def test_a_plain_peer_brings_its_own_facts_only() -> None:
    net = Net(3)
    a, b, c = net.nodes
    b.trusts(a, c)
    a.trusts(b)
    c.trusts(b)
    net.link(a, b)
    net.link(b, c)
    for node, name in ((a, "a"), (b, "b"), (c, "c")):
        node.say(name)
    net.run(1000)
    assert (a.names(), b.names(), c.names()) == ({"a", "b"}, {"a", "b", "c"}, {"b", "c"})
    a.trusts(c)
    net.run(1000)
    assert a.names() == {"a", "b", "c"}, "b relays c's to who trusts c"
    net.run(60_000)
    assert net.said["sync.round"] < 40, "nodes that exclude different origins agree all the same"


def test_a_line_relays_and_cut_ends_find_what_they_missed() -> None:
    net = line(5)
    ends = net.nodes[0], net.nodes[-1]
    ends[0].say("public")
    ends[1].say("internal", Class.INTERNAL, ROOT.public)
    net.run()
    assert all(node.names() == {"public", "internal"} for node in net.nodes)
    net.cut(net.nodes[2], net.nodes[3])
    ends[0].say("left")
    ends[1].say("right")
    net.run()
    assert "right" not in ends[0].names()
    net.link(net.nodes[2], net.nodes[3])
    net.run(1000)
    assert all(node.names() == {"public", "internal", "left", "right"} for node in net.nodes)


def test_private_stays_and_internal_stays_in_its_federation() -> None:
    net = full(3)
    member, other, outsider = net.nodes
    member.joins()
    other.joins()
    net.run(1000)
    member.say("private", Class.PRIVATE)
    member.say("alone", Class.INTERNAL)  # of no federation
    member.say("internal", Class.INTERNAL, ROOT.public)
    net.run(20_000)
    assert other.names() == {"internal"}
    assert outsider.names() == set()


def test_a_member_for_public_facts_alone_gets_no_internal_ones_though_it_asks() -> None:
    net = full(2)
    member, public_only = net.nodes
    member.joins()
    public_only.joins(scope=Scope(frozenset({Class.PUBLIC})))
    net.run(1000)
    assert member.trust.roots_of(public_only.key.public, net.now) == {ROOT.public}
    entry = member.say("internal", Class.INTERNAL, ROOT.public)
    keys = (member.key.public, public_only.key.public)
    given: list[Message] = []
    net.tap = lambda source, target, message: given.append(message) if source is member else None
    for message in (
        *messages.admits(internal(ROOT.public), keys, (), fresh=True),
        messages.want(1_000, [entry.id], graft=True),
    ):
        net.do(member, member.mesh.received(public_only.key.public, message, net.now))
    member.say("another", Class.INTERNAL, ROOT.public)
    net.run(20_000)
    assert public_only.names() == set()
    assert [message["entries"] for message in given if message["t"] == "entries"] == [[]]
    assert not [message for message in given if message.get("tree") == internal(ROOT.public).to_wire()]
    public_only.joins()  # with all classes, now: the newer certificate counts
    net.run(1000)
    assert public_only.names() == {"internal", "another"}


def test_a_certificate_that_ended_since_the_last_tick_counts_no_more() -> None:
    """After a suspend, say: the first news, answer or message must not wait for the clock to be looked at."""
    net = full(2)
    member, other = net.nodes
    member.joins()
    other.joins()
    ends = net.now + 60_000
    cert = issue_cert(ROOT, other.key.public, now_ms=net.now + 1, not_before=net.now, not_after=ends, scope=MEMBER)
    member.take(cert)
    before = member.say("before", Class.INTERNAL, ROOT.public)
    net.run(1000)
    assert other.names() == {"before"}
    given: list[Message] = []
    net.tap = lambda source, target, message: given.append(message) if source is member else None
    net.now = ends
    net.do(member, member.mesh.received(other.key.public, messages.want(1_000, [before.id], graft=True), net.now))
    member.say("after", Class.INTERNAL, ROOT.public)
    net.run()
    assert [message["entries"] for message in given if message["t"] == "entries"] == [[]]
    assert other.names() == {"before"}


def test_each_change_of_class_tells_who_may_see_the_old_one() -> None:
    net = Net(3)
    owner, member, outsider = net.nodes
    for one, other in ((owner, member), (member, outsider), (owner, outsider)):
        one.trusts(other)
        other.trusts(one)
    owner.joins()
    member.joins()
    net.link(owner, member)
    net.link(member, outsider)  # linked only through the member
    net.run(1000)
    for cls, root, at_member, at_outsider in (
        (Class.PUBLIC, None, True, True),
        (Class.INTERNAL, ROOT.public, True, False),
        (Class.PRIVATE, None, False, False),
        (Class.PUBLIC, None, True, True),
    ):
        owner.say("marker", cls, root)
        net.run(1000)
        assert ("marker" in member.names(), "marker" in outsider.names()) == (at_member, at_outsider), cls


def test_in_a_full_mesh_each_news_comes_once_after_a_while() -> None:
    net = full(6)
    for n in range(30):
        net.nodes[n % 6].say(f"s{n}")
        net.run(300)
    before = net.said["entries"]
    net.nodes[0].say("last")
    net.run(1000)
    assert all("last" in node.names() for node in net.nodes)
    assert net.said["entries"] - before <= 8, "5 deliveries make a tree; a full mesh of pushes would be 25"


def test_a_lazy_peer_asks_for_what_did_not_come() -> None:
    net = full(3)
    a, b, c = net.nodes
    for n in range(12):
        net.nodes[n % 3].say(f"s{n}")
        net.run(300)
    # whatever tree they have found: cut each link in turn, and what is said must come over the other two
    for n, (one, other) in enumerate(((a, b), (b, c), (a, c))):
        net.cut(one, other)
        one.say(f"over{n}")
        net.run(2000)
        assert f"over{n}" in other.names()
        net.link(one, other)
        net.run(1000)


def test_announcements_share_a_message_and_leave_out_what_may_not_be_any_more() -> None:
    net = full(6, federation=True)
    for n in range(30):
        net.nodes[n % 6].say(f"s{n}")
        net.run(300)
    announced: list[list[bytes]] = []

    def tap(source: Node, target: Node, message: Message) -> None:
        if message["t"] == "ihave":
            announced.append(message["ids"])  # type: ignore[arg-type]

    net.tap = tap
    for n in range(10):
        net.nodes[0].say(f"many{n}")
    gone = net.nodes[0].say("many9", body=None)
    net.run()
    assert not announced, "not before the next tick"
    net.run(250)
    assert announced
    assert {len(ids) for ids in announced} == {10}, "nine that are held, and the tombstone: one message a peer"
    assert all(gone.id in ids for ids in announced)


def test_what_is_lost_on_the_way_is_found_by_its_digest() -> None:
    net = full(2)
    a, b = net.nodes
    a.say("one")
    net.wire.clear()  # lost
    assert "one" not in b.names()
    net.run(30_000)
    assert b.names() == {"one"}
    rounds = net.said["sync.round"]
    net.run(120_000)
    assert net.said["sync.round"] == rounds, "nothing else polls"


def test_after_an_overflow_no_digest_is_waited_for() -> None:
    net = full(2)
    a, b = sorted(net.nodes, key=lambda node: node.key.public)
    b.say("one")
    net.wire.clear()
    a.mesh.overflowed(b.key.public)
    net.run(1000)
    assert a.names() == {"one"}


def test_duplicates_cost_no_signature_check(monkeypatch: pytest.MonkeyPatch) -> None:
    net = full(2)
    a, b = net.nodes
    entry = a.say("one")
    net.run()
    checked: list[Entry] = []

    def check(entry: Entry) -> bool:
        checked.append(entry)
        return verify_entry(entry)

    monkeypatch.setattr("federation.judge.verify_entry", check)
    for _ in range(3):
        net.do(b, b.mesh.received(a.key.public, messages.pushes([entry])[0], net.now))
    assert checked == []


def test_a_spoilt_copy_closes_the_link_and_does_not_censor_the_good_one() -> None:
    net = full(2)
    a, b = net.nodes
    good = sign_entry(a.key, Fact("service", "x", NOW << 16, Class.PUBLIC, NOW + LIFE, {"name": "x"}))
    spoilt = good.raw[:-1] + bytes([good.raw[-1] ^ 1])
    net.do(b, b.mesh.received(a.key.public, {"t": "entries", "entries": [spoilt]}, net.now))
    assert [close.code for close in b.closes] == ["bad-entry"]
    net.link(a, b)
    net.run(1000)
    net.do(b, b.mesh.received(a.key.public, {"t": "entries", "entries": [good.raw]}, net.now))
    assert b.names() == {"x"}


def test_of_a_block_with_one_spoilt_entry_nothing_is_taken() -> None:
    net = full(2)
    a, b = net.nodes
    facts = [Fact("service", f"x{n}", (NOW << 16) + n, Class.PUBLIC, NOW + LIFE, {"name": "x"}) for n in range(100)]
    raws = [sign_entry(a.key, fact).raw for fact in facts]
    raws[70] = raws[70][:-1] + bytes([raws[70][-1] ^ 1])
    net.do(b, b.mesh.received(a.key.public, messages.block(raws, None, more=False), net.now))
    net.run()
    assert b.names() == set()
    assert b.closes[0].code == "bad-entry"


def test_a_block_that_a_closed_link_cut_short_can_come_again() -> None:
    net = full(2)
    a, b = net.nodes
    facts = [Fact("service", f"x{n}", (NOW << 16) + n, Class.PUBLIC, NOW + LIFE, {"name": "x"}) for n in range(300)]
    block = messages.block([sign_entry(a.key, fact).raw for fact in facts], None, more=False)
    net.do(b, b.mesh.received(a.key.public, block, net.now))
    for _ in range(8):
        net.do(b, b.mesh.work(net.now))  # some of it is looked at
    net.cut(a, b)
    assert b.names() == set()
    net.link(a, b)
    net.do(b, b.mesh.received(a.key.public, block, net.now))
    net.run()
    assert len(b.names()) == 300


def test_what_the_origin_may_not_say_is_refused_and_costs_the_relay_nothing() -> None:
    net = full(2)
    a, b = net.nodes
    stranger = sign_entry(NodeKey.generate(), Fact("service", "x", NOW << 16, Class.PUBLIC, NOW + LIFE, {"name": "x"}))
    private = sign_entry(a.key, Fact("service", "y", NOW << 16, Class.PRIVATE, NOW + LIFE, {"name": "y"}))
    far = sign_entry(a.key, Fact("service", "z", NOW << 16, Class.PUBLIC, NOW + 2 * LIFE, {"name": "z"}))
    raws = [entry.raw for entry in (stranger, private, far)]
    net.do(b, b.mesh.received(a.key.public, {"t": "entries", "entries": raws}, net.now))
    assert b.names() == set()
    assert b.closes == []
    view = b.mesh.view(a.key.public, net.now)
    assert view is not None
    assert sum(view.refused.values()) == 3


@pytest.mark.parametrize(
    "name", ["admits", "entries", "ihave", "want", "prune", "sync.round", "sync.end", "ping", "pong"]
)
def test_a_malformed_message_closes_the_link(name: str) -> None:
    net = full(2)
    a, b = net.nodes
    net.do(b, b.mesh.received(a.key.public, {"t": name, "ids": [b"short"], "tree": [7], "n": -1}, net.now))
    assert [close.code for close in b.closes] == ["malformed"]


def test_a_message_of_a_later_version_is_passed_by() -> None:
    net = full(2)
    a, b = net.nodes
    net.do(b, b.mesh.received(a.key.public, {"t": "something.new", "x": 1}, net.now))
    assert b.closes == []


@pytest.mark.parametrize("tree", [[2, None, "roots"], [3, b"r" * 32, False], [1, None, True, 5]])
@pytest.mark.parametrize("name", ["admits", "prune", "sync.round", "sync.end"])
def test_a_tree_of_a_later_version_is_passed_by(name: str, tree: list[object]) -> None:
    net = full(2)
    a, b = net.nodes
    whole: dict[str, Message] = {
        "admits": messages.admits(PUBLIC_FACTS, [a.key.public], (), fresh=True)[0],
        "prune": messages.prune(PUBLIC_FACTS),
        "sync.round": messages.sync_round(Round(PUBLIC_FACTS, 1, True, net.now, 0, b"\x61")),
        "sync.end": messages.sync_end(PUBLIC_FACTS, 1),
    }
    assert answers(net, b, a, {**whole[name], "tree": tree}) == []
    assert b.closes == []
    view = b.mesh.view(a.key.public, net.now)
    assert view is not None
    assert view.refused == {"a tree that is not known here": 1}
    a.say("and the link goes on")
    net.run()
    assert b.names() == {"and the link goes on"}


def test_digests_of_trees_of_a_later_version_are_passed_by() -> None:
    net = full(2)
    a, b = net.nodes
    for _ in range(2 * STRIKES):
        ping = messages.ping(Ping(1, net.now, net.now, a.mesh.pairs[b.key.public].digests(net.now)))
        cast("list[object]", ping["digests"]).append([[2, None, "roots"], b"d" * 16])
        assert answers(net, b, a, ping) == [], "no difference that anybody could settle"
        net.now += PING_MS
    assert b.closes == []


@pytest.mark.parametrize("tree", [[], [2], [-1, None, True], ["2", None, True], [2, None, True] * 3, None, 7, b"tree"])
def test_what_is_no_name_of_a_tree_closes_the_link(tree: object) -> None:
    net = full(2)
    a, b = net.nodes
    net.do(b, b.mesh.received(a.key.public, {"t": "prune", "tree": tree}, net.now))
    assert [close.code for close in b.closes] == ["malformed"]


QUIET = {"ping", "pong", *MESSAGES}
"""What is said whatever happens."""


def answers(net: Net, node: Node, peer: Node, message: Message) -> list[Message]:
    """What `node` sends to `peer` upon `message`."""
    got: list[Message] = []
    net.tap = lambda source, target, sent: got.append(sent) if (source, target) == (node, peer) else None
    net.do(node, node.mesh.received(peer.key.public, message, net.now))
    net.run(1000)
    return [message for message in got if message["t"] not in QUIET]


def test_ids_outside_of_the_pair_are_as_good_as_unknown() -> None:
    net = full(3)
    owner, member, outsider = net.nodes
    owner.joins()
    member.joins()
    net.run(1000)
    hidden = owner.say("internal", Class.INTERNAL, ROOT.public)
    private = owner.say("private", Class.PRIVATE)
    net.run(1000)
    unknown = b"\0" * 32
    questions: tuple[Callable[[bytes], Message], ...] = (
        lambda identity: messages.want(7, [identity], graft=False),
        lambda identity: messages.want(7, [identity], graft=True),
        lambda identity: messages.ihave([identity])[0],
    )
    for make in questions:
        seen = []
        for identity in (unknown, hidden.id, private.id):
            told = answers(net, owner, outsider, make(identity))
            seen.append(
                [str(message).replace(repr(identity), "ID").replace(str(message.get("n")), "N") for message in told]
            )
        assert seen[0] == seen[1] == seen[2]
        assert seen[0]


def test_a_peer_may_begin_only_so_many_sessions() -> None:
    net = full(2)
    asks, node = net.nodes
    for n in range(50):
        asks.say(f"s{n}")
    net.run(1000)
    answered: list[Message] = []
    net.tap = lambda source, target, message: answered.append(message) if message["t"] == "sync.round" else None

    def begin(number: int) -> None:
        first = finish(Initiator(OrderedSet()).initiate())[1]
        said = messages.sync_round(messages.Round(PUBLIC_FACTS, number, True, net.now, 0, first))
        net.do(node, node.mesh.received(asks.key.public, said, net.now))
        while node.mesh.busy:
            net.do(node, node.mesh.work(net.now))

    for number in range(1000, 1100):
        begin(number)
    assert 10 < len(answered) <= 32
    assert node.closes == []
    net.now += 60_000
    before = len(answered)
    begin(1100)
    assert len(answered) == before + 1


def test_pings_that_come_too_often_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    net = full(2)
    flooder, node = net.nodes
    pair = node.mesh.pairs[flooder.key.public]
    looked: list[int] = []
    digests = pair.digests
    monkeypatch.setattr(pair, "digests", lambda cut: looked.append(cut) or digests(cut))
    pongs: list[Message] = []
    net.tap = lambda source, target, message: pongs.append(message) if message["t"] == "pong" else None

    def flood(count: int) -> None:
        for number in range(count):
            ping = messages.ping(Ping(number, net.now, net.now, {}))
            net.do(node, node.mesh.received(flooder.key.public, ping, net.now))

    flood(1000)
    assert len(pongs) == len(looked) <= MAX_PINGS
    assert pair.refused["pings come too often"] == 1000 - len(pongs)
    assert node.closes == []
    before = len(pongs)
    net.now += 3 * PING_EVERY_MS
    flood(1000)
    assert len(pongs) - before == 3
    net.now -= 86_400_000  # the clock is set back
    flood(1000)
    net.now += PING_MS
    before = len(pongs)
    flood(1)
    assert len(pongs) == before + 1, "who pings as a node does is answered"


def test_an_origin_that_comes_up_in_a_session_is_not_shown_by_it() -> None:
    net = Net(3)
    asks, answers_, hidden = sorted(net.nodes, key=lambda node: node.key.public)
    asks.trusts(answers_)
    answers_.trusts(asks, hidden)
    for n in range(400):
        answers_.say(f"open{n}")
        asks.say(f"mine{n}")
    ids: set[bytes] = set()
    seen: list[bytes] = []

    def tap(source: Node, target: Node, message: Message) -> None:
        if source is not answers_ or message["t"] != "sync.round" or message["tree"] != PUBLIC_FACTS.to_wire():
            return
        seen.append(cast(bytes, message["message"]))
        if len(seen) == 1:  # in the middle of the session
            for n in range(40):
                entry = sign_entry(
                    hidden.key, Fact("service", f"h{n}", NOW << 16, Class.PUBLIC, NOW + LIFE + n, {"name": "h"})
                )
                ids.add(entry.id)
                answers_.take(entry)

    net.tap = tap
    net.link(asks, answers_)
    net.run(1000)
    assert ids
    assert len(seen) > 1
    assert not any(identity in message for message in seen for identity in ids)
    assert len(asks.names()) == 800


def test_an_internal_entry_that_an_outsider_sends_is_not_believed() -> None:
    net = full(3)
    owner, member, outsider = net.nodes
    owner.joins()
    member.joins()
    net.run(1000)
    raw = sign_entry(
        owner.key, Fact("service", "x", NOW << 17, Class.INTERNAL, NOW + LIFE, {"name": "x"}, ROOT.public)
    ).raw
    net.do(member, member.mesh.received(outsider.key.public, {"t": "entries", "entries": [raw]}, net.now))
    assert member.names() == set()


def test_a_node_that_lost_its_disk_gets_its_own_back_and_goes_on() -> None:
    net = full(2)
    a, b = net.nodes
    for name in ("one", "two"):
        a.say(name)
    a.say("two", body=None)
    net.run(1000)
    net.cut(a, b)
    wiped = Node(net, 0)
    net.nodes[0] = wiped
    wiped.trusts(b)
    wiped.say("three")
    net.link(wiped, b)
    net.run(2000)
    assert wiped.names() == b.names() == {"one", "three"}
    wiped.say("one", body="changed")
    net.run()
    entry = b.replica.map.view(a.key.public, "service", "one", net.now)
    assert entry is not None
    assert entry.id == next(e.id for e in wiped.replica.map if e.name == "one")


def test_who_brings_back_an_old_word_is_told_at_once_what_was_said_since() -> None:
    net = full(2)
    a, b = net.nodes
    for name in ("changed", "dead", "private"):
        a.say(name, body="old")
    net.run(1000)
    net.cut(a, b)
    wiped = Node(net, 0)
    net.nodes[0] = wiped
    wiped.trusts(b)
    net.now -= 60_000  # below its own past, which it does not know
    wiped.say("changed", body="new")
    wiped.say("dead", body="new")
    wiped.say("dead", body=None)
    wiped.say("private", Class.PRIVATE, body="new")
    net.link(wiped, b)
    net.run()  # no time goes by
    assert wiped.names() == {"changed", "private"}
    assert b.names() == {"changed"}
    entry = b.replica.map.view(a.key.public, "service", "changed", net.now)
    assert entry is not None
    assert (fact_of(entry).body or {})["body"] == "new"


def test_digests_agree_at_rest_and_nothing_goes_on() -> None:
    net = full(4, federation=True)
    for n, node in enumerate(net.nodes):
        for m in range(20):
            node.say(f"{n}.{m}", Class.INTERNAL if m % 2 else Class.PUBLIC, ROOT.public if m % 2 else None)
    net.run(10_000)
    one, other = net.nodes[:2]
    pair = one.mesh.pairs[other.key.public]
    assert PUBLIC_FACTS in pair.trees
    assert pair.digests(net.now) == other.mesh.pairs[one.key.public].digests(net.now)
    assert len(pair.digests(net.now)) == 3
    before = net.said.copy()
    net.run(60_000)
    assert {name for name in net.said if net.said[name] != before[name]} <= QUIET


def test_a_clock_that_is_set_back_stops_nothing() -> None:
    net = full(2)
    a, b = net.nodes
    right = net.now
    net.now += 10 * 365 * DAY_MS
    for node in net.nodes:
        net.do(node, node.mesh.tick(net.now))
    net.wire.clear()
    net.now = right
    a.say("one")
    net.wire.clear()  # lost: it takes pings, from both sides, and a session to find it
    net.run(30_000)
    assert b.names() == {"one"}


def test_what_trust_opens_is_told_again_where_that_was_lost() -> None:
    """The drop hook of the lab and a full queue lose messages of a link that stands."""
    net = full(2)
    a, b = net.nodes
    a.say("one")
    net.run(1000)
    net.cut(a, b)
    net.link(a, b)
    net.wire.clear()  # all that was said at the beginning
    net.run(60_000)
    a.say("two")
    net.run(30_000)
    assert b.names() == {"one", "two"}
    assert a.closes == b.closes == []


def test_a_question_that_gets_no_answer_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    net = full(2)
    a, b = sorted(net.nodes, key=lambda node: node.key.public)
    b.say("one")
    net.wire.clear()
    a.mesh.overflowed(b.key.public)
    receives = b.mesh.received
    lost: list[Message] = []

    def loses(peer: bytes, message: Message, now_ms: int) -> list[Effect]:
        if message["t"] == "want" and not lost:
            lost.append(message)
            return []
        return receives(peer, message, now_ms)

    monkeypatch.setattr(b.mesh, "received", loses)
    net.run(60_000)
    assert lost
    assert a.names() == {"one"}
    view = a.mesh.view(b.key.public, net.now)
    assert view is not None
    assert view.synced


def test_no_more_questions_are_open_than_a_slow_peer_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    net = full(2)
    a, b = net.nodes
    monkeypatch.setattr(b.mesh, "sent", lambda peer, now_ms: [])  # nothing leaves its bulk queue
    for n in range(40):
        net.do(a, a.mesh.received(b.key.public, messages.ihave([bytes([n]) * 32])[0], net.now))
        net.run(500)
    assert a.closes == b.closes == []


def test_asking_for_an_id_outside_ones_set_changes_nothing() -> None:
    net = Net(3)
    a, b, c = net.nodes
    a.trusts(b, c)
    b.trusts(a)
    net.link(a, b)
    net.run(1000)
    secret = sign_entry(c.key, Fact("service", "of-c", 1 << 60, Class.PUBLIC, net.now + DAY_MS, {}))
    a.take(secret)  # a holds it, and b, which does not trust c, may not learn that
    pushed: list[Message] = []
    for identity in (b"\x01" * 32, secret.id):
        net.do(a, a.mesh.received(b.key.public, messages.prune(PUBLIC_FACTS), net.now))
        net.do(a, a.mesh.received(b.key.public, messages.want(9, [identity], graft=True), net.now))
        net.run()
        net.tap = lambda _source, _target, message: pushed.append(message) if message["t"] == "entries" else None
        a.say(f"news-{identity[:1].hex()}")
        net.tap = lambda _source, _target, _message: None
        net.run(1000)
    assert pushed == [], "one answer would tell that the entry is there"


def test_a_forged_entry_outside_what_is_open_finds_nothing_out() -> None:
    net = full(2)
    a, b = net.nodes
    secret = a.say("secret", Class.PRIVATE)
    for name in ("secret", "unknown"):
        forged = Fact("service", name, secret.stamp, Class.PRIVATE, secret.valid_until - 1, {"forged": True})
        raw = bytearray(sign_entry(b.key, forged).raw)
        raw = raw.replace(b.key.public, a.key.public)
        net.do(a, a.mesh.received(b.key.public, {"t": "entries", "entries": [bytes(raw)]}, net.now))
        assert a.closes == [], f"a link that closes tells that {name} is there"


def test_messages_of_sessions_that_wait_are_counted() -> None:
    """Each may hold 64 KiB: a peer that sends them faster than they are answered is not read on."""
    net = full(2)
    a, b = net.nodes
    flood = messages.sync_round(Round(PUBLIC_FACTS, 1, False, net.now, 0, b"\x61" + bytes(60_000)))
    before = a.mesh.backlog(b.key.public)
    for _ in range(100):
        net.do(a, a.mesh.received(b.key.public, flood, net.now))
    assert a.mesh.backlog(b.key.public) - before > 4 * BACKLOG
    net.run()
    assert a.mesh.backlog(b.key.public) == 0


def test_what_a_peer_announces_and_never_gives_does_not_pile_up() -> None:
    net = full(2)
    a, b = net.nodes
    pair = a.mesh.pairs[b.key.public]
    for n in range(8):
        for part in range(20):
            ids = [(n * 20_000 + part * 1_000 + m).to_bytes(32, "big") for m in range(1, 1_001)]
            a.mesh.received(b.key.public, {"t": "ihave", "ids": ids}, net.now)
        for _ in range(6):
            net.now += 250
            a.mesh.tick(net.now)
    assert len(pair.needs) <= 2 * MAX_FRESH


def test_what_is_still_on_its_way_is_not_found_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net(2)
    a, b = sorted(net.nodes, key=lambda node: node.key.public)
    for n in range(40):
        a.say(f"a{n}")
    a.trusts(b)
    b.trusts(a)
    monkeypatch.setattr(a.mesh, "sent", lambda peer, now_ms: [])  # a reader that is slow
    net.link(a, b)
    pair = a.mesh.pairs[b.key.public]
    pair.room = False
    net.run(180_000)
    assert len(pair.haves) == 40


@pytest.mark.parametrize("asks", [True, False])
def test_a_session_over_what_was_open_ends_with_that(asks: bool) -> None:
    net = Net(3)
    a, b = sorted(net.nodes[:2], key=lambda node: node.key.public, reverse=asks)
    c = net.nodes[2]
    for node, other in ((a, b), (b, a)):
        node.trusts(other, c)
    net.link(a, b)
    net.run(1000)
    a.take(sign_entry(c.key, Fact("service", "of-c", 1 << 60, Class.PUBLIC, net.now + DAY_MS, {})))
    net.run(1000)
    said: list[Message] = []
    net.tap = lambda source, _target, message: said.append(message) if source is a else None
    if asks:
        all_of_it = messages.sync_round(Round(PUBLIC_FACTS, 77, True, net.now, 0, b"\x61\x00\x00\x02\x00"))
        a.mesh.received(b.key.public, all_of_it, net.now)
    else:
        pair = a.mesh.pairs[b.key.public]
        pair.trees[PUBLIC_FACTS].due = True
        a.mesh.tick(net.now)
    assert a.mesh.busy
    a.trust.drop(c.key.public)
    a.mesh.pairs[b.key.public].offer({PUBLIC_FACTS: frozenset((a.key.public, b.key.public))})
    while a.mesh.busy:
        net.do(a, a.mesh.work(net.now))
    assert not [message for message in said if message["t"] == "sync.round" and message.get("session") == 77]
    ids = [message["message"] for message in said if message["t"] == "sync.round"]
    of_c = next(entry for entry in a.replica.map if entry.origin == c.key.public)
    assert not any(of_c.id in cast(bytes, inner) for inner in ids)
