"""What who-is-alive and trust cost a node in a large federation, on a virtual clock. `make bench-federation` prints it.

One node with four links among 1,000, all certified by one root: beacons as often as they come in such a federation,
each by one link and passed on over one (what a tree gives on average), pings, probes, and the checks of each tick;
messages are encoded and decoded, TLS is not in it. And what one revoked intermediate of ten costs, of 10,000 keys.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Final, cast

from crdt import cbor
from federation.beacon import make_beacon
from federation.effects import Effect, Send
from federation.envelope import encode_message
from federation.identity import NodeKey
from federation.mesh import Mesh
from federation.messages import Message, Ping, admits, ping
from federation.replica import Replica
from federation.trust import Anchor, Role, Trust, issue_cert

START: Final = 1_800_000_000_000
LINKS: Final = 4
TICK: Final = 250
FRAME: Final = 31  # bytes of WebSocket and TLS around one frame


class One:
    """A node that believes the members of one federation. `sent`: bytes, frames included."""

    def __init__(self, root: NodeKey) -> None:
        self.key = NodeKey.generate()
        self.trust = Trust(self.key.public)
        self.trust.put(Anchor(root.public, Role.ROOT))
        self.replica = Replica(self.key, lambda _: True)
        self.mesh = Mesh(self.replica, self.trust)
        self.sent = self.got = 0

    def do(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                self.sent += len(encode_message(effect.message)) + FRAME

    def hear(self, peer: bytes, message: Message, now: int) -> None:
        raw = encode_message(message)
        self.got += len(raw) + FRAME
        self.do(self.mesh.received(peer, cast(Message, cbor.decode(raw)), now))


def among(nodes: int, seconds: int) -> tuple[float, float, float]:
    """(part of a core, bytes/s in, bytes/s out) of one node among `nodes`."""
    root = NodeKey.generate()
    keys = [NodeKey.generate() for _ in range(nodes - 1)]
    one = One(root)
    for key in (one.key, *keys):
        one.trust.learn(issue_cert(root, key.public, now_ms=START))
    peers = [key.public for key in keys[:LINKS]]
    interval = min(max(5, nodes // 50), 120)
    shorts = [key.public for key in keys]
    neighbours = [[shorts[(at + step) % len(shorts)] for step in (1, -1, 7, -7)] for at in range(len(keys))]
    for at in range(LINKS):
        neighbours[at].append(one.key.public)
    due: list[list[int]] = [[] for _ in range(interval * 1000 // TICK)]
    for at in range(len(keys)):
        due[at * len(due) // len(keys)].append(at)
    now = START
    for peer in peers:
        one.do(one.mesh.opened(peer, now))
        for tree, opening in list(one.mesh.pairs[peer].trees.items()):
            for message in admits(tree, opening.mine, (), fresh=True):
                one.hear(peer, message, now)

        one.hear(peer, {"t": "beacon", "beacons": [], "next": b""}, now)

    def beacons(some: Sequence[int], seq: int) -> list[list[bytes]]:
        raws: list[list[bytes]] = [[] for _ in peers]
        for at in some:
            raws[at % LINKS].append(make_beacon(keys[at], (1, seq), now, interval, neighbours[at]).raw)
        return raws

    def round(seq: int) -> float:
        """One interval; the CPU seconds of the node in it."""
        nonlocal now
        spent = 0.0
        for number, some in enumerate(due):
            said = beacons(some, seq)
            began = time.process_time()
            for place, raws in enumerate(said):
                if raws:
                    one.hear(peers[place], {"t": "beacon", "beacons": raws}, now)
            for place, peer in enumerate(peers):
                if number % 20 == place:
                    digests = one.mesh.pairs[peer].digests(now)
                    one.hear(peer, ping(Ping(seq, now, now, digests)), now)
                if number % 8 == place:
                    one.hear(peer, {"t": "probe"}, now)
            one.do(one.mesh.tick(now))
            while one.mesh.busy:
                one.do(one.mesh.work(now))
            spent += time.process_time() - began
            now += TICK
        return spent

    round(1)
    for place, peer in enumerate(peers):  # what a tree leaves: each node's beacons go on over one link, on average
        pruned = [key.public for at, key in enumerate(keys) if (at + 1) % LINKS != place]
        for start in range(0, len(pruned), 256):
            one.hear(peer, {"t": "beacon.prune", "keys": pruned[start : start + 256]}, now)
    round(2)
    one.sent = one.got = 0
    rounds = max(1, seconds // interval)
    spent = sum(round(seq) for seq in range(3, 3 + rounds))
    return spent / (rounds * interval), one.got / (rounds * interval), one.sent / (rounds * interval)


def revoked(origins: int, issuers: int) -> tuple[float, int, float]:
    """(CPU s until all is known that follows, keys looked at, CPU s of what the links are told) when a root revokes one
    of `issuers` that certified `origins` together."""
    root = NodeKey.generate()
    one = One(root)
    one.trust.learn(issue_cert(root, one.key.public, now_ms=START))
    between = [NodeKey.generate() for _ in range(issuers)]
    for key in between:
        one.trust.learn(issue_cert(root, key.public, now_ms=START, depth=1))
    for number in range(origins):
        by = between[number % issuers]
        one.trust.learn(issue_cert(by, number.to_bytes(32, "big"), now_ms=START, federation=root.public))
    for key in between[:LINKS]:
        one.do(one.mesh.opened(key.public, START))
    word = issue_cert(root, between[-1].public, now_ms=START, state="revoked", stamp=(START + 1) << 16)
    looked = one.trust.looked
    began = time.process_time()
    one.trust.learn(word)
    learned = time.process_time() - began
    looked = one.trust.looked - looked
    began = time.process_time()
    one.do(one.mesh.trust_changed(START))
    return learned, looked, time.process_time() - began


if __name__ == "__main__":
    part, got, sent = among(1_000, 60)
    print(f"one node among 1,000: {part:.2%} of a core, {got / 1000:.1f} kB/s in, {sent / 1000:.1f} kB/s out")
    learned, looked, told = revoked(10_000, 10)
    print(
        f"one of ten issuers revoked, 10,000 keys: {learned * 1000:.0f} ms for {looked:,} keys looked at, and "
        f"{told * 1000:.0f} ms to tell {LINKS} links"
    )
