"""`kosreg peers` without a node: lines that are no invite, whom a word names, how a first sync is followed, and how a
peer is shown."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from typing import Any

import pytest

from kosreg.cli import joining, peers
from kosreg.cli.shared import Cli, Shared
from kosreg.invites import make
from tests.unit.cli.test_cli_commands import call

INVITE = make(b"k" * 32, ("127.0.0.1:7481",), "", 1_000)[0].encode()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "kosreg peers invite"),
        (INVITE[:-1], "not whole"),
        (INVITE[:40], "not whole"),
        (f"{INVITE[:50]} {INVITE[50:]}", "one line"),
        (f"{INVITE[:50]}\n{INVITE[50:]}", "one line"),
        (INVITE.removeprefix("kosreg1:"), "begins with kosreg1:"),
        (INVITE.replace("kosreg1:", "kosreg2:"), "another release"),
        (INVITE * 100, "the most is"),
        ("\x1b[31mred", "begins with kosreg1:"),
        ("\udcff\udcfe", "begins with kosreg1:"),
    ],
    ids=["empty", "cut", "half", "blank", "two lines", "no prefix", "another release", "long", "coloured", "no text"],
)
def test_a_line_that_is_no_invite_is_told_before_a_node_is_asked(line: str, said: str) -> None:
    raw: Any = line.encode("utf-8", "surrogateescape")
    given = call("peers", "join", "-", "--data-dir", "/nowhere", input=raw)
    assert (given.exit_code, given.stdout) == (1, "")
    assert said in given.stderr
    assert "\x1b" not in given.stderr
    if line.isprintable():
        shown = call("peers", "join", line, "--data-dir", "/nowhere")
        assert (shown.exit_code, said in shown.stderr) == (1, True)


def test_a_whole_line_is_taken_to_the_node_blanks_around_it_aside() -> None:
    for line in (INVITE, f"  {INVITE}\r\n"):
        assert call("peers", "join", "-", "--data-dir", "/nowhere", input=line).exit_code == 3
    assert joining.checked(f"\t{INVITE}\r\n") == INVITE


@pytest.mark.parametrize("words", [["join", INVITE, "--timeout", "soon"], ["invite", "--ttl", "1 hour"], ["join"]])
def test_a_span_that_is_none_is_a_mistake_in_the_call(words: list[str]) -> None:
    shown = call("peers", *words, "--data-dir", "/nowhere")
    assert (shown.exit_code, shown.stdout) == (2, "")


def test_a_peer_is_named_by_its_whole_name_or_the_start_of_its_fingerprint() -> None:
    known = [
        {"name": "berlin", "fingerprint": "abcd-efgh"},
        {"name": "berlin", "fingerprint": "abcd-2222"},
        {"name": "abcd", "fingerprint": "wxyz-wxyz"},
    ]

    def found(word: str) -> list[int]:
        return [known.index(dict(peer)) for peer in peers.named(known, word)]

    assert found("berlin") == [0, 1]
    assert found("ber") == found("abc") == found("") == []
    assert found("abcd") == [0, 1, 2]
    assert found("ABCD-E") == found("abcde") == [0]
    assert found("efgh") == []


@pytest.mark.parametrize(
    ("offset", "words"),
    [
        (None, None),
        (0, "+0 ms"),
        (-999, "-999 ms"),
        (9_000, "9 s ahead"),
        (-10_000, "10 s behind"),
        (10_001, "10 s ahead: one of the two is wrong"),
        (-3_600_000, "60 min behind: one of the two is wrong"),
        (-10 * 365 * 86_400_000, "3650 d behind: one of the two is wrong"),
    ],
)
def test_a_clock_that_is_off_by_more_than_ten_seconds_is_marked_in_words(offset: int | None, words: str | None) -> None:
    said = peers._clock(offset)
    assert (None if said is None else str(said)) == words


@pytest.mark.parametrize(
    ("peer", "state"),
    [
        ({"role": "peer", "revoked": "2026", "link": {"state": "up"}}, "revoked"),
        ({"role": "root"}, "trusted"),
        ({"role": "peer", "link": {"state": "backoff"}}, "backoff"),
        ({"role": "peer"}, "no link"),
    ],
)
def test_states(peer: dict[str, Any], state: str) -> None:
    assert peers._state(peer) == state


def test_times_and_reasons() -> None:
    assert [peers._milliseconds(value) for value in (None, 1.26, 50, 120_000)] == [None, "1.3 ms", "50 ms", "120 s"]
    assert peers._reasons({"too far ahead": 3, "untrusted": 1}) == "3 too far ahead, 1 untrusted"
    assert peers._reasons(None) == ""


class Looks:
    """A client whose node answers one look after the other with what was prepared; the last for ever."""

    def __init__(self, *looks: dict[str, Any]) -> None:
        self.looks: Iterator[dict[str, Any]] = iter(looks)
        self.last: dict[str, Any] = {}
        self.count = 0

    async def call(self, _method: str, _path: str) -> Looks:
        self.last = next(self.looks, self.last)
        self.count += 1
        return self

    def object(self) -> dict[str, Any]:
        return {"name": "a", "did": "did:key:z", "held": 0} | self.last


def look(received: int, held: int, *, synced: bool = True, expected: int = 9) -> dict[str, Any]:
    return {"sync": {"synced": synced, "received": received, "expected": expected}, "held": held}


def followed(looks: Looks, patience: float = 5.0) -> str | None:
    return asyncio.run(joining.follow(Cli(Shared()), looks, "did:key:z", patience))  # type: ignore[arg-type]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "POLL", 0.001)
    monkeypatch.setattr(joining, "STILL", 0.02)


@pytest.mark.usefixtures("quick")
def test_a_first_sync_is_done_when_two_looks_in_a_row_found_the_same() -> None:
    looks = Looks(
        {}, look(3, 2, synced=False), look(9, 8), look(9, 8, synced=False), look(9, 8), look(9, 9), look(9, 9)
    )
    assert followed(looks) is None
    assert looks.count == 7


@pytest.mark.usefixtures("quick")
def test_a_peer_that_goes_on_sending_is_in_sync_all_the_same() -> None:
    looks = Looks(*(look(9, number) for number in range(100_000)))
    assert followed(looks) is None
    assert looks.count > 2


@pytest.mark.usefixtures("quick")
def test_what_is_missing_when_patience_ends_is_told() -> None:
    slow = followed(Looks(look(3, 3, synced=False)), 0.02)
    assert slow is not None
    assert "3 of 9 entries" in slow
    never = followed(Looks({"link": {"state": "backoff", "error": "connection refused"}}), 0.02)
    assert never is not None
    assert "no link to a (connection refused)" in never


@pytest.mark.usefixtures("quick")
def test_a_peer_that_was_revoked_meanwhile_is_not_waited_for() -> None:
    said = followed(Looks({"revoked": "2026-01-01T00:00:00Z"}), 600)
    assert said is not None
    assert "revoked" in said


class Terminal(io.StringIO):
    """stderr with a person before it."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stderr", "as_json", "quick_after", "seen"),
    [
        (Terminal, None, 0.0, True),
        (Terminal, None, 600.0, False),
        (Terminal, True, 0.0, False),
        (io.StringIO, None, 0.0, False),
    ],
)
def test_a_bar_is_for_a_person_who_waits(
    monkeypatch: pytest.MonkeyPatch, stderr: type[io.StringIO], as_json: bool | None, quick_after: float, seen: bool
) -> None:
    before = stderr()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", before)
    monkeypatch.setattr(joining, "QUICK", quick_after)
    with joining.bar(Cli(Shared(as_json=as_json))) as show:
        show(0, 0)
        show(700, 1000)
    assert ("first sync" in before.getvalue(), "700/1000" in before.getvalue()) == (seen, seen)
    assert bool(before.getvalue()) is seen
