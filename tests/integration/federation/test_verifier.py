"""Signatures are checked in a process of its own, and by a thread where it cannot be had or dies."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from crdt.entry import Entry
from federation import verifier as module
from federation.verifier import MAX_FAILURES, WORTH, Verifier
from federation.verify_worker import HEAD_BYTES, pack, unpack
from tests.foreign import Origin
from tests.harness import until

A = Origin(0xA1)
SPOILT = {0, 7, 99}


def some(count: int) -> list[Entry]:
    """Good entries, and at `SPOILT` some whose signature does not hold."""
    entries = [A.service(f"s{n}") for n in range(count)]
    return [
        replace(entry, raw=entry.raw[:-1] + bytes([entry.raw[-1] ^ 1])) if n in SPOILT else entry
        for n, entry in enumerate(entries)
    ]


def right(count: int) -> list[bool]:
    return [n not in SPOILT for n in range(count)]


def workers() -> list[int]:
    """Processes that check signatures for this one, by pid."""
    found = []
    for text in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        if b"federation.verify_worker" in Path(f"/proc/{text}/cmdline").read_bytes():
            found.append(int(text))
    return found


@pytest.fixture
async def verifier() -> AsyncIterator[Verifier]:
    verifier = Verifier()
    yield verifier
    await verifier.stop()
    assert workers() == []


async def test_a_process_says_which_hold(verifier: Verifier) -> None:
    assert await verifier.verdicts(some(300)) == right(300)
    assert len(workers()) == 1
    assert await verifier.verdicts(some(3)) == right(3)  # it is there: few are given to it, too
    assert (len(workers()), verifier.failures) == (1, 0)


async def test_several_that_ask_at_once_get_their_own_answers(verifier: Verifier) -> None:
    counts = (WORTH, 100, 200, 65)
    answers = await asyncio.gather(*(verifier.verdicts(some(count)) for count in counts))
    assert answers == [right(count) for count in counts]
    assert len(workers()) == 1


async def test_for_few_no_process_is_started(verifier: Verifier) -> None:
    assert await verifier.verdicts(some(WORTH - 1)) == right(WORTH - 1)
    assert workers() == []


async def test_a_process_that_dies_is_replaced_and_nothing_is_lost(verifier: Verifier) -> None:
    await verifier.verdicts(some(100))
    [pid] = workers()
    os.kill(pid, signal.SIGSTOP)
    asking = asyncio.create_task(verifier.verdicts(some(100)))
    await asyncio.sleep(0)  # the question is on its way
    os.kill(pid, signal.SIGKILL)
    assert await asking == right(100)
    assert verifier.failures == 1
    assert await verifier.verdicts(some(100)) == right(100)
    assert pid not in workers()
    assert (len(workers()), verifier.failures) == (1, 1)


async def test_a_process_that_hangs_is_given_up(verifier: Verifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_S", 0.2)
    monkeypatch.setattr(module, "END_S", 0.1)
    await verifier.verdicts(some(3)), await verifier.verdicts(some(100))
    [pid] = workers()
    os.kill(pid, signal.SIGSTOP)
    assert await verifier.verdicts(some(100)) == right(100)
    await until(lambda: workers() == [])
    assert verifier.failures == 1


async def test_where_no_process_can_be_had_a_thread_does_it(
    verifier: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    for program in ("/nonexistent/python", "/bin/false"):
        monkeypatch.setattr(sys, "executable", program)
        for _ in range(MAX_FAILURES):
            assert await verifier.verdicts(some(100)) == right(100)
    assert verifier.failures == MAX_FAILURES  # then it is not tried any more


async def test_a_process_without_work_is_ended(verifier: Verifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_S", 0.05)
    await verifier.verdicts(some(100))
    await until(lambda: workers() == [])
    assert await verifier.verdicts(some(100)) == right(100)
    assert verifier.failures == 0


def test_a_request_reads_as_it_was_written() -> None:
    items = [(bytes([n]) * 32, b"x" * n, bytes([n + 1]) * 64) for n in (0, 1, 200)]
    raw = pack(items)
    assert int.from_bytes(raw[:HEAD_BYTES], "big") == len(raw) - HEAD_BYTES
    assert list(unpack(raw[HEAD_BYTES:])) == items
