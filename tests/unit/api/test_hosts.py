"""Foreign hosts and foreign pages."""

from __future__ import annotations

import pytest

from kosreg.api.hosts import HostGuard
from kosreg.problems import Problem


def verdict(guard: HostGuard, host: str | None, origin: str | None = None) -> str | None:
    try:
        guard.check(host, origin)
    except Problem as problem:
        return problem.slug
    return None


LOOPBACK = HostGuard("127.0.0.1", ["box.example", "proxy.example:8443"])


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:7480", "127.0.0.1", "127.9.8.7:1", "localhost:7480", "LOCALHOST", "localhost.", "[::1]:7480", "[::1]",
     "[0:0:0:0:0:0:0:1]:7480", "box.example", "box.example:99", "BOX.example.:99", "proxy.example:8443"],
)  # fmt: skip
def test_our_own_hosts_are_taken(host: str) -> None:
    assert verdict(LOOPBACK, host) is None
    assert verdict(LOOPBACK, host) is None, "and so they are the second time, from what was kept"


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:7480", "localhost.evil.example", "evil-localhost", "10.0.0.1:7480", "[::2]:7480",
     "0.0.0.0:7480", "127.0.0.1.evil.example", "127.0.0.1:7480:1", "127.0.0.1@evil.example", "evil.example/127.0.0.1",
     "proxy.example", "proxy.example:8444", "a" * 300, "127.0.0.1:99999", "[::1", "::1", "2130706433", "0x7f000001",
     "127.1", " 127.0.0.1", "localhost\t", "127.0.0.1,evil.example", "[::ffff:127.0.0.1%25eth0]"],
)  # fmt: skip
def test_foreign_hosts_are_refused(host: str) -> None:
    assert verdict(LOOPBACK, host) == "foreign-host"
    assert verdict(LOOPBACK, host) == "foreign-host"


@pytest.mark.parametrize("host", [None, ""])
def test_a_request_without_host_is_malformed(host: str | None) -> None:
    assert verdict(LOOPBACK, host) == "malformed"
    assert verdict(HostGuard(None), host) == "malformed"


def test_the_listen_host_is_taken_and_no_other() -> None:
    guard = HostGuard("node.lan")
    assert verdict(guard, "node.lan:7480") is None
    assert verdict(guard, "other.lan:7480") == "foreign-host"
    assert verdict(HostGuard("10.1.2.3"), "10.1.2.3:7480") is None
    assert verdict(HostGuard("10.1.2.3"), "10.1.2.4:7480") == "foreign-host"


@pytest.mark.parametrize("listen", ["0.0.0.0", "::"])
def test_on_all_addresses_any_literal_is_taken_but_no_name(listen: str) -> None:
    guard = HostGuard(listen)
    assert verdict(guard, "192.0.2.7:7480") is None
    assert verdict(guard, "[2001:db8::1]:7480") is None
    assert verdict(guard, "rebound.example:7480") == "foreign-host"


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1:7480", "http://127.0.0.1:7480"),
        ("localhost:7480", "http://LOCALHOST:7480"),
        ("localhost", "http://localhost"),
        ("localhost", "http://localhost:80"),
        ("localhost:443", "https://localhost"),
        ("[::1]:7480", "http://[::1]:7480"),
        ("127.0.0.1:7480", "https://proxy.example:8443"),
        ("127.0.0.1:7480", "https://box.example"),
    ],
)
def test_pages_of_the_node_itself_and_listed_ones_may_call(host: str, origin: str) -> None:
    assert verdict(LOOPBACK, host, origin) is None
    assert verdict(LOOPBACK, host, origin) is None


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1:7480", "null"),
        ("127.0.0.1:7480", ""),
        ("127.0.0.1:7480", "http://127.0.0.1:7481"),
        ("127.0.0.1:7480", "http://127.0.0.1"),
        ("127.0.0.1:7480", "http://localhost:7480"),
        ("localhost:7480", "http://evil.example:7480"),
        ("localhost:7480", "http://localhost:7480.evil.example"),
        ("localhost:7480", "http://localhost:7480@evil.example"),
        ("localhost:7480", "http://localhost:7480/"),
        ("localhost:7480", "file://localhost:7480"),
        ("localhost:7480", "chrome-extension://localhost:7480"),
        ("127.0.0.1:7480", "http://box.example:3000"),
        ("127.0.0.1:7480", "http://[::1"),
        ("127.0.0.1:7480", "http://127.0.0.1:99999"),
    ],
)
def test_pages_of_others_may_not(host: str, origin: str) -> None:
    assert verdict(LOOPBACK, host, origin) == "foreign-origin"


def test_over_a_unix_socket_any_host_but_still_no_foreign_page() -> None:
    guard = HostGuard(None)
    assert verdict(guard, "whatever") is None
    assert verdict(guard, "whatever", "http://whatever") is None
    assert verdict(guard, "whatever", "http://evil.example") == "foreign-origin"


def test_what_is_kept_is_bounded() -> None:
    guard = HostGuard("0.0.0.0")
    for n in range(2_000):
        assert verdict(guard, f"127.0.{n // 256}.{n % 256}:7480", f"http://127.0.{n // 256}.{n % 256}:7480") is None
    assert len(guard._fine_hosts) <= 256
    assert len(guard._fine_origins) <= 256
