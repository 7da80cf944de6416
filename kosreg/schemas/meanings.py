"""What each field of a record means, in one sentence: for OpenAPI and for the documentation.

A test holds the names to those of `service_schema`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

MEANINGS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "id": "Its name at its node, for as long as it is registered. Made for it (UUIDv7) where absent.",
        "name": "What people call it.",
        "type": "What it is. `node`: what a node says about itself.",
        "tags": "Words to find it by.",
        "url": "Where it is called. No credentials in it.",
        "protocol": "How it is called. From the scheme of `url` where absent.",
        "auth": "What a caller must show to the service itself: `type`, and `token`, the secret. `token` is write-only "
        "and encrypted at rest: absent keeps the one that is stored, null removes it, another `type` drops it.",
        "endpoints": "Paths below its `url`: `path`, and `method` and `description` where wanted.",
        "status": "In an answer the effective status. In a request the declared one; `offline` counts only where `ttl` "
        "is 0, since who beats is not offline.",
        "owner": "Whose it is. The subject of the token where absent; only admins may name another.",
        "visibility": "`private`: seen by its owner and admins, at this node alone. `internal`: at all nodes of one "
        "federation. `public`: at every trusted peer.",
        "version": "Its own version.",
        "description": "What it does, in a sentence or two.",
        "capabilities": "What it can do, in words to find it by.",
        "roles": "Which parts it plays.",
        "ttl": "Seconds without a heartbeat until it is offline. 0: nobody beats, and it is never judged nor removed.",
        "depends_on": "Ids of the services that it needs.",
        "region": "Where in the world it is.",
        "weight": "How much of the work it should get, compared with others.",
        "metadata": "Data of your own: any JSON object.",
        "acl": "Who may `read` the record and `call` the service: terms `*`, `sub:NAME` (a subject of this node) or "
        "`sub:NAME@DID`. A term that is not known matches nobody; the owner and admins always may.",
        "cards": "Descriptions of it in other formats, by their names. Kept as they are.",
        "owner_proof": "A proof by the agent's own key that it lives at this node, base64url: its id follows it there.",
        "origin": "DID of the node that signed the record.",
        "klp": "Its address in the federation.",
        "created": "When it was first registered here.",
        "updated": "When its record last changed. A heartbeat does not change it.",
        "heartbeat": "When its last heartbeat came; null: none since the node started.",
        "liveness": "The declared and the effective status, the last heartbeat, the reason for the status, since when "
        "it is not active, and the load that it told.",
    }
)


def explain_fields(schema: dict[str, Any]) -> None:
    """Puts the meanings into the JSON schema of a record."""
    for name, field in schema["properties"].items():
        field["description"] = MEANINGS[name]
