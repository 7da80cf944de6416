"""Who is alive, on a virtual clock: beacons over links that close, are cut, lose messages, or lie."""

from __future__ import annotations

import pytest

from federation import membership
from federation.beacon import LEVEL, MAX_LEVEL, make_beacon, read_beacon
from federation.effects import Close, Lane, NodeChanged, Send, Twin, Word
from federation.identity import NodeKey
from federation.membership import Membership
from federation.messages import Message
from tests.sim.beacons import START, Beacons

NAMES = "abcdefghij"


def settled(size: int, seed: int = 1) -> Beacons:
    world = Beacons(NAMES[:size], seed)
    world.mesh()
    world.run(30)
    assert all(world.words(name) == {"up"} for name in world.nodes)
    world.forget()
    return world


def told(world: Beacons, of: str) -> list[tuple[str, str]]:
    """(who, word) of one node, in order."""
    return [(who, word) for _, who, name, word in world.changes() if name == of]


SIZES = pytest.mark.parametrize("size", [2, 3, 10])


@SIZES
def test_a_killed_node_is_unreachable_everywhere_within_two_seconds(size: int) -> None:
    world = settled(size)
    world.kill("a")
    world.run(2)
    assert world.words("a") == {"unreachable"}
    assert all(world.words(name) <= {"up", "unreachable"} for name in world.nodes)
    assert len(world.changes()) == size - 1  # each said it once, and nothing of anybody else
    world.run(600)
    assert len(world.changes()) == size - 1


@SIZES
def test_it_is_up_again_as_soon_as_it_is_back(size: int) -> None:
    world = settled(size)
    world.kill("a")
    world.run(10)
    world.forget()
    world.restart("a", NAMES[1:size])
    world.run(1)
    assert world.words("a") == {"up"}
    assert {world.nodes["a"].word(name) for name in NAMES[1:size]} == {"up"}


@SIZES
def test_a_node_that_is_frozen_for_three_seconds_is_up_all_the_time(size: int) -> None:
    world = settled(size)
    world.freeze("a")
    world.run(3)
    world.thaw("a")
    world.run(60)
    assert world.changes() == []


@SIZES
def test_one_that_is_frozen_for_longer_is_unreachable_until_it_goes_on(size: int) -> None:
    world = settled(size)
    world.freeze("a")
    world.run(12)
    assert world.words("a") == {"unreachable"}
    world.thaw("a")
    world.run(2)
    assert world.words("a") == {"up"}
    assert sorted(node for node, word in told(world, "a") if word == "up") == list(NAMES[1:size])
    assert world.nodes["a"].told == []  # it was this node that slept: nobody else was silent


@pytest.mark.parametrize(("size", "thinks"), [(2, "unreachable"), (3, "isolated"), (10, "isolated")])
def test_a_host_that_vanishes_is_unreachable_within_ten_seconds_and_knows_that_the_cut_is_its_own(
    size: int, thinks: str
) -> None:
    world = settled(size)
    world.cut("a")
    world.run(10)
    assert world.words("a") == {"unreachable"}
    assert {world.nodes["a"].word(name) for name in NAMES[1:size]} == {thinks}
    world.run(120)
    assert {world.nodes["a"].word(name) for name in NAMES[1:size]} == {thinks}
    world.heal()
    world.run(3)
    assert world.words("a") == {"up"}
    assert {world.nodes["a"].word(name) for name in NAMES[1:size]} == {"up"}
    others = [(who, of) for _, who, of, _ in world.changes() if "a" not in (who, of)]
    assert others == []


def test_of_two_halves_each_calls_the_other_unreachable() -> None:
    world = settled(10)
    world.cut(*"abcde")
    world.run(12)
    assert {world.nodes[one].word(other) for one in "abcde" for other in "fghij"} == {"unreachable"}
    assert {world.nodes[other].word(one) for one in "abcde" for other in "fghij"} == {"unreachable"}
    assert {world.nodes[one].word(other) for one in "abcde" for other in "abcde" if one != other} == {"up"}


def test_the_smaller_part_of_a_cut_knows_that_it_is_cut_off() -> None:
    world = settled(10)
    world.cut(*"abc")
    world.run(12)
    assert {world.nodes[one].word(other) for one in "abc" for other in "defghij"} == {"isolated"}
    assert {world.nodes[other].word(one) for one in "abc" for other in "defghij"} == {"unreachable"}


def test_six_of_ten_that_die_are_dead_and_do_not_make_the_others_think_that_they_are_cut_off() -> None:
    world = settled(10)
    for name in "abcdef":
        world.kill(name)
    world.run(3)
    assert {world.nodes[one].word(other) for one in "ghij" for other in "abcdef"} == {"unreachable"}


@SIZES
def test_a_node_that_stops_in_good_order_restarts_and_is_never_unreachable(size: int) -> None:
    world = settled(size)
    node = world.nodes["a"]
    node.do(node.membership.farewell(node.now))
    world.run(0.1)
    world.kill("a")
    world.run(5)
    assert world.words("a") == {"restarting"}
    world.restart("a", NAMES[1:size])
    world.run(2)
    assert world.words("a") == {"up"}
    assert "unreachable" not in {word for _, word in told(world, "a")}


def test_one_that_stops_restarts_as_soon_as_its_links_end_whether_its_port_answers_or_not() -> None:
    world = settled(3)
    node = world.nodes["a"]
    node.do(node.membership.farewell(node.now))
    world.run(0.1)
    node.alive = False
    for other in "bc":
        world.close("a", other)
    world.run(1)
    assert world.words("a") == {"restarting"}


def test_one_that_does_not_come_back_is_unreachable_after_a_minute() -> None:
    world = settled(3)
    node = world.nodes["a"]
    node.do(node.membership.farewell(node.now))
    world.run(0.1)
    world.kill("a")
    world.run(63)
    assert world.words("a") == {"unreachable"}


@pytest.mark.parametrize("size", [2, 10])
def test_a_fifth_of_all_messages_lost_for_ten_minutes_changes_nothing(size: int) -> None:
    world = settled(size)
    world.loss = 0.2
    world.run(600)
    assert world.changes() == []


def test_a_clock_that_is_set_changes_nothing() -> None:
    world = settled(3)
    for hours in (5, -30):
        world.nodes["a"].offset += hours * 3_600_000
        world.run(60)
    assert world.changes() == []
    world.kill("b")
    world.run(2)
    assert world.nodes["a"].word("b") == "unreachable"


def test_a_link_that_breaks_and_comes_back_changes_nothing() -> None:
    world = settled(2)
    world.close("a", "b")
    world.run(2)
    world.link("a", "b")
    world.run(30)
    assert world.changes() == []


def test_in_a_line_all_know_of_all_and_a_death_in_the_middle_parts_them() -> None:
    world = Beacons("abcde")
    for one, other in ("ab", "bc", "cd", "de"):
        world.link(one, other)
    world.run(30)
    assert all(world.words(name) == {"up"} for name in "abcde")
    world.kill("c")
    world.run(4)
    assert world.words("c") == {"unreachable"}
    assert {world.nodes["a"].word("d"), world.nodes["a"].word("e")} <= {"unreachable", "isolated"}
    assert world.nodes["a"].word("b") == "up"


def test_a_link_that_is_left_out_of_the_tree_is_put_back_when_another_breaks() -> None:
    world = Beacons("abcd")
    for one, other in ("ab", "bc", "cd", "da"):
        world.link(one, other)
    world.run(60)
    world.close("a", "b")
    world.run(120)
    assert all(world.words(name) == {"up"} for name in "abcd")
    world.forget()
    world.run(60)
    assert world.sent["beacon.want"] == 0  # all come by themselves


# What others say


class Alone:
    """One membership, and what is said to it. `believed`: keys whose beacons count."""

    def __init__(self, *believed: NodeKey) -> None:
        self.key = NodeKey.generate()
        self.keys = {key.public for key in believed}
        self.now = START
        self.membership = Membership(self.key, START // 1000, lambda key, _: key in self.keys, lambda *_: True)
        self.effects: list[object] = list(self.membership.expect(self.keys, self.now))

    def hears(self, peer: NodeKey, message: Message) -> list[object]:
        self.membership.heard(peer.public, 0, self.now)
        new = self.membership.received(peer.public, message, self.now)
        self.effects += new
        return list(new)

    def beacon(self, peer: NodeKey, *raws: bytes) -> list[object]:
        return self.hears(peer, {"t": "beacon", "beacons": list(raws)})

    def run(self, seconds: float) -> list[object]:
        new: list[object] = []
        for _ in range(int(seconds * 4)):
            self.now += 250
            new += self.membership.tick(self.now)
        self.effects += new
        return new

    def opened(self, *peers: NodeKey) -> None:
        for peer in peers:
            self.effects += self.membership.opened(peer.public, self.now)

    def word(self, key: NodeKey) -> Word | None:
        state = self.membership.reach.states.get(key.public)
        return None if state is None else state.word


def said(key: NodeKey, seq: int, *neighbours: NodeKey, at: int = START, incarnation: int = 100, **more: bool) -> bytes:
    return make_beacon(key, (incarnation, seq), at, 5, [near.public for near in neighbours], **more).raw


def test_a_liar_takes_away_no_link_but_its_own() -> None:
    liar, honest, victim = (NodeKey.generate() for _ in range(3))
    here = Alone(liar, honest, victim)
    here.opened(liar, honest)
    here.beacon(honest, said(honest, 1, here.key, victim), said(victim, 1, honest, liar))
    here.beacon(liar, said(liar, 1, here.key, victim))
    here.run(1)
    assert here.word(victim) is Word.UP
    lie = make_beacon(liar, (100, 2), START, 5, [here.key.public], [victim.public, honest.public])
    here.beacon(liar, lie.raw)
    for seq in range(2, 8):
        here.membership.heard(honest.public, 0, here.now)
        here.membership.heard(liar.public, 0, here.now)
        here.beacon(honest, said(victim, seq, honest))
        here.run(1)
        assert here.word(victim) is Word.UP
        assert here.word(honest) is Word.UP


def test_a_liar_keeps_nobody_alive_who_did_not_name_it() -> None:
    liar, honest, dead = (NodeKey.generate() for _ in range(3))
    here = Alone(liar, honest, dead)
    here.opened(liar, honest)
    here.beacon(honest, said(honest, 1, here.key, dead), said(dead, 1, honest))
    here.beacon(liar, said(liar, 1, here.key, dead))
    here.run(1)
    assert here.word(dead) is Word.UP
    here.beacon(honest, said(honest, 2, here.key))
    for seq in range(2, 5):
        here.beacon(liar, said(liar, seq, here.key, dead))
        here.run(1)
    assert here.word(dead) is Word.UNREACHABLE


def test_beacons_of_an_earlier_start_change_nothing() -> None:
    peer, dead = NodeKey.generate(), NodeKey.generate()
    here = Alone(peer, dead)
    here.opened(peer)
    here.beacon(peer, said(peer, 1, here.key, dead, incarnation=100), said(dead, 9, peer, incarnation=200))
    here.run(1)
    assert here.word(dead) is Word.UP
    here.beacon(peer, said(peer, 2, here.key))
    here.membership.heard(peer.public, 0, here.now)
    here.run(2)
    assert here.word(dead) is Word.UNREACHABLE
    new = here.beacon(peer, *(said(dead, seq, peer, NodeKey.generate(), incarnation=150) for seq in range(5)))
    here.membership.heard(peer.public, 0, here.now)
    assert not [effect for effect in [*new, *here.run(3)] if isinstance(effect, NodeChanged)]


def test_old_beacons_of_a_dead_node_do_not_wake_it_at_a_node_that_has_just_started() -> None:
    peer, dead = NodeKey.generate(), NodeKey.generate()
    here = Alone(peer, dead)
    here.opened(peer)
    here.beacon(peer, said(peer, 1, here.key))
    for seq in range(40):
        here.beacon(peer, said(dead, seq, NodeKey.generate(), at=START - 86_400_000, incarnation=150))
        here.membership.heard(peer.public, 0, here.now)
        here.run(1)
        assert here.word(dead) is not Word.UP


def test_a_node_that_comes_back_slowly_is_restarting_until_a_way_leads_to_it() -> None:
    peer, node = NodeKey.generate(), NodeKey.generate()
    here = Alone(peer, node)
    here.opened(peer)
    here.beacon(peer, said(peer, 1, here.key, node), said(node, 1, peer))
    here.run(1)
    here.beacon(peer, said(node, 2, peer, stops=True))
    here.beacon(peer, make_beacon(peer, (100, 2), here.now, 5, [here.key.public], [node.public]).raw)
    here.run(1)
    assert here.word(node) is Word.RESTARTING
    here.beacon(peer, said(node, 1, peer, incarnation=101))  # peer has not said yet that it hears it
    for _ in range(4):
        here.membership.heard(peer.public, 0, here.now)
        here.run(1)
        assert here.word(node) is Word.RESTARTING
    here.beacon(peer, said(peer, 3, here.key, node))
    here.run(1)
    assert here.word(node) is Word.UP


def test_a_node_that_nobody_has_heard_of_is_unreachable_after_half_a_minute() -> None:
    peer, absent = NodeKey.generate(), NodeKey.generate()
    here = Alone(peer, absent)
    for _ in range(29):
        here.run(1)
        assert here.word(absent) is None
    here.run(2)
    assert here.word(absent) is Word.UNREACHABLE


def test_a_node_behind_one_that_is_not_known_here_lives_as_long_as_its_beacons_come() -> None:
    peer, far, between = (NodeKey.generate() for _ in range(3))
    here = Alone(peer, far)  # what is between is not believed, so its beacons do not come
    here.opened(peer)
    for seq in range(20):
        here.beacon(peer, said(peer, seq, here.key, between, at=here.now), said(far, seq, between, at=here.now))
        here.run(1)
    assert here.word(far) is Word.UP
    for seq in range(20, 60):
        here.beacon(peer, said(peer, seq, here.key, between, at=here.now))
        here.run(1)
    assert here.word(far) is Word.UNREACHABLE


def test_what_is_not_signed_costs_the_relay_its_link_and_changes_nothing() -> None:
    peer, other = NodeKey.generate(), NodeKey.generate()
    here = Alone(peer, other)
    here.opened(peer)
    raw = said(other, 1, peer)
    new = here.beacon(peer, raw[:-1] + bytes([raw[-1] ^ 1]))
    assert [effect.code for effect in new if isinstance(effect, Close)] == ["bad-beacon"]
    assert len(here.membership.reach.leases) == 0
    assert not [effect for effect in here.beacon(peer, raw) if isinstance(effect, Close)]
    assert len(here.membership.reach.leases) == 1


def test_beacons_of_strangers_are_passed_by_and_not_passed_on() -> None:
    peer, other, stranger = (NodeKey.generate() for _ in range(3))
    here = Alone(peer, other)
    here.opened(peer, other)
    assert here.beacon(peer, said(stranger, 1, peer)) == []
    assert here.membership.counts["not believed"] == 1
    assert len(here.membership.reach.leases) == 0


def test_a_node_that_says_something_new_all_the_time_is_heard_once_a_second() -> None:
    peer, other, chatty = (NodeKey.generate() for _ in range(3))
    here = Alone(peer, other, chatty)
    here.opened(peer, other)
    passed = 0
    for seq in range(200):
        new = here.beacon(peer, said(chatty, seq, *([peer] if seq % 2 else [])))
        passed += sum(isinstance(effect, Send) and effect.message["t"] == "beacon" for effect in new)
    assert passed == 10
    assert here.membership.counts["too often"] == 190


@pytest.mark.parametrize(
    "message",
    [
        {"t": "beacon"},
        {"t": "beacon", "beacons": [b"no beacon"]},
        {"t": "beacon", "beacons": ["text"]},
        {"t": "beacon", "beacons": [], "next": 7},
        {"t": "beacon.want"},
        {"t": "beacon.want", "known": [[b"k" * 32, 1]]},
        {"t": "beacon.want", "known": [[b"k" * 32, 1, 1]] * 129},
        {"t": "beacon.want", "known": [], "from": b""},
        {"t": "beacon.prune", "keys": 5},
        {"t": "beacon.prune", "keys": [b"k" * 32] * 257},
        {"t": "beacon.prune", "keys": [[1]]},
    ],
)
def test_what_is_no_message_costs_the_link(message: Message) -> None:
    peer = NodeKey.generate()
    here = Alone(peer)
    here.opened(peer)
    assert [effect.code for effect in here.hears(peer, message) if isinstance(effect, Close)] == ["malformed"]


def test_questions_are_answered_so_often_and_no_more() -> None:
    peer = NodeKey.generate()
    here = Alone(peer)
    here.opened(peer)
    answers = [effect for _ in range(100) for effect in here.hears(peer, {"t": "probe"})]
    assert len(answers) == 16
    assert all(isinstance(effect, Send) and effect.lane is Lane.BARE for effect in answers)


def test_a_table_of_a_thousand_nodes_is_compared_in_pieces_and_comes_over_whole() -> None:
    keys = [NodeKey.generate() for _ in range(1_000)]
    peer, other = Alone(*keys), Alone(*keys)
    peer.keys |= {other.key.public}
    other.keys |= {peer.key.public}
    source = keys[0]
    peer.opened(source)
    for key in keys:
        peer.beacon(source, said(key, 1, source))
    ends = {peer.key.public: peer, other.key.public: other}
    peer.opened(other.key)
    other.opened(peer.key)
    peer.effects.clear()
    other.effects.clear()
    largest = 0
    for _ in range(80):
        for here in (peer, other):
            for effect in here.run(0.25):
                if isinstance(effect, Send) and effect.peer in ends:
                    there = ends[effect.peer]
                    raws = effect.message.get("beacons", [])
                    largest = max(largest, sum(map(len, raws)))  # type: ignore[arg-type]
                    for answer in there.hears(here.key, effect.message):
                        if isinstance(answer, Send) and answer.peer in ends:
                            ends[answer.peer].hears(there.key, answer.message)
    assert len(other.membership.reach.leases) >= 1_000
    assert largest <= 9_000


def test_a_revoked_node_is_forgotten() -> None:
    peer, other = NodeKey.generate(), NodeKey.generate()
    here = Alone(peer, other)
    here.opened(peer)
    here.beacon(peer, said(peer, 1, here.key, other), said(other, 1, peer))
    here.run(1)
    assert here.word(other) is Word.UP
    here.keys.discard(other.public)
    changes = here.membership.expect(here.keys, here.now)
    assert [(change.origin, change.after) for change in changes if isinstance(change, NodeChanged)] == [
        (other.public, None)
    ]
    assert here.word(other) is None


# Two nodes with one key


def test_of_two_nodes_with_one_key_the_first_claims_it_and_the_other_yields() -> None:
    peer = NodeKey.generate()
    first, copy = Alone(peer), Alone(peer)
    copy.key = first.key
    copy.membership = Membership(first.key, START // 1000 + 60, lambda *_: True, lambda *_: True)
    for node in (first, copy):
        node.opened(peer)
        node.run(1)
    theirs = copy.membership._said
    assert theirs is not None
    forged = make_beacon(NodeKey.generate(), theirs.order, theirs.at, 5, []).raw
    for raw in (theirs.raw[:-1] + bytes([theirs.raw[-1] ^ 1]), forged, b"", b"no beacon"):
        assert first.membership.shown(raw) == []
    new = first.beacon(peer, theirs.raw)
    assert [effect.claim for effect in new if isinstance(effect, Twin)] == [LEVEL + START // 1000]
    claim = first.membership.claimed(LEVEL + START // 1000, first.now)
    raw = next(effect.message["beacons"][0] for effect in claim if isinstance(effect, Send))  # type: ignore[index]
    assert read_beacon(raw) is not None
    new = copy.beacon(peer, raw)
    assert [effect.claim for effect in new if isinstance(effect, Twin)] == [None]
    assert copy.membership.yielded
    assert not [effect for effect in copy.run(60) if isinstance(effect, Send) and effect.message["t"] == "beacon"]
    assert copy.beacon(peer, raw) == []  # it is told once
    assert copy.membership.claim() == 2 * LEVEL + START // 1000 + 60  # what its admin may do


def test_its_own_beacons_of_before_are_no_twin() -> None:
    peer = NodeKey.generate()
    here = Alone(peer)
    here.opened(peer)
    here.run(20)
    mine = here.membership._said
    assert mine is not None
    assert here.beacon(peer, mine.raw, said(here.key, 10**6, incarnation=START // 1000 - 1)) == []


# What a review from a hostile peer's side found


def test_after_a_jump_of_the_clock_what_dies_is_dead_though_somebody_spoke_before_the_next_tick() -> None:
    for hours in (1, -1):
        peer, node = NodeKey.generate(), NodeKey.generate()
        here = Alone(peer, node)
        here.opened(peer)
        here.beacon(peer, said(peer, 1, here.key, node), said(node, 1, peer))
        here.run(1)
        here.now += hours * 3_600_000
        here.membership.heard(peer.public, 0, here.now)
        here.beacon(peer, said(peer, 2, here.key, node, at=here.now), said(node, 2, peer, at=here.now))
        here.run(1)
        assert {here.word(peer), here.word(node)} == {Word.UP}
        here.run(9)
        assert Word.UP not in (here.word(peer), here.word(node))


def test_beacons_that_somebody_forges_do_not_silence_the_node_that_they_name() -> None:
    liar, honest, victim = (NodeKey.generate() for _ in range(3))
    here = Alone(liar, honest, victim)
    here.opened(honest)
    for seq in range(30):
        here.opened(liar)
        raw = said(victim, 100 + seq, honest)
        new = here.beacon(liar, raw[:-1] + bytes([raw[-1] ^ 1]))
        assert [effect.code for effect in new if isinstance(effect, Close)] == ["bad-beacon"]
        here.membership.closed(liar.public, here.now)
    here.beacon(honest, said(victim, 1, honest))
    assert here.membership.reach.leases[victim.public].beacon.seq == 1


def test_what_is_known_or_of_oneself_costs_no_signature_and_one_message_holds_so_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    peer = NodeKey.generate()
    here = Alone(peer)
    here.opened(peer)
    here.run(1)
    mine, theirs = said(here.key, 1, peer, incarnation=1), said(peer, 1, here.key)
    here.beacon(peer, theirs)
    monkeypatch.setattr(membership, "is_signed", lambda beacon: pytest.fail("a signature was checked"))
    assert here.beacon(peer, *([mine, theirs] * 32)) == []
    assert [effect.code for effect in here.beacon(peer, *([mine] * 65)) if isinstance(effect, Close)] == ["malformed"]
    for _ in range(100):
        here.beacon(peer, *([mine] * 64))
    assert here.membership.counts["too many of one peer"] > 0


def test_nobody_can_end_a_node_by_the_highest_of_all_incarnations() -> None:
    peer = NodeKey.generate()
    here = Alone(peer)
    here.opened(peer)
    highest = make_beacon(here.key, ((MAX_LEVEL + 1) * LEVEL - 1, 1 << 62), START, 5, [])
    assert read_beacon(highest.raw) is not None
    assert read_beacon(make_beacon(here.key, ((MAX_LEVEL + 1) * LEVEL, 1), START, 5, []).raw) is None
    here.beacon(peer, highest.raw)
    assert here.membership.yielded
    claimed = make_beacon(here.key, (here.membership.claim(), 1), START, 5, [])
    assert read_beacon(claimed.raw) is not None  # others still understand it; another key is what helps


def test_only_a_former_neighbour_can_say_that_a_node_refused() -> None:
    liar, peer, far, between = (NodeKey.generate() for _ in range(4))
    here = Alone(liar, peer, far)
    here.opened(liar, peer)
    here.beacon(peer, said(peer, 1, here.key, between), said(far, 1, between))
    here.run(1)
    assert here.word(far) is Word.UP  # by a neighbour that is not known here
    lie = make_beacon(liar, (100, 1), here.now, 5, [here.key.public], [far.public])
    here.beacon(liar, lie.raw)
    here.membership.heard(peer.public, 0, here.now)
    here.run(2)
    assert here.word(far) is Word.UP
