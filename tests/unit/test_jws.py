"""federation.jws: signed records, another JOSE library on both ends, and every other shape refused."""

import base64
import json
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from federation.identity import NodeKey, parse_did
from federation.jws import MAX_SIGNED, JwsError, open_record, sign_record, verify_record

KEY, OTHER = NodeKey(b"\x01" * 32), NodeKey(b"\x02" * 32)
RECORD = {"id": "a", "name": "Wetter für Köln", "tags": ["x", "y"], "weight": 0.5, "ttl": 30, "acl": None, "ok": True}


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def made(header: object, payload: bytes, key: NodeKey = KEY, /, **members: object) -> bytes:
    """A flattened JWS of any content, rightly signed."""
    protected = b64(header if isinstance(header, bytes) else json.dumps(header).encode())
    signature = key.sign(f"{protected}.{b64(payload)}".encode())
    return json.dumps({"payload": b64(payload), "protected": protected, "signature": b64(signature)} | members).encode()


HEADER = {"alg": "EdDSA", "kid": KEY.did, "typ": "kosreg-record+jws"}


def test_sign_and_verify() -> None:
    assert verify_record(sign_record(KEY, RECORD)) == (KEY.did, RECORD)


def test_it_is_a_flattened_jws_over_the_canonical_form() -> None:
    message = json.loads(sign_record(KEY, RECORD))
    assert message.keys() == {"payload", "protected", "signature"}
    assert json.loads(unb64(message["protected"])) == HEADER
    assert unb64(message["payload"]) == (
        '{"acl":null,"id":"a","name":"Wetter für Köln","ok":true,"tags":["x","y"],"ttl":30,"weight":0.5}'.encode()
    )


def test_the_same_record_gives_the_same_bytes() -> None:
    assert sign_record(KEY, dict(reversed(RECORD.items()))) == sign_record(KEY, RECORD)


def test_pyjwt_verifies_ours() -> None:
    message = json.loads(sign_record(KEY, RECORD))
    compact = f"{message['protected']}.{message['payload']}.{message['signature']}"
    theirs = jwt.PyJWS(algorithms=["EdDSA"])
    public = Ed25519PublicKey.from_public_bytes(parse_did(theirs_kid(compact)))
    assert json.loads(theirs.decode(compact, public, algorithms=["EdDSA"])) == RECORD
    with pytest.raises(jwt.InvalidSignatureError):
        theirs.decode(compact, Ed25519PublicKey.from_public_bytes(OTHER.public), algorithms=["EdDSA"])


def theirs_kid(compact: str) -> str:
    return str(jwt.get_unverified_header(compact)["kid"])


def test_ours_verifies_what_pyjwt_signed() -> None:
    payload = unb64(json.loads(sign_record(KEY, RECORD))["payload"])
    private = Ed25519PrivateKey.from_private_bytes(KEY.seed)
    compact = jwt.PyJWS().encode(
        payload, private, algorithm="EdDSA", headers={"kid": KEY.did, "typ": "kosreg-record+jws"}
    )
    protected, body, signature = compact.split(".")
    assert verify_record(json.dumps({"payload": body, "protected": protected, "signature": signature}).encode()) == (
        KEY.did,
        RECORD,
    )


def test_a_record_is_no_token() -> None:
    message = json.loads(sign_record(KEY, {"iss": KEY.did, "aud": KEY.did, "sub": "alice", "exp": 4_000_000_000}))
    header = json.loads(unb64(message["protected"]))
    assert header["typ"] == "kosreg-record+jws"


def test_a_token_is_no_record() -> None:
    claims = json.dumps({"aud": KEY.did, "sub": "alice"}, separators=(",", ":")).encode()
    with pytest.raises(JwsError, match="made for something else"):
        verify_record(made(HEADER | {"typ": "at+jwt"}, claims))


@pytest.mark.parametrize("member", ["payload", "protected", "signature"])
def test_every_changed_letter_is_noticed(member: str) -> None:
    message = json.loads(sign_record(KEY, {"id": "a"}))
    for place in range(len(message[member])):
        letter = "A" if message[member][place] != "A" else "B"
        changed = message | {member: message[member][:place] + letter + message[member][place + 1 :]}
        with pytest.raises(JwsError):
            verify_record(json.dumps(changed).encode())


def test_an_opened_record_tells_whether_the_signature_holds() -> None:
    good = open_record(made(HEADER, b'{"id":"a"}'))
    assert (good.did, good.key, good.record, good.signature) == (KEY.did, KEY.public, {"id": "a"}, True)
    forged = open_record(made(HEADER, b'{"id":"a"}', OTHER))
    assert (forged.did, forged.signature) == (KEY.did, False)
    with pytest.raises(JwsError, match="does not hold"):
        verify_record(made(HEADER, b'{"id":"a"}', OTHER))


def without(header: dict[str, str], name: str) -> dict[str, str]:
    return {key: value for key, value in header.items() if key != name}


GOOD = b'{"id":"a"}'


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        pytest.param(b"", "not JSON", id="nothing"),
        pytest.param(b"\xff", "not JSON", id="not UTF-8"),
        pytest.param(b"[]", "must be a JSON object", id="a list"),
        pytest.param(b"null", "must be a JSON object", id="null"),
        pytest.param(b"[" * 100_000, "not JSON", id="nested deeply"),
        pytest.param(b'{"a":' * 50_000, "not JSON", id="objects nested deeply"),
        pytest.param(b"x" * (MAX_SIGNED + 1), "the most is 262,144", id="too large"),
        pytest.param(b"{}", "exactly the members", id="no members"),
        pytest.param(made(HEADER, GOOD, header={"jwk": {}}), "exactly the members", id="unprotected header"),
        pytest.param(made(HEADER, GOOD, signatures=[]), "exactly the members", id="general form"),
        pytest.param(made(HEADER, GOOD)[:-1] + b',"payload":"e30"}', "a member twice", id="payload twice"),
        pytest.param(made(HEADER, GOOD) + b"x", "not JSON", id="bytes after the end"),
        pytest.param(made(HEADER, GOOD, payload=5), "payload must be text", id="payload is a number"),
        pytest.param(made(HEADER, GOOD, payload=None), "payload must be text", id="payload is null"),
        pytest.param(made(HEADER, GOOD, signature=["x"]), "signature must be text", id="signature is a list"),
        pytest.param(made(HEADER, GOOD, payload="!!"), "base64url", id="payload is not base64url"),
        pytest.param(made(HEADER, GOOD, payload="é"), "base64url", id="payload is not ASCII"),
        pytest.param(made(HEADER, GOOD, payload="e30="), "one spelling", id="payload is padded"),
        pytest.param(made(HEADER, GOOD, payload="e31"), "one spelling", id="payload has spare bits"),
        pytest.param(made(HEADER, b'{"a":"\xff\xff\xff"}', payload="+/+/"), "base64url", id="plain base64"),
        pytest.param(made(HEADER, GOOD, signature=""), "does not hold", id="no signature"),
        pytest.param(made(without(HEADER, "alg"), GOOD), "exactly alg, kid and typ", id="no alg"),
        pytest.param(made(without(HEADER, "kid"), GOOD), "exactly alg, kid and typ", id="no kid"),
        pytest.param(made(without(HEADER, "typ"), GOOD), "exactly alg, kid and typ", id="no typ"),
        pytest.param(made(HEADER | {"crit": ["exp"]}, GOOD), "exactly alg, kid and typ", id="crit"),
        pytest.param(made(HEADER | {"b64": False}, GOOD), "exactly alg, kid and typ", id="b64"),
        pytest.param(made(HEADER | {"jwk": {}}, GOOD), "exactly alg, kid and typ", id="jwk"),
        pytest.param(made(HEADER | {"alg": "none"}, GOOD, signature=""), "alg must be", id="alg none"),
        pytest.param(made(HEADER | {"alg": "HS256"}, GOOD), "alg must be", id="alg HS256"),
        pytest.param(made(HEADER | {"alg": "Ed25519"}, GOOD), "alg must be", id="alg by its new name"),
        pytest.param(made(HEADER | {"alg": 5}, GOOD), "alg must be", id="alg a number"),
        pytest.param(made(HEADER | {"kid": 5}, GOOD), "kid must be text", id="kid a number"),
        pytest.param(made(HEADER | {"kid": "me"}, GOOD), "kid: not a DID", id="kid no DID"),
        pytest.param(made(HEADER | {"kid": KEY.kind_did}, GOOD), "kid must be", id="kid in another form"),
        pytest.param(made(HEADER | {"typ": "JWT"}, GOOD), "typ must be", id="typ JWT"),
        pytest.param(made(b"[]", GOOD), "must be a JSON object", id="header a list"),
        pytest.param(made(b'{"alg":"EdDSA","alg":"none","kid":"x","typ":"y"}', GOOD), "a member twice", id="alg twice"),
        pytest.param(made(HEADER, b'{"a":1,"a":2}'), "a member twice", id="record with a member twice"),
        pytest.param(made(HEADER, b'{"b":{"a":1,"a":1}}'), "a member twice", id="deeper"),
        pytest.param(made(HEADER, b'{"b":1,"a":2}'), "canonical", id="record unsorted"),
        pytest.param(made(HEADER, b'{"a": 1}'), "canonical", id="record with spaces"),
        pytest.param(made(HEADER, b'{"a":1.0}'), "canonical", id="1.0"),
        pytest.param(made(HEADER, b'{"a":"\\u0061"}'), "canonical", id="needless escape"),
        pytest.param(made(HEADER, b'{"a":9007199254740993}'), "canonical", id="integer beyond 2^53"),
        pytest.param(made(HEADER, b'{"a":1e999}'), "no double", id="float too large"),
        pytest.param(made(HEADER, b'{"a":NaN}'), "not JSON", id="NaN"),
        pytest.param(made(HEADER, b'{"a":"\\ud800"}'), "canonical", id="a lone surrogate"),
        pytest.param(made(HEADER, b'{"a":' * 33 + b"1" + b"}" * 33), "nested deeper", id="record nested deeply"),
        pytest.param(made(HEADER, b'{"a":' + b"[" * 20_000 + b"]" * 20_000 + b"}"), "not JSON", id="very deeply"),
        pytest.param(made(HEADER, b"[]"), "must be a JSON object", id="record is a list"),
        pytest.param(made(HEADER, b""), "not JSON", id="no record"),
    ],
)
def test_verify_refuses(raw: bytes, reason: str) -> None:
    with pytest.raises(JwsError, match=reason):
        verify_record(raw)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda: {"a": float("nan")},
        lambda: {"a": 2**53},
        lambda: {"a": b"bytes"},
        lambda: {"a": "\ud800"},
        lambda: {"a": object()},
        lambda: {1: 2},
        lambda: {"a": "x" * MAX_SIGNED},
        lambda: {"a": "x" * (MAX_SIGNED - 500)},
        lambda: {"a": nested(40)},
    ],
)
def test_sign_refuses(spoil: Callable[[], dict[Any, Any]]) -> None:
    with pytest.raises(JwsError):
        sign_record(KEY, spoil())


def nested(depth: int) -> object:
    return [nested(depth - 1)] if depth else 0


def test_a_large_record_goes_both_ways() -> None:
    record = {"metadata": {"x": "y" * 150_000}}
    assert verify_record(sign_record(KEY, record)) == (KEY.did, record)
