"""From request to body to answer, and back."""

from __future__ import annotations

import orjson
import pytest

from crdt import cbor
from crdt.entry import Class, Fact
from federation.cose import fact_of, sign_entry
from federation.identity import NodeKey
from kosreg.problems import Problem
from kosreg.record import BODY_ORDER, body_of, dated, head_of
from kosreg.schemas.service_schema import FIELDS, WRITABLE, parse_record
from kosreg.service import Service

FULL = {
    "id": "full", "name": "Full", "type": "agent", "tags": ["a", "b", "a"], "url": "wss://h.example:1/x",
    "auth": {"type": "api_key", "token": "s3cret"},
    "endpoints": [{"method": "POST", "path": "/a", "description": "d"}],
    "status": "degraded", "owner": "bob", "visibility": "public", "version": "1", "description": "D",
    "capabilities": ["c"],
    "roles": ["r"],
    "ttl": 5, "depends_on": ["x"], "region": "eu", "weight": 2.5, "metadata": {"b": 1, "a": [1.5, None]},
    "acl": {"read": ["*"], "call": ["sub:eve"]}, "cards": {"a2a": {}}, "owner_proof": "AAEC",
}  # fmt: skip


def test_every_writable_field_has_its_place_in_the_body_or_the_entry() -> None:
    assert set(FULL) | {"protocol"} == set(WRITABLE)
    body = dated(body_of(parse_record(orjson.dumps(FULL)), "bob"), 1, 2)
    assert set(body) == set(BODY_ORDER)


def test_the_body_is_in_the_order_of_its_encoding() -> None:
    body = dated(body_of(parse_record(orjson.dumps(FULL)), "bob"), 1, 2)
    assert list(BODY_ORDER) == sorted(BODY_ORDER, key=lambda name: (len(name), name))
    assert list(body) == list(cbor.decode(cbor.encode(body)))  # type: ignore[call-overload]
    assert list(body["acl"]) == ["call", "read"]
    assert list(body["endpoints"][0]) == ["path", "method", "description"]


def test_a_head_that_is_made_later_is_the_same() -> None:
    body = dated(body_of(parse_record(orjson.dumps(FULL)), "bob"), 1, 2)
    entry = sign_entry(NodeKey(b"\x01" * 32), Fact("service", "full", 1, Class.PUBLIC, 9, body))
    body = dict(fact_of(entry).body or {})  # as the store gives it back: maps inside are in order
    late = Service("full", "did:key:z6Mk", Class.PUBLIC, body, 0, entry)
    assert late.head == head_of("full", Class.PUBLIC, body)
    assert late.head is late.head
    assert late.json() == Service("full", "did:key:z6Mk", Class.PUBLIC, body).json()


def test_a_record_that_was_read_can_be_sent_back_and_is_the_same() -> None:
    body = body_of(parse_record(orjson.dumps(FULL)), "bob")
    head = orjson.loads(head_of("full", Class.PUBLIC, dated(body, 1, 2)) + b"}")
    assert set(head) | {"origin", "klp", "heartbeat", "status", "liveness"} == set(FIELDS)
    again = body_of(parse_record(orjson.dumps(head)), "bob")
    assert again == body


def test_defaults_are_left_out_and_shown() -> None:
    record = {"name": "n", "type": "tool", "ttl": 30, "weight": 1, "tags": [], "auth": {"type": "none"}, "metadata": {},
              "acl": {}, "endpoints": []}  # fmt: skip
    body = body_of(parse_record(orjson.dumps(record)), "bob")
    assert body == {"name": "n", "type": "tool", "owner": "bob"}
    shown = orjson.loads(head_of("i", Class.INTERNAL, dated(body, 1, 2)) + b"}")
    assert (shown["ttl"], shown["weight"], shown["auth"], shown["tags"]) == (30, 1, {"type": "none"}, [])
    assert "url" not in shown


def test_a_secret_is_never_in_a_body() -> None:
    assert b"s3cret" not in cbor.encode(body_of(parse_record(orjson.dumps(FULL)), "bob"))


@pytest.mark.parametrize(
    ("url", "protocol"),
    [("http://a", "http"), ("HTTPS://a/b", "https"), ("wss://a", "ws"), ("klp://id@did:key:z6Mk/p", "klp")],
)
def test_protocol_comes_from_the_scheme(url: str, protocol: str) -> None:
    raw = orjson.dumps({"name": "n", "type": "api", "url": url})
    assert body_of(parse_record(raw), "bob")["protocol"] == protocol


FAULTS = [
    ({}, ["/name", "/type"]),
    ({"tagz": []}, ["/name", "/type", "/tagz"]),
    ({"name": "n", "type": "robot"}, ["/type"]),
    ({"name": "n", "type": "api", "ttl": -1}, ["/ttl"]),
    ({"name": "n", "type": "api", "ttl": True}, ["/ttl"]),
    ({"name": "n", "type": "api", "ttl": "30"}, ["/ttl"]),
    ({"name": "n", "type": "api", "url": "ftp://x"}, ["/url"]),
    ({"name": "n", "type": "api", "url": "http://user:pw@x"}, ["/url"]),
    ({"name": "n", "type": "api", "id": "../etc"}, ["/id"]),
    ({"name": "n", "type": "api", "id": "a" * 129}, ["/id"]),
    ({"name": "n", "type": "api", "endpoints": [{"path": "/a"}, {"path": "b"}]}, ["/endpoints/1/path"]),
    ({"name": "n", "type": "api", "auth": {"kind": "x"}}, ["/auth/kind"]),
    ({"name": "n", "type": "api", "acl": {"read": [5]}}, ["/acl/read/0"]),
    ({"name": "n", "type": "api", "weight": -0.1}, ["/weight"]),
    ({"name": "n\u0000", "type": "api"}, ["/name"]),
    ({"name": "n", "type": "api", "metadata": []}, ["/metadata"]),
    ({"name": "n", "type": "api", "a (b) [c]": 1}, ["/a (b) [c]"]),
    ({"name": "n", "type": "api", "owner_proof": "AAAAA"}, ["/owner_proof"]),
]


@pytest.mark.parametrize(("record", "pointers"), FAULTS)
def test_every_fault_is_told_with_its_pointer(record: dict[str, object], pointers: list[str]) -> None:
    with pytest.raises(Problem) as refused:
        parse_record(orjson.dumps(record))
    assert refused.value.status == 422
    assert sorted(fault["pointer"] for fault in refused.value.errors) == sorted(pointers)


def test_an_unknown_field_is_told_where_its_data_goes() -> None:
    with pytest.raises(Problem) as refused:
        parse_record(orjson.dumps({"name": "n", "type": "api", "capabilites": ["x"]}))
    text = refused.value.errors[0]["detail"]
    assert "metadata" in text
    assert "capabilities" in text
