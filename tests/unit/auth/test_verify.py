"""Tokens that must be refused, each with a text that says why."""

import hmac
import json
import time
import timeit
from hashlib import sha256
from typing import Any

import jwt as pyjwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from federation.jws import sign_record
from kosreg.auth import Auth
from kosreg.auth.tokens import MAX_CACHED
from kosreg.problems import Problem
from tests.unit.auth.conftest import NOW, Setup, b64, jws, part, read, refused


async def test_an_issued_token_names_its_caller(setup: Setup) -> None:
    issued = await setup.auth.issue("bob", now=NOW)

    caller = setup.auth.verify(issued.token, NOW)

    assert (caller.sub, caller.jti, caller.exp, caller.iss) == ("bob", issued.row.jti, issued.row.exp, setup.node.did)
    assert caller.digest == sha256(issued.token.encode()).digest()[:16]
    assert not caller.admin
    assert not caller.outside
    assert caller.may("write", "service", "x")


async def test_another_library_agrees(setup: Setup) -> None:
    issued = await setup.auth.issue("bob", ["read:service:*", "read:node:*"], now=time.time())

    key = pyjwt.PyJWKSet.from_dict(setup.auth.jwks())[setup.kid]
    claims = pyjwt.decode(
        issued.token,
        key,
        algorithms=["EdDSA"],
        audience=setup.node.did,
        issuer=setup.node.did,
        options={"require": ["exp", "iat", "nbf", "jti", "sub"]},
    )

    assert claims["scope"] == "read:service:* read:node:*"
    assert pyjwt.get_unverified_header(issued.token) == {"typ": "at+jwt", "alg": "EdDSA", "kid": setup.kid}


async def test_what_the_forger_makes_right_is_accepted(setup: Setup) -> None:
    """Else the refusals below would prove nothing."""
    assert setup.auth.verify(setup.forge(), NOW).sub == "bob"
    assert setup.auth.verify(setup.forge(aud=["x", setup.node.did]), NOW).sub == "bob"
    assert setup.auth.verify(setup.forge({"alg": "Ed25519"}), NOW).sub == "bob"
    assert setup.auth.verify(setup.forge({"typ": "application/at+jwt"}), NOW).sub == "bob"
    assert setup.auth.verify(setup.forge(iat=NOW + 4, nbf=NOW + 4), NOW).sub == "bob"


async def test_the_scope_may_be_a_list(setup: Setup) -> None:
    caller = setup.auth.verify(setup.forge(scope=["read:node:*", 5, "nonsense"]), NOW)

    assert [str(scope) for scope in caller.scopes] == ["read:node:*"]


@pytest.mark.parametrize("scope", [None, "", "openid profile", 7, {"a": 1}])
async def test_without_a_scope_one_may_nothing(setup: Setup, scope: Any) -> None:
    caller = setup.auth.verify(setup.forge(scope=scope), NOW)

    assert caller.scopes == ()
    assert not caller.may("read", "service")


async def test_a_token_signed_with_the_node_key_is_refused(setup: Setup) -> None:
    node_key = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
    assert setup.node.public == node_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    for kid in (setup.node.did, setup.kid, b64(setup.node.public), None):
        refused(setup.auth, jws(setup.header | {"kid": kid}, setup.claims, node_key))
    assert "none of its issuer's token keys" in refused(
        setup.auth, jws(setup.header | {"kid": setup.node.did}, setup.claims, node_key)
    )
    assert "signature does not hold" in refused(setup.auth, jws(setup.header, setup.claims, node_key))


async def test_a_signed_record_is_no_token(setup: Setup) -> None:
    """Even one whose content would pass for claims, by whichever key."""
    node_key = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
    for key in (node_key, setup.key):
        for kid in (setup.node.did, setup.kid):
            header = {"typ": "kosreg-record+jws", "alg": "EdDSA", "kid": kid}
            assert "signed record, not a token" in refused(setup.auth, jws(header, setup.claims, key))
            assert "signed record, not a token" in refused(setup.auth, jws(header, {"id": "a", "name": "A"}, key))
    record = json.loads(sign_record(setup.node, setup.claims))
    compact = f"{record['protected']}.{record['payload']}.{record['signature']}"
    assert "signed record, not a token" in refused(setup.auth, compact)


async def test_alg_none_is_refused(setup: Setup) -> None:
    for alg in ("none", "None", "NONE", ""):
        bare = f"{part(setup.header | {'alg': alg})}.{part(setup.claims)}"
        refused(setup.auth, bare + ".")
        refused(setup.auth, bare + ".AA")
        refused(setup.auth, bare)


async def test_hmac_with_the_public_key_is_refused(setup: Setup) -> None:
    public = setup.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    jwk = json.dumps(setup.auth.jwks()["keys"][0]).encode()
    for secret in (public, b64(public).encode(), jwk):
        signing_input = f"{part(setup.header | {'alg': 'HS256'})}.{part(setup.claims)}"
        mac = hmac.new(secret, signing_input.encode(), sha256).digest()
        assert "does not fit the key" in refused(setup.auth, f"{signing_input}.{b64(mac)}")


@pytest.mark.parametrize("alg", ["ES256", "RS256", "Ed448", "HS512", "PS256", "EDDSA", 5, None, ["EdDSA"]])
async def test_another_algorithm_than_the_keys_is_refused(setup: Setup, alg: Any) -> None:
    assert "does not fit the key" in refused(setup.auth, setup.forge({"alg": alg}))


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"aud": "did:key:z6MkOther"}, "meant for another node"),
        ({"aud": None}, "meant for another node"),
        ({"aud": []}, "meant for another node"),
        ({"aud": {"x": 1}}, "meant for another node"),
        ({"iss": "did:key:z6MkOther"}, "issuer that this node does not know"),
        ({"iss": None}, "issuer that this node does not know"),
        ({"iss": ["x"]}, "issuer that this node does not know"),
        ({"exp": NOW}, "has expired"),
        ({"exp": NOW - 1}, "has expired"),
        ({"nbf": NOW + 6}, "not valid yet"),
        ({"iat": NOW + 6}, "not valid yet"),
        ({"exp": None}, "does not say when"),
        ({"iat": None}, "does not say when"),
        ({"nbf": None}, "does not say when"),
        ({"exp": "2030-01-01"}, "does not say when"),
        ({"exp": True}, "does not say when"),
        ({"exp": NOW * 1000}, "longer than ten years"),
        ({"jti": None}, "no jti"),
        ({"jti": ""}, "no jti"),
        ({"jti": 5}, "no jti"),
        ({"jti": "a b"}, "no jti"),
        ({"sub": None}, "no subject"),
        ({"sub": ""}, "no subject"),
        ({"sub": "bob@https://evil"}, "no subject"),
        ({"sub": "bob\nadmin"}, "no subject"),
        ({"sub": 5}, "no subject"),
        ({"sub": "x" * 129}, "no subject"),
    ],
)
async def test_a_wrong_claim_is_refused_though_the_signature_is_right(
    setup: Setup, claims: dict[str, Any], why: str
) -> None:
    changed = {name: value for name, value in (setup.claims | claims).items() if value is not None}

    assert why in refused(setup.auth, jws(setup.header, changed, setup.key))


@pytest.mark.parametrize("number", ["1e400", "NaN", "Infinity", "-Infinity"])
async def test_a_time_without_end_is_refused(setup: Setup, number: str) -> None:
    claims = json.dumps(setup.claims).replace(str(NOW + 3600), number).encode()

    refused(setup.auth, jws(setup.header, claims, setup.key))


@pytest.mark.parametrize("typ", ["JWT", "jwt", "at+jwt2", "", None, 5, "logout+jwt", "dpop+jwt"])
async def test_another_type_is_refused(setup: Setup, typ: Any) -> None:
    assert "no access token" in refused(setup.auth, setup.forge({"typ": typ}))


@pytest.mark.parametrize("kid", [None, "", "x", 5, ["a"], {"a": 1}, "../../etc/passwd", "' OR 1=1"])
async def test_an_unknown_kid_is_refused(setup: Setup, kid: Any) -> None:
    assert "none of its issuer's token keys" in refused(setup.auth, setup.forge({"kid": kid}))


@pytest.mark.parametrize("extra", [{"crit": ["exp"]}, {"crit": []}, {"b64": False, "crit": ["b64"]}, {"b64": True}])
async def test_extensions_are_refused(setup: Setup, extra: dict[str, Any]) -> None:
    assert "extensions" in refused(setup.auth, setup.forge(extra))


async def test_a_key_that_comes_with_the_token_is_never_used(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor fetched: nothing may open a connection here."""

    def no_network(*_: object, **__: object) -> None:
        raise AssertionError("a token made the node open a connection")

    monkeypatch.setattr("socket.socket.connect", no_network)
    monkeypatch.setattr("socket.create_connection", no_network)
    mine = Ed25519PrivateKey.generate()
    x = b64(mine.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": x, "kid": setup.kid}
    urls = {"jku": "https://evil.example/jwks.json", "x5u": "https://evil.example/cert.pem", "x5c": ["AAAA"]}

    for extra in ({"jwk": jwk}, urls, {"jwk": jwk, "kid": "mine"}, {"jku": 5}, {"jwk": "no object"}):
        refused(setup.auth, jws(setup.header | extra, setup.claims, mine))


async def test_a_token_over_8_kib_is_refused_unread(setup: Setup) -> None:
    assert "longer than 8 KiB" in refused(setup.auth, setup.forge(x="x" * 8_000))


NO_JSON = b"\xff\xfe"
GARBAGE = (
    *("", " ", ".", "..", "...", "a.b", "a.b.c.d", "a.b.c.d.e", "é.b.c", "a b.c.d", "Bearer x", "null", "\x00"),
    *("\ud800.a.b", "eyJ.eyJ.x\n", "AAAA.AAAA.AAAA"),
    *(f"{part([])}.{part({})}.AA", f"{part({})}.{part([])}.AA", f"{part(5)}.{part(6)}.AA"),
    *(f"{part(b'{')}.{part({})}.AA", f"{part(b'[' * 2000)}.{part({})}.AA"),
    f"{part(b'[' * 900 + b']' * 900)}.{part({})}.AA",
    *(f"{part({})}.{part(NO_JSON)}.AA", f"{part({})}.{part({})}.A", f"{part({})}=.{part({})}.AA"),
)


@pytest.mark.parametrize("text", GARBAGE)
async def test_garbage_is_refused(setup: Setup, text: str) -> None:
    refused(setup.auth, text)


async def test_a_changed_token_is_refused(setup: Setup) -> None:
    header, claims, signature = setup.forge().split(".")
    other = part(setup.claims | {"sub": "eve"})

    assert "signature does not hold" in refused(setup.auth, f"{header}.{other}.{signature}")
    assert "signature does not hold" in refused(setup.auth, f"{header}.{claims}.{signature[:-2]}")
    assert "signature does not hold" in refused(setup.auth, f"{header}.{claims}.{b64(bytes(64))}")


async def test_an_expired_token_is_refused_on_the_dot_even_if_cached(setup: Setup) -> None:
    issued = await setup.auth.issue("bob", ttl=60, now=NOW)

    assert setup.auth.verify(issued.token, NOW + 59.999).sub == "bob"
    assert setup.auth.verify(issued.token, NOW + 59.999).sub == "bob"
    assert "has expired" in refused(setup.auth, issued.token, NOW + 60)


async def test_the_wall_clock_counts_where_no_time_is_given(setup: Setup) -> None:
    fresh = await setup.auth.issue("bob", ttl=60)
    old = await setup.auth.issue("bob", ttl=60, now=NOW - 10 * 365 * 86_400)

    assert setup.auth.verify(fresh.token).sub == "bob"
    with pytest.raises(Problem, match="has expired"):
        setup.auth.verify(old.token)


async def test_the_cache_is_bounded_and_evicts_the_oldest(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kosreg.auth.tokens.MAX_CACHED", 3)
    tokens = [setup.forge(jti=f"j{n}") for n in range(5)]

    for token in tokens:
        setup.auth.verify(token, NOW)

    assert list(setup.auth._cache) == tokens[2:]
    assert setup.auth.verify(tokens[0], NOW).jti == "j0"
    assert MAX_CACHED == 10_000


async def test_refusals_are_not_cached_so_they_cannot_push_out_good_ones(setup: Setup) -> None:
    for n in range(10):
        refused(setup.auth, f"{part({'n': n})}.{part({})}.AA")

    assert not setup.auth._cache


async def test_the_second_look_at_a_token_costs_next_to_nothing(setup: Setup) -> None:
    token = setup.forge(exp=int(time.time()) + 3600, iat=int(time.time()), nbf=int(time.time()))
    setup.auth.verify(token)

    best = min(timeit.repeat(lambda: setup.auth.verify(token), number=2_000, repeat=20)) / 2_000

    assert best < 3e-6  # 0.2 µs alone on the machine; the bound is for a busy one


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
@given(data=st.data())
async def test_no_change_of_a_single_character_is_accepted(setup: Setup, data: st.DataObject) -> None:
    token = setup.forge()
    at = data.draw(st.integers(0, len(token) - 2))  # of the last one, two bits are padding
    other = data.draw(st.sampled_from("AQgwz019_-.").filter(lambda c: c != token[at]))
    changed = token[:at] + other + token[at + 1 :]

    with pytest.raises(Problem) as caught:
        setup.auth.verify(changed, NOW)

    assert caught.value.status == 401


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None)
@given(
    header=st.dictionaries(st.sampled_from(["typ", "alg", "kid", "crit", "x"]), st.text() | st.integers() | st.none())
)
async def test_no_header_makes_it_fail_otherwise(setup: Setup, header: dict[str, Any]) -> None:
    refused(setup.auth, jws(header, setup.claims, Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)))


async def test_the_jwks_holds_public_token_keys_and_nothing_else(setup: Setup) -> None:
    second = await setup.auth.add_key()

    keys = setup.auth.jwks()["keys"]

    assert [key["kid"] for key in keys] == [setup.kid, second]
    for key in keys:
        assert set(key) == {"kty", "crv", "x", "kid", "use", "alg"}
        assert key["x"] != b64(setup.node.public)
        thumbprint = json.dumps({k: key[k] for k in ("crv", "kty", "x")}, separators=(",", ":"), sort_keys=True)
        assert key["kid"] == b64(sha256(thumbprint.encode()).digest())  # RFC 7638


async def test_a_new_key_signs_and_the_old_ones_still_hold(setup: Setup) -> None:
    before = await setup.auth.issue("bob", now=NOW)
    kid = await setup.auth.add_key()
    after = await setup.auth.issue("bob", now=NOW)

    reopened = await Auth.open(setup.store, setup.node.did)

    assert read(before.token)[0]["kid"] == setup.kid
    assert read(after.token)[0]["kid"] == kid
    for auth in (setup.auth, reopened):
        assert auth.verify(before.token, NOW).sub == auth.verify(after.token, NOW).sub == "bob"
