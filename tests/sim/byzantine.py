"""A node with a good key, a link and, where its peers have them, certificates, that at any moment says what it likes.

It runs an engine like everybody else, so it knows what a member knows, and sends beside it what no engine would: each
move below is one thing that a peer gone bad may try. What is signed by a key of its own is told to the oracle; all else
counts as signed by nobody.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from crdt.entry import DAY_MS, MAX_LIFE_MS, MAX_LIFE_TRUST_MS, Class, Entry, Fact
from crdt.ordered_set import OrderedSet, item_key
from crdt.reconcile import Initiator, finish
from federation import messages
from federation.cose import fact_of, sign_entry
from federation.effects import Lane
from federation.identity import NodeKey, did_of
from federation.messages import Message
from federation.partitions import PUBLIC_FACTS, PUBLIC_TRUST, Tree, internal
from federation.reconciler import LIMITS
from tests.sim.node import Process, SimNode

if TYPE_CHECKING:
    from tests.sim.setting import Scene

YEAR_2100: Final = 4_102_444_800_000
NAMES: Final = ("admits", "entries", "ihave", "want", "prune", "sync.round", "sync.end", "ping", "pong", "beacons", "?")
KEEPS_BACK: Final = ("entries", "ihave", "sync.round", "want", "pong", "prune")


class Byzantine:
    """The bad side of `node`. `friends`: keys of its own that it certifies though it may not."""

    def __init__(self, scene: Scene, node: SimNode) -> None:
        self.scene = scene
        self.node = node
        self.random = scene.world.random
        self.friends = [NodeKey(self.random.randbytes(32)) for _ in range(2)]
        scene.keys += self.friends
        scene.oracle.labels.update((key.public, f"{node}'s friend {n}") for n, key in enumerate(self.friends, 1))
        self._version = 0

    def act(self) -> None:
        """One move towards one peer, where there is a link."""
        process = self.node.process
        if process is None or not process.links:
            return
        move = self.random.choice(MOVES)
        peer = self.random.choice(list(process.links))
        self.scene.world.tell(f"{self.node} is bad to {self.scene.oracle.label(peer)}: {move.__name__.strip('_')}")
        move(self, process, peer)

    # What it signs

    def _equivocates(self, process: Process, peer: bytes) -> None:
        """Two words with one stamp, to different peers."""
        fact = self._fact()
        other = replace(fact, body={"v": -self._version})
        peers = list(process.links)
        self.random.shuffle(peers)
        for number, each in enumerate(peers):
            self._push(process, each, [self._sign(fact if number % 2 else other)])

    def _certifies(self, process: Process, peer: bytes) -> None:
        """Its friends, itself, and others out; each peer hears something else."""
        scene, random, now = self.scene, self.random, self.scene.world.now
        roots = [root.public for root in scene.roots] or [self.node.key.public]
        signer = random.choice([self.node.key, self.node.key, self.friends[0]])
        subjects = [key.public for key in self.friends] + [node.key.public for node in scene.nodes]
        body = {
            "state": random.choice(("granted", "granted", "revoked", "maybe")), "federation": random.choice(roots),
            "not_before": 0, "not_after": now + random.choice((MAX_LIFE_TRUST_MS, 10_000)), "depth": 4,
        }  # fmt: skip
        if random.random() < 0.2:
            body[random.choice(tuple(body))] = random.choice((None, -1, "x", [1], 1 << 62))
        stamp = (now + random.choice((-60_000, 0, 60_000))) << 16
        until = now + random.choice((MAX_LIFE_TRUST_MS, 5_000))
        cert = self._sign(Fact("cert", did_of(random.choice(subjects)), stamp, Class.PUBLIC, until, body), signer)
        self.node.heard[cert.id] = cert  # to be replayed
        self._push(process, peer, [cert])

    def _speaks_for_a_friend(self, process: Process, peer: bytes) -> None:
        root = self.random.choice(self.scene.roots).public if self.scene.roots else None
        cls = Class.PUBLIC if root is None or self.random.random() < 0.5 else Class.INTERNAL
        fact = replace(self._fact(), cls=cls, root=root if cls is Class.INTERNAL else None)
        self._push(process, peer, [self._sign(fact, self.random.choice(self.friends))])

    def _lives_too_long(self, process: Process, peer: bytes) -> None:
        until = self.random.choice((YEAR_2100, self.scene.world.now - 2 * DAY_MS, 1))
        self._push(process, peer, [self._sign(replace(self._fact(), valid_until=until))])

    def _tells_a_secret(self, process: Process, peer: bytes) -> None:
        """What it was told in its federation, to whoever is there; and what nobody is to be told."""
        secrets = [entry for entry in self.node.heard.values() if entry.cls is Class.INTERNAL][-5:]
        private = replace(self._fact(), cls=Class.PRIVATE)
        self._push(process, peer, [*secrets, self._sign(private)])

    def _floods(self, process: Process, peer: bytes) -> None:
        self._push(process, peer, [self._sign(self._fact(f"{self.node}.{n}")) for n in range(20)])

    # What it does not sign

    def _forges(self, process: Process, peer: bytes) -> None:
        """A word of another's key, above all that it said, with a signature of its own."""
        some = [entry for entry in self.node.heard.values() if entry.origin != self.node.key.public]
        if some:
            entry = self.random.choice(some)
            fact = fact_of(entry)
            mine = sign_entry(self.node.key, replace(fact, stamp=fact.stamp + 1, body=None))
            raw = mine.raw.replace(self.node.key.public, entry.origin, 1)
            self._send(process, peer, {"t": "entries", "entries": [raw]})

    def _spoils(self, process: Process, peer: bytes) -> None:
        """A good entry with a bad signature: others' and, to one peer before the others have it, a new one of its
        own."""
        new = self._sign(self._fact())
        raws = [entry.raw for entry in list(self.node.heard.values())[-3:]] + [new.raw]
        spoilt = self.random.choice(raws)
        spoilt = spoilt[:-1] + bytes((spoilt[-1] ^ 1,))
        self._send(process, peer, {"t": "entries", "entries": [*raws[:-1], spoilt]})
        for other in process.links:
            if other != peer:
                self._push(process, other, [new])

    def _replays(self, process: Process, peer: bytes) -> None:
        some = list(self.node.heard.values())
        self._push(process, peer, self.random.sample(some, min(len(some), 20)))

    # What it says of what it has, and asks for

    def _announces_what_is_not_there(self, process: Process, peer: bytes) -> None:
        for _ in range(self.random.choice((1, 1, 12))):
            self._send(process, peer, {"t": "ihave", "ids": self._unknown()})

    def _asks_for_what_is_not_there(self, process: Process, peer: bytes) -> None:
        for number in range(self.random.choice((1, 10, 40))):
            self._send(process, peer, messages.want(number, self._unknown(100), graft=self.random.random() < 0.5))

    def _asks_for_secrets(self, process: Process, peer: bytes) -> None:
        """By the ids of all that not everybody may have."""
        ids = list(self.scene.oracle.hidden)[-500:]
        if ids:
            self._send(process, peer, messages.want(1, ids, graft=True))

    def _lies_about_what_it_takes(self, process: Process, peer: bytes) -> None:
        random = self.random
        keys = [node.key.public for node in self.scene.nodes] + [random.randbytes(32) for _ in range(50)]
        add = random.sample(keys, random.randint(0, len(keys)))
        drop = random.sample(keys, random.randint(0, 3))
        for message in messages.admits(self._tree(), add, drop, fresh=random.random() < 0.5):
            self._send(process, peer, message)

    def _takes_no_news(self, process: Process, peer: bytes) -> None:
        self._send(process, peer, messages.prune(self._tree()))

    def _compares_nonsense(self, process: Process, peer: bytes) -> None:
        """Messages of sessions that nobody began, that are none, or that say it has what nobody has."""
        random = self.random
        until = self.scene.world.now + MAX_LIFE_MS
        items = OrderedSet(item_key(until, identity) for identity in self._unknown(random.choice((3, 25, 300))))
        _, good = finish(Initiator(items, 0, LIMITS).initiate())
        assert good is not None
        for number in range(random.choice((1, 3, 40))):
            body = random.choice((good, good[: len(good) // 2], good + random.randbytes(40), random.randbytes(100)))
            self._send(
                process, peer,
                {
                    "t": "sync.round", "tree": self._tree().to_wire(), "session": random.choice((number, 1 << 40)),
                    "asks": random.random() < 0.7, "cut": random.choice((0, self.scene.world.now, 1 << 60)),
                    "size": random.choice((0, 1 << 62)), "message": body,
                },
            )  # fmt: skip

    def _pings_without_end(self, process: Process, peer: bytes) -> None:
        digests: list[object] = [[self._tree().to_wire(), self.random.randbytes(16)]]
        now = self.scene.world.now
        for number in range(60):
            ping: Message = {"t": "ping", "n": number, "at": now, "cut": now, "digests": digests}
            self._send(process, peer, ping, Lane.BARE)

    def _babbles(self, process: Process, peer: bytes) -> None:
        """Messages that are not as they should be."""
        random = self.random
        odd: list[object] = [None, -1, 1 << 63, "x", b"x", [], [[]], {}, True]
        fields = (
            "tree",
            "add",
            "drop",
            "fresh",
            "more",
            "entries",
            "answers",
            "ids",
            "n",
            "graft",
            "session",
            "message",
        )
        message: Message = {"t": random.choice(NAMES)}
        message.update((name, random.choice(odd)) for name in random.sample(fields, random.randint(0, 6)))
        self._send(process, peer, message)

    def _withholds(self, process: Process, peer: bytes) -> None:
        """From now on some messages never leave it."""
        self.node.withholds = frozenset(self.random.sample(KEEPS_BACK, self.random.randint(0, 3)))

    # Inside

    def _fact(self, name: str = "") -> Fact:
        """Something new about one of its services, sometimes with a stamp that was used."""
        self._version += 1
        now, random = self.scene.world.now, self.random
        name = name or f"{self.node}{random.randrange(5)}"
        body = {"v": self._version} if random.random() < 0.8 else None
        return Fact("service", name, (now << 16) - random.randrange(3), Class.PUBLIC, now + MAX_LIFE_MS, body)

    def _sign(self, fact: Fact, key: NodeKey | None = None) -> Entry:
        entry = sign_entry(key or self.node.key, fact)
        self.scene.oracle.signed((entry,))
        return entry

    def _unknown(self, count: int = 1_000) -> list[bytes]:
        rubbish = self.random.randbytes(32 * count)
        return [rubbish[at : at + 32] for at in range(0, len(rubbish), 32)]

    def _tree(self) -> Tree:
        return self.random.choice((PUBLIC_FACTS, PUBLIC_TRUST, *(internal(root.public) for root in self.scene.roots)))

    def _push(self, process: Process, peer: bytes, entries: Iterable[Entry]) -> None:
        message: Message = {"t": "entries", "entries": [entry.raw for entry in entries]}
        if self.random.random() < 0.3:  # as if it had been asked for
            message |= {"answers": self.random.choice((None, 1)), "more": self.random.random() < 0.5}
        self._send(process, peer, message)

    def _send(self, process: Process, peer: bytes, message: Message, lane: Lane = Lane.PUSH) -> None:
        self.scene.network.inject(process, peer, message, lane)


MOVES: Final = (
    Byzantine._equivocates, Byzantine._certifies, Byzantine._certifies, Byzantine._speaks_for_a_friend,
    Byzantine._lives_too_long, Byzantine._tells_a_secret, Byzantine._floods, Byzantine._forges, Byzantine._spoils,
    Byzantine._replays, Byzantine._announces_what_is_not_there, Byzantine._asks_for_what_is_not_there,
    Byzantine._asks_for_secrets, Byzantine._lies_about_what_it_takes, Byzantine._takes_no_news,
    Byzantine._compares_nonsense, Byzantine._pings_without_end, Byzantine._babbles, Byzantine._withholds,
)  # fmt: skip
