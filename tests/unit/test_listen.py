"""Where a server listens."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kosreg.listen import Listen


@pytest.mark.parametrize(
    ("text", "host", "port", "local"),
    [
        ("127.0.0.1:7480", "127.0.0.1", 7480, True),
        ("127.9.9.9:0", "127.9.9.9", 0, True),
        ("[::1]:80", "::1", 80, True),
        ("localhost:80", "localhost", 80, True),
        ("0.0.0.0:80", "0.0.0.0", 80, False),
        ("[::]:80", "::", 80, False),
        ("10.0.0.7:65535", "10.0.0.7", 65535, False),
        ("node.example.org:80", "node.example.org", 80, False),
        ("localhost.example.org:80", "localhost.example.org", 80, False),
        ("[fe80::1%eth0]:80", "fe80::1%eth0", 80, False),
    ],
)
def test_addresses(text: str, host: str, port: int, local: bool) -> None:
    listen = Listen.parse(text)

    assert (listen.kind, listen.host, listen.port, listen.is_local) == ("tcp", host, port, local)
    assert str(listen) == text


def test_a_unix_socket_is_local_and_its_path_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)

    listen = Listen.parse("unix:api.sock")

    assert listen.kind == "unix"
    assert listen.path == tmp_path / "api.sock"
    assert listen.is_local
    assert Listen.parse(str(listen)) == listen


def test_off_is_a_form_only_where_it_makes_sense() -> None:
    assert Listen.parse("off", off=True).kind == "off"
    with pytest.raises(ValueError, match="HOST:PORT"):
        Listen.parse("off")


REFUSED = (
    *("", ":80", "80", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536", "127.0.0.1:-1", "h:٨٠"),
    *("::1:80", "[::1]", "*:80", "[127.0.0.1]:80", "[x]:80", "http://127.0.0.1:80", "a b:80"),
    *("unix:", "unix:\0", "unix:/" + "x" * 120),
)


@pytest.mark.parametrize("text", REFUSED)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"Write|write|brackets|path|choose"):
        Listen.parse(text)


def test_the_text_for_all_addresses_names_them() -> None:
    with pytest.raises(ValueError, match=r"0\.0\.0\.0:80"):
        Listen.parse("*:80")


@given(st.text(max_size=60))
def test_no_text_makes_it_fail_otherwise(text: str) -> None:
    try:
        listen = Listen.parse(text, off=True)
    except ValueError:
        return
    assert Listen.parse(str(listen), off=True) == listen
