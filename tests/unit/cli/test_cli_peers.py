"""What `kosreg peers` shows of a peer, and of a first sync while it goes on."""

from __future__ import annotations

import io
from typing import Any

import pytest

from kosreg.cli import peers
from kosreg.cli.shared import Cli, Shared


class Terminal(io.StringIO):
    """stderr with a person before it."""

    def isatty(self) -> bool:
        return True


def test_a_person_sees_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", terminal)
    with peers._bar(Cli(Shared())) as show:
        show(0, 0)
        show(700, 1000)
    assert "first sync" in terminal.getvalue()
    assert "700/1000" in terminal.getvalue()


def test_a_log_gets_a_line_from_time_to_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter(range(0, 100))
    monkeypatch.setattr("kosreg.cli.peers.time.monotonic", lambda: next(clock))
    with peers._bar(Cli(Shared())) as show:
        for done in range(10):
            show(done, 1000)
    said = capsys.readouterr().err.splitlines()
    assert 0 < len(said) < 10
    assert said[0].startswith("first sync: ")
    with peers._bar(Cli(Shared(as_json=True))) as show:
        for done in range(10):
            show(done, 1000)
    assert capsys.readouterr().err == ""


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
    assert [peers._clock(value) for value in (None, -12, 3_700_000, -7_300_000)] == [
        None, "-12 ms", "61 min ahead", "2 h behind",
    ]  # fmt: skip
    assert peers._reasons({"too far ahead": 3, "untrusted": 1}) == "3 too far ahead, 1 untrusted"
    assert peers._reasons(None) == ""
