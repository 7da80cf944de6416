"""Slices, turns, and what may begin while verdicts are waited for."""

from __future__ import annotations

from collections.abc import Callable

from federation.effects import Effect, Verify
from federation.turns import AHEAD, Turns, Work

ONE, TWO = b"\x01" * 32, b"\x02" * 32


class Bench:
    def __init__(self) -> None:
        self.turns = Turns()
        self.did: list[str] = []
        self.asked: dict[str, Verify] = {}

    def judging(self, name: str, peer: bytes = ONE) -> Work:
        """Looks, asks, and ends with the verdicts."""
        self.did.append(f"{name} looks")
        question = self.asked[name] = Verify(peer, ())
        yield [question]
        verdicts = yield from self.turns.verdicts(question)
        self.did.append(f"{name} ends {verdicts}")
        yield []

    def session(self, name: str) -> Work:
        self.did.append(name)
        yield []

    def run(self) -> list[Effect]:
        effects: list[Effect] = []
        while self.turns.busy:
            effects += self.turns.next()
        return effects

    def answer(self, name: str, *verdicts: bool) -> None:
        self.turns.verified(self.asked[name], list(verdicts))


def begun(fill: Callable[[Bench], None]) -> Bench:
    bench = Bench()
    fill(bench)
    bench.run()
    return bench


def test_the_next_is_looked_at_while_verdicts_are_waited_for_and_all_end_in_order() -> None:
    bench = begun(lambda b: [b.turns.later(ONE, b.judging(n), early=True) for n in "abc"] and None)
    assert bench.did == ["a looks", "b looks", "c looks"]
    bench.answer("b", False)
    assert not bench.turns.busy
    bench.answer("a", True)
    bench.run()
    assert bench.did[3:] == ["a ends [True]", "b ends [False]"]
    bench.answer("c")
    bench.run()
    assert bench.did[5:] == ["c ends []"]
    assert (bench.turns.waiting(ONE), bench.turns.peers) == (0, 0)


def test_what_is_no_judging_waits_for_what_came_before_and_holds_up_what_comes_after() -> None:
    def fill(b: Bench) -> None:
        b.turns.later(ONE, b.judging("a"), early=True)
        b.turns.later(ONE, b.session("round"))
        b.turns.later(ONE, b.judging("b"), early=True)

    bench = begun(fill)
    assert bench.did == ["a looks"]
    bench.answer("a")
    bench.run()
    assert bench.did[1:] == ["a ends []", "round", "b looks"]


def test_only_so_many_are_begun_at_once_and_another_peer_has_its_turn() -> None:
    def fill(b: Bench) -> None:
        for n in range(AHEAD + 3):
            b.turns.later(ONE, b.judging(str(n)), early=True)
        b.turns.later(TWO, b.judging("other", TWO), early=True)

    bench = begun(fill)
    assert len([name for name in bench.did if name != "other looks"]) == AHEAD
    assert bench.did.index("other looks") <= 2


def test_what_a_closed_link_asked_is_forgotten() -> None:
    bench = begun(lambda b: [b.turns.later(ONE, b.judging(n), early=True) for n in "ab"] and None)
    bench.answer("b", True)
    bench.turns.closed(ONE)
    bench.answer("a", True)
    bench.run()
    assert bench.did == ["a looks", "b looks"]
    assert not bench.turns._asked
    assert not bench.turns._verdicts
