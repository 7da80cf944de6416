"""Whatever two sides hold, and by whatever limits, the initiator ends with exactly what each has that the other lacks.
Whatever bytes come in, a side raises its own error or answers, and neither asks more of its set than the bytes allow.
"""

import random
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from crdt.held_set import HeldSet, Together, Without, gather
from crdt.ordered_set import Mark, OrderedSet, item_key, varint
from crdt.range_message import Limits
from crdt.reconcile import Initiator, ReconcileError, Responder, finish
from tests.plain_set import ids_of

ROUNDS = 200  # a session that has not ended by then never will

# Runs of items that one side has, the other, or both: (how many, who, how far apart in time).
runs = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 30, 33, 100, 500]),
        st.sampled_from(["ours", "theirs", "both", "mixed"]),
        st.sampled_from([0, 1, 1000]),
    ),
    max_size=12,
)
limits = st.builds(
    lambda frame, ranges: Limits(frame=frame, message=0, ranges=ranges, rounds=ROUNDS),
    st.one_of(st.just(0), st.integers(4096, 12_000)),
    st.one_of(st.just(0), st.integers(32, 400)),
)


def sides(shape: list[tuple[int, str, int]], seed: int) -> tuple[set[bytes], set[bytes]]:
    rng = random.Random(seed)
    ours: set[bytes] = set()
    theirs: set[bytes] = set()
    time = 0
    for count, who, step in shape:
        for _ in range(count):
            time += step
            key = item_key(time, rng.randbytes(32))
            who_now = rng.choice(["ours", "theirs", "both"]) if who == "mixed" else who
            if who_now != "theirs":
                ours.add(key)
            if who_now != "ours":
                theirs.add(key)
    return ours, theirs


def session(
    initiator: Initiator, responder: Responder, check: Callable[[bytes], None]
) -> tuple[set[bytes], set[bytes]]:
    have: set[bytes] = set()
    need: set[bytes] = set()
    message: bytes | None = finish(initiator.initiate())[1]
    while message is not None:
        check(message)
        answer = finish(responder.receive(message))[1]
        check(answer)
        found, message = finish(initiator.receive(answer))
        have.update(found.have)
        need.update(found.need)
    assert initiator.complete
    return have, need


@given(runs, st.integers(0, 2**32), limits, st.integers(-1, 30_000))
def test_exactly_what_differs_is_found(shape: list[tuple[int, str, int]], seed: int, limits: Limits, cut: int) -> None:
    ours, theirs = sides(shape, seed)

    def within(message: bytes) -> None:
        assert not limits.frame or len(message) <= limits.frame

    one, other = Initiator(OrderedSet(ours), cut, limits), Responder(OrderedSet(theirs), cut, limits)
    have, need = session(one, other, within)
    above = [{key for key in side if int.from_bytes(key[:8], "big") > cut} for side in (ours, theirs)]
    assert have == ids_of(above[0] - above[1])
    assert need == ids_of(above[1] - above[0])


@given(runs, st.integers(0, 2**32), st.integers(1, 12), st.data())
def test_the_same_for_a_pair_that_admits_some_origins(
    shape: list[tuple[int, str, int]], seed: int, origins: int, data: st.DataObject
) -> None:
    """An item's origin is that of its last byte. Each side may subtract, add, or gather first."""
    admitted = data.draw(st.sets(st.integers(0, origins - 1)))
    keys = sides(shape, seed)
    held: list[HeldSet] = []
    for side in keys:
        parts = [OrderedSet(key for key in side if key[-1] % origins == origin) for origin in range(origins)]
        inside = [parts[origin] for origin in sorted(admitted)]
        outside = [parts[origin] for origin in range(origins) if origin not in admitted]
        views: list[Callable[[], HeldSet]] = [
            lambda: Together(inside),  # noqa: B023  # called at once
            lambda: finish(gather(inside))[1],  # noqa: B023
            lambda: Without(OrderedSet(side), outside),  # noqa: B023
            lambda: Without(OrderedSet(side), [finish(gather(outside))[1]]),  # noqa: B023
        ]
        held.append(data.draw(st.sampled_from(views))())
    roomy = Limits(rounds=ROUNDS)
    have, need = session(Initiator(held[0], -1, roomy), Responder(held[1], -1, roomy), lambda _: None)
    ours, theirs = ({key for key in side if key[-1] % origins in admitted} for side in keys)
    assert have == ids_of(ours - theirs)
    assert need == ids_of(theirs - ours)


class Counting:
    """A set that counts what it is asked: marks and keys."""

    weight = 1

    def __init__(self, held: OrderedSet) -> None:
        self._held = held
        self.marks = 0
        self.given = 0

    def mark(self, bound: bytes) -> Mark:
        self.marks += 1
        return self._held.mark(bound)

    def split(self, lower: bytes, upper: bytes, parts: int) -> list[bytes]:
        self.marks += parts
        return self._held.split(lower, upper, parts)

    def keys(self, lower: bytes, upper: bytes, limit: int) -> list[bytes]:
        found = self._held.keys(lower, upper, limit)
        self.given += len(found)
        return found


HELD = OrderedSet(sides([(400, "both", 1), (400, "both", 0), (1200, "both", 1000)], 1)[0])
FIRST = finish(Initiator(HELD).initiate())[1]
numbers = st.one_of(st.integers(0, 300), st.integers(0, 2**64)).map(varint)
ranges = st.one_of(
    st.builds(lambda *parts: b"".join(parts), numbers, st.sampled_from([b"\0", b"\1\x55", b"\2\0\0"]), st.just(b"\0")),
    st.builds(lambda time, value: time + b"\0\1" + value, numbers, st.binary(min_size=16, max_size=16)),
    st.builds(
        lambda time, ids: time + b"\0\2" + varint(len(ids)) + b"".join(ids), numbers, st.lists(st.just(bytes(32)))
    ),
    st.sampled_from([b"\1\0\0", b"\2\0\1" + bytes(16), b"\2\0\2\0", b"\0\0\1" + bytes(16), b"\0\0\2\0"]),
)
hostile = st.one_of(
    st.binary(max_size=300),
    st.binary(max_size=300).map(lambda tail: b"\x61" + tail),
    st.lists(ranges, max_size=40).map(lambda parts: b"\x61" + b"".join(parts)),
    st.tuples(ranges, st.integers(1, 5000)).map(lambda pair: b"\x61" + pair[0] * pair[1]),
    st.tuples(st.integers(0, len(FIRST)), st.binary(max_size=3), st.integers(0, 3)).map(
        lambda edit: FIRST[: edit[0]] + edit[1] + FIRST[edit[0] + edit[2] :]
    ),
)


@given(hostile)
def test_whatever_comes_in_is_refused_or_answered_within_bounds(message: bytes) -> None:
    few = Limits()
    for initiating in (False, True):
        held = Counting(HELD)
        initiator, responder = Initiator(held), Responder(held)
        finish(initiator.initiate())
        held.marks = held.given = 0
        try:
            answer = finish(initiator.receive(message) if initiating else responder.receive(message))[1]
            assert len(answer or b"") <= few.frame
        except ReconcileError:
            pass
        # Two marks for each range that is looked at, and for each that is written; of a split no more than 17.
        assert held.marks <= 2 * few.ranges + 2 * few.ranges + 17
        assert held.given <= len(HELD)  # each of its own at most once
