"""`kosreg peers` and `kosreg audit`: two nodes joined by two commands, what is printed where, and the exit codes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.cli.conftest import DEADLINE, KOSREG, Node, environment, start, stop

THIRD = "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK"
FOURTH = "did:key:z6MkpTHR8VNsBxYAAWHut2Geadd9jSwuBV8xRoAnwWsdvktH"
FINGERPRINT = r"(?:[a-z2-7]{4}-){5}[a-z2-7]{4}"


OPTIONS = ("--api", "127.0.0.1:0", "--federation", "127.0.0.1:0")


@pytest.fixture(scope="module")
def lonely(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node that knows nobody. For what is refused: that changes nothing."""
    node = start(tmp_path_factory.mktemp("lonely") / "a", *OPTIONS)
    yield node
    assert node.json("peers", "list")["peers"] == []
    assert stop(node) == 0


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Node, Node]]:
    options = (*OPTIONS, "--name")
    both = start(tmp_path / "a", *options, "a"), start(tmp_path / "b", *options, "b")
    yield both
    assert [stop(node) for node in both] == [0, 0]


def test_a_node_on_loopback_is_silent_on_the_network_and_says_why(lonely: Node) -> None:
    told = lonely.json("peers", "nearby")
    assert (told["mdns"], told["nearby"]) == ("loopback", [])
    assert "loopback alone" in lonely.run("peers", "nearby").stderr
    found = {one["check"]: one for one in lonely.json("doctor")["checks"]}
    assert found["mDNS"]["state"] == "note"
    assert "zeroconf" not in Path(f"/proc/{lonely.ready['pid']}/maps").read_text()  # not even its code is loaded


def test_two_commands_join_two_nodes(pair: tuple[Node, Node], tmp_path: Path) -> None:
    a, b = pair
    record = {"id": "s", "name": "s", "type": "agent", "visibility": "public", "ttl": 0}
    a.run("services", "register", "-", input=json.dumps(record))
    invited = a.run("peers", "invite")
    assert re.fullmatch(r"kosreg1:[A-Za-z0-9_-]+\n", invited.stdout)
    assert invited.stderr == ""

    done = b.run("peers", "join", "-", input=invited.stdout)
    assert re.search(rf"^joined +a\n +{a.ready['did']}\nfingerprint +{FINGERPRINT}$", done.stdout, re.MULTILINE)
    assert re.search(rf"^this node +b\n +{b.ready['did']}\nfingerprint +{FINGERPRINT}$", done.stdout, re.MULTILINE)
    assert "s" in [service["id"] for service in b.json("services", "list")["services"]]  # all that it may have
    mine = {peer["did"]: peer["fingerprint"] for peer in b.json("peers", "list")["peers"]}
    theirs = {peer["did"]: peer["fingerprint"] for peer in a.json("peers", "list")["peers"]}
    for print_ in (*mine.values(), *theirs.values()):
        assert print_ in done.stdout

    own, _, table = b.run("peers", "list").stdout.partition("\n")
    assert re.fullmatch(rf"this node: b  {FINGERPRINT}  {b.ready['did']}", own)
    print_of_a = mine[a.ready["did"]]
    assert re.search(rf"^a +{print_of_a[:9]} +up +up +peer +[0-9.]+ ms .* {a.ready['did']}$", table, re.MULTILINE)
    for word in (a.ready["did"], "a", print_of_a, print_of_a[:9], print_of_a[:6].upper().replace("-", "")):
        shown = b.run("peers", "show", word).stdout
        assert re.search(rf"^key +{a.ready['did']}$", shown, re.MULTILINE)
        assert re.search(r"^first sync +done$", shown, re.MULTILINE)
    again = b.json("peers", "join", invited.stdout.strip())
    assert again["peer"]["did"] == a.ready["did"]
    assert re.search(rf" used +in \S+ min +{b.ready['did']}$", a.run("peers", "invites").stdout, re.MULTILINE)

    revoked = b.run("peers", "revoke", "a", "--purge", "--yes")
    assert revoked.stdout == f"{a.ready['did']}\n"
    assert re.search(r"[1-9] entries were dropped", revoked.stderr)
    assert b.json("peers", "show", a.ready["did"])["revoked"]
    assert re.search(r"^revoked +\S+ \S+ \(", b.run("peers", "show", "a").stdout, re.MULTILINE)
    assert "s" not in [service["id"] for service in b.json("services", "list")["services"]]
    assert b.run("peers", "restore", "a").stdout == f"{a.ready['did']}\n"
    assert [record["action"] for record in b.json("audit", "list")["records"]] == ["join", "revoke", "purge", "restore"]
    assert "whole: 4 records" in b.run("audit", "verify").stdout


def test_a_name_that_two_peers_have_is_not_guessed(pair: tuple[Node, Node]) -> None:
    a, _ = pair
    for did in (THIRD, FOURTH):
        a.run("peers", "trust", did, "--name", "twin")
    refused = a.run("peers", "revoke", "twin", "--yes", code=1)
    prints = [peer["fingerprint"] for peer in a.json("peers", "list")["peers"]]
    assert all(print_ in refused.stderr for print_ in prints)
    assert not any(peer.get("revoked") for peer in a.json("peers", "list")["peers"])
    a.run("peers", "revoke", prints[1][:9], "--yes")
    assert [bool(peer.get("revoked")) for peer in a.json("peers", "list")["peers"]] == [False, True]


def test_a_join_whose_first_sync_is_not_done_in_time_says_what_is_missing(pair: tuple[Node, Node]) -> None:
    a, b = pair
    line = a.run("peers", "invite").stdout.strip()
    done = b.run("peers", "join", line, "--timeout", "0", code=5)
    assert f"fingerprint  {a.json('peers', 'list')['peers'][0]['fingerprint']}" in done.stdout  # trust is mutual
    assert f"kosreg peers show {a.ready['did']}" in done.stderr
    assert b.run("peers", "join", line, "--no-wait").stderr == (
        "trust is mutual; how the first sync goes: kosreg peers list\n"
    )
    body = b.run("peers", "join", line, "--json").stdout
    assert (body.count("\n"), set(json.loads(body))) == (1, {"peer", "self"})


def test_all_of_a_long_first_sync_is_here_when_join_ends_and_a_bar_shows_how_far_it_is(
    pair: tuple[Node, Node], tmp_path: Path
) -> None:
    a, b = pair
    many = 4000
    record = {"name": "s", "type": "agent", "visibility": "public", "ttl": 0, "tags": ["many"]}
    file = tmp_path / "many.json"
    file.write_text(json.dumps([record | {"id": f"s-{number}"} for number in range(many)]))
    a.run("services", "import", str(file))
    line = a.run("peers", "invite").stdout.strip()
    done, shown = on_a_terminal(b, "peers", "join", line)
    assert done.startswith("joined ")
    assert "first sync" in shown
    assert "entries" in shown
    assert b.json("services", "list", "--tag", "many", "--limit", "1")["total"] == many


def on_a_terminal(node: Node, *words: str) -> tuple[str, str]:
    """What the command says on stdout, a pipe, and on stderr, a terminal, once it has ended with 0."""
    ours, theirs = os.openpty()
    with subprocess.Popen(
        [*KOSREG, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
        env=environment(KOSREG_DATA_DIR=str(node.directory), TERM="xterm"),
    ) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # EIO: the other end was closed
            while part := os.read(ours, 65_536):
                shown += part
        os.close(ours)
        assert process.stdout is not None
        said = process.stdout.read()
        assert process.wait(DEADLINE) == 0, shown.decode()
    return said, shown.decode()


def test_revoking_asks_who_sits_at_a_terminal(pair: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch) -> None:
    a, _ = pair
    monkeypatch.setattr("kosreg.cli.shared.Cli.sure", _no)
    assert "nothing was done" in a.run("peers", "revoke", THIRD, code=1).stderr
    assert a.json("peers", "list")["peers"] == []
    a.run("peers", "revoke", THIRD, "--yes")
    assert a.json("peers", "show", THIRD)["revoked"]


def _no(_cli: object, question: str, yes: bool) -> None:
    """Somebody who answers no."""
    from kosreg.cli.shared import Refusal

    assert THIRD in question
    if not yes:
        raise Refusal("nothing was done")


def test_trust_by_hand(pair: tuple[Node, Node]) -> None:
    a, _ = pair
    done = a.run(
        "peers", "trust", THIRD, "--address", "127.0.0.1:9", "--name", "third", "--type", "agent", "--tag", "x"
    )
    assert done.stdout == f"{THIRD}\n"
    assert re.search(FINGERPRINT, done.stderr)
    peer = a.json("peers", "trust", THIRD, "--class", "public", "--records", "7")
    assert (peer["name"], peer["addresses"], peer["scope"]["records"]) == ("third", ["127.0.0.1:9"], 7)
    root = a.json("peers", "trust", FOURTH, "--root")
    assert root["role"] == "root"
    assert "trusted" in a.run("peers", "list").stdout


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["join", "kosreg1:abc"], 1, "not whole"),
        (["join", "-"], 1, "kosreg peers invite"),
        (["invite", "--ttl", "soon"], 2, "--ttl"),
        (["invite", "--ttl", "1s"], 1, "ttl"),
        (["trust", "did:key:zzz"], 1, "did"),
        (["trust", THIRD, "--class", "private"], 1, "classes"),
        (["show", THIRD], 4, "peers list"),
        (["restore", THIRD], 4, "peers list"),
        (["show", "nobody"], 4, "peers list"),
        (["revoke", "nobody", "--yes"], 4, "peers list"),
    ],
)
def test_mistakes_are_told_in_one_place_with_an_exit_code(lonely: Node, words: list[str], code: int, said: str) -> None:
    done = lonely.run("peers", *words, code=code)
    assert done.stdout == ""
    assert said in done.stderr


def test_the_log_is_checked_with_the_node_up_and_down_and_a_touched_record_is_named(tmp_path: Path) -> None:
    node = start(tmp_path / "a", "--api", "127.0.0.1:0")
    try:
        assert node.json("audit", "verify") == {"ok": True, "records": 0, "head": None, "faults": []}
        for name in ("x", "y", "z"):
            node.run("peers", "trust", THIRD, "--name", name)
        up = node.json("audit", "verify")
        assert (up["ok"], up["records"], up["head"]["seq"]) == (True, 3, 3)
    finally:
        stop(node)
    assert node.json("audit", "verify") == up
    assert [row["seq"] for row in node.json("audit", "list")["records"]] == [1, 2, 3]
    assert [row["seq"] for row in node.json("audit", "list", "--limit", "2")["records"]] == [2, 3]
    assert [row["seq"] for row in node.json("audit", "list", "--after", "1", "--limit", "1")["records"]] == [2]
    assert [row["seq"] for row in node.json("audit", "list", "--all")["records"]] == [1, 2, 3]
    part = node.run("audit", "list", "--after", "0", "--limit", "2")
    assert (part.stdout.count("\n"), part.stderr) == (3, "the newest is 3; the rest: --after 2\n")
    assert node.run("audit", "list", "--after", "3").stdout == ""
    with sqlite3.connect(tmp_path / "a" / "registry.db") as database:
        [(raw,)] = database.execute("SELECT record FROM audit WHERE seq = 2")
        database.execute("UPDATE audit SET record = ? WHERE seq = 2", (raw.replace(b"y", b"q", 1),))
        database.execute("DELETE FROM audit WHERE seq = 3")
    done = node.run("audit", "verify", code=1)
    assert done.stdout == "record 2: not as it was written\nrecord 3: missing at the end\n"
    assert node.json("audit", "verify", code=1)["faults"] == [
        {"first": 2, "last": 2, "what": "not as it was written"},
        {"first": 3, "last": 3, "what": "missing at the end"},
    ]
    nowhere = subprocess.run(
        [*KOSREG, "audit", "verify", "--data-dir", str(tmp_path / "none")],
        capture_output=True, text=True, timeout=DEADLINE, env=environment(),
    )  # fmt: skip
    assert nowhere.returncode == 1
    assert "Traceback" not in nowhere.stderr
