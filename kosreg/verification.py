"""Whether a signed record, brought by anybody, may be believed here: which of signature, trust, scope and age hold.

Each answer is a verdict of its own: a good signature by a stranger is still a good signature. `current` says whether
it is what this node shows now to whoever asks; an old copy of a true record is true, and no longer so. Of what the
asker may not see, nothing is current: else a copy that somebody passed on would tell when the record changes.

Anybody may sign anything: what is in here is as foreign as what comes over a link.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from crdt.entry import MAX_ENTRY, Class, Entry, EntryError, max_life_ms
from federation import jws
from federation.cose import decode_entry, fact_of, verify_entry
from federation.identity import did_of
from federation.replica import CLOCK_TOLERANCE_MS, Replica
from kosreg.problems import Problem
from kosreg.record import CLASS_OF, shown
from kosreg.times import parse_rfc3339, rfc3339

Admits = Callable[[bytes, Class, bytes | None, str], bool]  # may (origin, class, root, kind) be held here?


def nobody(_origin: bytes, _cls: Class, _root: bytes | None, _kind: str) -> bool:
    """The `Admits` of a node that trusts nobody."""
    return False


@dataclass(frozen=True, slots=True)
class Verifier:
    """Judges by what `replica` holds. `sees`: whether the asker may see the service of (id, origin's DID); `admits`:
    whom this node believes in what, but for itself."""

    replica: Replica
    sees: Callable[[str, str], bool]
    admits: Admits = nobody

    def cose(self, raw: bytes, now_ms: int) -> dict[str, Any]:
        """The verdict on an entry (COSE_Sign1). Raises Problem (400, 413)."""
        if len(raw) > MAX_ENTRY:
            raise Problem.of("too-large", detail=f"an entry has at most {MAX_ENTRY} bytes")
        try:
            entry = decode_entry(raw)
        except EntryError as error:
            raise Problem.of("malformed", detail=f"this is no entry of kosreg: {error}") from None
        fact = fact_of(entry)
        verdict = self._verdict(
            "cose", verify_entry(entry), entry.origin, entry.valid_until, max_life_ms(entry.kind), now_ms
        )
        self._trust(verdict, entry.origin, entry.cls, entry.root, entry.kind)
        held = self.replica.map.view(entry.origin, entry.kind, entry.name, now_ms)
        verdict |= {
            "id": entry.name,
            "kind": entry.kind,
            "entry": entry.id.hex(),
            "deleted": not entry.live,
            "current": held is not None and held.id == entry.id and self.sees(entry.name, verdict["origin"]),
        }
        if entry.kind == "service" and entry.live:
            try:
                record = shown(entry.name, verdict["origin"], entry.cls, fact.body or {})
                orjson.dumps(record)
            except (TypeError, ValueError, AttributeError, OverflowError):
                verdict["scope"] = verdict["valid"] = False
                verdict["reasons"].append("what it says is no record of a service")
            else:
                verdict["record"] = record
        return verdict

    def json(self, raw: bytes, now_ms: int) -> dict[str, Any]:
        """The verdict on a record as flattened JWS. Raises Problem (400, 413)."""
        try:
            opened = jws.open_record(raw)
        except jws.JwsError as error:
            raise Problem.of("malformed", detail=f"this is no signed record: {error}") from None
        record = opened.record
        until = record.get("valid_until")
        try:
            valid_until = parse_rfc3339(until) if isinstance(until, str) else 0
        except (ValueError, OverflowError):
            valid_until = 0
        verdict = self._verdict("jose", opened.signature, opened.key, valid_until, max_life_ms("service"), now_ms)
        self._trust(verdict, opened.key, CLASS_OF.get(str(record.get("visibility")), Class.PRIVATE), None, "service")
        if record.get("origin") != opened.did:
            verdict["scope"] = verdict["valid"] = False
            verdict["reasons"].append("it names another origin than the one that signed it")
        uid = record.get("id")
        held = self._held(opened.key, uid, now_ms) if isinstance(uid, str) else None
        verdict |= {
            "id": uid if isinstance(uid, str) else None,
            "kind": "service",
            "current": held is not None
            and held == {k: v for k, v in record.items() if k != "valid_until"}
            and self.sees(held["id"], opened.did),
            "record": record,
        }
        return verdict

    def _held(self, origin: bytes, uid: str, now_ms: int) -> dict[str, Any] | None:
        entry: Entry | None = self.replica.map.view(origin, "service", uid, now_ms)
        if entry is None:
            return None
        try:
            return shown(uid, did_of(origin), entry.cls, fact_of(entry).body or {})
        except (TypeError, ValueError, AttributeError, OverflowError):  # another node may sign what is no record
            return None

    def _trust(self, verdict: dict[str, Any], origin: bytes, cls: Class, root: bytes | None, kind: str) -> None:
        """Add to `verdict` whether the origin is believed here at all (trust), and in this (scope)."""
        own = origin == self.replica.origin
        scope = own or self.admits(origin, cls, root, kind)
        trusted = scope or self.admits(origin, Class.PUBLIC, None, kind)
        if not scope:
            verdict["reasons"].insert(
                0 if verdict["signature"] else 1,
                "its origin may not say this here" if trusted else "its origin is not trusted here",
            )
        verdict["trust"], verdict["scope"] = trusted, scope
        verdict["valid"] = verdict["valid"] and scope

    def _verdict(
        self, form: str, signature: bool, origin: bytes, valid_until: int, life: int, now_ms: int
    ) -> dict[str, Any]:
        aged = now_ms < valid_until <= now_ms + life + CLOCK_TOLERANCE_MS
        reasons = []
        if not signature:
            reasons.append("the signature does not match")
        if not aged:
            reasons.append(
                "it has expired" if valid_until <= now_ms else "it claims to be valid for longer than is allowed"
            )
        return {
            "format": form,
            "origin": did_of(origin),
            "signature": signature,
            "trust": False,  # until `_trust` says more
            "scope": False,
            "age": aged,
            "valid": signature and aged,
            "valid_until": rfc3339(valid_until) if 0 < valid_until < 253_402_300_800_000 else None,
            "reasons": reasons,
        }
