"""Where a server listens: `HOST:PORT`, `[::1]:PORT`, `unix:PATH`, or `off`.

Parsed once, so that nobody below takes such a text apart again. Cheap to import: the command line reads these too.
"""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

_HOST_NAME: Final = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_-]+)*\.?", re.ASCII
)
_MAX_UNIX: Final = 107
"""Bytes of a Unix socket's path on Linux (unix(7), sun_path)."""


@dataclass(frozen=True, slots=True)
class Listen:
    """`host` and `port` are for `tcp`, `path` for `unix`. Port 0 lets the system choose one."""

    kind: Literal["tcp", "unix", "off"]
    host: str = ""
    port: int = 0
    path: Path | None = None

    @classmethod
    def parse(cls, text: str, *, off: bool = False) -> Listen:
        """Raises ValueError with a text that names the forms. `off`: whether that word is one of them."""
        forms = "HOST:PORT, [IPV6]:PORT, unix:PATH" + (" or off" if off else "")
        if text == "off" and off:
            return cls("off")
        if text.startswith("unix:"):
            return _unix(text.removeprefix("unix:"))
        host, colon, port = text.rpartition(":")
        if not colon or not host or not re.fullmatch(r"[0-9]{1,5}", port, re.ASCII) or int(port) > 65_535:
            raise ValueError(f"{text[:200]!r} is no address to listen on. Write {forms}, such as 127.0.0.1:7480")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
            if _address(host) is None or ":" not in host:
                raise ValueError(f"[{host[:100]}] is no IPv6 address. Write {forms}")
        elif ":" in host:
            raise ValueError(f"an IPv6 address goes in brackets: [{host[:100]}]:{port}")
        elif _address(host) is None and _HOST_NAME.fullmatch(host) is None:
            raise ValueError(f"{host[:200]!r} is no host. For all addresses of the machine write 0.0.0.0:{port}")
        return cls("tcp", host, int(port))

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it. A name other than localhost may mean anything, so it is not."""
        if self.kind != "tcp":
            return True
        address = _address(self.host)
        return address.is_loopback if address is not None else self.host.lower().rstrip(".") == "localhost"

    @property
    def authority(self) -> str:
        """`host:port`, with brackets where they belong."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return "off" if self.kind == "off" else f"unix:{self.path}" if self.kind == "unix" else self.authority


def _unix(text: str) -> Listen:
    if not text or "\0" in text:
        raise ValueError("unix: needs the path of a socket, such as unix:/run/kosreg/api.sock")
    path = Path(os.path.abspath(os.path.expanduser(text)))
    if len(os.fsencode(path)) > _MAX_UNIX:
        raise ValueError(f"the path of a Unix socket has at most {_MAX_UNIX} bytes; choose a shorter one than {path}")
    return Listen("unix", path=path)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
