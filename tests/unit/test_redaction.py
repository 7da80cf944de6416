"""Secrets do not reach the log, whatever they hide in."""

import base64
import time
from collections import UserDict

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kosreg.redaction import MAX_TEXT, REMOVED, is_secret, redact, scrub

JWT = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJib2IifQ.c2lnbmF0dXJl-_x"
SEED = bytes(range(7, 39))
HEX = SEED.hex()
BASE64 = base64.b64encode(SEED).decode()
BASE64URL = base64.urlsafe_b64encode(SEED).decode().rstrip("=")


SECRET_KEYS = (
    *("token", "Token", "auth_token", "access-token", "accessToken", "authorization", "Authorization", "secret"),
    *("password", "db_password", "seed", "node_seed", "cookie", "Set-Cookie", "api_key", "X-Api-Key", "private_key"),
    *("node_key", "client_secret", "passphrase", "sealed", "Kosreg-Authorization", "tokens", "credentials", "jwt"),
)


@pytest.mark.parametrize("key", SECRET_KEYS)
def test_keys_that_name_a_secret(key: str) -> None:
    assert is_secret(key)
    assert redact({key: "hunter2"}) == {key: REMOVED}
    assert redact({key: ["a", {"b": "c"}]}) == {key: REMOVED}


@pytest.mark.parametrize(
    "key", ["token_id", "jti", "kid", "keys", "key", "sub", "secretary", "passwords_ok", "author", ""]
)
def test_keys_that_only_look_like_it(key: str) -> None:
    assert not is_secret(key)
    assert redact({key: "plain"}) == {key: "plain"}


def test_counts_and_absences_are_no_secrets() -> None:
    event = {"tokens": 3, "secrets": 0, "token": None, "password": False}

    assert redact(event) == event


@pytest.mark.parametrize("secret", [JWT, HEX, HEX.upper(), BASE64, BASE64URL, HEX + HEX])
@pytest.mark.parametrize(
    "text", ["{}", "got {}", "'{}'", '{{"a":"{}"}}', "({}), then", "x={}", "Bearer {}", "bearer.{}"]
)
def test_what_looks_like_a_secret_is_removed_from_texts(secret: str, text: str) -> None:
    shown = scrub(text.format(secret))

    assert secret not in shown
    assert secret[8:] not in shown
    assert REMOVED in shown


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("postgresql+asyncpg://kos:hunter2@db/kosreg", "hunter2"),
        ("redis://:hunter2@localhost:6379/0", "hunter2"),
        ("cannot reach 'postgresql://u:p@ss/hunter2@db' now", "hunter2"),
        ("Authorization: Bearer abcdefghijklmnop", "abcdefghijklmnop"),
        ("authorization: hunter2hunter2", "hunter2"),
        ("{'Authorization': 'hunter2'}", "hunter2"),
        ("<CIMultiDictProxy('Host': 'x', 'Authorization': 'Basic aHVudGVyMg==')>", "aHVudGVyMg"),
        ("Cookie: session=hunter2; other=1", "hunter2"),
        ("GET /ws?token=hunter2&x=1", "hunter2"),
        ('{"token": "hunter2"}', "hunter2"),
        ('{"auth": {"type": "api_key", "token": "hunter2 and more"}}', "hunter2"),
        ("password: hunter2", "hunter2"),
        ("PASSWORD='hunter2'", "hunter2"),
        ("api-key=hunter2", "hunter2"),
        ("seed: hunter2", "hunter2"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nhunter2\n-----END OPENSSH PRIVATE KEY-----", "hunter2"),
        ("-----BEGIN PRIVATE KEY-----\nhunter2", "hunter2"),
        ("join kosreg1:aHVudGVyMg_x now", "aHVudGVyMg"),
        ("[SQL: INSERT INTO x]\n[parameters: ('id', b'hunter2')]\n(Background on this error", "hunter2"),
        ("[parameters: {'sealed': 'hunter2'}]", "hunter2"),
        ("token\n  bad [type=x, input_value='hunter2', input_type=str]", "hunter2"),
        ("%22" + JWT + "%22", JWT[10:]),
    ],
)
def test_secrets_in_known_places_of_texts(text: str, secret: str) -> None:
    shown = scrub(text)

    assert secret not in shown
    assert REMOVED in shown


@pytest.mark.parametrize(
    "text",
    [
        "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK",
        f"kind:did:{BASE64}#ed25519",
        "klp://01a20ee5-1671-7795-9b74-244f68c91e4a@did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK/path",
        "http://127.0.0.1:7480/api/services?tag=a@b",
        "http://host/path:x@y",
        "that is no token: a JWT has three parts with dots between them",
        "this node needs a bearer token",
        "registered 01a20ee5-1671-7795-9b74-244f68c91e4a in 3 ms",
        "/usr/lib/python3.11/site-packages/aiohttp/web_protocol.py",
        "0123456789abcdef",
    ],
)
def test_what_is_public_stays(text: str) -> None:
    assert scrub(text) == text


@pytest.mark.parametrize("key", ["id", "entry_id", "kid", "jti", "hash", "digest", "fingerprint"])
def test_ids_and_hashes_stay_where_their_key_says_so(key: str) -> None:
    assert redact({key: HEX}) == {key: HEX}
    assert redact({key: BASE64URL}) == {key: BASE64URL}
    assert redact({key: JWT}) == {key: REMOVED}


def test_nesting_of_any_kind_is_searched() -> None:
    deep = {"a": [({"headers": UserDict({"authorization": "x"})}, {JWT})], "note": [f"token {JWT}", (JWT,)]}

    shown = redact({"event": "x", "deep": deep})

    assert JWT not in str(shown)
    assert shown["deep"]["a"][0][0]["headers"]["authorization"] == REMOVED
    assert shown["deep"]["note"][0] == f"token {REMOVED}"


def test_nesting_without_end_ends() -> None:
    endless: list[object] = []
    endless.append(endless)

    assert "…" in str(redact({"a": endless}))


def test_the_private_half_of_a_jwk_is_removed() -> None:
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": "abc", "d": "hunter2"}

    assert redact({"jwk": jwk}) == {"jwk": jwk | {"d": REMOVED}}
    assert redact({"point": {"d": "3 cm"}}) == {"point": {"d": "3 cm"}}


def test_bytes_are_never_shown() -> None:
    assert redact({"raw": SEED, "more": bytearray(3)}) == {"raw": "<32 bytes>", "more": "<3 bytes>"}


def test_exceptions_and_other_objects_become_texts_without_secrets() -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError("no")

    shown = redact({"error": ValueError(f"bad {JWT}"), "thing": Broken()})

    assert shown == {"error": f"bad {REMOVED}", "thing": "<Broken: RuntimeError>"}


def test_a_text_without_end_is_cut_off() -> None:
    assert len(scrub("x " * MAX_TEXT)) < MAX_TEXT + 50


HOSTILE = (
    *("eyJ" * 20_000, "://:" * 9_000, "@" + "://:" * 9_000, "x://" * 3_000 + "@", "A1a" * 20_000, "f" * 60_000),
    *("[parameters: " * 4_000, "input_value=" * 4_000, 'token="' * 5_000, "bearer " * 6_000, "cookie:" * 6_000),
    *("password:" * 5_000, "-----BEGIN " * 3_000, "-----BEGIN PRIVATE KEY-----" * 1_000, "token" * 7_000),
)


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:12])
def test_hostile_texts_cost_no_more_than_others(text: str) -> None:
    started = time.perf_counter()

    scrub(text)

    assert time.perf_counter() - started < 0.25


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_no_event_makes_it_fail(event: dict[str, object]) -> None:
    redact(event)


@given(before=st.text(max_size=40), after=st.text(max_size=40))
def test_a_jwt_is_found_in_any_text(before: str, after: str) -> None:
    assert JWT not in scrub(f"{before} {JWT} {after}")


def test_the_result_can_be_written_as_json() -> None:
    event = {"path": object(), "set": {1}, "tuple": (1, b"x"), "nested": {1: {2: 3.5}}, "error": OSError(2, "no")}

    orjson.dumps(redact(event))
