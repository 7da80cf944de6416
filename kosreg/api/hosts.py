"""Whom the API answers to: the `Host` and `Origin` of a request, against DNS rebinding and foreign pages.

A page of evil.example can let its own name point at 127.0.0.1 and then call the node with the user's browser: the
browser sends `Host: evil.example`. So only names that mean this node are taken. An address literal is never the fruit
of a name, so where the API listens on all addresses each literal is taken as well.

A page of another origin (another port of this machine included) is refused by its `Origin`, before anything is done:
the API sets no cookies, but a foreign page has no business here at all. Programs send no `Origin`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

from kosreg.problems import Problem

_DEFAULT_PORTS = {"http": 80, "https": 443}
_KEPT = 256


class HostGuard:
    """Refuses foreign `Host` and `Origin` headers. Verdicts are kept by text, so that a call costs two lookups."""

    __slots__ = ("_any_host", "_any_literal", "_fine_hosts", "_fine_origins", "_listed", "_names")

    def __init__(self, listen_host: str | None, allowed: Iterable[str] = ()) -> None:
        """`listen_host`: what the API listens on; None for a Unix socket, which no browser reaches: any Host is fine
        there. `allowed`: further `host` (any port) or `host:port`.
        """
        self._any_host = listen_host is None
        self._any_literal = listen_host in ("0.0.0.0", "::", "")  # noqa: S104 compares, does not bind
        self._names = {"localhost"}
        if listen_host:
            self._names.add(_plain(listen_host))
        self._listed: set[tuple[str, int | None]] = set()
        for item in allowed:
            host, port = split(item)
            self._listed.add((host, port))
        self._fine_hosts: set[str] = set()
        self._fine_origins: set[tuple[str, str]] = set()

    def check(self, host: str | None, origin: str | None) -> None:
        """Problem: foreign-host, foreign-origin; malformed where there is no Host at all."""
        if host is None or host == "":
            raise Problem.of("malformed", "The request has no Host header. Use HTTP/1.1 and send one.")
        if host not in self._fine_hosts:
            if not self._host_is_ours(host):
                raise Problem.of(
                    "foreign-host",
                    f"This node does not answer to the host {host[:200]!r}. Call it by localhost or its address, "
                    "or add the name to api.allowed_hosts.",
                )
            if len(self._fine_hosts) < _KEPT:
                self._fine_hosts.add(host)
        if origin is None or (host, origin) in self._fine_origins:
            return
        if not self._origin_is_ours(host, origin):
            raise Problem.of(
                "foreign-origin",
                f"Pages of {origin[:200]!r} may not call this API: they are not of this node. "
                "If this one may, add its host:port to api.allowed_hosts.",
            )
        if len(self._fine_origins) < _KEPT:
            self._fine_origins.add((host, origin))

    def _host_is_ours(self, text: str) -> bool:
        if self._any_host:
            return True
        try:
            host, port = split(text)
        except ValueError:
            return False
        if host in self._names or (host, None) in self._listed or (host, port) in self._listed:
            return True
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return self._any_literal or address.is_loopback

    def _origin_is_ours(self, host: str, origin: str) -> bool:
        try:
            parts = urlsplit(origin)
            default = _DEFAULT_PORTS.get(parts.scheme)
            if default is None or not parts.hostname or parts.path or parts.query or "@" in parts.netloc:
                return False  # `null` and what is no origin at all
            name, port = _plain(parts.hostname), parts.port or default
            own_name, own_port = split(host)
        except ValueError:
            return False
        # a bare name stands for its default port here: to be reachable by a name is not to trust all that it serves
        if (name, port) in self._listed or (parts.port is None and (name, None) in self._listed):
            return True
        return name == own_name and port == (own_port or default)


def split(text: str) -> tuple[str, int | None]:
    """`host[:port]` in comparable form: lower case, IPv6 without brackets, no final dot. ValueError if it is none."""
    if any(c in text for c in "/@?# \t,\\"):
        raise ValueError(f"not a host: {text!r}")
    parts = urlsplit("//" + text)
    if not parts.hostname:
        raise ValueError(f"not a host: {text!r}")
    return _plain(parts.hostname), parts.port


def _plain(host: str) -> str:
    host = host.strip("[]").lower().rstrip(".")
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host
