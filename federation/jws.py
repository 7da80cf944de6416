"""Signed JSON: a record as flattened JWS (RFC 7515 §7.2.2, EdDSA of RFC 8037) over its canonical form (RFC 8785).

For those who speak JSON and no COSE. The origin makes it on request; it is neither stored nor replicated. Protected
header, and no other: `alg` EdDSA, `kid` the origin's DID, `typ` kosreg-record+jws. The `typ` keeps a record from
passing for a token, and a token for a record.

Opening is strict, as for entries: bounded size, no member twice, exactly the members that `sign_record` writes, and a
payload that is the canonical form of what it says, so that two readers cannot read one signature differently.
"""

import base64
import binascii
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import rfc8785
from joserfc import errors, jws
from joserfc.jwk import OKPKey
from joserfc.jws import FlattenedJSONSerialization

from federation.identity import DidError, NodeKey, did_of, parse_did

MAX_SIGNED: Final = 256 * 1024  # bytes of the whole JWS
RECORD_TYP: Final = "kosreg-record+jws"

_ALG: Final = "EdDSA"
_MEMBERS: Final = frozenset({"payload", "protected", "signature"})
_HEADER: Final = frozenset({"alg", "kid", "typ"})
_MAX_DEPTH: Final = 32  # containers inside each other; a record from an entry has at most 16 and its own


class _Registry(jws.JWSRegistry):
    """EdDSA alone, under the name that most verifiers know: joserfc would warn that RFC 9864 prefers `Ed25519`."""

    max_payload_length = MAX_SIGNED

    def get_alg(self, name: str) -> Any:  # the library does not export the type
        if name != _ALG:
            raise JwsError(f"alg must be {_ALG}")
        return self.algorithms[name]


_REGISTRY: Final = _Registry(algorithms=[_ALG])


class JwsError(ValueError):
    """The record cannot be signed, or the bytes are no signed record of ours. The text says which rule."""


@dataclass(frozen=True, slots=True)
class SignedRecord:
    """A record that was opened. `did` and `key` (32 bytes): who it says signed it; `signature`: whether that holds."""

    did: str
    key: bytes
    record: dict[str, object]
    signature: bool


def sign_record(key: NodeKey, record: Mapping[str, object]) -> bytes:
    """`record` as flattened JWS by `key`, in UTF-8. Raises JwsError for what has no RFC 8785 form (integers beyond
    2^53, NaN, values that are not JSON) or is over 256 KiB."""
    try:
        payload = rfc8785.dumps(dict(record))  # type: ignore[arg-type]  # what is not JSON is what it refuses
    except (rfc8785.CanonicalizationError, RecursionError, UnicodeEncodeError) as error:
        raise JwsError(f"the record has no canonical JSON form (RFC 8785): {error}") from None
    if not _nests_within(record, _MAX_DEPTH):
        raise JwsError(f"the record is nested deeper than {_MAX_DEPTH}")
    header = {"alg": _ALG, "kid": key.did, "typ": RECORD_TYP}
    if len(payload) > MAX_SIGNED:  # joserfc's own limit speaks of something else
        raise JwsError(f"the record has {len(payload):,} bytes, the most, signed, is {MAX_SIGNED:,}")
    signed = jws.serialize_json({"protected": header}, payload, _private(key), registry=_REGISTRY)
    raw = json.dumps(signed, separators=(",", ":"), sort_keys=True).encode()
    if len(raw) > MAX_SIGNED:
        raise JwsError(f"the signed record would have {len(raw):,} bytes, the most is {MAX_SIGNED:,}")
    return raw


def verify_record(raw: bytes) -> tuple[str, dict[str, object]]:
    """(DID of the signer, record). Raises JwsError for another shape and for a signature that does not hold."""
    opened = open_record(raw)
    if not opened.signature:
        raise JwsError("the signature does not hold")
    return opened.did, opened.record


def open_record(raw: bytes) -> SignedRecord:
    """What `raw` says and who it says signed it, whether or not the signature holds. Raises JwsError for another
    shape."""
    if len(raw) > MAX_SIGNED:
        raise JwsError(f"{len(raw):,} bytes, the most is {MAX_SIGNED:,}")
    outer = _json_object(raw, "the message")
    if outer.keys() != _MEMBERS:
        raise JwsError("a flattened JWS of ours has exactly the members payload, protected and signature")
    message: FlattenedJSONSerialization = {
        "payload": _text(outer["payload"], "payload"),
        "protected": _text(outer["protected"], "protected"),
        "signature": _text(outer["signature"], "signature"),
    }
    payload, header = _b64(message["payload"], "payload"), _header(_b64(message["protected"], "protected"))
    _b64(message["signature"], "signature")
    did = header["kid"]
    try:
        key = parse_did(did)
    except DidError as error:
        raise JwsError(f"kid: {error}") from None
    if did_of(key) != did:
        raise JwsError("kid must be the origin's DID as did:key:z6Mk…")
    record = _json_object(payload, "the payload")
    if _canonical(record) != payload:
        raise JwsError("the payload is not in canonical JSON form (RFC 8785)")
    return SignedRecord(did, key, record, _holds(message, key))


def _header(data: bytes) -> dict[str, str]:
    header = _json_object(data, "the protected header")
    if header.keys() != _HEADER:
        raise JwsError("the protected header has exactly alg, kid and typ")
    if header["alg"] != _ALG:
        raise JwsError(f"alg must be {_ALG}")
    if header["typ"] != RECORD_TYP:
        raise JwsError(f"typ must be {RECORD_TYP}: this signature was made for something else")
    if not isinstance(header["kid"], str):
        raise JwsError("kid must be text")
    return {"alg": _ALG, "typ": RECORD_TYP, "kid": header["kid"]}


def _holds(message: FlattenedJSONSerialization, key: bytes) -> bool:
    x = base64.urlsafe_b64encode(key).decode().rstrip("=")
    try:
        public = OKPKey.import_key({"kty": "OKP", "crv": "Ed25519", "x": x})
        jws.deserialize_json(message, public, registry=_REGISTRY)
    except (errors.JoseError, ValueError):
        return False
    return True


def _private(key: NodeKey) -> OKPKey:
    x, d = (base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (key.public, key.seed))
    return OKPKey.import_key({"kty": "OKP", "crv": "Ed25519", "x": x, "d": d})


def _canonical(record: dict[str, object]) -> bytes:
    try:
        return rfc8785.dumps(record)  # type: ignore[arg-type]
    except (rfc8785.CanonicalizationError, RecursionError, UnicodeEncodeError) as error:
        raise JwsError(f"the payload has no canonical JSON form (RFC 8785): {error}") from None


def _text(value: object, member: str) -> str:
    if not isinstance(value, str):
        raise JwsError(f"{member} must be text")
    return value


def _b64(value: str, member: str) -> bytes:
    """Base64url without padding, in its one spelling (RFC 7515 §2)."""
    try:
        data = base64.b64decode(value + "=" * (-len(value) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise JwsError(f"{member} is not base64url") from None
    if base64.urlsafe_b64encode(data).decode().rstrip("=") != value:
        raise JwsError(f"{member} is not base64url in its one spelling, without padding")
    return data


def _json_object(data: bytes, what: str) -> dict[str, object]:
    def no_twins(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise JwsError(f"{what} has a member twice")
        return found

    def no_constants(name: str) -> object:
        raise JwsError(f"{what} holds {name}, which is not JSON")

    def finite(text: str) -> float:
        if not math.isfinite(number := float(text)):
            raise JwsError(f"{what} holds a number that no double can hold")
        return number

    try:
        value = json.loads(data.decode(), object_pairs_hook=no_twins, parse_constant=no_constants, parse_float=finite)
    except JwsError:
        raise
    except (ValueError, RecursionError) as error:
        raise JwsError(f"{what} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise JwsError(f"{what} must be a JSON object")
    if not _nests_within(value, _MAX_DEPTH):
        raise JwsError(f"{what} is nested deeper than {_MAX_DEPTH}")
    return value


def _nests_within(value: object, depth: int) -> bool:
    if isinstance(value, Mapping):
        return depth > 0 and all(_nests_within(item, depth - 1) for item in value.values())
    if isinstance(value, list | tuple):
        return depth > 0 and all(_nests_within(item, depth - 1) for item in value)
    return True
