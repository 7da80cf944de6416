"""JWS and JWK, as far as tokens need them: the one place that signs and checks them (joserfc does the work).

Nothing in a token chooses its key: a `kid` only names one of the keys that are held here, the algorithms are those of
that key, and `jku`, `x5u`, `jwk` and `x5c` are never looked at, let alone fetched (RFC 8725 §3.1, §3.10). `crit` is
refused: no extension is understood.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson
from joserfc import jws
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey, import_key
from joserfc.jws import JWSRegistry
from joserfc.util import urlsafe_b64decode

MAX_TOKEN: Final = 8 * 1024
"""Bytes. Headers longer than this are cut off by many HTTP servers, ours included."""

MIN_RSA_BITS: Final = 2048

_PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth"})  # RFC 7518 §6: not wanted here

_COMPACT: Final = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)", re.ASCII)


class JoseRefused(Exception):
    """Not a JWS, or not one that its key has signed. The text is for whoever sent it."""


class _Registry(JWSRegistry):
    """Takes `EdDSA` without the warning of joserfc: RFC 9864 prefers `Ed25519`, most verifiers know the older name."""

    max_header_length = 4096

    def get_alg(self, name: str) -> Any:
        if self.allowed is None or name not in self.allowed:
            raise JoseRefused(f"the algorithm {name[:20]!r} is not taken")
        return self.algorithms[name]


_ALGORITHMS: Final = ("EdDSA", "Ed25519", "ES256", "RS256")
_REGISTRY: Final = _Registry(algorithms=_ALGORITHMS, strict_check_header=False)


@dataclass(frozen=True, slots=True)
class Unverified:
    """A JWT taken apart; nothing of it is true yet."""

    text: str
    header: Mapping[str, Any]
    claims: Mapping[str, Any]


def take_apart(text: str) -> Unverified:
    """Header and claims of a compact JWS. Raises JoseRefused."""
    if len(text) > MAX_TOKEN:
        raise JoseRefused("the token is longer than 8 KiB")
    match = _COMPACT.fullmatch(text)
    if match is None:
        raise JoseRefused("that is no token: a JWT has three parts with dots between them")
    header, claims = _object(match[1], "header"), _object(match[2], "payload")
    if "crit" in header or "b64" in header:
        raise JoseRefused("the token demands extensions (crit, b64), and none is supported here")
    return Unverified(text, header, claims)


def check_signature(token: Unverified, key: Key) -> None:
    """Raises JoseRefused unless `key` has signed `token` with an algorithm of that key."""
    alg = token.header.get("alg")
    if not isinstance(alg, str) or alg not in algorithms_of(key):
        raise JoseRefused(f"the algorithm {str(alg)[:20]!r} does not fit the key")
    try:
        jws.deserialize_compact(token.text, key, registry=_REGISTRY)
    except (JoseError, ValueError, TypeError, RecursionError) as error:
        raise JoseRefused("the signature does not hold") from error


def sign(claims: Mapping[str, Any], key: OKPKey, typ: str) -> str:
    """A compact JWS over `claims` with `kid`, by an Ed25519 key."""
    header = {"typ": typ, "alg": "EdDSA", "kid": key.thumbprint()}
    return jws.serialize_compact(header, orjson.dumps(claims), key, registry=_REGISTRY)


def algorithms_of(key: Key) -> tuple[str, ...]:
    """What may be verified with `key`; nothing for kinds and sizes that are not taken (symmetric ones, above all)."""
    if isinstance(key, OKPKey):
        return ("EdDSA", "Ed25519") if key.get("crv") == "Ed25519" else ()
    if isinstance(key, ECKey):
        return ("ES256",) if key.get("crv") == "P-256" else ()
    if isinstance(key, RSAKey):
        return ("RS256",) if key.raw_value.key_size >= MIN_RSA_BITS else ()
    return ()


def ed25519_from_seed(seed: bytes) -> OKPKey:
    """The signing key of a 32-byte seed (RFC 8037)."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    native = Ed25519PrivateKey.from_private_bytes(seed)
    return OKPKey(native, native)


def public_jwk(key: OKPKey) -> dict[str, str]:
    """The public half, as a JWKS shows it."""
    x = key.as_dict(private=False)["x"]
    return {"kty": "OKP", "crv": "Ed25519", "x": str(x), "kid": key.thumbprint(), "use": "sig", "alg": "EdDSA"}


def read_jwks(raw: bytes) -> tuple[dict[str, Key], int]:
    """The usable keys of a JWKS by their `kid` (else their thumbprint), and how many were passed over.

    Raises ValueError where it is no JWKS at all.
    """
    document = orjson.loads(raw)
    members = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(members, list):
        raise ValueError("it is no JWKS: an object with a list `keys` is expected")
    keys: dict[str, Key] = {}
    for member in members:
        key = _verifying(member)
        if key is not None:
            keys.setdefault(key.kid or key.thumbprint(), key)
    return keys, len(members) - len(keys)


def _verifying(member: object) -> Key | None:
    """The public key of a member of a JWKS, if signatures can be checked with it."""
    if (
        not isinstance(member, dict)
        or member.get("kty") not in ("OKP", "EC", "RSA")
        or member.get("use", "sig") != "sig"
    ):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SecurityWarning)  # of short RSA keys, which `algorithms_of` refuses
            key = import_key({name: value for name, value in member.items() if name not in _PRIVATE})
    except Exception:  # whatever it is: one key that cannot be read must not cost the others; they are counted
        return None
    return key if algorithms_of(key) else None


def _object(part: str, what: str) -> Mapping[str, Any]:
    try:
        value = orjson.loads(urlsafe_b64decode(part.encode()))
    except ValueError as error:
        raise JoseRefused(f"that is no token: its {what} is no JSON") from error
    if not isinstance(value, dict):
        raise JoseRefused(f"that is no token: its {what} is no JSON object")
    return value
