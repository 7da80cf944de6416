"""kosreg.neighbours: what anybody may say on the network is bounded, aged and never believed."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.identity import NodeKey, did_of
from kosreg import neighbours
from kosreg.neighbours import (
    MAX_OF_ONE_HOST,
    MAX_STRANGERS,
    Neighbour,
    Neighbours,
    instance_of,
    name_of,
    read_announcement,
)

LAN = [ip_network("10.7.0.0/24"), ip_network("fd00::/64")]
OWN = b"o" * 32
KEY = NodeKey(b"\x05" * 32).public
DID = did_of(KEY).encode()


def txt(*words: bytes) -> bytes:
    return b"".join(bytes([len(word)]) + word for word in words)


def read(text: bytes = txt(b"did=" + DID, b"v=1"), *hosts: str, port: int = 7481) -> Neighbour | None:
    return read_announcement("i", port, text, [ip_address(host).packed for host in hosts], LAN, 1000, 120)


def heard(number: int, host: str | None = None, until_ms: int = 100, instance: str = "") -> Neighbour:
    address = f"{host or f'10.{number >> 8}.{number & 255}.1'}:7481"
    return Neighbour(number.to_bytes(32, "big"), instance or f"n{number}", (address,), number, until_ms)


def test_an_announcement_gives_a_key_and_addresses_on_our_networks() -> None:
    said = read(txt(b"v=1", b"DID=" + DID), "192.168.1.1", "10.7.0.3", "fe80::1", "fd00::5", "8.8.8.8", "127.0.0.1")
    assert said == Neighbour(KEY, "i", ("10.7.0.3:7481", "[fd00::5]:7481"), 1000, 121_000)
    many = read(txt(b"did=" + DID), *(f"10.7.0.{number}" for number in range(1, 9)))
    assert many is not None
    assert len(many.addresses) == 4


@pytest.mark.parametrize(
    "text",
    [
        b"",
        txt(b"v=1"),
        txt(b"did="),
        txt(b"did=did:key:z6Mk"),
        txt(b"did=" + b"z" * 200),
        txt(b"x" * 255, b"y" * 255, b"did=" + DID),  # more than anybody has to say
        txt(b"did=did:key:bad", b"did=" + DID),  # the first one counts
        txt(b"did=" + DID)[:-1],  # cut off
        b"\xff" * 20,
    ],
)
def test_what_names_no_key_is_no_announcement(text: bytes) -> None:
    assert read(text, "10.7.0.3") is None


@pytest.mark.parametrize("host", ["127.0.0.1", "224.0.0.1", "0.0.0.0", "8.8.8.8", "fe80::1", "::1", "fd01::1"])
def test_an_address_elsewhere_is_not_taken(host: str) -> None:
    assert read(txt(b"did=" + DID), host) is None
    assert read(txt(b"did=" + DID)) is None
    assert read(txt(b"did=" + DID), "10.7.0.3", port=0) is None


@given(st.binary(max_size=600), st.lists(st.binary(max_size=20), max_size=20), st.integers(-1, 1 << 17))
def test_no_packet_raises(text: bytes, hosts: list[bytes], port: int) -> None:
    read_announcement("i", port, text, hosts, LAN, 0, 120)


@given(st.text(max_size=100))
def test_a_name_is_one_label_and_comes_back_without_what_cannot_be_printed(name: str) -> None:
    instance = instance_of(name, "abcd-efgh")
    assert 0 < len(instance.encode()) <= 63
    assert "." not in instance
    assert instance.isprintable()
    assert name_of(instance, "abcd-efgh") == instance.removesuffix("abcd-efgh").strip()
    assert name_of(name, "abcd-efgh").isprintable()


def test_strangers_have_a_bound_and_the_first_stay() -> None:
    table = Neighbours(OWN, lambda key: False)
    for number in range(MAX_STRANGERS):
        assert table.hear(heard(number))
    assert not table.hear(heard(MAX_STRANGERS))
    assert table.hear(heard(0, until_ms=200))  # known already
    assert (len(table), table.passed_by) == (MAX_STRANGERS, 1)
    assert [one.key for one in table.all(150)] == [heard(0).key]  # the others were not heard again
    assert table.hear(heard(MAX_STRANGERS))


def test_one_machine_cannot_fill_the_table() -> None:
    table = Neighbours(OWN, lambda key: False)
    told = [table.hear(heard(number, "10.7.0.3")) for number in range(MAX_OF_ONE_HOST + 3)]
    assert told.count(True) == MAX_OF_ONE_HOST
    assert table.hear(heard(0, "10.7.0.3"))  # one of them again
    table.gone("n0")
    assert table.hear(heard(100, "10.7.0.3"))
    assert not table.hear(heard(101, "10.7.0.3"))


def test_a_peer_has_room_of_its_own_and_up_to_four_addresses() -> None:
    peer = heard(9999)
    table = Neighbours(OWN, lambda key: key == peer.key)
    for number in range(MAX_STRANGERS):
        table.hear(heard(number))
    assert table.hear(peer)
    for number in range(1, 6):
        assert table.hear(heard(9999, f"10.7.0.{number}"))
    assert table.peers()[0].addresses == tuple(f"10.7.0.{number}:7481" for number in (5, 4, 3, 2))
    assert table.peer(heard(1).key) is None


def test_who_says_goodbye_is_gone_and_our_own_voice_is_nobody() -> None:
    table = Neighbours(heard(7).key, lambda key: False)
    assert not table.hear(heard(7))
    table.hear(heard(1))
    table.hear(heard(2))
    table.gone("n1")
    assert [one.instance for one in table.all(0)] == ["n2"]


def test_trust_moves_who_was_heard() -> None:
    peers: set[bytes] = set()
    table = Neighbours(OWN, peers.__contains__)
    table.hear(heard(1))
    assert table.peers() == []
    peers.add(heard(1).key)
    table.age(0)
    assert table.peers() == [heard(1)]
    assert table.hear(heard(2, "10.0.1.1"))  # its place is free
    peers.clear()
    table.age(0)
    assert table.peers() == []
    assert [one.instance for one in table.all(0)] == ["n2"]


def test_a_long_life_has_a_bound() -> None:
    said = read_announcement("i", 1, txt(b"did=" + DID), [ip_address("10.7.0.3").packed], LAN, 0, 1 << 31)
    assert said is not None
    assert said.until_ms == neighbours.MAX_LIFE_S * 1000
