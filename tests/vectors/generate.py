"""Writes the test vectors: `python -m tests.vectors.generate`. See README.md beside this file.

Everything comes from fixed seeds and fixed times, so a second run writes the same bytes. `test_vectors.py` proves that
the files are what this writes, and checks them with an independent COSE library and a reference encoder.
"""

import json
from dataclasses import replace
from pathlib import Path

from crdt.cbor import INT_MAX
from crdt.entry import MAX_LIFE_MS, MAX_LIFE_TRUST_MS, Class, Entry, Fact
from crdt.lww_map import LWWMap, Partition
from federation.cose import sign1, sign_entry
from federation.identity import NodeKey
from federation.jws import sign_record
from tests import reference

HERE = Path(__file__).parent
NOW = 1_764_000_000_000
STAMP = NOW << 16
KEY, OTHER, NEXT = (NodeKey(bytes([number]) * 32) for number in (1, 2, 3))
ROOT = NodeKey(b"\x0f" * 32).public

WEATHER = {
    "name": "Weather forecast", "type": "agent", "tags": ["weather", "eu"], "url": "http://127.0.0.1:9001/",
    "protocol": "http", "auth": {"type": "none"}, "owner": "alice", "capabilities": ["forecast"], "ttl": 60,
    "weight": 0.5, "created": NOW, "updated": NOW,
}  # fmt: skip
SERVICE = Fact("service", "weather-1", STAMP, Class.PUBLIC, NOW + MAX_LIFE_MS, WEATHER)

FACTS: dict[str, Fact] = {
    "a public service": SERVICE,
    "a private service": replace(SERVICE, cls=Class.PRIVATE),
    "an internal service, no federation": replace(SERVICE, cls=Class.INTERNAL),
    "an internal service under a root": replace(SERVICE, cls=Class.INTERNAL, root=ROOT),
    "a tombstone": replace(SERVICE, stamp=STAMP + 1, body=None),
    "a renewal: same stamp, later valid_until": replace(SERVICE, valid_until=NOW + MAX_LIFE_MS + 1_000_000),
    "a status": replace(SERVICE, kind="status", body={"status": "degraded", "reason": "declared", "since": NOW}),
    "a node": replace(SERVICE, kind="node", name="", body={"name": "alpha", "addresses": ["wss://alpha.example:7481"]}),
    "a certificate": replace(
        SERVICE, kind="cert", name=OTHER.did, valid_until=NOW + MAX_LIFE_TRUST_MS,
        body={"state": "granted", "depth": 0, "federation": ROOT, "not_before": NOW, "not_after": NOW + MAX_LIFE_MS},
    ),
    "a succession": replace(
        SERVICE, kind="succession", name="", valid_until=NOW + MAX_LIFE_TRUST_MS,
        body={"next": NEXT.public, "proof": NEXT.sign(b"kosreg succession 1" + KEY.public + NEXT.public)},
    ),
    "an unknown kind": replace(SERVICE, kind="teapot", body={"short": True, "stout": True}),
    "unknown payload fields": replace(SERVICE, extra={8: "new", 300: {"deep": [1, None]}}),
    "an empty body, the smallest numbers": Fact("service", "", 0, Class.PRIVATE, 0, {}),
    "the largest numbers": Fact(
        "service", "ü" * 128, INT_MAX, Class.PUBLIC, INT_MAX, {"most": INT_MAX, "least": -(2**63)}
    ),
    "keys sort by length in bytes, then by bytes": replace(
        SERVICE, body={"aa": 1, "b": 2, "ü": 3, "": 4, "a": 5, "𐅑": 6, "zzz": 7}
    ),
    "floats in their shortest form": replace(
        SERVICE, body={"f": [0.0, -0.0, 0.5, 65504.0, 65536.0, 100000.0, 0.1, 1e300, 5.960464477539063e-08, 16777217.0]}
    ),
    "lengths where heads grow": replace(SERVICE, body={str(size): "x" * size for size in (23, 24, 255, 256)}),
    "nested to the limit": replace(SERVICE, body={"x": [[[[[[[[[[[[[["here"]]]]]]]]]]]]]]}),
}  # fmt: skip


def document() -> dict[str, object]:
    """All vectors, by file name."""
    return {
        "names.json": names(),
        "entries.json": [described(note, sign_entry(KEY, fact)) for note, fact in FACTS.items()],
        "order.json": order(),
        "digests.json": digests(),
        "refused.json": [
            *({"note": note, "fault": "encoding", "raw": raw.hex()} for note, raw in refused().items()),
            *({"note": note, "fault": "signature", "raw": raw.hex()} for note, raw in badly_signed().items()),
        ],
        "record.json": record(),
    }


def names() -> list[dict[str, str]]:
    return [
        {"seed": key.seed.hex(), "public": key.public.hex(), "did": key.did, "kind_did": key.kind_did}
        for key in (KEY, OTHER, NEXT)
    ]


def described(note: str, entry: Entry) -> dict[str, object]:
    payload = FACTS[note].encode() if note in FACTS else b""
    signed = reference.sig_structure(KEY.public, b"kosreg entry 1", payload)
    return {
        "note": note,
        "seed": KEY.seed.hex(),
        "kind": entry.kind,
        "name": entry.name,
        "stamp": str(entry.stamp),  # text: most JSON readers lose what is beyond 2^53
        "class": int(entry.cls),
        "root": entry.root.hex() if entry.root else None,
        "valid_until": str(entry.valid_until),
        "tombstone": not entry.live,
        "payload": payload.hex(),
        "sig_structure": signed.hex(),
        "id": entry.id.hex(),
        "raw": entry.raw.hex(),
    }


def order() -> dict[str, object]:
    """Entries from the lowest to the highest, and what is held and shown once all of a list were merged."""
    live = {"v": 1}
    fact = replace(SERVICE, name="a", body=live)
    rising = [
        fact,
        replace(fact, valid_until=fact.valid_until + 1),
        *sorted(
            (replace(fact, valid_until=fact.valid_until + 2, body={"v": version}) for version in (1, 2)),
            key=lambda each: sign_entry(KEY, each).id,
        ),
        replace(fact, stamp=STAMP + 1, valid_until=1, body=None),
        replace(fact, stamp=STAMP + 2),
    ]
    public, private = replace(fact, stamp=STAMP + 3), replace(fact, stamp=STAMP + 5, cls=Class.PRIVATE)
    buried = replace(fact, stamp=STAMP + 4, body=None)
    internal = replace(fact, stamp=STAMP + 6, cls=Class.INTERNAL, root=ROOT)
    merges = {
        "a later deletion stands against a renewal": [
            fact, replace(fact, stamp=STAMP + 1, body=None), replace(fact, valid_until=fact.valid_until + 9),
        ],
        "a class change: the old class holds a tombstone, the new one is shown": [public, buried, private],
        "one class alone: a reader of public entries learns that it is gone": [public, buried],
        "two live classes: the highest stamp is shown": [private, internal],
        "the highest has lapsed: the next is shown": [public, replace(internal, valid_until=NOW)],
        "all have lapsed: nothing is shown": [replace(fact, valid_until=NOW)],
    }  # fmt: skip
    return {
        "rising": [sign_entry(KEY, each).raw.hex() for each in rising],
        "now": NOW,
        "merges": [merge(note, [sign_entry(KEY, each) for each in facts]) for note, facts in merges.items()],
    }


def merge(note: str, entries: list[Entry]) -> dict[str, object]:
    held = LWWMap(b"")
    for entry in entries:
        held.merge(entry, NOW)
    shown = held.view(KEY.public, "service", "a", NOW)
    return {
        "note": note,
        "entries": [entry.raw.hex() for entry in entries],
        "held": sorted(entry.id.hex() for entry in held),
        "shown": shown.id.hex() if shown else None,
    }


def digests() -> list[dict[str, object]]:
    """Digests of one partition: the ids that it holds, and the 16 bytes that two nodes compare."""
    entries = [sign_entry(KEY, replace(SERVICE, name=f"s{number}")) for number in range(200)]
    found: list[dict[str, object]] = []
    for count in (0, 1, 2, 3, 127, 128, 200):
        held = LWWMap(b"")
        for entry in entries[:count]:
            held.merge(entry, NOW)
        digest = held.digest(Partition(KEY.public, Class.PUBLIC))
        found.append({"ids": [entry.id.hex() for entry in entries[:count]], "digest": digest.hex()})
    return found


def refused() -> dict[str, bytes]:
    """Messages that must be refused, all signed rightly where a signature can be: only their encoding is wrong."""
    good = {1: "service", 2: "a", 3: STAMP, 4: 2, 5: NOW + MAX_LIFE_MS, 6: {"v": 1}}
    protected = reference.encode({1: -8, 4: KEY.public})
    payload = reference.encode(good)

    def message(payload: bytes = payload, protected: bytes = protected, unprotected: bytes = b"\xa0") -> bytes:
        signed = reference.encode(["Signature1", protected, b"kosreg entry 1", payload])
        parts = reference.encode(protected), unprotected, reference.encode(payload), reference.encode(KEY.sign(signed))
        return b"\xd2\x84" + b"".join(parts)

    def body(data: bytes) -> bytes:
        return message(reference.encode(good | {6: {}}).replace(b"\x06\xa0", b"\x06" + data))

    def fields(**changes: object) -> bytes:
        changed = good | {int(name[1:]): value for name, value in changes.items()}
        return message(reference.encode({key: value for key, value in changed.items() if value != "absent"}))

    raw = message()
    return {
        "payload nested 17 deep": body(b"\xa1\x61x" + b"\x81" * 15 + b"\x00"),
        "map of indefinite length": body(b"\xbf\x61v\x01\xff"),
        "list of indefinite length": body(b"\xa1\x61v\x9f\x01\xff"),
        "text of indefinite length": body(b"\xa1\x61v\x7f\x61a\xff"),
        "duplicate key": body(b"\xa2\x61v\x01\x61v\x02"),
        "unsorted keys": body(b"\xa2\x61w\x01\x61v\x02"),
        "longer key before shorter": body(b"\xa2\x62aa\x01\x61b\x02"),
        "tag: date": body(b"\xa1\x61v\xc0\x74" + b"2026-01-01T00:00:00Z"),
        "tag: bignum": body(b"\xa1\x61v\xc2\x49\x01" + bytes(8)),
        "tag: regular expression": body(b"\xa1\x61v\xd8\x23\x61a"),
        "tag: shared value": body(b"\xa1\x61v\xd8\x1c\x80"),
        "tag: self-described": body(b"\xd9\xd9\xf7\xa0"),
        "integer below -2^63": body(b"\xa1\x61v\x3b\x80" + bytes(7)),
        "NaN": body(b"\xa1\x61v\xf9\x7e\x00"),
        "infinity": body(b"\xa1\x61v\xf9\x7c\x00"),
        "float in 8 bytes that fits 2": body(b"\xa1\x61v\xfb\x3f\xf0" + bytes(6)),
        "float in 4 bytes that fits 2": body(b"\xa1\x61v\xfa\x3f\x80\x00\x00"),
        "integer in a longer form": body(b"\xa1\x61v\x18\x01"),
        "text length in a longer form": body(b"\xa1\x78\x01v\x01"),
        "undefined": body(b"\xa1\x61v\xf7"),
        "simple value": body(b"\xa1\x61v\xf8\xff"),
        "text that is not UTF-8": body(b"\xa1\x61v\x61\xff"),
        "integer key in the body": body(b"\xa1\x01\x02"),
        "byte string key deep in the body": body(b"\xa1\x61v\x81\xa1\x41a\x01"),
        "text key in the payload": message(reference.encode(good | {"x": 1})),
        "negative key in the payload": message(reference.encode(good | {-1: 1})),
        "payload keys unsorted": message(b"\xa2\x02\x61a\x01\x61b"),
        "payload cut short": message(payload[:-1]),
        "bytes after the payload's end": message(payload + b"\x00"),
        "payload is a list": message(b"\x80"),
        "claimed length beyond the end": body(b"\xa1\x61v\x9b" + b"\xff" * 8),
        "field missing: stamp": fields(f3="absent"),
        "field missing: body": fields(f6="absent"),
        "kind is not text": fields(f1=5),
        "name of 257 bytes": fields(f2="x" * 257),
        "stamp is negative": fields(f3=-1),
        "stamp is a float": fields(f3=1.0),
        "class 3": fields(f4=3),
        "class is true": fields(f4=True),
        "valid_until is text": fields(f5="2026-01-01"),
        "body is a list": fields(f6=[]),
        "root where class is public": fields(f7=ROOT),
        "root of 31 bytes": fields(f4=1, f7=ROOT[:31]),
        "root is null": fields(f4=1, f7=None),
        "another algorithm": message(protected=reference.encode({1: -7, 4: KEY.public})),
        "no key in the protected header": message(protected=reference.encode({1: -8})),
        "another header parameter": message(protected=reference.encode({1: -8, 3: 60, 4: KEY.public})),
        "protected header unsorted": message(protected=b"\xa2\x04\x58\x20" + KEY.public + b"\x01\x27"),
        "unprotected header not empty": message(unprotected=b"\xa1\x04\x41x"),
        "payload detached": raw.replace(reference.encode(payload), b"\xf6"),
        "no tag": raw[1:],
        "another tag": b"\xd1" + raw[1:],
        "tag twice": b"\xd2" + raw,
        "bytes after the end": raw + b"\x00",
        "cut short": raw[:-1],
    }


def badly_signed() -> dict[str, bytes]:
    """Entries in good encoding whose signature must not hold."""
    raw = sign_entry(KEY, SERVICE).raw
    start = 10  # of the key in the protected header, which is also the signer's name
    group_order = 2**252 + 27742317777372353535851937790883648493
    s = int.from_bytes(raw[-32:], "little")
    neutral = b"\x01" + bytes(31)
    return {
        "one bit of the signature": raw[:-1] + bytes([raw[-1] ^ 1]),
        "one bit of the payload": raw.replace(b"alice", b"alicf"),
        "another key's name": raw[:start] + OTHER.public + raw[start + 32 :],
        "made for another use": sign1(KEY, SERVICE.encode(), b"kosreg beacon 1"),
        "no external_aad": sign1(KEY, SERVICE.encode(), b""),
        "S is not reduced": raw[:-32] + (s + group_order).to_bytes(32, "little"),
        "key of small order": raw[:start] + neutral + raw[start + 32 : -64] + neutral + bytes(32),
    }


def record() -> dict[str, object]:
    shown = {
        "id": "weather-1",
        "name": "Weather forecast",
        "type": "agent",
        "origin": KEY.did,
        "weight": 0.5,
        "ttl": 60,
    }
    return {"seed": KEY.seed.hex(), "record": shown, "signed": json.loads(sign_record(KEY, shown))}


def text(value: object) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for file, content in document().items():
        (HERE / file).write_text(text(content), encoding="utf-8")
