"""kosreg.verification: each verdict on a signed record by itself, and `valid` only where all of them hold."""

from __future__ import annotations

from typing import Any

from federation.identity import NodeKey
from federation.jws import sign_record
from federation.replica import Replica
from kosreg.times import rfc3339
from kosreg.verification import Verifier

NOW = 1_764_000_000_000
KEY, OTHER = NodeKey(b"\x01" * 32), NodeKey(b"\x02" * 32)
DAY = 24 * 3600 * 1000


def sees_all(_uid: str, _origin: str) -> bool:
    return True


def judged(signer: NodeKey, origin: NodeKey, days: int = 1) -> dict[str, Any]:
    record = {"id": "a", "name": "A", "type": "agent", "origin": origin.did, "valid_until": rfc3339(NOW + days * DAY)}
    return Verifier(Replica(KEY), sees_all).json(sign_record(signer, record), NOW)


def test_a_record_that_this_node_signed_is_valid() -> None:
    verdict = judged(KEY, KEY)
    assert [verdict[name] for name in ("signature", "trust", "scope", "age", "valid")] == [True] * 5
    assert verdict["reasons"] == []


def test_a_record_that_names_another_origin_than_its_signer_is_out_of_scope_and_not_valid() -> None:
    verdict = judged(KEY, OTHER)
    assert (verdict["signature"], verdict["trust"], verdict["scope"], verdict["valid"]) == (True, True, False, False)
    assert verdict["reasons"] == ["it names another origin than the one that signed it"]


def test_a_strangers_good_signature_is_a_good_signature() -> None:
    verdict = judged(OTHER, OTHER)
    assert (verdict["signature"], verdict["trust"], verdict["valid"]) == (True, False, False)


def test_a_record_that_has_expired_is_not_valid() -> None:
    verdict = judged(KEY, KEY, days=-1)
    assert (verdict["signature"], verdict["age"], verdict["valid"]) == (True, False, False)
    assert verdict["reasons"] == ["it has expired"]
