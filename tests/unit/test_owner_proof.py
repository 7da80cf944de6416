"""A proof holds for one id at one node until it expires, and for nothing else."""

from __future__ import annotations

import pytest

from crdt import cbor
from federation.cose import sign1
from federation.identity import NodeKey
from kosreg.owner_proof import OWNER_AAD, OwnerProof, ProofError, check_proof, make_proof, read_proof

AGENT, NODE, OTHER = (NodeKey(bytes([n]) * 32) for n in (1, 2, 3))
NOW = 1_790_000_000_000


def test_what_was_made_is_what_is_read() -> None:
    raw = make_proof(AGENT, "translator", NODE.public, 7, NOW + 1)
    said = OwnerProof(AGENT.public, "translator", NODE.public, 7, NOW + 1)
    assert check_proof(raw, "translator", NODE.public, NOW) == read_proof(raw) == said


@pytest.mark.parametrize(
    ("uid", "origin", "now", "hint"),
    [
        ("another", NODE.public, NOW, "'translator'"),
        ("translator", OTHER.public, NOW, NODE.did),
        ("translator", NODE.public, NOW + 1, "expired"),
    ],
)
def test_it_is_good_for_nothing_else(uid: str, origin: bytes, now: int, hint: str) -> None:
    raw = make_proof(AGENT, "translator", NODE.public, 7, NOW + 1)
    with pytest.raises(ProofError, match=hint):
        check_proof(raw, uid, origin, now)


def test_a_changed_bit_spoils_it() -> None:
    raw = make_proof(AGENT, "t", NODE.public, 7, NOW)
    for at in range(0, len(raw), 7):
        assert read_proof(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]) is None


@pytest.mark.parametrize(
    "said",
    [
        {}, {1: "t", 2: NODE.public, 3: 7}, {1: "t", 2: NODE.public, 3: 7, 4: NOW, 5: 0},
        {1: b"t", 2: NODE.public, 3: 7, 4: NOW}, {1: "t", 2: b"short", 3: 7, 4: NOW},
        {1: "t", 2: NODE.public, 3: -7, 4: NOW}, {1: "t", 2: NODE.public, 3: True, 4: NOW},
        {1: "t", 2: NODE.public, 3: 7, 4: "soon"},
    ],
)  # fmt: skip
def test_another_shape_is_no_proof(said: dict[object, object]) -> None:
    assert read_proof(sign1(AGENT, cbor.encode(said, uint_keys=True), OWNER_AAD)) is None


def test_a_signature_for_another_use_is_no_proof() -> None:
    payload = cbor.encode({1: "t", 2: NODE.public, 3: 7, 4: NOW}, uint_keys=True)
    assert read_proof(sign1(AGENT, payload, OWNER_AAD)) is not None
    assert read_proof(sign1(AGENT, payload, b"kosreg entry 1")) is None
