"""100,000 keys that one delegate makes and certifies buy it nothing: memory stays, and others are as fast as before."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Iterable

import pytest

from crdt.entry import MAX_LIFE_MS, Class, Entry, Fact
from federation.budget import Bounds
from federation.cose import sign_entry
from federation.identity import NodeKey
from federation.quotas import Part
from federation.trust import issue_cert
from tests.unit.meshes import MEMBER, NOW, ROOT, Net, Node

MINTED = 100_000
BLOCK = 200
TWICE = 8_200
SPEAKING = 4_000  # of the minted keys, each with a record of its own
BLOCKS = 2_000  # of memory, for 60,000 entries that are refused
STAMP = NOW << 16

Anchored = tuple[Net, Node, NodeKey, NodeKey]


@pytest.fixture
def anchored() -> Anchored:
    """A watcher and a relay, both members; the keys of a delegate and of an honest member beside it."""
    net = Net(2, Bounds(below_records=6_000))
    delegate, honest = NodeKey(b"\xd0" * 32), NodeKey(b"\xd1" * 32)
    for node in net.nodes:
        node.joins()
        for key, depth in ((delegate, 1), (honest, 0), *((node.key, 0) for node in net.nodes)):
            node.take(issue_cert(ROOT, key.public, now_ms=NOW, depth=depth, scope=MEMBER))
    net.link(*net.nodes)
    net.run(1000)
    return net, net.nodes[0], delegate, honest


def brought(net: Net, watcher: Node, some: Iterable[Entry]) -> None:
    """`some` comes from the relay as news."""
    relay = net.nodes[1].key.public
    net.do(watcher, watcher.mesh.received(relay, {"t": "entries", "entries": [entry.raw for entry in some]}, net.now))
    net.run(0)


def service(key: NodeKey, name: str, n: int = 0) -> Entry:
    return sign_entry(key, Fact("service", name, STAMP + n, Class.PUBLIC, NOW + MAX_LIFE_MS, {"name": name}))


def per_entry(net: Net, watcher: Node, some: list[list[Entry]]) -> float:
    """CPU seconds for an entry of `some`, the best of its blocks."""
    best = 1.0
    for block in some:
        begun = time.process_time()
        brought(net, watcher, block)
        best = min(best, (time.process_time() - begun) / len(block))
    return best


@pytest.mark.timeout(180)
def test_keys_that_a_delegate_mints_take_no_memory_and_no_time_of_others(anchored: Anchored) -> None:
    net, watcher, delegate, honest = anchored
    news = [[service(honest, f"h{n}", 20 * round + n) for n in range(20)] for round in range(40)]
    before = per_entry(net, watcher, news[:20])

    def mint(first: int, last: int) -> None:
        for start in range(first, last, BLOCK):
            keys = [bytes(28) + n.to_bytes(4, "big") for n in range(start, start + BLOCK)]
            brought(net, watcher, [issue_cert(delegate, key, federation=ROOT.public, now_ms=NOW) for key in keys])
            net.run(250)

    mint(0, 40_000)
    # The relay, which holds none, says that they fit, so twice the bound came.
    part = Part(delegate.public, trust=True)
    assert watcher.mesh.quotas.frozen[part].reason == "it says 8,200 things about keys, and may say 4,096"
    gc.collect()
    blocks = sys.getallocatedblocks()
    mint(40_000, MINTED)
    gc.collect()
    assert sys.getallocatedblocks() - blocks < BLOCKS
    assert watcher.replica.holdings.statements(delegate.public) == TWICE
    assert len(watcher.trust.keys()) < TWICE + 10
    assert watcher.mesh.quotas.counts["refused"] == MINTED - TWICE
    assert sum(change.origin == delegate.public for change in watcher.quota) < 20, "one line for each freeze"
    assert {change.origin for change in watcher.quota} == {delegate.public}
    assert not watcher.closes
    after = per_entry(net, watcher, news[20:])
    assert after < 1.5 * before, f"{before * 1e6:.0f} µs an entry, then {after * 1e6:.0f}"


def test_what_minted_keys_say_counts_together(anchored: Anchored) -> None:
    """And not one entry of each of them more."""
    net, watcher, delegate, honest = anchored
    minted = [NodeKey(n.to_bytes(32, "big")) for n in range(1, SPEAKING + 1)]
    for start in range(0, SPEAKING, BLOCK):
        some = minted[start : start + BLOCK]
        brought(net, watcher, [issue_cert(delegate, key.public, federation=ROOT.public, now_ms=NOW) for key in some])
    net.run(1000)
    for start in range(0, SPEAKING, BLOCK):
        brought(net, watcher, [service(key, "s") for key in minted[start : start + BLOCK]])
    held = sum(watcher.replica.holdings.used(key.public).records for key in minted)
    assert held + SPEAKING == 6_000, "its own certificates count as well"
    assert "all that are certified by way of" in watcher.mesh.quotas.frozen[Part(minted[-1].public)].reason
    brought(net, watcher, [service(honest, "h")])
    assert watcher.replica.map.view(honest.public, "service", "h", net.now) is not None
    assert Part(honest.public) not in watcher.mesh.quotas.frozen
