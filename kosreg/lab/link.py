"""The way between two neighbours of a lab, and what can be done to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kosreg.lab.proxy import Proxy, Wire


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """A link as it is: names, `cut` one way and the other, delay (s one way) and rate (bytes/s) there, connections,
    bytes that passed (one way, the other)."""

    one: str
    other: str
    cut: tuple[bool, bool]
    delay: float
    rate: float | None
    connections: int
    passed: tuple[int, int]


class Link:
    """Two wires and two proxies: whichever node dials, the bytes take the same wires.

    Nothing here waits: what is done holds from the next byte on.
    """

    def __init__(self, one: str, other: str, ports: tuple[int, int]) -> None:
        """`one`, `other`: names of nodes; `ports`: where each listens for its peers."""
        self.one = one
        self.other = other
        self._there, self._back = Wire(), Wire()
        self._to_other = Proxy(ports[1], self._there, self._back)
        self._to_one = Proxy(ports[0], self._back, self._there)

    def __repr__(self) -> str:
        return f"<Link {self.one} - {self.other}{' cut' if self.is_cut else ''}>"

    @property
    def nodes(self) -> tuple[str, str]:
        return self.one, self.other

    @property
    def is_cut(self) -> bool:
        """Whether either direction is cut: nothing useful gets through then."""
        return self._there.is_cut or self._back.is_cut

    @property
    def passed(self) -> int:
        """Bytes that passed, both ways, TLS included."""
        return self._there.passed + self._back.passed

    @property
    def connections(self) -> int:
        return self._to_one.connections + self._to_other.connections

    @property
    def info(self) -> LinkInfo:
        there, back = self._there, self._back
        return LinkInfo(
            self.one, self.other, (there.is_cut, back.is_cut), there.delay, there.rate, self.connections,
            (there.passed, back.passed),
        )  # fmt: skip

    def address(self, target: str) -> str:
        """Where the other node is told to dial `target`."""
        return self._proxy_to(target).address

    def cut(self, how: Literal["silent", "reset"] = "silent", *, only_from: str | None = None) -> None:
        """`silent`, as a pulled cable: nothing passes, nobody is told, a dial hangs; what was under way arrives once
        the link is healed. `reset`: connections break as well. `only_from`: cut what this node says, and nothing else.
        """
        for wire in self._wires(only_from):
            wire.cut()
        if how == "reset":
            self.reset()

    def heal(self) -> None:
        """Let all pass again, without delay and at any rate."""
        for wire in (self._there, self._back):
            wire.delay, wire.rate = 0.0, None
            wire.heal()

    def delay(self, seconds: float, *, only_from: str | None = None) -> None:
        """Each byte arrives so much later, one way: a round trip takes twice as long."""
        for wire in self._wires(only_from):
            wire.delay = max(0.0, seconds)

    def throttle(self, bytes_per_s: float | None, *, only_from: str | None = None) -> None:
        """At most so many bytes a second one way; None: any."""
        if bytes_per_s is not None and bytes_per_s <= 0:
            raise ValueError("a rate is more than 0 bytes/s; to stop a link, cut it")
        for wire in self._wires(only_from):
            wire.rate = bytes_per_s

    def reset(self) -> None:
        """Break the connections that there are (RST to both sides); new ones are taken."""
        self._to_one.reset()
        self._to_other.reset()

    def half_open(self, keeps: str) -> None:
        """Break the connections for one side alone: `keeps` is not told, and what it says on them is swallowed."""
        other = self._other_than(keeps)
        self._proxy_to(other).half_open("dialler")
        self._proxy_to(keeps).half_open("target")

    # For the lab

    def up(self, target: str) -> None:
        """`target` runs: take what is dialled to it."""
        self._proxy_to(target).accept()

    def down(self, target: str) -> None:
        """`target` does not run: its port refuses."""
        self._proxy_to(target).refuse()

    async def close(self) -> None:
        await self._to_one.close()
        await self._to_other.close()

    # Inside

    def _other_than(self, name: str) -> str:
        if name not in self.nodes:
            raise ValueError(f"{name} is no end of the link {self.one} - {self.other}")
        return self.one if name == self.other else self.other

    def _proxy_to(self, target: str) -> Proxy:
        return self._to_one if self._other_than(target) == self.other else self._to_other

    def _wires(self, only_from: str | None) -> tuple[Wire, ...]:
        if only_from is None:
            return self._there, self._back
        return (self._back,) if self._other_than(only_from) == self.one else (self._there,)
