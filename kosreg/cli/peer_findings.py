"""What `kosreg doctor` finds in what a node says of its peers, its federations and itself among them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from kosreg.cli.finding import Finding

FAR_OFF_MS: Final = 60_000
"""By how much two clocks may differ: times in lists are wrong by as much."""
SOON_DAYS: Final = 14
"""Before a membership ends."""
_SILENT: Final = {
    "off": "off: other nodes on the local network are not found by themselves",
    "loopback": "silent: the node listens for peers on loopback alone (federation.listen)",
    "no network": "silent until this machine has an IPv4 address beside loopback",
}


def findings_of(
    node: Mapping[str, Any],
    peers: Sequence[Mapping[str, Any]],
    federations: Sequence[Mapping[str, Any]],
    nearby: Mapping[str, Any],
) -> Iterator[Finding]:
    """All of these: as the API tells them."""
    yield from _twins(node)
    yield from _cut_off(node)
    yield from _links(peers)
    yield from _memberships(federations)
    yield _neighbours(nearby)


def _twins(node: Mapping[str, Any]) -> Iterator[Finding]:
    if node["yielded"]:
        yield Finding(
            "peers", "bad", "another node runs with this node's key, so this one says nothing more",
            "if it is a copy: give it a data directory of its own; if it is the right one: stop the other and run "
            "kosreg doctor --claim",
        )  # fmt: skip


def _cut_off(node: Mapping[str, Any]) -> Iterator[Finding]:
    if node["isolated"]:
        yield Finding(
            "peers", "bad", "this node hears less than half of the nodes that it heard: it is cut off",
            "look at its network: kosreg peers list",
        )  # fmt: skip


def _links(peers: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    nodes = [peer for peer in peers if peer["role"] != "root" and "revoked" not in peer]
    up = [peer for peer in nodes if (peer.get("link") or {}).get("state") == "up"]
    if nodes:
        yield Finding("peers", "good", f"{len(up)} of {len(nodes)} have a link")
    for peer in nodes:
        link, name = peer.get("link") or {}, peer["name"] or peer["did"]
        alive = peer.get("node") or {}
        if alive.get("state") == "unreachable":
            yield Finding(
                "peers", "note", f"{name} is unreachable: {alive['reason']}", f"kosreg peers show {peer['did']}"
            )
        if link.get("state") == "refused":
            yield Finding(
                "peers", "bad", f"{peer['name'] or peer['did']}: {link['error']}", f"kosreg peers show {peer['did']}"
            )
        offset = link.get("offset_ms")
        if offset is not None and abs(offset) > FAR_OFF_MS:
            yield Finding(
                "peers", "bad", f"the clock of {name} and this one differ by {offset / 1000:.0f} s",
                "set the wrong one: timedatectl",
            )  # fmt: skip


def _memberships(federations: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    for one in federations:
        until = one.get("until")
        if until is None:
            continue
        left = (datetime.fromisoformat(until) - datetime.now(UTC)).days
        if left < SOON_DAYS:
            yield Finding(
                "peers", "bad", f"the membership in {one['name'] or one['did']} ends in {left} days",
                "have its root, or whoever invited this node, certify it anew: kosreg federation issue",
            )  # fmt: skip


def _neighbours(nearby: Mapping[str, Any]) -> Finding:
    state, count = nearby["mdns"], len(nearby["nearby"])
    if state == "on":
        some = "one other node is heard" if count == 1 else f"{count} other nodes are heard"
        return Finding("mDNS", "good", f"{some} on the local network")
    if state == "failed":
        todo = "let it have UDP port 5353, or set federation.mdns = false; peers that have addresses need it not"
        return Finding("mDNS", "bad", f"it does not work: {nearby['error']}", todo)
    return Finding("mDNS", "note", _SILENT[state])
