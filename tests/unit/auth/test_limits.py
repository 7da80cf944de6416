"""Budgets: how fast a subject may call, and that nobody pays for another.

Rates are powers of two where a test counts exactly: budgets are reckoned in floating point, and at others the last call
of a burst may be refused by rounding.
"""

import itertools
import timeit

import pytest

from kosreg.auth import Caller, Limits
from kosreg.problems import Problem


def caller(sub: str, *, admin: bool = False) -> Caller:
    return Caller(sub, (), "jti", 1, "iss", b"", admin=admin)


class Clock:
    """A monotonic clock, set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def allowed(limits: Limits, who: Caller, kind: str = "calls", cost: int = 1, most: int = 100_000) -> int:
    """How many charges pass before the first refusal."""
    for n in itertools.count():
        if n == most:
            return n
        try:
            limits.charge(who, kind, cost)  # type: ignore[arg-type]
        except Problem:
            return n
    raise AssertionError


def test_the_burst_then_the_rate(clock: Clock) -> None:
    limits = Limits(clock=clock, calls_per_s=128, calls_burst=256)
    bob = caller("bob")

    assert allowed(limits, bob) == 256
    clock.now += 0.5
    assert allowed(limits, bob) == 64
    clock.now += 3600
    assert allowed(limits, bob) == 256


def test_the_defaults_are_those_of_the_documentation(clock: Clock) -> None:
    limits = Limits(clock=clock)

    assert allowed(limits, caller("bob")) == 4_000
    assert allowed(limits, caller("bob"), "beats", 10) == 4_000
    clock.now += 1
    assert allowed(limits, caller("bob")) == 2_000
    assert allowed(limits, caller("bob"), "beats", 10) == 2_000


def test_a_refusal_says_when_to_come_back(clock: Clock) -> None:
    limits = Limits(clock=clock, calls_per_s=1, calls_burst=2)
    bob = caller("bob")
    allowed(limits, bob)

    with pytest.raises(Problem) as caught:
        limits.charge(bob, "calls")

    assert caught.value.status == 429
    assert caught.value.headers["Retry-After"] == "1"
    assert "bob" in caught.value.detail
    clock.now += 1
    limits.charge(bob, "calls")


def test_a_refused_call_costs_nothing(clock: Clock) -> None:
    limits = Limits(clock=clock, calls_per_s=10, calls_burst=10)
    bob = caller("bob")
    allowed(limits, bob)
    for _ in range(1000):
        with pytest.raises(Problem):
            limits.charge(bob, "calls")

    clock.now += 0.1

    limits.charge(bob, "calls")


def test_subjects_do_not_pay_for_each_other_nor_beats_for_calls(clock: Clock) -> None:
    limits = Limits(clock=clock, calls_per_s=10, calls_burst=10, beats_per_s=10, beats_burst=10)
    allowed(limits, caller("bob"))

    limits.charge(caller("eve"), "calls")
    limits.charge(caller("bob"), "beats", 10)


def test_admins_have_no_limit() -> None:
    limits = Limits(calls_per_s=1, calls_burst=1, beats_per_s=1, beats_burst=1)
    admin = caller("admin", admin=True)

    assert allowed(limits, admin, most=1000) == 1000
    limits.charge(admin, "beats", 10**9)


def test_a_batch_costs_its_beats(clock: Clock) -> None:
    limits = Limits(clock=clock, beats_per_s=128, beats_burst=1024)
    bob = caller("bob")

    limits.charge(bob, "beats", 1023)
    limits.charge(bob, "beats", 1)
    with pytest.raises(Problem) as caught:
        limits.charge(bob, "beats", 300)

    assert caught.value.headers["Retry-After"] == "3"


def test_a_batch_that_can_never_fit_is_too_large_rather_than_too_early(clock: Clock) -> None:
    limits = Limits(clock=clock, beats_per_s=128, beats_burst=1024)

    with pytest.raises(Problem) as caught:
        limits.charge(caller("bob"), "beats", 1025)

    assert caught.value.slug == "too-large"
    assert "1024" in caught.value.detail


def test_the_number_of_subjects_is_bounded(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kosreg.auth.limits.MAX_SUBJECTS", 50)
    limits = Limits(clock=clock, calls_per_s=10, calls_burst=10)
    for n in range(1000):
        limits.charge(caller(f"agent-{n}"), "calls")

    assert len(limits._budgets["calls"]._full_at) == 50


def test_thousands_of_subjects_keep_their_budgets(clock: Clock) -> None:
    limits = Limits(clock=clock, calls_per_s=1, calls_burst=1)
    agents = [caller(f"agent-{n}") for n in range(5_000)]
    for agent in agents:
        limits.charge(agent, "calls")

    assert all(allowed(limits, agent) == 0 for agent in agents)


def test_a_wall_clock_that_jumps_changes_nothing(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    limits = Limits(clock=clock, calls_per_s=16, calls_burst=16)
    allowed(limits, caller("bob"))
    monkeypatch.setattr("time.time", lambda: 0.0)

    clock.now += 1

    assert allowed(limits, caller("bob")) == 16


def test_failures_of_an_address_turn_into_429_and_leave_others_alone(clock: Clock) -> None:
    limits = Limits(clock=clock, failures_per_s=16, failures_burst=32)
    for _ in range(32):
        limits.charge_failure("192.0.2.1")

    with pytest.raises(Problem) as caught:
        limits.charge_failure("192.0.2.1")

    assert caught.value.status == 429
    assert caught.value.headers["Retry-After"] == "1"
    limits.charge_failure("192.0.2.2")
    limits.charge_failure("")  # a Unix socket has no address
    limits.charge(caller("bob"), "calls")


def test_a_charge_costs_a_few_microseconds() -> None:
    limits = Limits(calls_per_s=10**6, calls_burst=10**7)
    bob = caller("bob")

    best = min(timeit.repeat(lambda: limits.charge(bob, "calls"), number=500, repeat=40)) / 500

    assert best < 25e-6  # 3.4 µs alone on the machine; the bound is for a busy one
