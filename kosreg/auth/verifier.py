"""Judges a token that was not seen before: the rules of RFC 9068 and RFC 8725, one after the other.

From cheap to dear: shape, type, issuer, key, audience, times, revocation. The signature comes last, so that junk costs
a few microseconds; until then nothing in the token is believed, it is only looked at for a reason to refuse it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final

from joserfc.jwk import Key, OKPKey

from kosreg.auth.caller import SUBJECT, Caller, limited_to, understood
from kosreg.auth.issuers import OutsideIssuer
from kosreg.auth.jose import JoseRefused, Unverified, check_signature, take_apart
from kosreg.durations import MAX_TTL
from kosreg.problems import Problem

TYP: Final = "at+jwt"
RECORD_TYP: Final = "kosreg-record+jws"
LEEWAY: Final = 5
"""Seconds by which `nbf` and `iat` may lie ahead of this clock. `exp` has none: expired is expired."""

PRINTABLE: Final = re.compile(r"[\x21-\x7e]{1,256}", re.ASCII)
"""A `jti`, and a subject of an outside issuer: no spaces, no control characters, nothing that looks like another."""

_NEXT: Final = "Ask an admin for a new one: `kosreg token issue SUBJECT`."


class Verifier:
    """Knows the keys, the issuers and what was revoked; all three are its owner's, and may change."""

    def __init__(
        self,
        dids: Sequence[str],
        keys: Mapping[str, OKPKey],
        issuers: Mapping[str, OutsideIssuer],
        revoked: Collection[str],
    ) -> None:
        self._did, self._dids = dids[0], frozenset(dids)
        self._keys = keys
        self._issuers = issuers
        self._revoked = revoked

    def check(self, text: str, now: float) -> Caller:
        """Who holds this token. Raises Problem (401), whose text says why not and what to do. `now`: s since 1970."""
        try:
            return self._check(text, now)
        except JoseRefused as error:
            raise Problem.unauthenticated(f"Refused: {error}. {_NEXT}") from error

    def _check(self, text: str, now: float) -> Caller:
        token = take_apart(text)
        claims = token.claims
        typ = _typ(token)
        iss = claims.get("iss")
        issuer = self._issuers.get(iss) if isinstance(iss, str) else None
        if issuer is None and not (isinstance(iss, str) and iss in self._dids):
            raise JoseRefused("the token comes from an issuer that this node does not know (iss)")
        if typ != TYP and not (issuer is not None and typ == "jwt"):
            raise JoseRefused(f"this is no access token: its typ is not {TYP}")
        key = self._key(token.header.get("kid"), issuer)
        if key is None:
            raise JoseRefused("the token names a key that is none of its issuer's token keys (kid)")
        aud = claims.get("aud")
        if self._dids.isdisjoint(word for word in (aud if isinstance(aud, list) else [aud]) if isinstance(word, str)):
            raise JoseRefused("the token is meant for another node (aud)")
        exp = _times(claims, now, outside=issuer is not None)
        jti, sub = claims.get("jti"), claims.get("sub")
        if not isinstance(jti, str) or PRINTABLE.fullmatch(jti) is None:
            raise JoseRefused("the token has no jti, so it could not be revoked")
        if not isinstance(sub, str) or (SUBJECT if issuer is None else PRINTABLE).fullmatch(sub) is None:
            raise JoseRefused("the token has no subject, or one that cannot be (sub)")
        if jti in self._revoked:
            raise JoseRefused("the token was revoked")
        check_signature(token, key)
        scopes = understood(_scope_texts(claims.get("scope")))
        if issuer is not None:
            sub = f"{sub}@{issuer.iss}"
            scopes = limited_to(scopes, issuer.allowed)
        return Caller(
            sub=sub,
            scopes=scopes,
            jti=jti,
            exp=exp,
            iss=self._did if issuer is None else issuer.iss,
            digest=sha256(text.encode()).digest()[:16],
            outside=issuer is not None,
            admin=any(scope.is_admin for scope in scopes),
        )

    def _key(self, kid: object, issuer: OutsideIssuer | None) -> Key | None:
        if issuer is not None:
            return issuer.key(kid)
        return self._keys.get(kid) if isinstance(kid, str) else None


def _typ(token: Unverified) -> str:
    """The media type of the token without `application/`, in lower case (RFC 7515 §4.1.9)."""
    typ = token.header.get("typ")
    short = typ.lower().removeprefix("application/") if isinstance(typ, str) else ""
    if short == RECORD_TYP:
        raise JoseRefused("this is a signed record, not a token")
    return short


def _times(claims: Mapping[str, Any], now: float, *, outside: bool) -> int:
    """`exp` in whole seconds. Raises JoseRefused where the token is not valid at `now`."""
    exp, iat, nbf = (_seconds(claims.get(name)) for name in ("exp", "iat", "nbf"))
    if exp is None or iat is None or (nbf is None and (not outside or "nbf" in claims)):
        raise JoseRefused("the token does not say when it is valid (exp, iat, nbf)")
    if exp <= now:
        raise JoseRefused("the token has expired")
    if iat > now + LEEWAY or (nbf is not None and nbf > now + LEEWAY):
        raise JoseRefused("the token is not valid yet; look at the clocks of its issuer and of this node")
    if exp - iat > MAX_TTL:
        raise JoseRefused("the token is meant to live longer than ten years")
    return int(exp)


def _seconds(value: object) -> float | None:
    """A NumericDate (RFC 7519 §2), else None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value


def _scope_texts(claim: object) -> list[str]:
    """RFC 9068 has a text with spaces between; some issuers send a list."""
    if isinstance(claim, str):
        return claim.split()
    return [text for text in claim if isinstance(text, str)] if isinstance(claim, list) else []
