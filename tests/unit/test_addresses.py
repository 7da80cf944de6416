"""Where a node says that it is reached."""

import ipaddress

import pytest

from kosreg.addresses import is_loopback, machine, reachable_at
from kosreg.listen import Listen


@pytest.mark.parametrize(
    ("listen", "port", "advertise", "expected"),
    [
        ("127.0.0.1:0", 5, (), ("127.0.0.1:5",)),
        ("[::1]:0", 5, (), ("[::1]:5",)),
        ("berlin.example:7481", 7481, (), ("berlin.example:7481",)),
        ("off", None, (), ()),
        ("off", None, ("a:1",), ("a:1",)),
        ("0.0.0.0:0", 5, ("a:1", "b:2"), ("a:1", "b:2")),
        ("127.0.0.1:7481", None, (), ()),
    ],
)
def test_what_is_set_is_said(
    listen: str, port: int | None, advertise: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    assert reachable_at(Listen.parse(listen, off=True), port, advertise) == expected


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0"])
def test_a_node_that_listens_everywhere_names_addresses_of_the_machine(listen: str) -> None:
    found = reachable_at(Listen.parse(listen), 7481)
    hosts = [Listen.parse(address).host for address in found]
    own = set(machine(v6=True)) | {"127.0.0.1", "::1"}
    assert 1 <= len(found) <= 4
    assert set(hosts) <= own
    near = [host for host in hosts if ipaddress.ip_address(host).is_loopback]
    assert not near or near == hosts  # loopback only where there is nothing else
    if listen.startswith("0"):
        assert all(":" not in host for host in hosts)


def test_at_most_four_and_no_loopback_among_others(monkeypatch: pytest.MonkeyPatch) -> None:
    many = ["10.0.0.1", "127.0.0.1", *(f"10.0.0.{n}" for n in range(1, 8))]
    monkeypatch.setattr("kosreg.addresses.machine", lambda *, v6: iter(many))
    assert reachable_at(Listen.parse("0.0.0.0:0"), 1) == tuple(f"10.0.0.{n}:1" for n in range(1, 5))
    monkeypatch.setattr("kosreg.addresses.machine", lambda *, v6: iter(["127.0.0.1"]))
    assert reachable_at(Listen.parse("0.0.0.0:0"), 1) == ("127.0.0.1:1",)


def test_loopback_addresses() -> None:
    assert [is_loopback(text) for text in ("127.0.0.9:1", "[::1]:1", "localhost:1", "10.0.0.1:1", "a:1", "?")] == [
        True, True, True, False, False, False,
    ]  # fmt: skip
