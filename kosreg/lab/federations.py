"""Who trusts whom in a lab: root keys that the lab makes, certificates by them, and what each node is told.

All of it goes through the nodes' own API, as an admin would do it. A certificate is signed once a node, so that a node
that was wiped gets the same one back.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Final

from federation.identity import NodeKey
from federation.trust import issue_cert
from kosreg.lab.errors import LabError
from kosreg.lab.node import LabNode

COSE: Final = "application/cose"
EARLIER_MS: Final = 3_600_000  # certificates hold from an hour ago: a node whose clock is a little late believes them


class Federation:
    """A root key and the names of the nodes that it certifies. `allies`: federations whose public facts they take."""

    def __init__(self, name: str, members: Iterable[str]) -> None:
        self.name = name
        self.members = list(members)
        self.allies: list[Federation] = []
        self.key = NodeKey.generate()
        self._certs: dict[str, bytes] = {}  # by did

    def __repr__(self) -> str:
        return f"<Federation {self.name}: {', '.join(self.members)}>"

    @property
    def did(self) -> str:
        """Of the root key."""
        return self.key.did

    def cert(self, node: LabNode) -> bytes:
        """The `cert` entry that makes `node` a member: COSE_Sign1."""
        if node.did not in self._certs:
            now = time.time_ns() // 1_000_000
            entry = issue_cert(self.key, node.key.public, now_ms=now, not_before=now - EARLIER_MS)
            self._certs[node.did] = entry.raw
        return self._certs[node.did]


async def anchor_root(node: LabNode, federation: Federation) -> None:
    """`node` trusts the root of `federation`."""
    await _told(node, {"did": federation.did, "role": "root", "name": federation.name})


async def trust_peer(node: LabNode, peer: LabNode, address: str | None) -> None:
    """`node` trusts the key of `peer`, and keeps a link to it where it is told an address."""
    await _told(
        node, {"did": peer.did, "role": "peer", "name": peer.name, "addresses": [] if address is None else [address]}
    )


async def post_certs(node: LabNode, certs: Sequence[bytes]) -> None:
    """Give `node` certificates."""
    for raw in certs:
        await node.api.call("POST", "/api/certs", body=raw, content_type=COSE)


async def revoke(node: LabNode, did: str, *, purge: bool = False) -> None:
    """`node` believes `did` in nothing any more."""
    await node.api.call("DELETE", f"/api/peers/{did}", query=[("purge", "true")] if purge else [])


async def _told(node: LabNode, wish: dict[str, object]) -> None:
    answer = await node.api.call("POST", "/api/peers", body=wish)
    if answer.status not in (200, 201):
        raise LabError(f"{node.name} did not take {wish}: {answer.status}")
