"""What becomes of a federation whose root is offline, on a virtual clock: members carry its words on, for as long as
those hold, and to whoever comes later."""

from crdt.entry import DAY_MS, Class
from federation.identity import NodeKey
from federation.trust import Anchor, Role, issue_cert
from tests.unit.meshes import ROOT, Net, Node

STRANGER = NodeKey(b"\xee" * 32)


def founded(count: int) -> Net:
    """The first is certified by the root with depth 1; each knows the root and nobody else."""
    net = Net(count)
    for node in net.nodes:
        node.trust.put(Anchor(ROOT.public, Role.ROOT))
        net.do(node, node.mesh.trust_changed(net.now))
    net.nodes[0].take(issue_cert(ROOT, net.nodes[0].key.public, now_ms=net.now, depth=1))
    return net


def certified(net: Net, by: Node, whom: Node) -> None:
    """As an invite does it: the joiner is given the whole chain."""
    chain = issue_cert(by.key, whom.key.public, now_ms=net.now, federation=ROOT.public)
    above = [entry for entry in by.replica.map if entry.kind == "cert" and entry.name == by.key.did]
    for entry in (*above, chain):
        whom.take(entry)
    persist = by.replica.accept(chain, True, net.now)
    for effect in persist:
        by.replica.persisted(effect)  # type: ignore[arg-type]
        net.do(by, by.mesh.merged([(effect.entries, None)], net.now))  # type: ignore[union-attr]


def later(net: Net, days: int) -> None:
    """So many days on, nobody having said anything."""
    net.now += days * DAY_MS
    net.run(60_000)


def test_an_offline_root_does_not_end_the_federation_on_day_31() -> None:
    net = founded(3)
    first, second, third = net.nodes
    for joiner in (second, third):
        certified(net, first, joiner)
        net.link(first, joiner)
    net.run(10_000)
    later(net, 31)
    second.say("news", Class.INTERNAL, ROOT.public)
    net.run(10_000)
    assert [node.names(Class.INTERNAL) for node in net.nodes] == [{"news"}] * 3
    later(net, 368)  # day 399
    third.say("late", Class.INTERNAL, ROOT.public)
    net.run(10_000)
    assert "late" in second.names(Class.INTERNAL)
    later(net, 2)  # the root has not been seen for 401 days
    third.say("too late", Class.INTERNAL, ROOT.public)
    net.run(10_000)
    assert "too late" not in second.names(Class.INTERNAL)


def test_a_revocation_does_not_lapse_on_day_41_and_reaches_whoever_comes_then() -> None:
    net = founded(4)
    first, second, third, fourth = net.nodes
    for joiner in (second, third):
        certified(net, first, joiner)
        net.link(first, joiner)
    net.run(10_000)
    first.take(issue_cert(ROOT, second.key.public, now_ms=net.now, state="revoked"))
    net.run(10_000)
    assert not third.trust.may_link(second.key.public, net.now)
    later(net, 41)
    assert not third.trust.may_link(second.key.public, net.now)
    certified(net, first, fourth)
    net.link(third, fourth)  # neither the root nor who heard it first is asked
    fourth.take(issue_cert(first.key, second.key.public, now_ms=net.now - 41 * DAY_MS, federation=ROOT.public))
    assert fourth.trust.may_link(second.key.public, net.now)  # so it seems, until it has heard
    net.run(10_000)
    assert not fourth.trust.may_link(second.key.public, net.now)


def test_a_delegate_that_is_offline_is_heard_by_whoever_comes_later() -> None:
    """What it certified is carried on by its members."""
    net = founded(4)
    first, second, third, fourth = net.nodes
    certified(net, first, second)
    certified(net, first, third)
    certified(net, first, fourth)
    net.link(first, second)
    net.run(10_000)
    second.say("x", Class.INTERNAL, ROOT.public)
    net.run(1_000)
    net.cut(first, second)
    net.link(second, third)
    net.link(third, fourth)
    net.run(20_000)
    assert fourth.names(Class.INTERNAL) == {"x"}
