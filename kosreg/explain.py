"""The story of one service in words: who signed it, when it came, why it is shown, from whom it is hidden.

Which of it a caller is told is decided in `registry`; here are only the words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import orjson

from crdt.entry import Class, Entry
from federation.cose import verify_entry
from kosreg.auth import Caller
from kosreg.foreign import did
from kosreg.names import ADMIN, Claims, proof_of
from kosreg.record import NAME_OF
from kosreg.service import ForeignService, Service
from kosreg.times import rfc3339


def told(service: Service, entry: Entry, peer_name: Callable[[bytes], str]) -> dict[str, Any]:
    """What everybody is told who may see `service`, which `entry` is behind. `peer_name`: "" where it has none."""
    return {
        "id": service.uid,
        "origin": service.origin,
        "owner": service.owner,
        "visibility": NAME_OF[service.cls],
        "entry": {
            "id": entry.id.hex(),
            "stamp": entry.stamp,
            "stamped": rfc3339(entry.stamp >> 16),
            "valid_until": rfc3339(entry.valid_until),
            "bytes": len(entry.raw),
            "signature": "valid" if verify_entry(entry) else "invalid",
        },
        "received": _received(service, peer_name),
        "replaced": None,
        "status": orjson.loads(service.json())["liveness"],
    }


def _received(service: Service, peer_name: Callable[[bytes], str]) -> dict[str, str | None]:
    if not isinstance(service, ForeignService):
        return {"at": rfc3339(service.updated), "path": "registered at this node"}
    if service.peer is None:
        return {"at": None, "path": "received over a link before this node was last started"}
    peer, name = did(service.peer), peer_name(service.peer)
    return {"at": rfc3339(service.came), "path": f"received from {f'{name} ({peer})' if name else peer} over a link"}


def claims_on(claims: Iterable[Service], shown: Service | None, now_ms: int) -> list[dict[str, Any]]:
    """Who claims one id, and what has become of each claim: `shown` is what the id names."""
    proof = None if shown is None else proof_of(shown, now_ms)
    told = []
    for claim in claims:
        other = proof_of(claim, now_ms)
        if claim is shown:
            state = "shown"
        elif proof is not None and other is not None and (proof.owner, proof.move > other.move) == (other.owner, True):
            state = "moved"
        else:
            state = "not shown"
        story = candidate(claim) | {"state": state}
        if other is not None:
            story |= {"owner_key": did(other.owner), "move": other.move}
        told.append(story)
    return told


def named_by(claims: Claims) -> str:
    """How this node knows which claim an id means."""
    if claims.how == ADMIN:
        return f"an admin said that it means {claims.holder}"
    return f"{claims.holder} had it first here, or its agent moved there"


def candidate(claim: Service) -> dict[str, Any]:
    """One of several claims on an id, as far as it must be known to choose."""
    return {"origin": claim.origin, "owner": claim.owner, "name": claim.name, "address": f"{claim.uid}@{claim.origin}"}


def held_back(uid: str, origins: Iterable[str]) -> str:
    """Of a service that is held and not shown, for admins. `origins`: DIDs."""
    return (
        f"{uid} is held of {', '.join(origins)}, and not shown: the types and tags that are believed of its origin "
        "leave it out. `kosreg peers show` tells them and `kosreg peers trust` sets others; those of a certificate are "
        "set by its root."
    )


def replaced(before: Service) -> dict[str, str]:
    """What a record replaced, as long as the journal remembers it."""
    return {"updated": rfc3339(before.updated), "visibility": NAME_OF[before.cls]}


def shown_because(service: Service, caller: Caller) -> str:
    """Why `caller` sees `service`."""
    if service.owner == caller.sub:
        return "you own it"
    return "you are an admin" if caller.admin else "its visibility and acl let you read it"


def hidden_from(service: Service, root: bytes | None) -> list[str]:
    """In words, from whom a service is hidden. `root`: of the federation that this node is in."""
    words = []
    if service.cls == Class.PRIVATE:
        words.append("everyone but its owner and admins, and every other node: it is private")
    elif service.cls == Class.INTERNAL and root is None:
        words.append("every other node: it is internal, and this node is in no federation")
    elif service.cls == Class.INTERNAL:
        words.append(f"every node outside the federation {did(root)}: it is internal")
    if service.readers is not None and service.cls != Class.PRIVATE and "*" not in service.readers:
        words.append(
            f"everyone but its owner, admins and {', '.join(service.readers) or 'nobody else'}: its acl.read says so"
        )
    return words
