"""Tokens of other issuers: their keys, their bounds, their names."""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt as pyjwt
import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kosreg.auth import Auth, ScopeError
from kosreg.auth.issuers import MAX_JWKS, RECHECK
from kosreg.problems import Problem
from tests.unit.auth.conftest import NOW, Setup, refused

ISS = "https://id.example"
ED25519 = Ed25519PrivateKey.generate()
P256 = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65537, 2048)
KEYS: dict[str, Any] = {"EdDSA": ED25519, "ES256": P256, "RS256": RSA}
MAKERS: dict[str, Any] = {
    "EdDSA": pyjwt.algorithms.OKPAlgorithm,
    "ES256": pyjwt.algorithms.ECAlgorithm,
    "RS256": pyjwt.algorithms.RSAAlgorithm,
}


def jwk(alg: str, kid: str | None = None, key: Any = None) -> dict[str, Any]:
    public = (key or KEYS[alg]).public_key()
    found = json.loads(MAKERS[alg].to_jwk(public))
    return {**found, "kid": kid or alg, "use": "sig"}


@dataclass(frozen=True, slots=True)
class Issuer:
    """What the settings say of one."""

    iss: str
    jwks: Path
    scopes: tuple[str, ...]


def write(path: Path, *keys: Mapping[str, Any]) -> None:
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps({"keys": keys}))
    os.replace(draft, path)


def spoil(path: Path, damage: bytes | None) -> None:
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage)


def token(
    setup: Setup, alg: str = "EdDSA", headers: Mapping[str, Any] | None = None, key: Any = None, **claims: Any
) -> str:
    body = {
        "iss": ISS,
        "aud": setup.node.did,
        "sub": "alice",
        "iat": NOW,
        "exp": NOW + 3600,
        "jti": "their-1",
        "scope": "read:service:* write:service:* admin:*:*",
    } | claims
    body = {name: value for name, value in body.items() if value is not None}
    return pyjwt.encode(body, key or KEYS[alg], alg, headers={"kid": alg, **(headers or {})})


@pytest.fixture
def jwks(tmp_path: Path) -> Path:
    path = tmp_path / "id.json"
    write(path, jwk("EdDSA"), jwk("ES256"), jwk("RS256"))
    return path


async def opened(setup: Setup, jwks: Path, *scopes: str) -> Auth:
    return await Auth.open(setup.store, setup.node.did, [Issuer(ISS, jwks, scopes or ("read:service:*",))])


def look_again(auth: Auth, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the time until the next look at the file had passed."""
    later = time.monotonic() + RECHECK + 1
    monkeypatch.setattr("kosreg.auth.tokens.time.monotonic", lambda: later)


@pytest.mark.parametrize("alg", ["EdDSA", "ES256", "RS256"])
@pytest.mark.parametrize("typ", ["JWT", "at+jwt", "application/at+jwt"])
async def test_their_token_names_sub_at_iss_within_bounds(setup: Setup, jwks: Path, alg: str, typ: str) -> None:
    auth = await opened(setup, jwks)

    caller = auth.verify(token(setup, alg, {"typ": typ}), NOW)

    assert caller.sub == "alice@https://id.example"
    assert caller.iss == ISS
    assert caller.outside
    assert not caller.admin
    assert [str(scope) for scope in caller.scopes] == ["read:service:*"]


async def test_their_admin_is_nobody_here(setup: Setup, jwks: Path) -> None:
    """Neither by the name nor by a scope that was not allowed."""
    auth = await opened(setup, jwks, "*:*:*")

    caller = auth.verify(token(setup, sub="admin"), NOW)

    assert caller.sub == "admin@https://id.example"
    assert not caller.admin
    assert not caller.may("admin", "token")


async def test_admin_must_be_named_in_the_settings(setup: Setup, jwks: Path) -> None:
    auth = await opened(setup, jwks, "admin:*:*")

    assert auth.verify(token(setup), NOW).admin
    assert not auth.verify(token(setup, scope="read:service:*", jti="2"), NOW).admin


async def test_without_allowed_scopes_they_may_nothing(setup: Setup, jwks: Path) -> None:
    auth = await Auth.open(setup.store, setup.node.did, [Issuer(ISS, jwks, ())])

    assert auth.verify(token(setup), NOW).scopes == ()


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"aud": "did:key:z6MkOther"}, "meant for another node"),
        ({"aud": ISS}, "meant for another node"),
        ({"iss": "https://other.example"}, "does not know"),
        ({"exp": NOW}, "has expired"),
        ({"nbf": NOW + 6}, "not valid yet"),
        ({"nbf": "x"}, "does not say when"),
        ({"iat": None}, "does not say when"),
        ({"jti": None}, "no jti"),
        ({"sub": None}, "no subject"),
        ({"sub": "a b"}, "no subject"),
        ({"sub": "a\n"}, "no subject"),
        ({"sub": "аdmin"}, "no subject"),  # a Cyrillic а
    ],
)
async def test_the_other_rules_hold_for_them_too(setup: Setup, jwks: Path, claims: dict[str, Any], why: str) -> None:
    auth = await opened(setup, jwks)
    body = {"iss": ISS, "aud": setup.node.did, "sub": "alice", "iat": NOW, "exp": NOW + 60, "jti": "1"} | claims
    body = {name: value for name, value in body.items() if value is not None}
    text = pyjwt.api_jws.PyJWS().encode(json.dumps(body).encode(), ED25519, "EdDSA", {"kid": "EdDSA", "typ": "JWT"})

    assert why in refused(auth, text)


async def test_they_cannot_speak_for_this_node_nor_this_node_for_them(setup: Setup, jwks: Path) -> None:
    auth = await opened(setup, jwks)

    assert "token keys" in refused(auth, token(setup, headers={"typ": "at+jwt"}, iss=setup.node.did))
    assert "token keys" in refused(auth, setup.forge(iss=ISS))
    with pytest.raises(ValueError, match="is this node itself"):
        await Auth.open(setup.store, setup.node.did, [Issuer(setup.node.did, jwks, ())])


async def test_the_algorithm_is_the_keys_not_the_tokens(setup: Setup, jwks: Path) -> None:
    auth = await opened(setup, jwks)

    assert "does not fit the key" in refused(auth, token(setup, "ES256", {"kid": "RS256"}))
    assert "does not fit the key" in refused(auth, token(setup, "EdDSA", {"kid": "ES256"}))
    assert "signature does not hold" in refused(auth, token(setup, key=Ed25519PrivateKey.generate()))


async def test_keys_that_are_not_for_signatures_are_passed_over(setup: Setup, tmp_path: Path) -> None:
    path = tmp_path / "id.json"
    weak = rsa.generate_private_key(65537, 1024)
    write(
        path,
        {"kty": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0", "kid": "oct"},
        jwk("RS256", "weak", weak),
        jwk("ES256") | {"use": "enc"},
        jwk("ES256", "p384", ec.generate_private_key(ec.SECP384R1())),
        {"kty": "EC", "crv": "P-256", "x": "no", "y": "no", "kid": "broken"},
        {"kty": 5},
        "no object",  # type: ignore[arg-type]
        jwk("EdDSA"),
    )
    auth = await opened(setup, path)

    assert auth.verify(token(setup), NOW).sub.startswith("alice@")
    for kid in ("oct", "weak", "ES256", "p384", "broken"):
        refused(auth, token(setup, headers={"kid": kid}))
    refused(auth, pyjwt.encode({"iss": ISS}, "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0", "HS256", headers={"kid": "oct"}))


async def test_without_a_kid_the_only_key_counts(setup: Setup, tmp_path: Path) -> None:
    path = tmp_path / "id.json"
    single = jwk("EdDSA")
    del single["kid"]
    write(path, single)
    bare = pyjwt.encode(
        {"iss": ISS, "aud": setup.node.did, "sub": "alice", "iat": NOW, "exp": NOW + 60, "jti": "1"}, ED25519, "EdDSA"
    )

    assert (await opened(setup, path)).verify(bare, NOW).sub.startswith("alice@")
    write(path, single, jwk("ES256"))
    refused(await opened(setup, path), bare)


async def test_their_revocation_is_recorded_though_they_were_never_listed(setup: Setup, jwks: Path) -> None:
    auth = await opened(setup, jwks)
    text = token(setup)
    auth.verify(text, NOW)
    heard: list[str] = []
    auth.on_revoked.append(heard.append)

    row = await auth.revoke("their-1", now=NOW)

    assert (row.sub, row.exp, row.label) == ("alice@https://id.example", NOW + 3600, "outside")
    assert heard == ["their-1"]
    assert "was revoked" in refused(auth, text)
    assert "was revoked" in refused(await opened(setup, jwks), text)


async def test_a_jti_never_seen_can_be_revoked_beforehand(setup: Setup, jwks: Path) -> None:
    auth = await opened(setup, jwks)

    await auth.revoke("their-1", now=NOW)

    assert "was revoked" in refused(auth, token(setup))


async def test_a_changed_key_file_is_read_again_and_what_a_lost_key_signed_falls(
    setup: Setup, jwks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    auth = await opened(setup, jwks)
    old, new = token(setup), token(setup, "ES256", {"kid": "new"})
    auth.verify(old, NOW)
    refused(auth, new)

    write(jwks, jwk("ES256", "new"))
    assert auth.verify(old, NOW).sub  # not looked at again so soon
    look_again(auth, monkeypatch)

    refused(auth, old)
    assert auth.verify(new, NOW).sub.startswith("alice@")


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b'{"keys": {}}', b'{"keys": []}', b"\xff", b" " * (MAX_JWKS + 1), None]
)
async def test_a_damaged_key_file_keeps_the_last_good_keys_and_is_logged_once(
    setup: Setup, jwks: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes | None
) -> None:
    auth = await opened(setup, jwks)
    spoil(jwks, damage)
    look_again(auth, monkeypatch)

    with structlog.testing.capture_logs() as logged:
        assert auth.verify(token(setup), NOW).sub.startswith("alice@")
        monkeypatch.setattr("kosreg.auth.tokens.time.monotonic", lambda: time.perf_counter() + 10**9)
        assert auth.verify(token(setup, jti="2"), NOW).sub.startswith("alice@")

    assert [line["event"] for line in logged] == ["issuer keys unreadable"]
    assert logged[0]["kept"] == 3


async def test_without_a_key_file_the_node_starts_and_refuses_their_tokens(setup: Setup, tmp_path: Path) -> None:
    auth = await opened(setup, tmp_path / "absent.json")

    assert "token keys" in refused(auth, token(setup))


async def test_private_keys_in_the_file_are_not_kept(setup: Setup, tmp_path: Path) -> None:
    path = tmp_path / "id.json"
    private = json.loads(pyjwt.algorithms.OKPAlgorithm.to_jwk(ED25519))
    write(path, {**private, "kid": "EdDSA"})
    auth = await opened(setup, path)

    assert auth.verify(token(setup), NOW).sub.startswith("alice@")
    assert not auth._issuers[ISS].keys["EdDSA"].is_private


async def test_bounds_that_mean_nothing_are_told_at_the_start(setup: Setup, jwks: Path) -> None:
    with pytest.raises(ScopeError, match="unknown"):
        await opened(setup, jwks, "fly:service:*")


async def test_an_unknown_jti_is_still_not_found_where_no_issuer_is_configured(setup: Setup) -> None:
    with pytest.raises(Problem) as caught:
        await setup.auth.revoke("their-1")

    assert caught.value.status == 404
