"""federation.dialler: it tries again and again, less and less often, and at once where there is hope."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from federation import dialler
from federation.dialler import Dialler, Failure
from tests.harness import until

PEER = b"p" * 32


class Line:
    """A linker whose links live for `lives` s; None: nobody answers, and at `closed` addresses nobody listens."""

    def __init__(self, lives: float | None = None) -> None:
        self.lives = lives
        self.calls: list[tuple[float, str]] = []
        self.linked = asyncio.Event()  # by the other side
        self.linked.set()
        self.closed: set[str] = set()
        self.refusals = 0

    async def connect(self, peer: bytes, address: str) -> Failure | None:
        assert peer == PEER
        self.calls.append((asyncio.get_running_loop().time(), address))
        if self.lives is None:
            return Failure("nobody answers", address in self.closed)
        await asyncio.sleep(self.lives)
        return None

    async def wait_unlinked(self, peer: bytes) -> None:
        await self.linked.wait()

    def refused(self, peer: bytes) -> None:
        assert peer == PEER
        self.refusals += 1

    @property
    def gaps(self) -> list[float]:
        times = [at for at, _ in self.calls]
        return [after - before for before, after in pairwise(times)]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialler, "FIRST_WAIT_S", 0.02)
    monkeypatch.setattr(dialler, "LONGEST_WAIT_S", 0.16)
    monkeypatch.setattr(dialler, "STEADY_S", 0.05)


async def test_waits_grow_to_a_bound_and_are_jittered() -> None:
    line = Line()
    dial = Dialler(PEER, ["a:1"], line)
    await until(lambda: len(line.calls) == 9)
    state, error = dial.state, dial.error
    await dial.stop()
    assert (state, error) == ("backoff", "nobody answers")
    for n, gap in enumerate(line.gaps):
        wait = min(0.16, 0.02 * 2**n)
        assert wait / 2 <= gap + 0.001
        assert gap < wait + 0.15  # a busy machine is late
    assert line.gaps[-1] > 2 * line.gaps[0]
    assert len({round(gap, 5) for gap in line.gaps[-5:]}) > 1


async def test_all_addresses_are_tried_before_the_wait_grows() -> None:
    line = Line()
    dial = Dialler(PEER, [f"a:{n}" for n in range(6)], line)
    await until(lambda: len(line.calls) >= 8)
    await dial.stop()
    assert [address for _, address in line.calls[:8]] == ["a:0", "a:1", "a:2", "a:3"] * 2  # four at most
    assert max(line.gaps[:3]) < line.gaps[3]


async def test_a_link_that_lived_makes_waits_short_again() -> None:
    line = Line()
    dial = Dialler(PEER, ["a:1"], line)
    await until(lambda: len(line.calls) == 6)
    line.lives = 0.06
    count = len(line.calls)
    await until(lambda: len(line.calls) >= count + 4)
    await dial.stop()
    assert min(line.gaps[count + 1 :]) < 0.06 + 0.16 / 2  # the waits alone would be longer


async def test_it_does_not_dial_while_the_other_side_has_a_link() -> None:
    line = Line()
    line.linked.clear()
    dial = Dialler(PEER, ["a:1"], line)
    await until(lambda: dial.state == "up")
    assert line.calls == []
    line.linked.set()
    await until(lambda: line.calls)
    await dial.stop()


async def test_a_new_address_is_dialled_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialler, "FIRST_WAIT_S", 30)
    monkeypatch.setattr(dialler, "LONGEST_WAIT_S", 30)
    line = Line()
    dial = Dialler(PEER, [], line)
    await until(lambda: dial.state == "waiting")
    dial.redirect(["a:1"])
    await until(lambda: line.calls)
    dial.redirect(["a:1"])  # the same: nothing to hope for
    dial.redirect(["b:1"])
    await until(lambda: len(line.calls) == 2)
    assert line.calls[1][1] == "b:1"
    await dial.stop()


async def test_where_a_peer_was_heard_is_dialled_after_its_own_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialler, "FIRST_WAIT_S", 30)
    monkeypatch.setattr(dialler, "LONGEST_WAIT_S", 30)
    line = Line()
    dial = Dialler(PEER, ["a:1"], line)
    await until(lambda: dial.state == "backoff")
    dial.heard(["b:1", "a:1", "c:1", "d:1", "e:1"])  # four at most
    await until(lambda: len(line.calls) == 4 and dial.state == "backoff")
    dial.heard(["c:1", "b:1"])  # nothing new: nothing to hope for
    dial.redirect(["f:1"])
    await until(lambda: len(line.calls) == 7 and dial.state == "backoff")
    await dial.stop()
    assert [address for _, address in line.calls] == ["a:1", "b:1", "c:1", "d:1", "f:1", "c:1", "b:1"]


async def test_a_peer_refuses_where_nobody_listens_at_any_of_its_addresses() -> None:
    line = Line()
    line.closed = {"a:1"}
    dial = Dialler(PEER, ["a:1", "b:1"], line)
    await until(lambda: len(line.calls) >= 6)
    assert line.refusals == 0  # it may live at the other one
    line.closed = {"a:1", "b:1"}
    await until(lambda: line.refusals > 0)
    await dial.stop()
