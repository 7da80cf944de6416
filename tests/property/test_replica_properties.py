"""The engine under any sequence of writes, failures, restarts, clocks and deliveries (a state machine), and stamps."""

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from crdt.entry import Class, Entry
from crdt.lww_map import LWWMap, Partition
from crdt.stamp import StampClock
from federation.cose import fact_of, verify_entry
from federation.identity import NodeKey
from federation.replica import Alert, Changed, Persist, Replica, Statement, is_far_ahead

A, B = NodeKey(b"\x0a" * 32), NodeKey(b"\x0b" * 32)
START = 1_764_000_000_000
HOUR = 3_600_000
PLACES = ((Class.PRIVATE, None), (Class.INTERNAL, None), (Class.INTERNAL, b"r" * 32), (Class.PUBLIC, None))


@given(st.lists(st.one_of(st.integers(-(2**40), 2**41), st.tuples(st.integers(0, 2**57)))))
def test_stamps_are_monotone_under_any_clock(steps: list[int | tuple[int]]) -> None:
    clock, given_out = StampClock(), [0]
    for step in steps:
        if isinstance(step, tuple):
            clock.observe(step[0])
            given_out.append(max(given_out[-1], step[0]))
        else:
            stamp = clock.next(step)
            assert stamp > given_out[-1]
            assert stamp == max(step << 16, given_out[-1] + 1)
            given_out.append(stamp)


@dataclass
class Node:
    """A replica, its disk, and what it was asked to say."""

    key: NodeKey
    replica: Replica
    disk: dict[tuple[object, ...], Entry] = field(default_factory=dict)
    said: dict[tuple[str, str], tuple[Class, bytes | None, object] | None] = field(default_factory=dict)
    stamps: set[int] = field(default_factory=set)


def everybody(entry: Entry) -> bool:
    return True


def _subjects(flying: tuple[Node, Persist, list[tuple[tuple[str, str], object]]]) -> set[tuple[bytes, str, str]]:
    """What something on its way to a disk speaks of."""
    node, persist, said = flying
    spoken = {(entry.origin, entry.kind, entry.name) for entry in persist.entries}
    return spoken | {(node.key.public, *name) for name, _ in said}


class TwoNodes(RuleBasedStateMachine):
    """Two nodes that write, fail to write, restart, and hear of each other in any order. No node loses its disk here,
    so each is the only writer of its keys: what a node shows of itself is what it was last asked to say."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.nodes = [Node(key, Replica(key, everybody)) for key in (A, B)]
        for node in self.nodes:
            node.replica.loaded()
        self.flying: list[tuple[Node, Persist, list[tuple[tuple[str, str], object]]]] = []
        self.sent: list[Entry] = []

    nodes_drawn = st.integers(0, 1)
    names = st.sampled_from(("x", "y"))
    kinds = st.sampled_from(("service", "status"))

    @rule(hours=st.integers(-48, 300))
    def time_passes_or_jumps(self, hours: int) -> None:
        self.now = max(START, self.now + hours * HOUR)

    @rule(
        index=nodes_drawn, kind=kinds, name=names, place=st.sampled_from(PLACES), version=st.none() | st.integers(0, 3)
    )
    def put(self, index: int, kind: str, name: str, place: tuple[Class, bytes | None], version: int | None) -> None:
        node = self.nodes[index]
        body = None if version is None else {"version": version}
        persist = node.replica.put([Statement(kind, name, place[0], body, place[1])], self.now)
        for entry in persist.entries:
            assert entry.stamp not in node.stamps, "a stamp is given once"
            node.stamps.add(entry.stamp)
        said = None if body is None else (*place, body)
        self.flying.append((node, persist, [((kind, name), said)]))

    @rule(index=nodes_drawn)
    def renew_what_is_due(self, index: int) -> None:
        node = self.nodes[index]
        for entry in node.replica.due_for_renewal(self.now):
            persist = node.replica.renew(entry, self.now)
            if persist is not None:
                (renewed,) = persist.entries
                assert renewed.key == entry.key
                if is_far_ahead(entry, self.now):  # signed before the clock was set back: nobody takes it as it is
                    assert renewed.stamp not in node.stamps
                    node.stamps.add(renewed.stamp)
                else:
                    assert renewed.stamp == entry.stamp
                self.flying.append((node, persist, []))

    @precondition(lambda self: self.flying)
    @rule()
    def commit(self) -> None:
        node, persist, said = self.flying.pop(0)
        before = {name: node.replica.view(*name, persist.at) for name in node.said}
        for entry in persist.entries:
            node.disk[tuple(entry.key)] = max(
                entry, node.disk.get(tuple(entry.key), entry), key=lambda each: each.order
            )
        for effect in node.replica.persisted(persist):
            assert not isinstance(effect, Alert), "nobody signs one stamp twice"
            assert isinstance(effect, Changed)
            assert effect.before is not effect.after
            if effect.origin == node.key.public and (effect.kind, effect.name) in before:
                assert effect.before is before[effect.kind, effect.name]
        for name, words in said:
            node.said[name] = words  # type: ignore[assignment]
        self.sent += [entry for entry in persist.entries if entry.origin == node.key.public]

    @precondition(lambda self: self.flying)
    @rule()
    def commit_fails(self) -> None:
        """What was put upon it fails with it: the shell lets writes of one name take turns, so nothing ever is."""
        failed = self.flying.pop(0)
        node, lost = failed[0], _subjects(failed)
        failed[0].replica.failed(failed[1])
        kept = []
        for each in self.flying:
            if each[0] is node and lost & _subjects(each):
                lost |= _subjects(each)
                node.replica.failed(each[1])
            else:
                kept.append(each)
        self.flying = kept

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), index=nodes_drawn)
    def deliver(self, data: st.DataObject, index: int) -> None:
        """Anything that was ever sent may arrive anywhere, at home too, any number of times."""
        entry = data.draw(st.sampled_from(self.sent))
        node = self.nodes[index]
        for effect in node.replica.receive(entry.raw, self.now):
            assert entry.origin != node.key.public, "what a node has on its disk it does not take from others"
            if isinstance(effect, Persist):
                self.flying.append((node, effect, []))

    @rule(index=nodes_drawn)
    def restart(self, index: int) -> None:
        node = self.nodes[index]
        self.flying = [(other, persist, said) for other, persist, said in self.flying if other is not node]
        held = sorted(node.replica.map, key=lambda entry: entry.id)
        node.replica = Replica(node.key, everybody)
        for entry in node.disk.values():
            node.replica.load(entry.raw, entry.id)
        node.replica.loaded()
        node.stamps = {entry.stamp for entry in self.sent if entry.origin == node.key.public}  # the rest left no trace
        assert sorted(node.replica.map, key=lambda entry: entry.id) == held

    @rule(index=nodes_drawn)
    def purge(self, index: int) -> None:
        node = self.nodes[index]
        own = {entry.id for entry in node.replica.map.of(node.key.public)}
        for entry in node.replica.purge(self.now):
            assert entry.origin != node.key.public
            del node.disk[tuple(entry.key)]
        assert {entry.id for entry in node.replica.map.of(node.key.public)} == own

    @invariant()
    def a_node_shows_what_it_was_last_asked_to_say(self) -> None:
        for node in self.nodes:
            for (kind, name), words in node.said.items():
                group = [e for e in node.replica.map.group(node.key.public, kind, name) if e.live]
                assert len(group) == (words is not None), "it lives in one class at most"
                for entry in group:
                    assert (entry.cls, entry.root, fact_of(entry).body) == words

    @invariant()
    def what_is_held_was_signed(self) -> None:
        for node in self.nodes:
            assert all(verify_entry(entry) for entry in node.replica.map)

    def teardown(self) -> None:
        """Let everything arrive everywhere: then both hold the same, byte for byte."""
        while self.flying:
            self.commit()
        self.now = min((entry.valid_until for entry in self.sent), default=self.now)
        for node in self.nodes:
            for entry in [*self.sent, *(e for other in self.nodes for e in other.replica.map)]:
                for effect in node.replica.receive(entry.raw, max(self.now, entry.valid_until - 20 * 24 * HOUR)):
                    if isinstance(effect, Persist):
                        node.replica.persisted(effect)
        one, other = (node.replica.map for node in self.nodes)
        assert {e.raw for e in one} == {e.raw for e in other}
        for origin in (A.public, B.public):
            for cls, root in PLACES:
                partition = Partition(origin, cls, root)
                assert one.digest(partition) == other.digest(partition)
        assert isinstance(one, LWWMap)


TwoNodes.TestCase.settings = settings(max_examples=max(60, settings().max_examples // 4), stateful_step_count=40)
test_two_nodes = TwoNodes.TestCase


@given(
    st.lists(st.tuples(st.sampled_from("xy"), st.sampled_from(PLACES), st.none() | st.integers(0, 3)), max_size=8),
    st.lists(st.tuples(st.sampled_from("xy"), st.sampled_from(PLACES), st.none() | st.integers(4, 7)), max_size=8),
    st.integers(-100, 100),
    st.randoms(use_true_random=False),
)
def test_after_amnesia_what_was_said_since_stands_and_the_rest_comes_back(
    lost: list[tuple[str, tuple[Class, bytes | None], int | None]],
    since: list[tuple[str, tuple[Class, bytes | None], int | None]],
    hours: int,
    random: object,
) -> None:
    """A node loses its disk, writes on with whatever clock, and hears its own entries again in any order."""

    def say(replica: Replica, words: list[tuple[str, tuple[Class, bytes | None], int | None]], now: int) -> list[Entry]:
        entries: list[Entry] = []
        for name, (cls, root), version in words:
            body = None if version is None else {"version": version}
            persist = replica.put([Statement("service", name, cls, body, root)], now)
            replica.persisted(persist)
            entries += persist.entries
        return entries

    first = Replica(A)
    first.loaded()
    elsewhere = say(first, lost, START)
    second = Replica(A)
    second.loaded()
    now = START + hours * HOUR
    say(second, since, now)
    random.shuffle(elsewhere)  # type: ignore[attr-defined]
    for entry in elsewhere:
        for effect in second.receive(entry.raw, now):
            if isinstance(effect, Persist):
                second.persisted(effect)

    def shown(replica: Replica, name: str) -> object:
        entry = replica.view("service", name, START)
        return entry and (entry.cls, entry.root, fact_of(entry).body)

    spoken = {name for name, _, _ in since if any(e.name == name for e in second.map)}
    for name in "xy":
        words = [(place, version) for spoken_of, place, version in since if spoken_of == name]
        if any(version is not None for _, version in words):
            place, version = words[-1]
            assert shown(second, name) == (None if version is None else (*place, {"version": version}))
        elif name not in spoken or not words:
            assert shown(second, name) == shown(first, name)
    top = max((entry.stamp for entry in [*elsewhere, *second.map]), default=0)
    (entry,) = second.put([Statement("service", "z", Class.PUBLIC, {})], 0).entries
    assert entry.stamp > top
