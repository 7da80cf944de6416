"""crdt.stamp: order numbers that only go up."""

import pytest

from crdt.stamp import CLOCK_MAX, OWN_MAX, STAMP_MAX, StampClock


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


@pytest.mark.parametrize("now", [1 << 48, 1 << 60, (1 << 64) - 1])
def test_no_time_uses_the_numbers_up(now: int) -> None:
    clock = StampClock()
    first = clock.next(now)
    assert [clock.next(now), clock.next(0), clock.next(now)] == [first + 1, first + 2, first + 3]
    assert first == CLOCK_MAX


def test_what_no_clock_gives_is_not_observed() -> None:
    clock = StampClock()
    assert not clock.observe(OWN_MAX + 1)
    assert not clock.observe(STAMP_MAX)
    assert clock.last == 0
    assert clock.observe(OWN_MAX)
    assert OWN_MAX < clock.next(0) < STAMP_MAX


def test_a_clock_is_told_of_all_that_one_like_it_gave() -> None:
    """So a node that lost its disk while its clock was out of its mind still counts on from there."""
    mad, again = StampClock(), StampClock()
    given = max(mad.next(1 << 64) for _ in range(1000))
    assert again.observe(given)
    assert again.next(0) == given + 1
