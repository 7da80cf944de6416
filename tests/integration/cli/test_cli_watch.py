"""`kosreg services watch`: one object a line, a clean end, nothing missed over a restart."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.integration.cli.conftest import DEADLINE, KOSREG, Node, environment, start, stop


class Watch:
    """A watch in a process of its own, read line by line with a deadline."""

    def __init__(self, directory: Path, *words: str) -> None:
        self.process = subprocess.Popen(
            [*KOSREG, "services", "watch", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(KOSREG_DATA_DIR=str(directory)),
        )
        self._rest = b""

    def line(self) -> str:
        assert self.process.stdout is not None
        until = time.monotonic() + DEADLINE
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, until - time.monotonic()))
            assert ready, "nothing came in time"
            part = os.read(self.process.stdout.fileno(), 65_536)
            assert part, f"the watch ended: {self.process.communicate()[1].decode()}"
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()

    def frame(self) -> Any:
        return json.loads(self.line())

    def event(self) -> tuple[str, str]:
        frame = self.frame()
        return frame["event"], frame["service"]["id"]


@contextmanager
def watching(directory: Path, *words: str) -> Iterator[Watch]:
    watch = Watch(directory, *words)
    try:
        yield watch
    finally:
        watch.process.kill()
        watch.process.communicate()


def register(node: Node, name: str, *more: str) -> None:
    node.run("services", "register", "--id", name, "--name", name, "--type", "tool", "--ttl", "0", *more)


def test_snapshot_then_events_one_object_a_line(node: Node) -> None:
    register(node, "w-1", "--tag", "w")
    with watching(node.directory, "--json", "--tag", "w") as watch:
        snapshot = watch.frame()
        assert (snapshot["op"], [entry["id"] for entry in snapshot["services"]]) == ("snapshot", ["w-1"])
        register(node, "w-2", "--tag", "w")
        register(node, "other", "--tag", "x")
        node.run("services", "rm", "w-1")
        assert watch.event() == ("registered", "w-2")
        assert watch.event() == ("deregistered", "w-1")


def test_people_see_a_line_for_each_change(node: Node) -> None:
    with watching(node.directory, "--tag", "people") as watch:
        register(node, "p-0", "--tag", "people")
        line = watch.line()
        assert "p-0" in line
        node.run("services", "rm", "p-0")
        while "deregistered" not in line:
            line = watch.line()
        assert "p-0" in line


def test_watch_ends_after_so_many_events(node: Node) -> None:
    register(node, "c-0", "--tag", "count")
    with watching(node.directory, "--json", "--tag", "count", "--count", "2") as watch:
        watch.frame()
        for name in ("c-1", "c-2", "c-3"):
            register(node, name, "--tag", "count")
        assert [watch.event(), watch.event()] == [("registered", "c-1"), ("registered", "c-2")]
        assert watch.process.wait(DEADLINE) == 0


def test_a_cursor_goes_on_where_an_earlier_watch_ended(node: Node) -> None:
    with watching(node.directory, "--json", "--tag", "cursor") as watch:
        watch.frame()
        register(node, "cur-1", "--tag", "cursor")
        cursor = watch.frame()["cursor"]
    register(node, "cur-2", "--tag", "cursor")
    with watching(node.directory, "--json", "--tag", "cursor", "--since", cursor) as watch:
        assert watch.event() == ("registered", "cur-2")


def test_ctrl_c_and_sigterm_are_clean_ends(node: Node) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        with watching(node.directory, "--json") as watch:
            watch.frame()
            watch.process.send_signal(number)
            _, said = watch.process.communicate(timeout=DEADLINE)
            assert (watch.process.returncode, said) == (0, b"")


def test_watch_ends_when_its_reader_has_gone_even_if_nothing_happens(node: Node) -> None:
    with watching(node.directory, "--json") as watch:
        watch.frame()
        assert watch.process.stdout is not None
        watch.process.stdout.close()
        assert watch.process.wait(DEADLINE) == 0
        assert watch.process.stderr is not None
        assert watch.process.stderr.read() == b""


def test_a_filter_that_is_refused_is_told_at_once(node: Node) -> None:
    done = node.run("services", "watch", "--type", "nonsense", code=1)
    assert (done.stdout, "type" in done.stderr) == ("", True)


def test_nothing_is_missed_while_the_node_restarts(tmp_path: Path) -> None:
    first = start(tmp_path / "n", "--api", "127.0.0.1:0")
    register(first, "r-0")
    with watching(first.directory, "--json", "--type", "tool") as watch:
        assert watch.frame()["op"] == "snapshot"
        register(first, "r-1")
        assert watch.event() == ("registered", "r-1")
        assert stop(first) == 0
        second = start(first.directory, "--api", "127.0.0.1:0")
        try:
            register(second, "r-2")
            assert watch.event() == ("registered", "r-2")
        finally:
            stop(second)


def test_without_a_node_a_watch_is_exit_code_3(tmp_path: Path, node: Node) -> None:
    done = node.run("services", "watch", "--data-dir", str(tmp_path), code=3)
    assert (done.stdout, len(done.stderr.splitlines())) == ("", 1)
