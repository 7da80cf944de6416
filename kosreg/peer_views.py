"""A peer as the API shows it: what was decided about its key, its link, and what the two sides hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from federation.identity import did_of
from federation.peer_node import LinkState
from federation.trust import MEMBER_SCOPE, Anchor, Role
from kosreg import heirs
from kosreg.neighbours import Neighbour
from kosreg.peers import fingerprint, is_like_a_key, scope_told
from kosreg.quota_views import quota_told
from kosreg.times import now_ms, rfc3339

if TYPE_CHECKING:
    from kosreg.api.node import Node


def all_peers(node: Node) -> list[dict[str, Any]]:
    """All keys about which something was decided, then members of a federation that have a link."""
    links = {link.peer: link for link in node.peer_node.links()}
    anchors = sorted(node.trust.anchors().values(), key=lambda anchor: (anchor.added, anchor.key))
    keys = dict.fromkeys([*(anchor.key for anchor in anchors), *links])
    return [_view(node, key, node.trust.anchors().get(key), links.get(key)) for key in keys]


def peer_view(node: Node, key: bytes) -> dict[str, Any] | None:
    """One of them; None where nothing is known of `key`."""
    anchor = node.trust.anchors().get(key)
    link = next((link for link in node.peer_node.links() if link.peer == key), None)
    if anchor is None and link is None and not node.trust.roots_of(key, now_ms()):
        return None
    return _view(node, key, anchor, link)


def all_neighbours(node: Node) -> list[dict[str, Any]]:
    """Whom the node hears on the local network, last heard first."""
    return [_neighbour(node, *one) for one in node.nearby.heard()]


def _neighbour(node: Node, heard: Neighbour, name: str, ago_ms: int) -> dict[str, Any]:
    now = now_ms()
    anchor = node.trust.anchors().get(heard.key)
    trust = "none"
    if node.trust.is_revoked(heard.key):
        trust = "revoked"
    elif anchor is not None:
        trust = anchor.role.value
    elif node.trust.roots_of(heard.key, now):
        trust = "member"
    view: dict[str, Any] = {
        "did": did_of(heard.key),
        "name": "" if is_like_a_key(name) else name,
        "fingerprint": fingerprint(heard.key),
        "addresses": list(heard.addresses),
        "heard": rfc3339(now - ago_ms),
        "trust": trust,
    }
    if trust == "none":
        view["command"] = f"kosreg peers trust {view['did']} --address {heard.addresses[0]}"
    return view


def _view(node: Node, key: bytes, anchor: Anchor | None, link: LinkState | None) -> dict[str, Any]:
    now = now_ms()
    roots = sorted(did_of(root) for root in node.trust.roots_of(key, now))
    known = anchor or Anchor(key, Role.PEER, scope=MEMBER_SCOPE)
    said = node.node_entries.said_by(key)
    view: dict[str, Any] = {
        "did": did_of(key),
        "name": known.name or said.name,
        "fingerprint": fingerprint(key),
        "role": "member" if anchor is None else known.role.value,
        "addresses": list(known.addresses),
        "depth": known.depth,
        "scope": scope_told(known.scope),
        "roots": roots,
        "held": node.replica.map.count(key),
        "refused": node.mesh.refusals.told(key),
    }
    if anchor is not None:
        view["added"] = rfc3339(anchor.added)
        if anchor.revoked is not None:
            view["revoked"] = rfc3339(anchor.revoked)
    if (alive := node.sync.homes.told(view["did"])) is not None:
        view["node"] = alive
    view |= heirs.told(node.trust, key)
    if said.version:
        view["tells"] = {"name": said.name, "version": said.version, "addresses": list(said.addresses)}
    if link is not None:
        view["link"] = _link(link)
    if (quota := quota_told(node.mesh.quotas, key, now)) is not None:
        view["quota"] = quota
    sync = node.mesh.view(key, now)
    if sync is not None:
        view["sync"] = {
            "synced": sync.synced,
            "lag_ms": sync.lag_ms,
            "differing": sync.differing,
            "expected": sync.expected,
            "received": sync.received,
        }
    return view


def _link(link: LinkState) -> dict[str, Any]:
    return {
        "state": link.state,
        "address": link.address,
        "dialled": link.dialled,
        "up_ms": link.since_ms,
        "rtt_ms": None if link.rtt_ms is None else round(link.rtt_ms, 3),
        "offset_ms": link.offset_ms,
        "bytes_in": link.bytes_in,
        "bytes_out": link.bytes_out,
        "queued": link.queued,
        "error": link.error,
    }
