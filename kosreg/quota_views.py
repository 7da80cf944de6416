"""What the API shows of quotas: how much is held of another node, how much may be, and why it is frozen where it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from federation.quotas import Part, Quotas
from kosreg.times import rfc3339


def quota_told(quotas: Quotas, origin: bytes, now_ms: int) -> dict[str, Any] | None:
    """For `peers show`; None where this node counts nothing, as it has had no link yet."""
    used = quotas.used(origin)
    if used is None:
        return None
    most = quotas.bound(origin, now_ms)
    told: dict[str, Any] = {
        "records": used.records,
        "bytes": used.bytes,
        "most_records": most.records,
        "most_bytes": most.bytes,
    }
    if frozen := frozen_told(quotas, origin):
        told["frozen"] = frozen
    return told


def frozen_told(quotas: Quotas, origin: bytes) -> list[dict[str, Any]]:
    """Which parts of `origin` are frozen; empty where none is."""
    return [
        {
            "part": part_name(part),
            "reason": freeze.reason,
            "since": rfc3339(freeze.since_ms),
            "refused": freeze.refused,
        }
        for part in (Part(origin), Part(origin, trust=True))
        if (freeze := quotas.frozen.get(part)) is not None
    ]


def why_frozen(quotas: Quotas, origin: bytes) -> str:
    """Why no facts of `origin` are taken; "" where they are."""
    freeze = quotas.frozen.get(Part(origin))
    return "" if freeze is None else freeze.reason


def frozen_counts(quotas: Quotas) -> Mapping[str, int]:
    """How many origins are frozen, by what is."""
    return {part_name(Part(b"", trust)): sum(part.trust == trust for part in quotas.frozen) for trust in (False, True)}


def part_name(part: Part) -> str:
    """`facts`, or `keys`: what it says about keys."""
    return "keys" if part.trust else "facts"
