"""`POST /api/services/verify` takes what anybody has signed: whatever it says, the answer is a verdict."""

from __future__ import annotations

import time
from typing import Any

import pytest

from crdt.entry import KINDS, Class, Fact
from federation import jws
from federation.cose import sign_entry
from federation.identity import NodeKey
from tests.harness import Client

STRANGER = NodeKey(b"\x09" * 32)
LATER = (int(time.time()) + 86_400) * 1000

BODIES: list[dict[str, Any]] = [
    {},
    {"name": "n", "type": "agent"},
    {"auth": 5},
    {"auth": {"type": {"deep": 1}}},
    {"auth": None},
    {"created": "yesterday", "updated": -1},
    {"created": 2**63 - 1, "updated": -(2**63)},
    {"created": 1.5},
    {"owner_proof": "text"},
    {"owner_proof": b"\x00\xff"},
    {"metadata": {"bytes": b"\x00"}},
    {"metadata": {"big": 2**64 - 1, "low": -(2**63)}},
    {"name": b"bytes", "tags": 7, "endpoints": "x", "ttl": [], "acl": 5},
    {"metadata": {"nan": 0.5, "deep": [[[[[[[[1]]]]]]]]}},
]


@pytest.mark.parametrize("kind", [*sorted(KINDS), "unheard-of"])
async def test_an_entry_of_a_stranger_gets_a_verdict(bob: Client, kind: str) -> None:
    for body in [*BODIES, None]:
        for name in ("", "weather", "ünï", "a" * 256):
            entry = sign_entry(STRANGER, Fact(kind, name, 1, Class.PUBLIC, LATER, body))
            status, verdict, _ = await bob.post("/api/services/verify", entry.raw, Content_Type="application/cose")
            assert status == 200, (body, verdict)
            told = (verdict["signature"], verdict["trust"], verdict["valid"], verdict["current"])
            assert told == (True, False, False, False)


@pytest.mark.parametrize("valid_until", [0, 1, LATER, 2**63, 2**64 - 1], ids=["0", "1", "later", "2^63", "2^64-1"])
async def test_any_time_gets_a_verdict(bob: Client, valid_until: int) -> None:
    entry = sign_entry(STRANGER, Fact("service", "a", 1, Class.PUBLIC, valid_until, {"name": "n"}))
    status, verdict, _ = await bob.post("/api/services/verify", entry.raw, Content_Type="application/cose")
    assert (status, verdict["age"]) == (200, valid_until == LATER)


@pytest.mark.parametrize(
    "until",
    [
        "", "soon", "0001-01-01T00:00:00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59.999-14:00", "2026-01-01",
        "2026-11-24T10:00:00.000Z", 5, None, [], {},
    ],
)  # fmt: skip
@pytest.mark.parametrize("uid", ["a", 5, None, [], {"x": 1}])
async def test_a_signed_record_of_a_stranger_gets_a_verdict(bob: Client, until: Any, uid: Any) -> None:
    raw = jws.sign_record(STRANGER, {"id": uid, "valid_until": until, "origin": 5})
    status, verdict, _ = await bob.post("/api/services/verify", raw, Content_Type="application/jose+json")
    assert status == 200, verdict
    assert verdict["id"] == (uid if isinstance(uid, str) else None)
    assert (verdict["signature"], verdict["scope"], verdict["valid"], verdict["current"]) == (True, False, False, False)
