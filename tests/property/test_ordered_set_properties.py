"""Whatever is put in and taken out, marks, fingerprints, places and pages are those of a sorted list; with leaves and
branches so small that every split and join is met. The same for the views of several sets."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from crdt import held_set, ordered_set
from crdt.held_set import HeldSet, Together, Without, gather, snapshot
from crdt.ordered_set import INFINITY, KEY_SIZE, START, Mark, OrderedSet, item_key
from crdt.reconcile import finish
from tests.plain_set import plain_fingerprint

# Few timestamps and ids that share beginnings, so that items collide in part and in whole.
times = st.sampled_from([0, 1, 2, 255, 256, ordered_set.MAX_TIMESTAMP])
identities = st.builds(lambda head, tail: head * 31 + tail, *[st.sampled_from([b"\0", b"\1", b"\x7f", b"\xff"])] * 2)
keys = st.one_of(
    st.builds(item_key, times, identities),
    st.builds(item_key, st.integers(0, 10**6), st.binary(min_size=32, max_size=32)),
)
bounds = st.one_of(
    keys,
    st.builds(lambda key, size: key[:size], keys, st.integers(8, KEY_SIZE)),
    keys.map(ordered_set.after),
    st.just(START),
    st.just(INFINITY),
)
changes = st.lists(st.tuples(st.booleans(), keys), max_size=120)


@contextmanager
def small() -> Iterator[None]:
    """Leaves of four keys, branches of four leaves, and views that count little as few."""
    with (
        patch.object(ordered_set, "_LEAF", 4 * KEY_SIZE),
        patch.object(ordered_set, "_BRANCH", 4),
        patch.object(ordered_set, "_FILL", 3),
        patch.object(held_set, "_FEW", 20),
        patch.object(held_set, "_SPAN", 16),
        patch.object(held_set, "_STEP", 4),
    ):
        yield


def check(held: HeldSet, plain: list[bytes], places: list[bytes]) -> None:
    ordered = sorted(plain)
    for bound in (*places, START, INFINITY):
        before = [key for key in ordered if key < bound]
        assert held.mark(bound) == Mark(len(before), sum(int.from_bytes(key[8:], "little") for key in before))
    for lower, upper in pairwise(sorted(places)):
        inside = [key for key in ordered if lower <= key < upper]
        for limit in (1, 3, len(inside), len(inside) + 1):
            assert held.keys(lower, upper, limit) == inside[:limit]
        if len(inside) >= 32:
            check_cuts(held.split(lower, upper, 16), lower, upper)


def check_cuts(cuts: list[bytes], lower: bytes, upper: bytes) -> None:
    assert len(cuts) <= 15
    assert cuts == sorted(set(cuts))
    assert all(lower < cut < upper for cut in cuts)


@given(st.lists(keys, max_size=60), changes, st.lists(bounds, max_size=8))
def test_as_a_sorted_list_after_any_changes(
    first: list[bytes], steps: list[tuple[bool, bytes]], places: list[bytes]
) -> None:
    with small():
        held, plain = OrderedSet(first), set(first)
        for number, (put, key) in enumerate(steps):
            if put:
                assert held.insert(key) == (key not in plain)
                plain.add(key)
            else:
                assert held.remove(key) == (key in plain)
                plain.discard(key)
            assert (key in held) == put
            if number % 10 == 0:
                assert held.fingerprint() == plain_fingerprint(plain)
        assert list(held) == sorted(plain)
        check(held, list(plain), [*places, *(key for _, key in steps)])
        assert [held.key_at(place) for place in range(len(held))] == sorted(plain)


@given(st.sets(keys, min_size=30, max_size=150))
def test_emptied_out_of_order_and_filled_again(some: set[bytes]) -> None:
    with small():
        held, left = OrderedSet(), set(some)
        for key in some:
            held.insert(key)
        for key in sorted(some, key=lambda each: each[::-1]):
            assert held.remove(key)
            left.remove(key)
            assert held.fingerprint() == plain_fingerprint(left)
        assert len(held) == 0
        assert held.insert(START + bytes(32))


@given(st.sets(keys, min_size=32, max_size=200), bounds, bounds)
def test_an_ordered_set_is_cut_into_parts_that_differ_by_one(some: set[bytes], one: bytes, other: bytes) -> None:
    lower, upper = sorted((one, other))
    inside = [key for key in sorted(some) if lower <= key < upper]
    if len(inside) < 16:
        return
    with small():
        cuts = OrderedSet(some).split(lower, upper, 16)
    ends = [lower, *cuts, upper]
    sizes = [sum(low <= key < high for key in inside) for low, high in pairwise(ends)]
    assert len(cuts) == 15
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] - sizes[-1] <= 1


@given(st.lists(st.sets(keys, max_size=40), min_size=1, max_size=6), st.lists(bounds, max_size=6), changes)
def test_views_are_what_they_say_and_follow_changes(
    groups: list[set[bytes]], places: list[bytes], steps: list[tuple[bool, bytes]]
) -> None:
    """Each key belongs to the part that its last byte names, as an entry belongs to its origin."""
    count = len(groups)
    plain: list[set[bytes]] = [set() for _ in range(count)]
    for key in set().union(*groups):
        plain[key[-1] % count].add(key)
    with small():
        parts = [OrderedSet(part) for part in plain]
        whole = OrderedSet(key for part in plain for key in part)
        out, together = Without(whole, parts[: count // 2]), Together(parts[count // 2 :])
        for put, key in [(True, START + bytes(32)), *steps]:
            origin = key[-1] % count
            if put:
                plain[origin].add(key)
            else:
                plain[origin].discard(key)
            for held in (whole, parts[origin]):
                (held.insert if put else held.remove)(key)
        expected = [key for part in plain[count // 2 :] for key in part]
        assert len(out) == len(together) == len(expected)
        check(out, expected, [*places, START, INFINITY])
        check(together, expected, [*places, START, INFINITY])


@given(st.lists(keys, max_size=60), changes, changes, st.lists(bounds, max_size=4))
def test_a_copy_and_its_original_go_their_own_ways(
    first: list[bytes], ours: list[tuple[bool, bytes]], theirs: list[tuple[bool, bytes]], places: list[bytes]
) -> None:
    with small():
        held = OrderedSet(first)
        held.mark(INFINITY)  # so that there are running totals to share
        twin = held.copy()
        both: list[tuple[OrderedSet, set[bytes]]] = []
        for one, steps in ((held, ours), (twin, theirs)):
            plain = set(first)
            for put, key in steps:
                (one.insert if put else one.remove)(key)
                (plain.add if put else plain.discard)(key)
            both.append((one, plain))
        for one, plain in both:
            assert list(one) == sorted(plain)
            assert len(one) == len(plain)
            check(one, list(plain), [*places, *first])


@given(st.sets(keys, min_size=1, max_size=120), st.integers(1, 40), st.data(), changes, st.lists(bounds, max_size=4))
def test_a_snapshot_is_what_the_pair_held_at_the_call(
    some: set[bytes], count: int, data: st.DataObject, steps: list[tuple[bool, bytes]], places: list[bytes]
) -> None:
    """Whichever of the four ways it is made: origins come up, lose all and change, before and after its slices."""

    def origin_of(key: bytes) -> int:
        return sum(key) % count

    admitted = data.draw(st.sets(st.integers(0, count - 1)))
    early = data.draw(st.integers(0, len(steps)))
    with small():
        parts = [OrderedSet(key for key in some if origin_of(key) == origin) for origin in range(count)]
        whole = OrderedSet(some)
        inside = [parts[origin] for origin in range(count) if origin in admitted]
        outside = [parts[origin] for origin in range(count) if origin not in admitted]
        work = snapshot(whole, inside, outside)

        def change(some: list[tuple[bool, bytes]]) -> None:
            for put, key in some:
                for each in (whole, parts[origin_of(key)]):
                    (each.insert if put else each.remove)(key)

        change(steps[:early])
        held = finish(work)[1]
        change(steps[early:])
        expected = [key for key in some if origin_of(key) in admitted]
        check(held, expected, [*places, START, INFINITY])
        assert held.weight <= 9


@given(st.sets(keys, max_size=300), st.integers(1, 8))
def test_what_is_gathered_is_all(some: set[bytes], count: int) -> None:
    with small():
        parts = [OrderedSet(key for key in some if sum(key) % count == part) for part in range(count)]
        gathered = finish(gather(parts))[1]
        assert list(gathered) == sorted(some)
        assert gathered.fingerprint() == plain_fingerprint(some)
