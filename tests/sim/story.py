"""What happens in a run: people write, admins decide, machines and networks fail. Which of that, the seed says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from crdt.entry import DAY_MS, MAX_LIFE_MS, Class, Fact
from federation.cose import sign_entry
from federation.replica import Statement
from federation.trust import Anchor, Role, Scope
from tests.sim import checks
from tests.sim.byzantine import Byzantine
from tests.sim.granting import Grants
from tests.sim.node import Disk, Habits, Process, SimNode
from tests.sim.setting import Scene

HOUR_MS: Final = 3_600_000
DECADE_MS: Final = 10 * 365 * DAY_MS
NOTHING: Final = Scope(frozenset())
NAMES: Final = 5  # services of one node, besides those of bursts
PAUSES: Final = (0, 0, 5, 60, 400, 2_000, 7_000)  # ms between two things that happen


class Story:
    """One thing after another, until `steps` have happened."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.world = scene.world
        self.random = scene.world.random
        self.grants = Grants(scene)
        self.byzantine = [Byzantine(scene, node) for node in scene.nodes if node.bad]
        self._version = 0
        have = scene.features
        acts: list[tuple[Callable[[], None], int, bool]] = [
            (self.write, 14, True),
            (self.rewrite, 4, True),
            (self.maintain, 1, True),
            (self.burst, 2, "bursts" in have),
            (self.cut_or_heal, 4, "cuts" in have),
            (self.crash, 2, "crashes" in have),
            (self.wipe, 1, "wipes" in have),
            (self.back_up, 2, "backups" in have),
            (self.restore, 1, "backups" in have),
            (self.shift_clock, 1, "clocks" in have),
            (self.shift_decade, 1, "decades" in have),
            (self.revoke_or_restore, 2, "anchors" in have),
            (self.add_or_drop, 1, "anchors" in have),
            (self.grants.change, 2, "certificates" in have and bool(scene.roots)),
            (self.grants.change, 4, "delegates" in have and bool(scene.roots)),
            (self.misbehave, 8, any(node.bad for node in scene.nodes)),
            (self.trouble_disk, 1, "disks" in have),
            (self.slow_down, 1, "slow" in have),
            (self.equivocate, 1, scene.rogue is not None),
            (self.go_on_for_days, 1, "leaps" in have),
            (self.stay_away, 1, "leaps" in have),
        ]
        self._acts = [act for act, _, given in acts if given]
        self._weights = [weight for _, weight, given in acts if given]

    def tell(self, steps: int) -> None:
        for _ in range(steps):
            (act,) = self.random.choices(self._acts, self._weights)
            act()
            checks.stays_small(self.scene)
            if self.random.random() < 0.3:
                checks.believes(self.scene, self.random.choice(self.scene.good()))
            self.world.run(self.random.choice(PAUSES))

    # People

    def write(self) -> None:
        process = self._process()
        if process is not None:
            self._say(process, f"{process.node.name}{self.random.randrange(NAMES)}", 40)

    def rewrite(self) -> None:
        """Several changes of one service at once, as fast as they are taken."""
        process = self._process()
        if process is not None:
            name = f"{process.node.name}{self.random.randrange(NAMES)}"
            for _ in range(self.random.randint(2, 5)):
                if process.alive:
                    self._say(process, name, 40)
                    self.world.run(self.random.randint(0, 25))

    def burst(self) -> None:
        process = self._process()
        if process is not None:
            size = self.random.choice((40, 40, 3_000))
            for n in range(self.random.choice((30, 60, 150))):
                self._say(process, f"{process.node.name}.{n}", size, live=0.95)

    def _say(self, process: Process, name: str, size: int, live: float = 0.8) -> None:
        random = self.random
        node = process.node
        if random.random() > live:
            process.say([Statement("service", name, Class.PUBLIC, None), Statement("status", name, Class.PUBLIC, None)])
            return
        cls = random.choice(tuple(Class))
        root = node.disk.root if cls is Class.INTERNAL else None
        self._version += 1
        said = [Statement("service", name, cls, {"v": self._version, "pad": "x" * random.randint(0, size)}, root)]
        if random.random() < 0.3:
            body = {"v": self._version, "status": "degraded"} if random.random() < 0.6 else None
            said.append(Statement("status", name, cls, body, root))
        if random.random() < 0.8:
            node.beating.add(name)
        process.say(said)

    def maintain(self) -> None:
        if (process := self._process()) is not None:
            process.maintain()

    def equivocate(self) -> None:
        """A stolen key signs two things with one stamp; each half of the nodes hears the other first."""
        rogue = self.scene.rogue
        assert rogue is not None
        random = self.random
        name = f"rogue{random.randrange(3)}"
        stamp = (self.world.now << 16) + random.randrange(2)
        until = self.world.now + MAX_LIFE_MS - random.randrange(2)
        for _ in range(2):
            self._version += 1
            body = {"v": self._version} if random.random() < 0.8 else None
            entry = sign_entry(rogue, Fact("service", name, stamp, Class.PUBLIC, until, body))
            self.scene.oracle.signed((entry,))
            self.world.tell(f"the rogue says {name} = {body}: {entry.id.hex()[:6]}")
            for node in random.sample(self.scene.nodes, max(1, len(self.scene.nodes) // 2)):
                if node.process is not None:
                    node.process.take(entry)

    # Networks and machines

    def cut_or_heal(self) -> None:
        edge = self.random.choice(list(self.scene.network.edges.values()))
        if edge.cut:
            self.scene.network.heal(edge)
        else:
            self.scene.network.cut(edge, silent=self.random.random() < 0.5)

    def slow_down(self) -> None:
        edge = self.random.choice(list(self.scene.network.edges.values()))
        edge.slow = 1 if edge.slow > 1 else self.random.choice((5, 50))
        self.world.tell(f"{edge} is {edge.slow} times as slow as usual")

    def crash(self) -> None:
        node = self.random.choice(self.scene.nodes)
        node.crash(silent=self.random.random() < 0.5)
        self._start_later(node)

    def wipe(self) -> None:
        """The disk is lost, the key was kept; the admin says again whom to trust."""
        node = self.random.choice(self.scene.nodes)
        node.crash(silent=self.random.random() < 0.5)
        self.world.tell(f"{node}: its disk is empty")
        node.disk = Disk()
        self.scene.oracle.lost_disk(node)
        self._start_later(node)

    def back_up(self) -> None:
        node = self.random.choice(self.scene.nodes)
        node.backup = node.disk.copy()
        self.world.tell(f"{node}: a backup of {len(node.backup.rows)} entries")

    def restore(self) -> None:
        node = self.random.choice([node for node in self.scene.nodes if node.backup] or [None])
        if node is None or node.backup is None:
            return
        node.crash(silent=self.random.random() < 0.5)
        self.world.tell(f"{node}: its disk is that of the backup")
        node.disk = node.backup.copy()
        self.scene.oracle.lost_disk(node)
        self._start_later(node)

    def _start_later(self, node: SimNode) -> None:
        self.world.after(self.random.choice((0, 100, 1_000, 10_000, 30_000)), node.start)

    def trouble_disk(self) -> None:
        node = self.random.choice(self.scene.nodes)
        node.habits = self.random.choice(
            (Habits(), Habits((1, 2_000)), Habits((1, 20), 0.3), Habits((500, 5_000), 0.1))
        )
        self.world.tell(f"{node}: a commit takes {node.habits.sync_ms} ms, {node.habits.fails:.0%} fail")

    def shift_clock(self) -> None:
        node = self.random.choice(self.scene.nodes)
        node.set_clock(self.random.choice((0, HOUR_MS, -HOUR_MS, 3_000)))

    def shift_decade(self) -> None:
        """Ten years ahead for a minute. One node at a time."""
        if any(node.offset >= DECADE_MS for node in self.scene.nodes):
            return
        node = self.random.choice(self.scene.nodes)
        node.set_clock(DECADE_MS)
        if node.process is not None and self.random.random() < 0.7:
            self._say(node.process, f"{node.name}{self.random.randrange(NAMES)}", 40)
        self.world.after(60_000, lambda: node.set_clock(0))

    # Admins

    def revoke_or_restore(self) -> None:
        """Also of a key that is trusted only since others have certified it: then nothing is left by a restore."""
        node = self.random.choice(self.scene.nodes)
        others = [other.key.public for other in self.scene.nodes if other is not node]
        key = self.random.choice(list(dict.fromkeys([*node.anchors, *others])))
        anchor = node.anchors.get(key) or Anchor(key, Role.PEER, scope=NOTHING)
        revoked = self.world.now if anchor.revoked is None else None
        self.world.tell(f"{node} {'restores' if revoked is None else 'revokes'} {self.scene.oracle.label(key)}")
        if revoked is None and anchor.scope == NOTHING:
            self._drop(node, key)
        else:
            self._put(node, replace(anchor, revoked=revoked))

    def add_or_drop(self) -> None:
        node, other = self.random.sample(self.scene.nodes, 2)
        anchor = node.anchors.get(other.key.public)
        if anchor is None:
            self.world.tell(f"{node} trusts {other}")
            self._put(node, Anchor(other.key.public, Role.PEER))
        else:
            self.world.tell(f"{node} forgets {other}")
            self._drop(node, anchor.key)

    def _drop(self, node: SimNode, key: bytes) -> None:
        del node.anchors[key]
        if node.process is not None:
            node.process.anchors_changed()

    def _put(self, node: SimNode, anchor: Anchor) -> None:
        node.anchors[anchor.key] = anchor
        if node.process is not None:
            node.process.anchors_changed()

    def misbehave(self) -> None:
        self.random.choice(self.byzantine).act()

    # Time

    def go_on_for_days(self) -> None:
        """Days go by in which all machines run as they do now."""
        left = self.random.choice((4, 12, 31, 41))
        while left:
            days = min(left, 4)
            self._a_while(days * DAY_MS)
            left -= days

    def stay_away(self) -> None:
        """A node is off for longer than entries live, with its old disk."""
        node = self.random.choice(self.scene.nodes)
        node.crash(silent=False)
        self.world.tell(f"{node} stays away for 44 days")
        for _ in range(11):
            self._a_while(4 * DAY_MS, but=node)
        node.start()

    def _a_while(self, ms: int, but: SimNode | None = None) -> None:
        for node in self.scene.nodes:
            if node.offset >= DECADE_MS:
                node.set_clock(0)
        self.world.leap(ms)
        for node in self.scene.nodes:
            if node.process is None and node is not but:
                node.start()
            if node.process is not None:
                node.process.maintain()
        if self.random.random() < 0.5:
            self.write()
        self.world.run(15_000)

    def _process(self) -> Process | None:
        return self.random.choice(self.scene.nodes).process
