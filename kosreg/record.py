"""From a validated request to the body of an entry, and back to the JSON of an answer.

Three forms of one record:
- `ServiceIn`: what a client sent, validated (`schemas.service_schema`);
- *body*: what is signed (PROTOCOL, "Bodies"): what is absent or at its default is left out, times are ms;
- *head*: the JSON that an answer shows, made once when the record changes and kept as bytes; the live tail
  (status, heartbeat, liveness) is added when it is shown (`catalog`).

`heartbeat`, `status`, `liveness`, `id`, `visibility`, `origin` and `klp` are never in a body.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import urlsplit

import orjson

from crdt.entry import Class
from kosreg.schemas.service_schema import DEFAULT_TTL, DEFAULT_WEIGHT, ServiceIn
from kosreg.times import rfc3339

Body = dict[str, Any]

CLASS_OF: dict[str | None, Class] = {
    None: Class.INTERNAL,
    "private": Class.PRIVATE,
    "internal": Class.INTERNAL,
    "public": Class.PUBLIC,
}
NAME_OF = {value: name for name, value in CLASS_OF.items() if name is not None}
_PROTOCOL_OF = {"http": "http", "https": "https", "ws": "ws", "wss": "ws", "klp": "klp"}

# the fields of a body in the order of their deterministic encoding (RFC 8949 §4.2.1): shorter first, then by bytes
BODY_ORDER = (
    "acl", "ttl", "url", "auth", "name", "tags", "type", "cards", "owner", "roles", "region", "weight", "created",
    "updated", "version", "metadata", "protocol", "endpoints", "depends_on", "description", "owner_proof",
    "capabilities",
)  # fmt: skip
_PLAIN = ("url", "name", "type", "owner", "region", "version", "description", "metadata", "cards")
_LISTS = ("tags", "roles", "depends_on", "capabilities")


def body_of(record: ServiceIn, owner: str) -> Body:
    """The signed body of `record`, without `created` and `updated`. Equal records give equal bodies."""
    source = cast(Mapping[str, Any], record)
    body: Body = {}
    for name in BODY_ORDER:
        value = source.get(name)
        if name == "owner":
            body[name] = owner
        elif value is None:
            if name == "protocol" and "url" in source:
                body[name] = _PROTOCOL_OF[urlsplit(source["url"]).scheme.lower()]
        elif name in _LISTS:
            if value:
                body[name] = list(dict.fromkeys(value))
        elif name == "ttl":
            if value != DEFAULT_TTL:
                body[name] = value
        elif name == "weight":
            if value != DEFAULT_WEIGHT:
                body[name] = int(value) if value == int(value) else value
        elif name == "auth":
            kind = value.get("type", "none")
            if kind != "none":
                body[name] = {"type": kind}
        elif name == "endpoints":
            if value:
                body[name] = [{k: v for k, v in item.items() if v is not None} for item in value]
        elif name == "acl":
            rules = {k: list(dict.fromkeys(v)) for k, v in sorted(value.items()) if v is not None}
            if rules:
                body[name] = rules
        elif name == "owner_proof":
            body[name] = proof_bytes(value)
        elif name in ("metadata", "cards"):
            if value:
                body[name] = value
        else:
            body[name] = value
    return body


def proof_bytes(text: str) -> bytes:
    """base64url without padding, as `owner_proof` is sent."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def proof_text(proof: bytes) -> str:
    """The inverse of `proof_bytes`."""
    return base64.urlsafe_b64encode(proof).rstrip(b"=").decode()


def shown(uid: str, origin: str, cls: Class, body: Mapping[str, Any]) -> dict[str, Any]:
    """The record as an answer shows it, without its live fields (`heartbeat`, `status`, `liveness`)."""
    get = body.get
    out: dict[str, Any] = {
        "id": uid,
        "name": get("name", ""),
        "type": get("type", "service"),
        "tags": get("tags", []),
    }
    if "url" in body:
        out["url"] = body["url"]
    if "protocol" in body:
        out["protocol"] = body["protocol"]
    out["auth"] = {"type": get("auth", {}).get("type", "none")}
    out["endpoints"] = get("endpoints", [])
    out["owner"] = get("owner", "")
    out["visibility"] = NAME_OF[cls]
    for name in ("version", "description"):
        if name in body:
            out[name] = body[name]
    out["capabilities"] = get("capabilities", [])
    out["roles"] = get("roles", [])
    out["ttl"] = get("ttl", DEFAULT_TTL)
    out["depends_on"] = get("depends_on", [])
    if "region" in body:
        out["region"] = body["region"]
    out["weight"] = get("weight", DEFAULT_WEIGHT)
    out["metadata"] = get("metadata", {})
    for name in ("acl", "cards"):
        if name in body:
            out[name] = body[name]
    if "owner_proof" in body:
        out["owner_proof"] = proof_text(body["owner_proof"])
    out["origin"] = origin
    out["klp"] = f"klp://{uid}"
    out["created"] = rfc3339(get("created", 0))
    out["updated"] = rfc3339(get("updated", 0))
    return out


def head_of(uid: str, origin: str, cls: Class, body: Mapping[str, Any]) -> bytes:
    """`shown` as JSON bytes without the closing brace: the live tail follows."""
    return orjson.dumps(shown(uid, origin, cls, body))[:-1]
