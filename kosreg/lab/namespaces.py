"""A network of its own for each node of a lab: namespaces, joined by a bridge that only they are on.

Proxies see TCP alone; here a cut is one of packets: what is sent goes to a hardware address that nobody has (a fixed
entry in the neighbour table), so nobody is told anything, and a dial is not even accepted. Needs root and `ip`
(iproute2). The names hold the process id of the lab, so that the next lab removes what a killed one left behind.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import Final, Literal

from kosreg.lab.errors import LabError
from kosreg.lab.link import LinkInfo

PREFIX: Final = "kosreg-lab"
PORT: Final = 7481  # where each node listens, at an address of its own
WITHIN: Final = 10.0  # s for one call of ip
_NOBODY: Final = "02:00:00:00:00:fe"  # a hardware address that no node has


@dataclass(frozen=True, slots=True)
class Namespace:
    """Where one node lives. `name`: of `ip netns`; `address`: its IPv4 address on the bridge."""

    name: str
    address: str

    @property
    def prefix(self) -> tuple[str, ...]:
        """What runs a command inside."""
        return ("ip", "netns", "exec", self.name)


def missing() -> str | None:
    """Why there can be no namespaces here; None where there can."""
    if shutil.which("ip") is None:
        return "there is no `ip` (iproute2)"
    if os.geteuid() != 0:
        return "it takes root"
    name = f"{PREFIX}-{os.getpid()}-probe"
    try:
        _ip("netns", "add", name)
        try:
            _ip("link", "add", "klprobe", "netns", name, "type", "veth", "peer", "name", "klprobe1", "netns", name)
            _ip("-n", name, "link", "add", "klprobe2", "type", "bridge")
        finally:
            _ip("netns", "del", name)
    except LabError as error:
        return str(error)
    return None


class Namespaces:
    """The namespaces of one lab and their bridge. Made by `start`, removed by `close`."""

    def __init__(self, names: list[str]) -> None:
        self._of = {
            name: Namespace(f"{PREFIX}-{os.getpid()}-{name}", f"10.77.0.{number}")
            for number, name in enumerate(names, 1)
        }
        self._hub = f"{PREFIX}-{os.getpid()}-hub"  # the bridge is in a namespace too: it goes when that goes

    def __getitem__(self, name: str) -> Namespace:
        return self._of[name]

    def start(self) -> None:
        """Raises LabError where it cannot be."""
        if (why := missing()) is not None:
            raise LabError(f"no network namespaces here: {why}. Use network='proxies'")
        _sweep()
        _ip("netns", "add", self._hub)
        _ip("-n", self._hub, "link", "add", "hub", "type", "bridge")
        _ip("-n", self._hub, "link", "set", "hub", "up")
        for node, space in self._of.items():
            _ip("netns", "add", space.name)
            _ip("-n", space.name, "link", "set", "lo", "up")
            _ip("link", "add", "eth0", "netns", space.name, "type", "veth", "peer", "name", node, "netns", self._hub)
            _ip("-n", self._hub, "link", "set", node, "master", "hub", "up")
            _ip("-n", space.name, "addr", "add", f"{space.address}/24", "dev", "eth0")
            _ip("-n", space.name, "link", "set", "eth0", "up")

    def close(self) -> None:
        for name in (*(space.name for space in self._of.values()), self._hub):
            if os.path.exists(f"/run/netns/{name}"):
                _ip("netns", "del", name)


class NamespaceLink:
    """Two neighbours in namespaces. Has the methods of `Link`; what packets alone cannot do raises LabError."""

    def __init__(self, one: str, other: str, spaces: Namespaces) -> None:
        self.one = one
        self.other = other
        self._spaces = spaces
        self._cut: set[str] = set()  # who says nothing any more

    def __repr__(self) -> str:
        return f"<NamespaceLink {self.one} - {self.other}{' cut' if self.is_cut else ''}>"

    @property
    def nodes(self) -> tuple[str, str]:
        return self.one, self.other

    @property
    def is_cut(self) -> bool:
        return bool(self._cut)

    @property
    def passed(self) -> int:
        """Not counted here."""
        return 0

    @property
    def connections(self) -> int:
        """Not counted here."""
        return 0

    @property
    def info(self) -> LinkInfo:
        return LinkInfo(self.one, self.other, (self.one in self._cut, self.other in self._cut), 0.0, None, 0, (0, 0))

    def address(self, target: str) -> str:
        """Where the other node is told to dial `target`."""
        return f"{self._spaces[target].address}:{PORT}"

    def cut(self, how: Literal["silent", "reset"] = "silent", *, only_from: str | None = None) -> None:
        """No packet passes, and nobody is told."""
        if how != "silent":
            raise LabError("in namespaces a link is cut silently; connections cannot be reset")
        for name in self.nodes if only_from is None else (only_from,):
            if name not in self._cut:
                self._cut.add(name)
                target = self._spaces[self.other if name == self.one else self.one].address
                _ip("-n", self._spaces[name].name, "neigh", "replace", target, "lladdr", _NOBODY, "dev", "eth0",
                    "nud", "permanent")  # fmt: skip

    def heal(self) -> None:
        for name in sorted(self._cut):
            target = self._spaces[self.other if name == self.one else self.one].address
            _ip("-n", self._spaces[name].name, "neigh", "del", target, "dev", "eth0")
        self._cut.clear()

    def delay(self, seconds: float, *, only_from: str | None = None) -> None:
        raise LabError(_ONLY)

    def throttle(self, bytes_per_s: float | None, *, only_from: str | None = None) -> None:
        raise LabError(_ONLY)

    def reset(self) -> None:
        raise LabError(_ONLY)

    def half_open(self, keeps: str) -> None:
        raise LabError(_ONLY)

    def up(self, target: str) -> None:
        """A node's own port says whether it runs."""

    def down(self, target: str) -> None:
        """See `up`."""

    async def close(self) -> None:
        """The namespaces go with the lab."""


_ONLY: Final = "in namespaces a link can be cut and healed; for the rest use network='proxies'"


def _sweep() -> None:
    """Removes the namespaces of labs whose process is gone."""
    for line in _ip("netns", "list").splitlines():
        match = re.match(rf"({PREFIX}-(\d+)-\w+)(?: |$)", line)
        if match is not None and not os.path.exists(f"/proc/{match[2]}"):
            _ip("netns", "del", match[1])


def _ip(*words: str) -> str:
    """Runs ip; what it prints. Raises LabError."""
    try:
        done = subprocess.run(  # noqa: S603
            ["ip", *words],  # noqa: S607  (wherever the system has it)
            capture_output=True,
            timeout=WITHIN,
            check=False,
            text=True,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LabError(f"ip {' '.join(words)}: {error}") from None
    if done.returncode != 0:
        raise LabError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout
