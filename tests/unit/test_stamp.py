"""crdt.stamp: order numbers that only go up."""

import pytest

from crdt.stamp import STAMP_MAX, StampClock


def test_stamp_is_the_time_and_a_counter() -> None:
    clock = StampClock()
    assert clock.next(1000) == 1000 << 16
    assert clock.next(1000) == (1000 << 16) + 1
    assert clock.next(1001) == 1001 << 16


def test_a_clock_that_went_back_counts_on() -> None:
    clock = StampClock()
    ahead = clock.next(10_000_000)
    assert clock.next(1000) == ahead + 1
    assert clock.next(-5) == ahead + 2


def test_an_observed_stamp_is_never_given_again() -> None:
    clock = StampClock(last=5)
    clock.observe(1 << 40)
    clock.observe(7)
    assert clock.next(0) == (1 << 40) + 1


def test_a_key_without_stamps_left_says_so() -> None:
    clock = StampClock(STAMP_MAX - 1)
    assert clock.next(0) == STAMP_MAX
    with pytest.raises(OverflowError, match="new key"):
        clock.next(0)
    assert clock.last == STAMP_MAX
