"""Where others reach this node: what the admin set, else the addresses of this machine. Nothing is sent to find out."""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from federation.trust import MAX_ADDRESSES
from kosreg.listen import Listen

_SIOCGIFADDR: Final = 0x8915  # netdevice(7)
_IF_INET6: Final = Path("/proc/net/if_inet6")
_GLOBAL: Final = "00"  # its scope there
_FAR: Final = (("192.0.2.1", socket.AF_INET), ("2001:db8::1", socket.AF_INET6))  # documentation: nobody has them


def reachable_at(listen: Listen, port: int | None, advertise: Sequence[str] = ()) -> tuple[str, ...]:
    """HOST:PORT, at most 4; () where nobody can dial this node. `port`: the real one of the listening socket."""
    if advertise:
        return tuple(advertise)[:MAX_ADDRESSES]
    if listen.kind != "tcp" or port is None:
        return ()
    if not _is_any(listen.host):
        return (replace(listen, port=port).authority,)
    found = dict.fromkeys(host for host in machine(v6=":" in listen.host))
    hosts = [host for host in found if not ipaddress.ip_address(host).is_loopback]
    if not hosts:
        hosts = ["::1" if ":" in listen.host else "127.0.0.1"]
    return tuple(replace(listen, host=host, port=port).authority for host in hosts[:MAX_ADDRESSES])


def is_loopback(address: str) -> bool:
    """Whether HOST:PORT is this machine alone."""
    try:
        return Listen.parse(address).is_local
    except ValueError:
        return False


def machine(*, v6: bool) -> Iterator[str]:
    """The addresses of this machine's interfaces, that of the way out first; `v6`: IPv6 too."""
    for far, family in _FAR[: 2 if v6 else 1]:
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((far, 9))  # a datagram socket sends nothing for that: it only looks up the route
            yield probe.getsockname()[0]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):
                answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                yield socket.inet_ntoa(answer[20:24])
    if v6:
        with contextlib.suppress(OSError, ValueError):
            for line in _IF_INET6.read_text().splitlines():
                digits, _, _, scope, *_ = line.split()
                if scope == _GLOBAL:
                    yield str(ipaddress.IPv6Address(int(digits, 16)))


def _is_any(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False
