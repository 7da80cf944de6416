"""`owner_proof`: an agent's own key says at which node it lives, so that its id follows it when it moves.

COSE_Sign1 by the agent's key, `external_aad = "kosreg owner 1"`, over the map {1: service id, 2: the node's key (32
bytes), 3: move number, 4: not_after (ms since 1970)}. An agent counts its moves: of two proofs by one key the one with
the higher move number says where it is now. Made once for each move, and good for one id at one node only, so nobody
can carry it elsewhere.

No I/O, no clock: the time comes in. A signature is checked once and remembered (54 µs).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from crdt import cbor
from federation.cose import CoseError, sign1, verify1
from federation.identity import KEY_BYTES, NodeKey, did_of

OWNER_AAD: Final = b"kosreg owner 1"
MAX_PROOF: Final = 6_144  # bytes: what 8,192 characters of base64url hold
REMEMBERED: Final = 4_096  # proofs whose signature is not checked again, of some 250 bytes

_ID, _ORIGIN, _MOVE, _NOT_AFTER = range(1, 5)


@dataclass(frozen=True, slots=True)
class OwnerProof:
    """What a proof says whose signature holds. `owner`: the agent's public key; `origin`: the node's; `not_after`: ms
    since 1970."""

    owner: bytes
    service_id: str
    origin: bytes
    move: int
    not_after: int


class ProofError(ValueError):
    """The bytes are no proof, or not one for this id, node and time. The text says what to do."""


def make_proof(key: NodeKey, service_id: str, origin: bytes, move: int, not_after: int) -> bytes:
    """The proof that the agent with `key` lives at the node `origin` under `service_id` since its `move`-th move."""
    said: dict[object, object] = {_ID: service_id, _ORIGIN: origin, _MOVE: move, _NOT_AFTER: not_after}
    return sign1(key, cbor.encode(said, uint_keys=True), OWNER_AAD)


@lru_cache(maxsize=REMEMBERED)
def read_proof(raw: bytes) -> OwnerProof | None:
    """What `raw` says, its signature checked; None where it is no proof."""
    try:
        owner, payload = verify1(raw, OWNER_AAD, MAX_PROOF)
        said = cbor.decode(payload, uint_keys=True)
    except (CoseError, cbor.CborError):
        return None
    if type(said) is not dict or said.keys() != {_ID, _ORIGIN, _MOVE, _NOT_AFTER}:
        return None
    service_id, origin, move, not_after = (said[number] for number in (_ID, _ORIGIN, _MOVE, _NOT_AFTER))
    if type(service_id) is not str or type(origin) is not bytes or len(origin) != KEY_BYTES:
        return None
    if type(move) is not int or type(not_after) is not int or move < 0:
        return None
    return OwnerProof(owner, service_id, origin, move, not_after)


def check_proof(raw: bytes, service_id: str, origin: bytes, now_ms: int, former: Collection[bytes] = ()) -> OwnerProof:
    """The proof in `raw` if it is one for `service_id` at the node `origin`, now. `former`: keys that the node had
    before. Raises ProofError."""
    proof = read_proof(raw)
    if proof is None:
        raise ProofError("is no proof that its key signed: make one with the agent's key, or leave it out")
    if proof.service_id != service_id:
        raise ProofError(f"is for the id {proof.service_id!r}, not {service_id!r}: make one for this id")
    if proof.origin != origin and proof.origin not in former:
        raise ProofError(
            f"is for the node {did_of(proof.origin)}, this is {did_of(origin)}: an agent that moves here makes a new "
            "one, with the next move number"
        )
    if proof.not_after <= now_ms:
        raise ProofError("has expired: make a new one, with a later not_after")
    return proof
