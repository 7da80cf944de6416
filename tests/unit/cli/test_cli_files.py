"""The files that come along: the commented settings, the unit for systemd, the data of the demo."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from kosreg.config import describe, load

ROOT = Path(__file__).parents[3]
SETTINGS = ROOT / "configs/single-node.toml"
UNIT = ROOT / "systemd/kosreg.service"


def test_the_settings_file_holds_the_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, SETTINGS, environ={}) == load(tmp_path, environ={})


def test_the_settings_file_shows_every_setting(tmp_path: Path) -> None:
    shown: set[str] = set()
    table = ""
    for line in SETTINGS.read_text().splitlines():
        if match := re.fullmatch(r"\[(\w+)\]", line):
            table = match[1]
        elif match := re.match(r"#?(\w+) = ", line):
            shown.add(f"{table}.{match[1]}")
    assert shown == {setting.name for setting in describe()}


def test_the_settings_that_stand_there_as_comments_can_be_used(tmp_path: Path) -> None:
    for name in ("api.pem", "api.key", "login.jwks.json"):
        (tmp_path / name).touch()
    file = tmp_path / "all.toml"
    file.write_text(re.sub(r"(?m)^#(\w+ = )", r"\1", SETTINGS.read_text()))
    settings = load(tmp_path, file, environ={})
    assert settings.node.name == "kitchen-pi"
    assert settings.tokens.issuers[0].iss == "https://login.example"
    assert settings.store_url.endswith("/var/lib/kosreg/registry.db")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_the_unit_is_sound_and_shut_tight() -> None:
    checked = subprocess.run(["systemd-analyze", "verify", str(UNIT)], capture_output=True, text=True)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
    scored = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=15", "--no-pager", str(UNIT)],
        capture_output=True,
        text=True,
    )
    assert scored.returncode == 0, scored.stdout[-300:]


def test_the_demo_data_has_its_licence_beside_it() -> None:
    licence = (ROOT / "examples/data/mcp-servers-LICENSE.txt").read_text()
    assert licence.startswith("MIT License")
