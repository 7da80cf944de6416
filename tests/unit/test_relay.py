"""What came from peers is told at once where it is quiet, and gathered where it is not."""

from __future__ import annotations

import asyncio

import pytest

from crdt.entry import Entry
from federation.effects import Landed
from kosreg import relay as module
from kosreg.relay import BULK, Relay
from tests.foreign import Origin
from tests.harness import until

A = Origin(0xA1)
ONE, TWO = b"\x01" * 32, b"\x02" * 32


def part(peer: bytes | None, count: int = 1) -> Landed:
    entries: list[Entry] = [A.service(f"s{n}") for n in range(count)]
    return entries, peer


class Told:
    def __init__(self, *, others: bool = True) -> None:
        self.calls: list[list[Landed]] = []
        self.relay = Relay(lambda landed: self.calls.append(list(landed)), lambda: others)


async def test_the_first_goes_at_once_and_what_follows_goes_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GATHER_S", 0.05)
    told = Told()
    parts = [part(ONE), part(TWO), part(ONE), part(TWO)]
    for each in parts:
        told.relay.landed([each])
    assert told.calls == [parts[:1]]
    await until(lambda: len(told.calls) == 2)
    assert told.calls[1] == parts[1:]
    await until(lambda: told.relay._window is None)  # and when nothing more came, the next goes at once again
    told.relay.landed([parts[0]])
    assert len(told.calls) == 3
    told.relay.stop()


async def test_what_this_node_says_waits_for_nothing_and_keeps_its_place() -> None:
    told = Told()
    parts = [part(ONE), part(TWO), part(None)]
    for each in parts:
        told.relay.landed([each])
    assert told.calls == [parts[:1], parts[1:]]
    told.relay.stop()


async def test_much_is_told_at_once() -> None:
    told = Told()
    told.relay.landed([part(ONE)])
    told.relay.landed([part(ONE, BULK)])
    assert len(told.calls) == 2
    told.relay.stop()


async def test_with_nobody_to_push_it_on_to_nothing_waits() -> None:
    told = Told(others=False)
    for _ in range(3):
        told.relay.landed([part(ONE)])
    assert len(told.calls) == 3
    told.relay.stop()


async def test_after_the_end_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GATHER_S", 0.01)
    told = Told()
    told.relay.landed([part(ONE)])
    told.relay.landed([part(ONE)])
    told.relay.stop()
    await asyncio.sleep(0.03)  # longer than the window
    assert len(told.calls) == 1
