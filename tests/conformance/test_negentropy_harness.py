"""Two processes that speak the reference's line protocol find what differs, with and without limits of frames, and end
with the same items. The mix of cases is that of the reference's own runs, smaller."""

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

HARNESS = Path(__file__).with_name("negentropy_harness.py")
Items = dict[bytes, int]


class Process:
    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def say(self, *lines: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("".join(f"{line}\n" for line in lines))
        self._process.stdin.flush()

    def hear(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def end(self) -> tuple[int, str]:
        _, errors = self._process.communicate(timeout=20)
        return self._process.returncode, errors


@contextmanager
def harness(items: Items, frame: int = 0) -> Iterator[Process]:
    with subprocess.Popen(
        [sys.executable, str(HARNESS)],
        env=os.environ | {"FRAMESIZELIMIT": str(frame)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            running = Process(process)
            running.say(*(f"item,{timestamp},{identity.hex()}" for identity, timestamp in items.items()), "seal")
            yield running
        finally:
            process.kill()


def converse(client: Process, server: Process) -> tuple[list[bytes], list[bytes], list[str]]:
    """have, need, messages in turn."""
    have: list[bytes] = []
    need: list[bytes] = []
    messages: list[str] = []
    client.say("initiate")
    while (line := client.hear()) != "done":
        kind, value = line.split(",")
        if kind == "msg":
            server.say(line)
            answer = server.hear()
            messages += [value, answer.removeprefix("msg,")]
            client.say(answer)
        else:
            {"have": have, "need": need}[kind].append(bytes.fromhex(value))
    return have, need, messages


def sides(count: int, weights: tuple[int, int, int], clustered: bool) -> tuple[Items, Items]:
    """`weights`: of items that only the client has, only the server, both. Clustered: alike in runs of up to 50."""
    rng = random.Random(f"{count}{weights}{clustered}")
    client: Items = {}
    server: Items = {}
    made = 0
    while made < count:
        run = min(rng.randrange(1, 50) if clustered else 1, count - made)
        (who,) = rng.choices((0, 1, 2), weights)
        for _ in range(run):
            timestamp = 1_677_970_534 + (made if clustered else rng.randrange(count))
            identity = rng.randbytes(32)
            if who != 1:
                client[identity] = timestamp
            if who != 0:
                server[identity] = timestamp
            made += 1
    return client, server


@pytest.mark.parametrize("clustered", [False, True])
@pytest.mark.parametrize("frames", [(0, 0), (4096, 20_000), (20_000, 4096)])
@pytest.mark.parametrize("weights", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 5), (1, 1, 98)])
def test_two_processes_find_all_that_differs(
    weights: tuple[int, int, int], frames: tuple[int, int], clustered: bool
) -> None:
    client, server = sides(3000, weights, clustered)
    with harness(client, frames[0]) as one, harness(server, frames[1]) as other:
        have, need, messages = converse(one, other)
    assert set(have) == client.keys() - server.keys()
    assert set(need) == server.keys() - client.keys()
    if not any(frames):
        assert len(have) + len(need) == len(client.keys() ^ server.keys()), "found twice"
    for number, message in enumerate(messages):
        assert not frames[number % 2] or len(message) <= 2 * frames[number % 2]


def test_a_later_version_is_answered_with_ours_and_the_session_goes_on() -> None:
    with harness({b"\xee" * 32: 12345}) as server:
        server.say("msg,62aabbccddeeff")
        assert server.hear() == "msg,61"
        server.say("msg,6100000200")
        assert server.hear() == "msg,6100000201" + "ee" * 32


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("msg,61ff", "ends in the middle"),
        ("msg,6", "hexadecimal"),
        ("item,1," + "aa" * 32, "wrong time"),
        ("hello", "no command"),
        ("msg", "fields too few"),
        ("msg,", "ends in the middle"),
        ("seal", "wrong time"),
    ],
)
def test_what_it_does_not_understand_ends_it_with_a_reason(line: str, says: str) -> None:
    with harness({}) as process:
        process.say(line)
        code, errors = process.end()
    assert code == 1
    assert says in errors


def bare(lines: str, frame: str = "") -> "subprocess.CompletedProcess[str]":
    """All of its input at once, from the root of the repository, with nothing installed (-I -S)."""
    command = [sys.executable, "-I", "-S", "tests/conformance/negentropy_harness.py"]
    return subprocess.run(
        command,
        cwd=HARNESS.parents[2],
        env={"FRAMESIZELIMIT": frame},
        input=lines,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def test_it_needs_nothing_installed_skips_blank_lines_and_ends_with_its_input() -> None:
    done = bare(f"\n\nitem,12345,{'EE' * 32}\r\n\nseal\n\nmsg,6100000200\nmsg,62AA")  # the last without its end
    assert (done.returncode, done.stdout, done.stderr) == (0, f"msg,6100000201{'ee' * 32}\nmsg,61\n", "")
    assert bare("").returncode == 0


def test_the_initiator_says_what_differs_before_done() -> None:
    done = bare(f"item,5,{'ab' * 32}\nseal\ninitiate\nmsg,6100000201{'cd' * 32}\n")
    assert done.stdout.splitlines() == [
        f"msg,6100000201{'ab' * 32}",
        f"have,{'ab' * 32}",
        f"need,{'cd' * 32}",
        "done",
    ]


@pytest.mark.parametrize(
    ("lines", "frame", "says"),
    [
        (f"item,1,{'aa' * 31}", "", "32 bytes"),
        (f"item,1,{'aa' * 32}\n" * 2 + "seal", "", "twice"),
        ("initiate", "", "wrong time"),
        ("msg,61", "", "wrong time"),
        ("seal\ninitiate\ninitiate", "", "wrong time"),
        ("seal", "4095", "4096 bytes or more"),
        ("seal", "many", "many"),
    ],
)
def test_what_comes_too_early_or_is_out_of_bounds_ends_it_too(lines: str, frame: str, says: str) -> None:
    done = bare(lines, frame)
    assert done.returncode == 1
    assert says in done.stderr
