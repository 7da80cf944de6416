"""Finding a node by its data directory, and naming one by its address."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kosreg.client import Address, CannotRead, NotRunning, find_node


@pytest.mark.parametrize(
    ("text", "url", "socket"),
    [
        ("127.0.0.1:7480", "http://127.0.0.1:7480", None),
        ("http://127.0.0.1:7480/", "http://127.0.0.1:7480", None),
        ("https://node.example", "https://node.example", None),
        ("[::1]:7480", "http://[::1]:7480", None),
        ("unix:/run/kosreg/api.sock", "http://localhost", "/run/kosreg/api.sock"),
        ("unix:///run/kosreg/api.sock", "http://localhost", "/run/kosreg/api.sock"),
    ],
)
def test_an_address_is_read_in_each_of_its_forms(text: str, url: str, socket: str | None) -> None:
    assert Address.parse(text) == Address(url, socket)


@pytest.mark.parametrize(
    "text",
    ["", "unix:", "ftp://x", "http://", "http://u:secret@x", "http://x/api", "http://x?token=1", "x:99999", "x:y"],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Address.parse(text)


def node_files(directory: Path, *, pid: int, api: str = "http://127.0.0.1:7480", token: str = "tok") -> None:
    (directory / "run.json").write_text(json.dumps({"pid": pid, "api": api}))
    (directory / "admin.token").write_text(token + "\n")


def test_a_running_node_is_found_with_its_token(tmp_path: Path) -> None:
    node_files(tmp_path, pid=os.getpid())
    target = find_node(tmp_path)
    assert (str(target.address), target.token) == ("http://127.0.0.1:7480", "tok")
    assert find_node(tmp_path, "mine").token == "mine"


def test_the_admin_token_is_not_read_by_who_brings_a_token(tmp_path: Path) -> None:
    node_files(tmp_path, pid=os.getpid())
    (tmp_path / "admin.token").unlink()
    assert find_node(tmp_path, "mine").token == "mine"
    with pytest.raises(CannotRead, match=r"admin\.token"):
        find_node(tmp_path)


def test_no_run_file_says_how_to_start_the_node(tmp_path: Path) -> None:
    with pytest.raises(NotRunning, match=f"kosreg run --data-dir {tmp_path}"):
        find_node(tmp_path)


def test_a_dead_process_is_no_node(tmp_path: Path) -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    node_files(tmp_path, pid=int(gone.stdout))
    with pytest.raises(NotRunning, match="is gone"):
        find_node(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"pid": "x", "api": 1}', '{"pid": 1, "api": "ftp://x"}'])
def test_a_damaged_run_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(CannotRead, match=r"run\.json"):
        find_node(tmp_path)
