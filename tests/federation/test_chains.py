"""Federations of real processes, made with the commands that people have: a root key in a file, members that let others
in, and what becomes of what they said when one of them is put out."""

from __future__ import annotations

import json
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.cli.conftest import Node, start, stop

WITHIN = 10.0
HIDDEN = 2.0  # s after a revocation, on every node that is linked
POLL = 0.05


@pytest.fixture
def three(tmp_path: Path) -> Iterator[tuple[Node, Node, Node]]:
    with ExitStack() as stack:
        nodes = []
        for name in ("a", "b", "c"):
            node = start(tmp_path / name, "--api", "127.0.0.1:0", "--federation", "127.0.0.1:0", "--name", name)
            stack.callback(stop, node)
            nodes.append(node)
        yield nodes[0], nodes[1], nodes[2]


@pytest.fixture
def key(tmp_path: Path) -> str:
    return str(tmp_path / "root.key")


def register(node: Node, uid: str, visibility: str = "internal") -> None:
    record = {"id": uid, "name": uid, "type": "agent", "visibility": visibility, "ttl": 0}
    node.run("services", "register", "-", input=json.dumps(record))


def names(node: Node) -> set[str]:
    return {one["id"] for one in node.json("services", "list")["services"] if one["type"] != "node"}


def until(condition: Callable[[], bool], within: float = WITHIN) -> float:
    """Looks until it is so; how long that took, s."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < within, f"not so after {within} s"
        time.sleep(POLL)
    return time.monotonic() - begun


def did(node: Node) -> str:
    return str(node.ready["did"])


def joined(inviter: Node, joiner: Node, *options: str) -> None:
    line = inviter.run("peers", "invite", "--federation", "acme", *options).stdout
    joiner.run("peers", "join", "-", input=line)


def test_a_federation_of_a_root_a_delegate_and_whoever_the_delegate_lets_in(
    three: tuple[Node, Node, Node], key: str
) -> None:
    a, b, c = three
    made = a.run("federation", "create", "acme", "--key", key)
    root = made.stdout.strip()
    assert made.stdout == f"{root}\n"
    assert root.startswith("did:key:z6Mk")
    assert stat.S_IMODE(Path(key).stat().st_mode) == 0o600
    assert a.run("federation", "create", "acme", "--key", key).stdout == made.stdout  # to end what was cut off
    register(a, "of-a")
    joined(a, b)
    assert "--key FILE" in b.run("peers", "invite", "--federation", "acme", code=1).stderr
    joined(b, c, "--key", key)
    for uid, node in (("of-b", b), ("of-c", c)):
        register(node, uid)
    everything = {"of-a", "of-b", "of-c"}
    until(lambda: all(names(node) == everything for node in three))
    for node in three:
        told = node.json("federation", "list", "acme")
        pairs = {(one["issuer"], one["subject"]) for one in told["certificates"] if one["holds"]}
        assert {(root, did(a)), (root, did(b)), (did(b), did(c))} <= pairs
        assert not [peer for peer in node.json("peers", "list")["peers"] if peer["role"] == "peer"]
    [acme] = a.json("federation", "list")["federations"]
    assert (acme["did"], acme["name"], acme["member"], acme["depth"], acme["members"]) == (root, "acme", True, 1, 3)
    assert did(c) in b.run("federation", "list", root).stdout

    # The delegate is put out, by the root: it goes, and so does whoever it let in.
    Path(key).rename(f"{key}.away")
    assert "root.key" in a.run("federation", "revoke", did(b), "--key", key, "--yes", code=1).stderr
    Path(f"{key}.away").rename(key)
    revoked = a.run("federation", "revoke", did(b), "--key", key, "--yes")
    assert revoked.stdout == f"{did(b)}\n"
    until(lambda: names(a) == {"of-a"}, HIDDEN)

    # It is let in again; c, whose certificate has not changed, comes with it.
    a.run("federation", "issue", did(b), "--key", key, "--depth", "1")
    until(lambda: all(names(node) == everything for node in three))

    # One node alone believes another no more, for a time and then for good.
    a.run("peers", "revoke", did(c), "--yes")
    until(lambda: names(a) == {"of-a", "of-b"}, HIDDEN)
    assert names(b) == everything
    a.run("peers", "restore", did(c))
    until(lambda: names(a) == everything)
    a.run("peers", "revoke", did(c), "--purge", "--yes")
    assert names(a) == {"of-a", "of-b"}
    assert a.json("peers", "show", did(c))["held"] == 0


def test_what_was_said_of_a_member_outlives_the_nodes(three: tuple[Node, Node, Node], key: str) -> None:
    """A revocation holds for whoever was away when it was said, though its root has been locked away since."""
    a, b, c = three
    a.run("federation", "create", "acme", "--key", key)
    for node in (b, c):
        joined(a, node)
    register(b, "of-b")
    until(lambda: names(a) == names(c) == {"of-b"})
    assert stop(c) == 0
    a.run("federation", "revoke", did(b), "--key", key, "--yes")
    until(lambda: names(a) == set(), HIDDEN)
    Path(key).unlink()
    again = start(c.directory, "--api", "127.0.0.1:0", "--federation", "127.0.0.1:0", "--name", "c")
    try:
        until(lambda: names(again) == set())
        assert again.json("federation", "list")["federations"][0]["members"] == 2
    finally:
        assert stop(again) == 0


def test_another_federation_brings_its_public_facts_and_no_others(three: tuple[Node, Node, Node], key: str) -> None:
    a, b, c = three
    a.run("federation", "create", "acme", "--key", key)
    joined(a, b)
    other = c.run("federation", "create", "other", "--key", f"{key}.other").stdout.strip()
    root = a.json("federation", "list")["federations"][0]["did"]
    for node in (a, b):
        node.run("peers", "trust", other, "--federation", "--name", "other")
    c.run("peers", "trust", root, "--federation", "--name", "acme")
    for uid, node in (("b", b), ("c", c)):
        register(node, f"public-{uid}", "public")
        register(node, f"internal-{uid}")
    line = a.run("peers", "invite").stdout  # the two federations meet at these two nodes
    c.run("peers", "join", "-", input=line)
    public = {"public-b", "public-c"}
    until(lambda: names(a) == public | {"internal-b"} and names(b) == public | {"internal-b"})
    until(lambda: names(c) == public | {"internal-c"})


def test_mistakes_are_told_and_change_nothing(three: tuple[Node, Node, Node], key: str) -> None:
    a, b, _ = three
    root = a.run("federation", "create", "acme", "--key", key).stdout.strip()
    other = f"{key}.other"
    for words, code, said in (
        (("federation", "create", "acme", "--key", other), 1, "another federation is called acme"),
        (("federation", "create", "x", "--key", f"{a.directory}/node.key"), 1, "key of this node"),
        (("federation", "create", "x", "--key", f"{key}/nowhere/x"), 1, "cannot be"),
        (("federation", "issue", "did:key:nonsense", "--key", key), 2, "is no key"),
        (("federation", "issue", "nobody", "--key", key), 4, "no peer is called nobody"),
        (("federation", "issue", did(b), "--key", key, "--depth", "4"), 2, "--depth"),
        (("federation", "issue", did(b), "--key", key, "--days", "401"), 2, "--days"),
        (("federation", "issue", did(b), "--key", key, "--class", "private"), 2, "neither public nor internal"),
        (("federation", "issue", did(b), "--key", key, *(["--tag", "x" * 60] * 40)), 2, "too many"),
        (("federation", "issue", did(b), "--key", other), 4, "no root that is trusted here"),
        (("federation", "list", "nowhere"), 4, "no federation is called nowhere"),
        (("peers", "invite", "--federation", "nowhere"), 4, "no federation is called nowhere"),
        (("peers", "invite", "--key", key), 2, "--federation"),
        (("peers", "invite", "--federation", "acme", "--key", other), 2, "has the key of"),
    ):  # fmt: skip
        shown = a.run(*words, code=code)
        assert said in shown.stderr.replace("\n", " "), (words, shown.stderr)
        assert shown.stdout == ""
    Path(key).chmod(0o644)
    assert "others on this machine may read" in a.run("federation", "issue", did(b), "--key", key, code=1).stderr
    assert [one["did"] for one in a.json("federation", "list")["federations"]] == [root]
    assert a.json("federation", "list", "acme")["total"] == 1
