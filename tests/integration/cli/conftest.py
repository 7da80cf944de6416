"""A real node in a process of its own, and the command as people run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from kosreg.cli.main import app

KOSREG = (sys.executable, "-c", "from kosreg.cli import main; main()")
DEADLINE = 20.0


def environment(**more: str) -> dict[str, str]:
    """Ours without what would steer a kosreg command."""
    return {name: value for name, value in os.environ.items() if not name.startswith("KOSREG_")} | more


def cleared() -> dict[str, str]:
    """What takes those variables out of the way of a command in this process."""
    return {name: "" for name in os.environ if name.startswith("KOSREG_")}


@dataclass(frozen=True)
class Node:
    """A running node: what its ready line said, and its directory."""

    directory: Path
    ready: dict[str, Any]
    process: subprocess.Popen[str]

    def run(
        self, *words: str, input: str | bytes | None = None, code: int = 0, env: dict[str, str] | None = None
    ) -> Result:
        """Runs `kosreg WORDS` against this node, in this process (a new one takes half a second), and checks its
        exit code."""
        shown = CliRunner().invoke(
            app, list(words), input=input, env=cleared() | {"KOSREG_DATA_DIR": str(self.directory)} | (env or {})
        )
        assert shown.exit_code == code, f"exit code {shown.exit_code}\n{shown.output}\n{shown.exception!r}"
        return shown

    def run_process(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """The same in a process of its own, for commands that do not end by themselves if they work."""
        shown = subprocess.run(
            [*KOSREG, *words],
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            env=environment(KOSREG_DATA_DIR=str(self.directory)),
        )
        assert shown.returncode == code, f"exit code {shown.returncode}\n{shown.stdout}\n{shown.stderr}"
        return shown

    def json(self, *words: str, **more: Any) -> Any:
        return json.loads(self.run(*words, "--json", **more).stdout)


def start(directory: Path, *options: str) -> Node:
    """Starts a node and waits until it is ready."""
    log = directory.parent / f"{directory.name}.log"
    with log.open("a") as stderr:
        process = subprocess.Popen(
            [*KOSREG, "run", "--json", "--data-dir", str(directory), "--federation", "off", *options],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=environment(),
        )
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        process.stdout.close()
        raise AssertionError(f"the node ended ({process.wait(DEADLINE)}): {log.read_text()}")
    return Node(directory, json.loads(line), process)


def stop(node: Node) -> int:
    """Ends it as systemd would; its exit code."""
    node.process.terminate()
    try:
        return node.process.wait(DEADLINE)
    finally:
        node.process.kill()
        node.process.wait()
        assert node.process.stdout is not None
        node.process.stdout.close()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    running = start(tmp_path_factory.mktemp("node"), "--api", "127.0.0.1:0")
    yield running
    assert stop(running) == 0
