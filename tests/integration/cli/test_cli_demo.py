"""`make demo`: the whole story, run as a user would run it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.integration.cli.conftest import environment

ROOT = Path(__file__).parents[3]


def processes_of(text: str) -> list[str]:
    """The command lines of running processes that name it."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue  # it ended while we looked
        if text in line:
            found.append(line)
    return found


def test_the_demo_tells_its_story_within_a_minute_and_leaves_nothing_behind(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.demo"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=58,
        env=environment(TMPDIR=str(tmp_path)),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for part in (
        "did:key:z6Mk",
        "464 new, 0 replaced, 0 unchanged, 7 bad",
        "hello world → hallo Welt",
        "WebSocket: translate-de offline",
        "WebSocket: translate-de active",
        "WebSocket: translate-fr deregistered",
    ):
        assert part in done.stdout
    assert done.stderr == ""
    assert processes_of(str(tmp_path)) == []
    assert list(tmp_path.iterdir()) == []
