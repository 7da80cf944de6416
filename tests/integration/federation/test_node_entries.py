"""What nodes say of themselves, and what others make of it: names, addresses, hashes; over real nodes."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import pytest

from crdt.entry import Class, Entry, Fact
from federation.cose import fact_of, sign_entry
from federation.identity import NEXT_KEY_FILE, NodeKey, load
from kosreg import __version__
from kosreg.node_entries import NOTHING, Said, read_node
from kosreg.times import now_ms
from tests.harness import client_of, running_node, until
from tests.integration.federation.test_peers import Side, both, joined, sides

__all__ = ["sides"]


def own(side: Side) -> Entry | None:
    return side.node.replica.view("node", "", now_ms())


def held(side: Side, of: Side) -> Mapping[str, object]:
    entry = side.node.replica.map.view(of.node.key.public, "node", "", now_ms())
    return {} if entry is None else fact_of(entry).body or {}


async def test_a_node_says_who_it_is_once_somebody_can_hear_it(sides: tuple[Side, Side]) -> None:
    a, b = sides
    assert own(a) is None
    await joined(a, b)
    await until(lambda: held(a, b) and held(b, a))
    for one, other in ((a, b), (b, a)):
        said = held(one, other)
        assert (said["name"], said["version"]) == (other.node.name, __version__)
        assert said["addresses"] == [f"127.0.0.1:{other.node.peer_node.port}"]
        assert said["next"] == sha256(load(other.node.data_dir / NEXT_KEY_FILE).public).digest()
        tells = (await one.peer(other))["tells"]
        assert tells == {"name": said["name"], "version": __version__, "addresses": said["addresses"]}
    before = own(a)
    assert before is not None
    for number in range(3):  # each is a record of the audit log
        await a.invite(name=f"n{number}")
    assert await a.node.node_entries.write() is False
    assert own(a) is before
    await a.ask("POST", "/api/peers", {"did": b.node.did, "name": ""})
    assert (await a.peer(b))["name"] == "b"  # as it calls itself
    await a.ask("POST", "/api/peers", {"did": b.node.did, "name": "berlin"})
    assert (await a.peer(b))["name"] == "berlin"


async def test_a_start_says_nothing_again_but_where_the_audit_log_has_grown(tmp_path: Path) -> None:
    stamps = []
    for grows in (True, True, False, False):
        async with running_node(tmp_path / "a", federation__listen="127.0.0.1:7481", node__name="a") as node:
            side = Side(node, await client_of(node))
            if grows:
                key = NodeKey(bytes([len(stamps) + 1]) * 32)
                await side.ask("POST", "/api/peers", {"did": key.did}, 201)
            await until(lambda side=side: own(side))
            await node.node_entries.write()
            entry = own(side)
            assert entry is not None
            stamps.append(entry.stamp)
            await side.admin.close()
    assert stamps[0] < stamps[2]
    assert stamps[2] == stamps[3]


async def test_a_peer_without_an_address_is_dialled_where_it_says_that_it_is(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with running_node(tmp_path / "a") as node:  # nobody can dial this one
        a = Side(node, await client_of(node))
        async with running_node(tmp_path / "b", federation__listen=f"127.0.0.1:{port}", node__name="b") as other:
            b = Side(other, await client_of(other))
            await joined(b, a)
            await until(lambda: held(a, b))
            await a.ask("POST", "/api/peers", {"did": other.did, "addresses": []})
            await b.admin.close()
        async with running_node(tmp_path / "b", federation__listen=f"127.0.0.1:{port}", node__name="b") as other:
            b = Side(other, await client_of(other))
            await until(lambda: both(a.linked(b), b.linked(a)), 20)
            assert (await a.peer(b))["addresses"] == []
            await b.admin.close()
        await a.admin.close()


@pytest.mark.parametrize(
    "body",
    [
        {"name": "x" * 129},
        {"name": "a\x1b[2J"},
        {"name": 7},
        {"addresses": ["a:1"] * 5},
        {"addresses": "a:1"},
        {"next": b"short"},
        {"audit": {"seq": 1}},
    ],
)
def test_what_cannot_be_read_says_nothing(body: dict[str, object]) -> None:
    assert read_node(_entry({"version": "1"} | body)) == NOTHING


def test_a_name_that_looks_like_a_key_is_none_and_what_is_not_known_is_passed_by() -> None:
    said = _entry({"name": "abcd-efgh-ijkl", "version": "9", "later": [1]})
    assert read_node(said) == Said(version="9")


def _entry(body: dict[str, object]) -> Entry:
    return sign_entry(NodeKey(b"\x01" * 32), Fact("node", "", 1, Class.PUBLIC, now_ms() + 1000, body))
