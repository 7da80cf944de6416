"""The story of one service in words: who signed it, when it came, why it is shown, from whom it is hidden.

Which of it a caller is told is decided in `registry`; here are only the words.
"""

from __future__ import annotations

from typing import Any

import orjson

from crdt.entry import Class, Entry
from federation.cose import verify_entry
from kosreg.auth import Caller
from kosreg.record import NAME_OF
from kosreg.service import Service
from kosreg.times import rfc3339


def told(service: Service, entry: Entry) -> dict[str, Any]:
    """What everybody is told who may see `service`, which `entry` is behind."""
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
        "received": {"at": rfc3339(service.updated), "path": "registered at this node"},
        "replaced": None,
        "status": orjson.loads(service.json())["liveness"],
    }


def candidate(claim: Service) -> dict[str, Any]:
    """One of several claims on an id, as far as it must be known to choose."""
    return {"origin": claim.origin, "owner": claim.owner, "name": claim.name, "address": f"{claim.uid}@{claim.origin}"}


def replaced(before: Service) -> dict[str, str]:
    """What a record replaced, as long as the journal remembers it."""
    return {"updated": rfc3339(before.updated), "visibility": NAME_OF[before.cls]}


def shown_because(service: Service, caller: Caller) -> str:
    """Why `caller` sees `service`."""
    if service.owner == caller.sub:
        return "you own it"
    return "you are an admin" if caller.admin else "its visibility and acl let you read it"


def hidden_from(service: Service) -> list[str]:
    """In words, from whom a service is hidden."""
    words = []
    if service.cls == Class.PRIVATE:
        words.append("everyone but its owner and admins, and every other node: it is private")
    elif service.cls == Class.INTERNAL:
        words.append("every other node: it is internal, and this node is in no federation")
    if service.readers is not None and service.cls != Class.PRIVATE and "*" not in service.readers:
        words.append(
            f"everyone but its owner, admins and {', '.join(service.readers) or 'nobody else'}: its acl.read says so"
        )
    return words
