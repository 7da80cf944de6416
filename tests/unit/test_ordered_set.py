"""OrderedSet at its real size of leaves and branches; small ones are in the properties."""

import random
import tracemalloc
from bisect import bisect_left
from hashlib import sha256

import pytest

from crdt.ordered_set import (
    INFINITY,
    MAX_TIMESTAMP,
    START,
    OrderedSet,
    bound_between,
    even_places,
    item_key,
)
from tests.plain_set import plain_fingerprint


def keys(count: int, seed: int = 1, times: int = 10**6) -> list[bytes]:
    rng = random.Random(seed)
    return [item_key(rng.randrange(times), rng.randbytes(32)) for _ in range(count)]


def test_the_fingerprint_is_that_of_the_specification() -> None:
    ids = [b"\xff" * 32, b"\x02" + bytes(31), bytes(31) + b"\x80"]  # the sum leaves 256 bits
    total = sum(int.from_bytes(identity, "little") for identity in ids) % 2**256
    expected = sha256(total.to_bytes(32, "little") + b"\x03").digest()[:16]
    assert OrderedSet(item_key(7, identity) for identity in ids).fingerprint() == expected
    assert OrderedSet().fingerprint() == sha256(bytes(33)).digest()[:16]


def test_a_count_of_128_takes_two_digits() -> None:
    held = OrderedSet(item_key(number, bytes(32)) for number in range(128))
    assert held.fingerprint() == sha256(bytes(32) + b"\x81\x00").digest()[:16]


def test_timestamps_are_no_part_of_sums() -> None:
    ids = [random.Random(number).randbytes(32) for number in range(500)]
    low, high = (OrderedSet(item_key(time, identity) for identity in ids) for time in (0, MAX_TIMESTAMP))
    assert low.fingerprint() == high.fingerprint()


def test_many_changes_at_real_size() -> None:
    """60,000 insertions and removals of all shapes: growth, shrinking to nothing, growth at one end."""
    rng = random.Random(5)
    held, plain = OrderedSet(), set[bytes]()
    for step in range(6):
        some = keys(20_000, seed=step, times=50 if step % 2 else 10**9)
        for key in some:
            assert held.insert(key) == (key not in plain)
            plain.add(key)
        going = sorted(plain) if step == 3 else rng.sample(sorted(plain), len(plain) * (step + 1) // 7)
        for key in going:
            assert held.remove(key)
            plain.remove(key)
        ordered = sorted(plain)
        assert list(held) == ordered
        assert len(held) == len(ordered)
        assert held.fingerprint() == plain_fingerprint(ordered)
        for _ in range(50):
            lower, upper = sorted((rng.randbytes(9), rng.randbytes(rng.randrange(8, 40))))
            inside = [key for key in ordered if lower <= key < upper]
            assert held.fingerprint(lower, upper) == plain_fingerprint(inside)
            assert held.keys(lower, upper, 300) == inside[:300]
        for key in rng.sample(going, 1000):
            assert held.rank(key) == bisect_left(ordered, key)
        for place in rng.sample(range(len(ordered)), min(50, len(ordered))):
            assert held.key_at(place) == ordered[place]
            assert held.rank(ordered[place]) == place


def test_the_same_whether_built_at_once_appended_or_inserted() -> None:
    some = sorted(set(keys(30_000)))
    built, inserted, appended = OrderedSet(some), OrderedSet(), OrderedSet(some[:1000])
    for key in random.Random(2).sample(some, len(some)):
        inserted.insert(key)
    for start in range(1000, len(some), 3000):
        appended.append(some[start : start + 3000])
    appended.append([])
    places = [START, *some[::997], INFINITY]
    for one in (inserted, appended):
        assert list(one) == some
        assert [one.mark(place) for place in places] == [built.mark(place) for place in places]


def test_what_is_built_of_repeats_holds_each_once() -> None:
    some = keys(1000)
    assert list(OrderedSet(some + some[::3])) == sorted(some)


def test_what_is_appended_must_be_above_and_in_order() -> None:
    low, middle, high = sorted(keys(3))
    for bad in ([low], [middle], [low, high], [high, high], [high, high[:-1] + b"\0", middle]):
        held = OrderedSet([low, middle])
        with pytest.raises(ValueError, match="in order and above"):
            held.append(bad)
        assert list(held) == [low, middle]


@pytest.mark.parametrize("bad", [b"", bytes(39), bytes(41), b"\xff" * 40])
def test_what_is_no_key_is_refused(bad: bytes) -> None:
    held = OrderedSet([bytes(40)])
    with pytest.raises(ValueError, match="40 bytes"):
        held.insert(bad)
    with pytest.raises(ValueError, match="40 bytes"):
        OrderedSet([bytes(40), bad])
    assert bad not in held
    assert not held.remove(bad)
    assert list(held) == [bytes(40)]


@pytest.mark.parametrize(
    ("timestamp", "identity", "says"),
    [(-1, bytes(32), "timestamp"), (2**64 - 1, bytes(32), "timestamp"), (0, bytes(31), "32"), (0, bytes(33), "32")],
)
def test_an_item_is_a_timestamp_and_32_bytes(timestamp: int, identity: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        item_key(timestamp, identity)


def test_places_that_are_not_there_are_refused() -> None:
    held = OrderedSet(keys(3))
    for place in (-1, 3):
        with pytest.raises(IndexError):
            held.key_at(place)
    with pytest.raises(ValueError, match="below"):
        held.fingerprint(INFINITY, START)
    assert held.keys(INFINITY, START, 5) == []
    assert OrderedSet().keys(START, INFINITY, 5) == []


def test_bounds_are_as_short_as_can_be() -> None:
    assert bound_between(item_key(5, b"a" * 32), item_key(6, b"b" * 32)) == item_key(6, bytes(32))[:8]
    assert bound_between(item_key(5, b"a" * 32), item_key(5, b"b" * 32)) == item_key(5, b"b" * 32)[:9]
    assert bound_between(item_key(5, b"a" * 32), item_key(5, b"a" * 31 + b"b")) == item_key(5, b"a" * 31 + b"b")


def test_the_first_parts_take_what_is_over() -> None:
    assert even_places(35, 16)[:4] == [3, 6, 9, 11]
    assert even_places(35, 16)[-1] == 33


def test_memory_is_little_more_than_the_keys() -> None:
    some = sorted(keys(50_000))
    tracemalloc.start()
    held = OrderedSet(some)
    for key in some[::100]:
        held.mark(key)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size / len(held) < 48
