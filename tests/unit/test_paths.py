"""The data directory: which one, and that nobody else may look in."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kosreg.paths import DataDirError, data_dir, make_data_dir


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_the_option_wins_then_the_variable_then_systemd_then_the_platform(tmp_path: Path) -> None:
    env = {"KOSREG_DATA_DIR": "/from/variable", "STATE_DIRECTORY": "/from/systemd:/second", "HOME": str(tmp_path)}

    assert data_dir("/from/option", env) == Path("/from/option")
    assert data_dir(None, env) == Path("/from/variable")
    del env["KOSREG_DATA_DIR"]
    assert data_dir(None, env) == Path("/from/systemd")
    del env["STATE_DIRECTORY"]
    assert data_dir(None, env).name == "kosreg"


def test_the_result_is_absolute_and_needs_not_exist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")

    assert data_dir("here/../there", {}) == tmp_path / "there"
    assert data_dir("~/node", {}) == Path("/home/someone/node")


def test_a_new_directory_is_closed_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        make_data_dir(tmp_path / "a" / "node")
    finally:
        os.umask(before)

    assert mode(tmp_path / "a" / "node") == 0o700


@pytest.mark.parametrize("content", [None, "node.key", "kosreg.toml"])
def test_an_open_directory_that_is_empty_or_a_nodes_is_closed(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "node"
    path.mkdir(mode=0o755)
    if content:
        (path / content).touch()

    make_data_dir(path)

    assert mode(path) == 0o700


def test_an_open_directory_of_others_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "shared"
    path.mkdir()
    path.chmod(0o755)
    (path / "photos").touch()

    with pytest.raises(DataDirError, match="chmod 700"):
        make_data_dir(path)

    assert mode(path) == 0o755


def test_a_sticky_directory_is_never_closed(tmp_path: Path) -> None:
    path = tmp_path / "tmp"
    path.mkdir()
    path.chmod(0o1777)

    with pytest.raises(DataDirError):
        make_data_dir(path)


def test_a_file_in_its_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "node").touch()

    with pytest.raises(DataDirError, match="--data-dir"):
        make_data_dir(tmp_path / "node")


def test_the_command_line_needs_no_heavy_import_for_it() -> None:
    code = (
        "import sys, kosreg.paths, kosreg.durations, kosreg.listen; kosreg.paths.data_dir('x', {});"
        "heavy = {'pydantic', 'sqlalchemy', 'aiohttp', 'joserfc', 'structlog', 'cryptography'} & set(sys.modules);"
        "assert not heavy, heavy"
    )

    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
