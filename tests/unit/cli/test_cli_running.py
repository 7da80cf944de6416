"""What `kosreg run` tells whoever has just started a node."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from kosreg.cli.running import banner, called

RUNNING = {"version": "0.1.0", "name": "kitchen", "did": "did:key:z6Mk", "api": "http://127.0.0.1:7480"}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `kosreg` in the virtual environment of a clone, called by its path as `make run` does it."""
    program = tmp_path / "a clone" / ".venv" / "bin" / "kosreg"
    program.parent.mkdir(parents=True)
    program.touch(mode=0o755)
    monkeypatch.chdir(tmp_path / "a clone")
    monkeypatch.setattr(sys, "argv", [".venv/bin/kosreg", "run"])
    return program


def test_commands_to_try_next_work_where_path_does_not_lead_to_kosreg(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    lines = banner(RUNNING, Path("/srv/k")).splitlines()
    assert [shlex.split(line)[:2] for line in lines[5:]] == [
        [str(installed), "status"], [str(installed), "services"], [str(installed), "services"]
    ]  # fmt: skip


def test_the_command_is_called_by_its_name_where_path_leads_to_it(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(installed.parent))
    assert called() == "kosreg"
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(sys, "argv", ["-c", "run"])
    assert called() == "kosreg"


def test_the_directory_is_named_unless_every_terminal_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    usual = tmp_path / ".local/share/kosreg"
    assert "--data-dir" not in banner(RUNNING, usual)
    assert f"--data-dir {tmp_path / 'k'}" in banner(RUNNING, tmp_path / "k")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / ".local/share"))  # in this terminal; who knows in the other
    assert f"--data-dir {usual}" in banner(RUNNING, usual)
