"""What was heard of other nodes on the local network: bounded, aged, and never believed. No I/O, no clock.

An announcement is an instance name, a port, addresses and a key; nobody has proven anything. An address is a place to
dial, and only one that is on a network of this machine; the link is pinned to the key. Peers have room of their own, so
that strangers, however many, push none of them out; and a stranger that was heard stays while there is a flood of new
ones, who are counted and passed by.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

from federation.identity import DidError, parse_did
from federation.trust import MAX_ADDRESSES

MAX_TXT: Final = 512  # bytes of a TXT record: ours has some 70
MAX_DID: Final = 128  # characters
MAX_INSTANCE: Final = 63  # bytes of a label (RFC 1035 §2.3.4)
MAX_STRANGERS: Final = 256
MAX_OF_ONE_HOST: Final = 8  # strangers at one address: one machine cannot fill the table
MAX_LIFE_S: Final = 4500  # 75 minutes, as RFC 6762 §10 has it for names; ours say 2 minutes

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Neighbour:
    """What is kept of a key. `addresses`: HOST:PORT, newest first; `heard_ms`: last, `until_ms`: how long it holds, of
    the caller's clock."""

    key: bytes
    instance: str
    addresses: tuple[str, ...]
    heard_ms: int
    until_ms: int


def read_announcement(
    instance: str, port: int, txt: bytes, hosts: Iterable[bytes], networks: Sequence[Network], now_ms: int, life_s: int
) -> Neighbour | None:
    """None where it is none of a node, or names no address on `networks` that may be dialled. `txt`: as in the record;
    `hosts`: addresses as they travel, 4 or 16 bytes."""
    if not 0 < port <= 65_535 or len(txt) > MAX_TXT:
        return None
    try:
        key = parse_did(_did_in(txt))
    except DidError:
        return None
    found: dict[str, None] = {}
    for raw in hosts:
        if len(found) == MAX_ADDRESSES:
            break
        if len(raw) in (4, 16) and _may_be_dialled(host := ip_address(raw), networks):
            found[f"[{host}]:{port}" if host.version == 6 else f"{host}:{port}"] = None
    if not found:
        return None
    return Neighbour(key, instance, tuple(found), now_ms, now_ms + 1000 * min(life_s, MAX_LIFE_S))


def _did_in(txt: bytes) -> str:
    """The value of `did` in a TXT record (RFC 6763 §6.4: the first one counts); "" where there is none."""
    at = 0
    while at < len(txt):
        end = at + 1 + txt[at]
        word = txt[at + 1 : end]
        if word[:4].lower() == b"did=":
            return word[4:].decode("ascii", "replace") if len(word) - 4 <= MAX_DID else ""
        at = end
    return ""


def _may_be_dialled(host: IPv4Address | IPv6Address, networks: Sequence[Network]) -> bool:
    if host.is_loopback or host.is_multicast or host.is_unspecified or (host.version == 6 and host.is_link_local):
        return False  # link-local IPv6 means nothing without an interface
    return any(host in network for network in networks if network.version == host.version)


def instance_of(name: str, mark: str) -> str:
    """What a node called `name` is called on the network; `mark`: the start of its fingerprint. A dot would end the
    label."""
    plain = "".join(char for char in name if char.isprintable()).replace(".", "-").strip()
    room = MAX_INSTANCE - len(mark) - 1
    return f"{plain.encode()[:room].decode(errors='ignore')} {mark}".strip()


def name_of(instance: str, mark: str) -> str:
    """What a node calls itself: the reverse of `instance_of`, of what anybody may have written."""
    plain = "".join(char for char in instance if char.isprintable())
    return plain.removesuffix(mark).strip()[:MAX_INSTANCE]


class Neighbours:
    """`own`: this node's key; `is_peer`: whether this node dials a key."""

    def __init__(self, own: bytes, is_peer: Callable[[bytes], bool]) -> None:
        self._own = own
        self._is_peer = is_peer
        self._peers: dict[bytes, Neighbour] = {}  # as many as there are peers, at most
        self._strangers: dict[bytes, Neighbour] = {}
        self._at: Counter[str] = Counter()  # strangers, by host
        self.passed_by = 0  # announcements for which there was no room

    def __len__(self) -> int:
        return len(self._peers) + len(self._strangers)

    def hear(self, said: Neighbour) -> bool:
        """Keep it. False where it is this node's own, or too much."""
        if said.key == self._own:
            return False
        if self._is_peer(said.key):
            self._drop(said.key)
            before = self._peers.get(said.key)
            addresses = dict.fromkeys((*said.addresses, *(before.addresses if before is not None else ())))
            self._peers[said.key] = replace(said, addresses=tuple(addresses)[:MAX_ADDRESSES])
            return True
        self._peers.pop(said.key, None)  # it was a peer once
        before = self._drop(said.key)
        full = before is None and len(self._strangers) >= MAX_STRANGERS
        if full or any(self._at[host] >= MAX_OF_ONE_HOST for host in _hosts(said)):
            self.passed_by += 1
            return False
        self._strangers[said.key] = said
        self._at.update(_hosts(said))
        return True

    def gone(self, instance: str) -> None:
        """It said so, or its record ended."""
        for one in [one for one in self._all() if one.instance == instance]:
            self._forget(one.key)

    def age(self, now_ms: int) -> None:
        """Forget what was not heard for long, and see who is a peer now."""
        for one in self._all():
            is_peer = self._is_peer(one.key)
            old = one.until_ms <= now_ms
            if old or is_peer == (one.key in self._strangers):
                self._forget(one.key)
                if is_peer and not old:
                    self._peers[one.key] = one  # a stranger that was trusted meanwhile

    def all(self, now_ms: int) -> list[Neighbour]:
        """Last heard first."""
        self.age(now_ms)
        return sorted(self._all(), key=lambda one: one.heard_ms, reverse=True)

    def peers(self) -> list[Neighbour]:
        """Those that are peers."""
        return list(self._peers.values())

    def peer(self, key: bytes) -> Neighbour | None:
        """One of them."""
        return self._peers.get(key)

    def _all(self) -> list[Neighbour]:
        return [*self._peers.values(), *self._strangers.values()]

    def _forget(self, key: bytes) -> None:
        self._peers.pop(key, None)
        self._drop(key)

    def _drop(self, key: bytes) -> Neighbour | None:
        gone = self._strangers.pop(key, None)
        if gone is not None:
            for host in _hosts(gone):
                self._at[host] -= 1
                if not self._at[host]:
                    del self._at[host]
        return gone


def _hosts(one: Neighbour) -> set[str]:
    return {address.rpartition(":")[0] for address in one.addresses}
