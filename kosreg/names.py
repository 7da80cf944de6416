"""One id, one service: which of several claims a bare service id names (DESIGN §3).

Nearly every id has one claimant, and then there is nothing to decide. This is for an id that several origins claim, or
did. Somebody *holds* it: the origin that an admin set (`kosreg services alias`), else the one that this node resolved
first. Then:

1. our own entry is shown, else the holder's (what a node says of itself, under its own DID, before all others);
2. unless another claim carries a proof by the same owner key with a higher move number: the agent has moved, that claim
   is shown, and its origin holds the id from then on;
3. where the holder's claim is gone: claims that all carry proofs by the key that was seen last on the holder's, the
   highest move first; else nobody's. A newcomer never gets a name by being alive, nor by waiting.

No clock, no I/O: the time comes in.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Literal

import orjson

from federation.identity import parse_did
from kosreg.owner_proof import OwnerProof, ProofError, check_proof
from kosreg.record import proof_bytes
from kosreg.service import Service

How = Literal["first", "admin"]  # how a holder came to be it
FIRST: Final = "first"  # this node resolved it first, or its agent moved there from where it was
ADMIN: Final = "admin"  # an admin said so


@dataclass(slots=True)
class Claims:
    """Who claims one id. `by_origin`: the claims that live, by DID; `holder`: the DID of the origin that holds it;
    `key`: the owner key that the holder last proved, as far as this run has seen."""

    holder: str
    how: How = FIRST
    by_origin: dict[str, Service] = field(default_factory=dict)
    key: bytes | None = None

    def winner(self, now_ms: int) -> Service | None:
        """What the bare id names now. Moves `holder` where an agent has moved."""
        own = next((claim for claim in self.by_origin.values() if not claim.foreign), None)
        held = self.by_origin.get(self.holder)
        base = next((claim for did, claim in self.by_origin.items() if claim.uid == did), own or held)
        if base is None:
            return self._heir(now_ms)
        proof = proof_of(base, now_ms)
        if held is not None:
            held_proof = proof if held is base else proof_of(held, now_ms)
            self.key = None if held_proof is None else held_proof.owner
        best = base if proof is None else self._moved(base, proof, now_ms)
        if best is not base:
            self._hand_over(best, now_ms)
        return best

    def _moved(self, base: Service, proof: OwnerProof, now_ms: int) -> Service:
        best, move = base, proof.move
        for claim in self._in_order():
            other = proof_of(claim, now_ms)
            if other is not None and other.owner == proof.owner and other.move > move:
                best, move = claim, other.move
        return best

    def _heir(self, now_ms: int) -> Service | None:
        proofs = [(claim, proof_of(claim, now_ms)) for claim in self._in_order()]
        if self.key is None or not proofs or any(p is None or p.owner != self.key for _, p in proofs):
            return None
        best, _ = max(proofs, key=lambda pair: -1 if pair[1] is None else pair[1].move)
        self._hand_over(best, now_ms)
        return best

    def _hand_over(self, claim: Service, now_ms: int) -> None:
        proof = proof_of(claim, now_ms)
        self.holder, self.how = claim.origin, FIRST
        self.key = None if proof is None else proof.owner

    def _in_order(self) -> Iterable[Service]:
        """The same at every node, so that nodes with the same claims choose the same."""
        return (self.by_origin[did] for did in sorted(self.by_origin))


def proof_of(service: Service, now_ms: int) -> OwnerProof | None:
    """The proof that `service` carries for itself, None where it has none that holds at `now_ms`."""
    if b'"owner_proof":"' not in service.head:
        return None
    text = orjson.loads(service.head + b"}").get("owner_proof")
    if not isinstance(text, str):
        return None
    try:
        return check_proof(proof_bytes(text), service.uid, parse_did(service.origin), now_ms, service.former)
    except (ProofError, ValueError):
        return None
