"""One node: what outlives a crash (`SimNode`), and what runs until then (`Process`).

A process is the shell that the daemon is, in small: it commits what the engine asks for, some time later and in order,
merges what is on disk, and hands the effects on. Commits fail, and a crash takes what was not synced.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from crdt.entry import Class, Entry, Key
from federation.cose import fact_of, verify_entry
from federation.effects import Close, Effect, NodeChanged, Send, Store, Twin, Verify
from federation.identity import NodeKey
from federation.mesh import Mesh
from federation.messages import Message
from federation.replica import Alert, Persist, Replica, Statement, is_far_ahead
from federation.trust import Anchor, Trust
from tests.sim.beliefs import Beliefs
from tests.sim.world import Violation

if TYPE_CHECKING:
    from tests.sim.network import Link, Network
    from tests.sim.oracle import Oracle
    from tests.sim.world import World

TICK_MS: Final = 250
JUMP_MS: Final = 3_600_000  # nothing is purged for so long after a clock was set


@dataclass(slots=True)
class Disk:
    """What is synced. `root`: of the federation that internal means."""

    rows: dict[Key, Entry] = field(default_factory=dict)
    root: bytes | None = None

    def copy(self) -> Disk:
        return Disk(dict(self.rows), self.root)


@dataclass(slots=True, eq=False)
class Commit:
    """Entries on their way to the disk. `peer`: who sent them; `done`: told whether they are synced."""

    persist: Persist
    peer: bytes | None
    done: Callable[[bool], None] | None = None


@dataclass(slots=True)
class Habits:
    """How the disk of a node behaves. `sync_ms`: from, to; `fails`: part of the commits."""

    sync_ms: tuple[int, int] = (1, 20)
    fails: float = 0.0


class SimNode:
    """`anchors`: what its admin decided; `offset`: its clock minus the true one, ms; `beating`: services whose agents
    live; `amnesiac`: it lost its disk or went back to a backup at least once; `bad`: it says what it likes, beside what
    its engine says; `withholds`: names of messages that never leave it; `heard`: what came to it, where it is bad."""

    def __init__(self, world: World, network: Network, oracle: Oracle, name: str) -> None:
        self.world = world
        self.network = network
        self.oracle = oracle
        self.name = name
        self.key = NodeKey(world.random.randbytes(32))
        self.disk = Disk()
        self.anchors: dict[bytes, Anchor] = {}
        self.habits = Habits()
        self.offset = 0
        self.clock_set = 0  # true time when its clock was last set
        self.beating: set[str] = set()
        self.backup: Disk | None = None
        self.amnesiac = False
        self.bad = False
        self.withholds: frozenset[str] = frozenset()
        self.heard: dict[bytes, Entry] = {}  # by id
        self.incarnation = 0
        self.process: Process | None = None

    @property
    def now(self) -> int:
        return self.world.now + self.offset

    def start(self) -> None:
        """Start it from its disk."""
        if self.process is None:
            self.world.tell(f"{self.name} starts with {len(self.disk.rows)} entries on disk")
            self.oracle.started(self)
            self.process = Process(self)
            self.network.came_up(self)

    def crash(self, *, silent: bool) -> None:
        """Power is gone. `silent`: its peers hear nothing of it, not even that a connection is reset."""
        if self.process is not None:
            self.world.tell(f"{self.name} crashes{' without a word' if silent else ''}")
            process, self.process = self.process, None
            process.die()
            self.network.went_down(process, silent=silent)

    def set_clock(self, offset: int) -> None:
        if offset != self.offset:
            self.world.tell(
                f"{self.name}: its clock is {(offset - self.offset) / 1000:+.0f} s, now {offset / 1000:+.0f} s off"
            )
            self.offset = offset
            self.clock_set = self.world.now
            if self.process is not None:
                self.process.tick()

    def __repr__(self) -> str:
        return self.name


class Process:
    """What runs between a start and a crash. `links`: by the peer's key."""

    def __init__(self, node: SimNode) -> None:
        self.node = node
        self.world = node.world
        self.alive = True
        self.links: dict[bytes, Link] = {}
        self.trust = Trust(node.key.public)
        for anchor in node.anchors.values():
            self.trust.put(anchor)
        self.replica = Replica(node.key, self._admits)
        for entry in node.disk.rows.values():
            self.replica.load(entry.raw, entry.id)
        self.replica.loaded()
        node.incarnation = max(node.now // 1000, node.incarnation + 1)
        self.mesh = Mesh(self.replica, self.trust, node.incarnation)
        self.busy: set[str] = set()  # names of services with a write on its way
        self.asked: set[str] = set()  # … for which somebody waits
        self._waiting: deque[Commit] = deque()
        self._syncing: list[Commit] = []
        self._working = False
        self._trust_seen = self.trust.version
        self._beliefs: Beliefs | None = None
        self.world.after(self.world.random.randrange(TICK_MS), self._ticking)

    def _admits(self, entry: Entry) -> bool:
        return self.trust.admits(entry.origin, entry.cls, entry.root, entry.kind, self.node.now)

    def beliefs(self) -> Beliefs:
        """What it should believe, by the certificates that it holds now."""
        if self._beliefs is None or self._beliefs.anchors != self.node.anchors:
            certs = [entry for entry in self.replica.map if entry.kind == "cert"]
            self._beliefs = Beliefs(self.node.key.public, self.node.anchors, certs)
        return self._beliefs

    # What the people here do

    def say(self, statements: Sequence[Statement]) -> bool:
        """Write, as `RegistrySync` does: one write of a service at a time. False where it has to wait."""
        names = {statement.name for statement in statements}
        if names & self.busy:
            return False
        persist = self.replica.put(statements, self.node.now)
        oracle = self.node.oracle
        oracle.signed(persist.entries)
        if self.world.lines is not None:
            for statement in statements:
                self.world.tell(f"{self.node.name} says {_statement(statement)}: {_ids(persist.entries)}")
        if not persist.entries:
            oracle.acknowledged(self.node, statements, ())
            return True
        self.busy |= names
        self.asked |= names

        def done(synced: bool) -> None:
            self.busy -= names
            self.asked -= names
            if synced:
                oracle.acknowledged(self.node, statements, persist.entries)

        self._commit(Commit(persist, None, done))
        return True

    def take(self, entry: Entry) -> None:
        """An entry that the admin brings (a certificate)."""
        for effect in self.replica.receive(entry.raw, self.node.now):
            if isinstance(effect, Persist):
                self._commit(Commit(effect, None))

    def maintain(self) -> None:
        """What the daemon does every ten minutes: renew what somebody stands behind, drop what lapsed long ago."""
        node = self.node
        self.look_at_membership()
        after = None
        while due := self.replica.due_for_renewal(node.now, after):
            after = due[-1]
            for entry in due:
                if entry.live and entry.name not in node.beating and not is_far_ahead(entry, node.now):
                    continue
                if entry.name not in self.busy and (persist := self.replica.renew(entry, node.now)) is not None:
                    node.oracle.signed(persist.entries)
                    if self.world.lines is not None:
                        self.world.tell(f"{node.name} renews {entry.name}: {_ids(persist.entries)}")
                    self.busy.add(entry.name)
                    self._commit(Commit(persist, None, lambda synced, name=entry.name: self.busy.discard(name)))  # type: ignore[misc]
        if self.world.now - node.clock_set > JUMP_MS:
            gone = self.replica.purge(node.now)
            self.trust.forget(gone)
            self._beliefs = None
            for entry in gone:
                node.disk.rows.pop(entry.key, None)

    def anchors_changed(self) -> None:
        """The admin changed whom this node trusts."""
        for key in [key for key in self.trust.anchors() if key not in self.node.anchors]:
            self.trust.drop(key)
        for anchor in self.node.anchors.values():
            self.trust.put(anchor)
        self.do(self.mesh.trust_changed(self.node.now))

    # What the engine asks for

    def do(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(peer, message, lane):
                    self.node.network.send(self, peer, message, lane)
                case Store(persist, peer):
                    self.node.oracle.taken(self, persist.entries)
                    self._commit(Commit(persist, peer))
                case Verify():
                    self.world.after(self.world.random.randint(1, 20), lambda effect=effect: self._verified(effect))  # type: ignore[misc]
                case Close(peer, code, reason):
                    self.node.network.closes(self, peer, code, reason)
                case Alert():
                    self.world.tell(f"{self.node.name} alerts: {effect.text}")
                case NodeChanged(origin, _, after):
                    if self.world.lines is not None and after is not None:
                        self.world.tell(
                            f"{self.node.name} thinks that {self.node.oracle.label(origin)} is {after.word.value}"
                        )
                case Twin():
                    raise Violation(f"{self.node.name} takes another for its twin")
        if self.trust.version != self._trust_seen:
            self._trust_moved()
        if self.mesh.busy and not self._working:
            self._working = True
            self.world.after(self.world.random.randint(0, 5), self._work)

    def receive(self, peer: bytes, message: Message) -> None:
        self.do(self.mesh.received(peer, message, self.node.now))

    def tick(self) -> None:
        self.do(self.mesh.tick(self.node.now))

    def _ticking(self) -> None:
        if self.alive:
            self.tick()
            self.world.after(TICK_MS, self._ticking)

    def _work(self) -> None:
        self._working = False
        if self.alive:
            self.do(self.mesh.work(self.node.now))

    def _verified(self, asked: Verify) -> None:
        if self.alive:
            self.mesh.verified(asked, [verify_entry(entry) for entry in asked.entries])
            self.do(())

    def _trust_moved(self) -> None:
        self._trust_seen = self.trust.version
        self.do(self.mesh.trust_changed(self.node.now))
        self.node.network.trust_moved(self)
        self.look_at_membership()

    def look_at_membership(self) -> None:
        """Internal is internal to one federation: where that changes, the internal entries move."""
        disk = self.node.disk
        roots = self.trust.roots_of(self.node.key.public, self.node.now)
        if roots and disk.root not in roots:
            disk.root = min(roots)
            self.world.tell(f"{self.node.name}: internal is internal to {self.node.oracle.label(disk.root)} now")
        if disk.root is None:
            return
        for entry in list(self.replica.map.of(self.node.key.public)):
            stray = entry.live and entry.cls is Class.INTERNAL and entry.root != disk.root
            if stray and self.replica.view(entry.kind, entry.name, self.node.now) is entry:
                self.say([Statement(entry.kind, entry.name, entry.cls, fact_of(entry).body, disk.root)])

    # The disk

    def _commit(self, commit: Commit) -> None:
        if commit.persist.entries:
            self._waiting.append(commit)
            if not self._syncing:
                self._sync()

    def _sync(self) -> None:
        self._syncing = list(self._waiting)
        self._waiting.clear()
        self.world.after(self.world.random.randint(*self.node.habits.sync_ms), self._synced)

    def _synced(self) -> None:
        if not self.alive:
            return
        commits, self._syncing = self._syncing, []
        if self.world.chance(self.node.habits.fails):
            self.world.tell(f"{self.node.name}: a commit of {sum(len(c.persist.entries) for c in commits)} failed")
            for commit in commits:
                self.replica.failed(commit.persist)
                self.mesh.failed(commit.persist.entries)
                if commit.done is not None:
                    commit.done(False)
        else:
            for commit in commits:
                self._write(commit)
                if any(entry.kind == "cert" for entry in commit.persist.entries):
                    self._beliefs = None
                for effect in self.replica.persisted(commit.persist):
                    if isinstance(effect, Alert):
                        self.world.tell(f"{self.node.name} alerts: {effect.text}")
                if commit.done is not None:
                    commit.done(True)
                self.do(self.mesh.merged([(commit.persist.entries, commit.peer)], self.node.now))
        if self._waiting and not self._syncing:
            self._sync()

    def _write(self, commit: Commit) -> None:
        for entry in commit.persist.entries:
            self.node.disk.rows[entry.key] = entry  # as the store does: whatever comes last
        self.node.oracle.durable(self.node, commit.persist.entries)
        if self.world.lines is not None and commit.peer is not None:
            self.world.tell(f"{self.node.name} holds {_ids(commit.persist.entries)}")

    def die(self) -> None:
        """What was being synced is on the disk or not, and nobody was told; what waited is lost."""
        self.alive = False
        self.node.oracle.crashed(self.node, self.asked)
        if self._syncing and self.world.chance(0.5):
            for commit in self._syncing:
                self._write(commit)

    def at_rest(self) -> bool:
        """Nothing is on its way inside this process."""
        pairs = self.mesh.pairs.values()
        asks = any(
            pair.busy() or any(map(pair.reconciler.is_asking, pair.trees))
            for pair in pairs
            if not self.node.network.nodes[pair.peer].bad
        )
        works = any(not self.node.network.nodes[peer].bad for peer in self.mesh._turns._tasks)
        return not (asks or works or self._waiting or self._syncing)


def _statement(statement: Statement) -> str:
    what = "nothing" if statement.body is None else f"version {statement.body.get('v')}, {statement.cls.name.lower()}"
    return f"{statement.kind} {statement.name} = {what}"


def _ids(entries: Sequence[Entry]) -> str:
    shown = [f"{entry.name}{'' if entry.live else '†'}{'piP'[entry.cls]}:{entry.id.hex()[:6]}" for entry in entries[:6]]
    return " ".join(shown) + (f" … {len(entries)}" if len(entries) > 6 else "")
