"""Negentropy V1: the reference's bytes, what is refused, limits, slices, sets that change meanwhile."""

import json
import random
from collections.abc import Callable, Generator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, TypedDict, TypeVar

import pytest

from crdt.held_set import HeldSet, Together, Without, snapshot
from crdt.ordered_set import INFINITY, START, Mark, OrderedSet, fingerprint, item_key
from crdt.range_message import FINGERPRINT, Reader
from crdt.reconcile import Found, Initiator, Limits, ReconcileError, Responder, digest, finish
from tests.plain_set import ids_of, plain_fingerprint


class Case(TypedDict):
    name: str
    frame_size_limit: int
    client: list[tuple[int, str]]
    server: list[tuple[int, str]]
    messages: list[str]
    have: list[str]
    need: list[str]


VECTORS: list[Case] = json.loads((Path(__file__).parents[1] / "data" / "negentropy-v1-vectors.json").read_text())
UNLIMITED = Limits(0, 0, 0, 0)


class Outcome(NamedTuple):
    have: list[bytes]
    need: list[bytes]
    messages: list[bytes]
    complete: bool


def converse(
    ours: HeldSet, theirs: HeldSet, limits: Limits = UNLIMITED, cut: int = -1, their_limits: Limits | None = None
) -> Outcome:
    initiator, responder = Initiator(ours, cut, limits), Responder(theirs, cut, their_limits or limits)
    have: list[bytes] = []
    need: list[bytes] = []
    messages: list[bytes] = []
    message: bytes | None = finish(initiator.initiate())[1]
    while message is not None:
        answer = finish(responder.receive(message))[1]
        messages += [message, answer]
        found, message = finish(initiator.receive(answer))
        have += found.have
        need += found.need
    return Outcome(have, need, messages, initiator.complete)


def items(pairs: list[tuple[int, str]]) -> OrderedSet:
    return OrderedSet(item_key(timestamp, bytes.fromhex(identity)) for timestamp, identity in pairs)


def some_keys(count: int, seed: int = 1, times: int = 10**6) -> list[bytes]:
    rng = random.Random(seed)
    return [item_key(rng.randrange(times), rng.randbytes(32)) for _ in range(count)]


@pytest.mark.parametrize("case", VECTORS, ids=[case["name"] for case in VECTORS])
def test_the_reference_implementation_sends_the_same_bytes(case: Case) -> None:
    limits = Limits(frame=case["frame_size_limit"], message=0, ranges=0, rounds=0)
    outcome = converse(items(case["client"]), items(case["server"]), limits)
    assert [message.hex() for message in outcome.messages] == case["messages"]
    assert sorted(identity.hex() for identity in set(outcome.have)) == case["have"]
    assert sorted(identity.hex() for identity in set(outcome.need)) == case["need"]


def test_what_a_cut_message_leaves_out_is_not_taken_for_equal() -> None:
    """The initiator holds nothing above 114. The responder's answer is full before it comes to what it holds there; a
    fingerprint of nothing for that, as the reference sends it, would tell the initiator that both hold nothing."""
    held = [item_key(number, random.Random(number).randbytes(32)) for number in range(400)]
    initiator, responder = Initiator(OrderedSet(held[:1])), Responder(OrderedSet(held), limits=Limits(frame=4096))
    finish(initiator.initiate())
    list_below_115, nothing_above = b"\x74\x00\x02\x00", b"\x00\x00\x01" + fingerprint(0, 0)
    answer = finish(responder.receive(b"\x61" + list_below_115 + nothing_above))[1]
    assert answer.endswith(b"\x00\x00\x01" + plain_fingerprint(held[115:]))
    found, message = finish(initiator.receive(answer))
    assert set(found.need) == ids_of(held[1:115])
    assert message is not None
    while message is not None:
        more, message = finish(initiator.receive(finish(responder.receive(message))[1]))
        found.need.extend(more.need)
    assert set(found.need) == ids_of(held[1:])


def test_a_range_is_split_from_32_items_on_below_them_its_ids_are_sent() -> None:
    keys = sorted(some_keys(32))
    assert finish(Initiator(OrderedSet(keys[:31])).initiate())[1].startswith(b"\x61\x00\x00\x02\x1f")
    split = finish(Initiator(OrderedSet(keys)).initiate())[1]
    assert count_ranges(split) == 16
    assert split.endswith(b"\x00\x00\x01" + plain_fingerprint(keys[30:]))


def test_a_list_is_cut_where_the_reference_cuts_it() -> None:
    """It takes no further id once version, ids and what came before have more than the frame but 200 bytes."""
    keys = sorted(some_keys(300))
    answer = finish(Responder(OrderedSet(keys), limits=Limits(frame=4096)).receive(b"\x61\x00\x00\x02\x00"))[1]
    count = (4096 - 200 - 1) // 32 + 1
    ids = b"".join(key[8:] for key in keys[:count])
    assert ids in answer
    assert answer.endswith(ids + b"\x00\x00\x01" + plain_fingerprint(keys[count:]))


@pytest.mark.parametrize("count", range(32, 37))
def test_an_answer_has_no_more_ranges_than_a_message_may_have(count: int) -> None:
    held = OrderedSet(item_key(number, random.Random(number).randbytes(32)) for number in range(1, 60))
    skip, ask = b"\x02\x00\x00", b"\x02\x00\x02\x00"  # each is one step of time further
    for ranges in ([ask] * count, [skip, ask] * count, [ask, skip, skip] * count):
        message = b"\x61" + b"".join(ranges[:count])
        answer = finish(Responder(held, limits=Limits(ranges=count)).receive(message))[1]
        assert count_ranges(answer) <= count


MAX_VARINT = b"\x81" + b"\xff" * 8 + b"\x7f"
HOSTILE = [
    ("", "ends in the middle"),
    ("5f", "no version"),
    ("70", "no version"),
    ("6100", "ends in the middle"),
    ("610000", "ends in the middle"),
    ("61000001" + "00" * 15, "ends in the middle"),
    ("6100000201" + "00" * 31, "ends in the middle"),
    ("61000002" + MAX_VARINT.hex(), "ends in the middle"),
    ("61000003", "mode 3"),
    ("61000081" + "00", "mode 128"),
    ("618000", "a zero as its first digit"),
    ("6101" + "80" * 40 + "00", "a zero as its first digit"),
    ("61" + "82" + "80" * 8 + "0000", "more than 64 bits"),
    ("61" + "ff" * 60_000, "more than 64 bits"),
    ("61" + "0500" + "00" + MAX_VARINT.hex() + "0000", "64 bits"),
    ("610121" + "00" * 33 + "00", "33 bytes of an id"),
    ("61000101" + "00", "1 bytes of an id"),
    ("610501" + "0200" + "0101" + "0100", "below the one before"),
    ("61" + "010000" * 4097, "too many ranges"),
    ("61" + "00" * 65_536, "at most 65536 bytes"),
]


@pytest.mark.parametrize(("message", "says"), HOSTILE, ids=[says + message[:12] for message, says in HOSTILE])
def test_hostile_messages_are_refused_by_both_sides_with_the_reason(message: str, says: str) -> None:
    held = OrderedSet(some_keys(500))
    initiator = Initiator(held)
    finish(initiator.initiate())
    for work in (initiator.receive(bytes.fromhex(message)), Responder(held).receive(bytes.fromhex(message))):
        with pytest.raises(ReconcileError, match=says):
            finish(work)


def test_what_is_odd_but_allowed_is_answered() -> None:
    held = OrderedSet(some_keys(500))
    for ranges in (
        "010000" * 4096,
        MAX_VARINT.hex() + "0000",
        "00000000000200",
        "050100000101000001010001" + "00" * 16,
        "",
    ):
        assert finish(Responder(held).receive(bytes.fromhex("61" + ranges)))[1].startswith(b"\x61")


def test_versions() -> None:
    initiator, responder = Initiator(OrderedSet()), Responder(OrderedSet())
    finish(initiator.initiate())
    assert finish(responder.receive(b"\x62whatever"))[1] == b"\x61"
    with pytest.raises(ReconcileError, match="version 2"):
        finish(initiator.receive(b"\x62"))


def test_a_session_has_at_most_its_rounds() -> None:
    ours, theirs = OrderedSet(some_keys(60_000, 1)), OrderedSet(some_keys(60_000, 2))
    limits = Limits(rounds=3)
    outcome = converse(ours, theirs, limits)
    assert len(outcome.messages) == 6
    assert not outcome.complete
    responder = Responder(theirs, limits=limits)
    for _ in range(3):
        finish(responder.receive(b"\x61"))
    with pytest.raises(ReconcileError, match="3 rounds"):
        finish(responder.receive(b"\x61"))


@pytest.mark.parametrize(
    "limits", [Limits(), Limits(frame=4096, rounds=0), Limits(frame=0, message=0, ranges=40, rounds=0)]
)
def test_messages_stay_within_their_limits_and_all_is_found(limits: Limits) -> None:
    common, ours, theirs = some_keys(8000, 1), some_keys(700, 2), some_keys(900, 3)
    outcome = converse(OrderedSet(common + ours), OrderedSet(common + theirs), limits)
    assert outcome.complete
    assert set(outcome.have) == ids_of(ours)
    assert set(outcome.need) == ids_of(theirs)
    for message in outcome.messages:
        assert not limits.frame or len(message) <= limits.frame
        assert count_ranges(message) <= (limits.ranges or 10**9)


def count_ranges(message: bytes) -> int:
    reader = Reader(message, UNLIMITED)
    reader.version()
    count = 0
    while reader.more():
        count += 1
        reader.bound()
        mode = reader.varint()
        if mode == FINGERPRINT:
            reader.take(16)
        elif mode:
            reader.ids()
    return count


@pytest.mark.parametrize("limits", [{"frame": 4095}, {"ranges": 31}])
def test_limits_that_could_not_work_are_refused(limits: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="or more"):
        Limits(**limits)


def test_only_items_above_the_cut_are_compared() -> None:
    common = [item_key(number, random.Random(number).randbytes(32)) for number in range(900)]
    ours = OrderedSet(common[:300] + common[310:800])  # lacks ten below the cut, a hundred above
    theirs = OrderedSet(common[5:])
    outcome = converse(ours, theirs, cut=499)
    assert outcome.have == []
    assert set(outcome.need) == ids_of(common[800:])
    assert converse(ours, theirs, cut=800 - 1).need == outcome.need
    assert set(converse(ours, theirs, cut=850).need) == ids_of(common[851:])
    above = OrderedSet(common[500:])  # as if there were nothing below: no range is spent on that
    assert finish(Initiator(theirs, 499).initiate()) == finish(Initiator(above).initiate())
    for cut in (899, 2**64 - 2, 2**80):
        nothing = converse(ours, theirs, cut=cut)
        assert (nothing.have, nothing.need, len(nothing.messages)) == ([], [], 2)


def test_a_digest_is_the_fingerprint_of_what_is_above_the_cut() -> None:
    held = [item_key(number, random.Random(number).randbytes(32)) for number in range(300)]
    parts = [OrderedSet(held[::2]), OrderedSet(held[1::2])]
    for cut, above in ((-1, held), (-5, held), (0, held[1:]), (149, held[150:]), (298, held[299:]), (2**64, [])):
        assert digest(OrderedSet(held), cut) == digest(Together(parts), cut) == plain_fingerprint(above)
        assert digest(Without(OrderedSet(held), parts[1:]), cut) == plain_fingerprint(
            [k for k in held[::2] if k in above]
        )


def test_an_origin_that_comes_up_in_a_session_is_not_shown_to_a_peer_that_may_not_see_it() -> None:
    """The responder's excluded origin has nothing at first, then takes in items between two messages, while an
    admitted origin loses some."""
    keys = [some_keys(4000, seed) for seed in range(3)]
    whole, parts = OrderedSet(keys[0] + keys[1]), [OrderedSet(keys[0]), OrderedSet(keys[1])]
    ours = OrderedSet(keys[0][:-100])
    initiator = Initiator(ours)
    responder = Responder(finish(snapshot(whole, parts[:1], parts[1:]))[1])
    needed: list[bytes] = []
    message: bytes | None = finish(initiator.initiate())[1]
    while message is not None:
        answer = finish(responder.receive(message))[1]
        for key in keys[2]:
            whole.insert(key)
        for key in keys[1][:2000]:
            whole.remove(key)
            parts[1].remove(key)
        found, message = finish(initiator.receive(answer))
        assert found.have == []
        needed += found.need
    assert set(needed) == ids_of(keys[0][-100:])


def test_a_snapshot_is_cheap_to_ask_and_to_make() -> None:
    """Few sets are asked one by one; of many, those that hold fewer items are gathered into one."""
    small, large = ([OrderedSet(some_keys(size, seed)) for seed in range(size, size + 20)] for size in (10, 90))
    whole = OrderedSet(key for part in small + large for key in part)
    for inside, outside, kind, weight in (
        (small, large, OrderedSet, 1),
        (large, small, Without, 2),
        (large + small[3:], small[:3], Without, 4),
        (large[:3], large[3:] + small, Together, 3),
        (large + small, [], OrderedSet, 1),
    ):
        held = finish(snapshot(whole, inside, outside))[1]
        assert (type(held), held.weight) == (kind, weight)
        assert digest(held) == plain_fingerprint(key for part in inside for key in part)


def test_parts_together_are_cut_into_ranges_of_like_size() -> None:
    held = Together([OrderedSet(some_keys(size, size)) for size in (6000, 3000, 900, 100)])
    cuts = held.split(START, INFINITY, 16)
    sizes = [held.mark(upper).size - held.mark(lower).size for lower, upper in pairwise([START, *cuts, INFINITY])]
    assert len(sizes) == 16
    assert 300 < min(sizes) <= max(sizes) < 1000


def test_a_pair_compares_what_both_admit_whichever_way_each_side_counts() -> None:
    """Five origins, of which the sides admit three; one side subtracts the others, one adds the admitted."""
    origins = [some_keys(2500, seed) for seed in range(5)]
    ours = [OrderedSet(keys[:-3]) for keys in origins]
    theirs = [OrderedSet(keys[4:]) for keys in origins]
    whole = OrderedSet(key for part in ours for key in part)
    outcome = converse(Without(whole, ours[3:]), Together(theirs[:3]), Limits())
    assert set(outcome.have) == {identity for keys in origins[:3] for identity in ids_of(keys[:4])}
    assert set(outcome.need) == {identity for keys in origins[:3] for identity in ids_of(keys[-3:])}
    equal = converse(Without(whole, ours[3:]), Together(ours[:3]))
    assert [len(message) for message in equal.messages[1:]] == [1]


def test_where_nearly_all_is_left_out_the_rest_is_found_without_reading_it() -> None:
    keys = sorted(some_keys(40_000))
    rest = keys[7::2000]
    out = Without(OrderedSet(keys), [OrderedSet(set(keys) - set(rest))])
    assert out.keys(START, INFINITY, 5) == rest[:5]
    assert out.keys(rest[3], rest[6], 50) == rest[3:6]
    page = Without(OrderedSet(keys[:512]), [OrderedSet(keys[:10])])  # as many as are read at once, and no more behind
    assert page.keys(START, INFINITY, 600) == keys[10:512]
    outcome = converse(out, Together([]))
    assert outcome.have == [key[8:] for key in rest]


class Counting:
    """A set that counts what it was asked since it was last looked at."""

    weight = 1

    def __init__(self, held: OrderedSet) -> None:
        self._held = held
        self.asked = 0

    def mark(self, bound: bytes) -> Mark:
        self.asked += 1
        return self._held.mark(bound)

    def split(self, lower: bytes, upper: bytes, parts: int) -> list[bytes]:
        self.asked += parts
        return self._held.split(lower, upper, parts)

    def keys(self, lower: bytes, upper: bytes, limit: int) -> list[bytes]:
        self.asked += 1 + limit // 32
        return self._held.keys(lower, upper, limit)


Result = TypeVar("Result")


def run(
    work: Generator[Found | None, None, Result], found: tuple[set[bytes], set[bytes]], between: Callable[[], None]
) -> Result:
    """To its end, calling `between` before the first slice and after each."""
    while True:
        between()
        try:
            some = next(work)
        except StopIteration as end:
            between()
            result: Result = end.value
            return result
        if some is not None:
            found[0].update(some.have)
            found[1].update(some.need)


def sliced(initiator: Initiator, responder: Responder, between: Callable[[], None]) -> tuple[set[bytes], set[bytes]]:
    """have and need of a whole session in slices."""
    found: tuple[set[bytes], set[bytes]] = (set(), set())
    message: bytes | None = run(initiator.initiate(), found, between)
    while message is not None:
        message = run(initiator.receive(run(responder.receive(message), found, between)), found, between)
    assert initiator.complete
    return found


def test_no_slice_is_long() -> None:
    """A slice ends after some 64 marks or what costs the same, once it has finished the small thing it was at."""
    common, ours, theirs = some_keys(20_000, 1), some_keys(20_000, 2), some_keys(20_000, 3)
    one, other = Counting(OrderedSet(common + ours)), Counting(OrderedSet(common + theirs))
    asked: list[int] = []

    def look() -> None:
        asked.append(one.asked + other.asked)
        one.asked = other.asked = 0

    found = sliced(Initiator(one), Responder(other), look)
    assert found == (ids_of(ours), ids_of(theirs))
    assert max(asked) < 120
    assert len(asked) > 100


def test_an_initiator_may_stop_when_it_has_enough() -> None:
    initiator = Initiator(OrderedSet(some_keys(100_000)))
    finish(initiator.initiate())
    work = initiator.receive(bytes.fromhex("6100000200"))  # the peer holds nothing
    assert 0 < len(next(work).have) < 5000
    work.close()


def test_sets_that_change_between_slices_still_agree_on_what_did_not_change() -> None:
    """Both sides take in and drop items between any two slices. What differed all the time is found, what was alike all
    the time is not."""
    rng = random.Random(4)
    common, ours, theirs = some_keys(30_000, 1), some_keys(200, 2), some_keys(200, 3)
    passing = some_keys(3000, 4)
    left, right = OrderedSet(common + ours), OrderedSet(common + theirs)

    def disturb() -> None:
        for held in (left, right):
            for key in rng.sample(passing, 20):
                if not held.remove(key):
                    held.insert(key)

    have, need = sliced(Initiator(left), Responder(right), disturb)
    assert have - ids_of(passing) == ids_of(ours)
    assert need - ids_of(passing) == ids_of(theirs)
