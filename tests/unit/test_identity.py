"""federation.identity: the forms of a DID, and key files that are whole, secret and never replaced."""

import base64
import os
import pickle
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from federation.identity import (
    DidError,
    KeyFileError,
    NodeKey,
    did_of,
    kind_did_of,
    load_or_create,
    parse_did,
    verify,
)

# RFC 8032 §7.1, test 1, and its did:key
SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
PUBLIC = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
SIGNATURE_OF_NOTHING = bytes.fromhex(
    "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
)
KEY = NodeKey(SEED)
# From the did:key specification's test vectors (ed25519-x25519.json), seed 00…00
ZERO_DID = "did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp"


def test_key_signs_as_rfc_8032_says() -> None:
    assert KEY.public == PUBLIC
    assert KEY.sign(b"") == SIGNATURE_OF_NOTHING
    assert verify(PUBLIC, b"", SIGNATURE_OF_NOTHING)
    assert not verify(PUBLIC, b"x", SIGNATURE_OF_NOTHING)
    assert not verify(PUBLIC[:31], b"", SIGNATURE_OF_NOTHING)
    assert not verify(PUBLIC, b"", SIGNATURE_OF_NOTHING[:63])


def test_seed_has_32_bytes() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        NodeKey(b"short")


def test_did_key_as_its_specification_writes_it() -> None:
    assert NodeKey(bytes(32)).did == ZERO_DID
    assert parse_did(ZERO_DID) == NodeKey(bytes(32)).public


def test_every_form_names_the_same_key() -> None:
    b64 = base64.b64encode(PUBLIC).decode()
    forms = [
        did_of(PUBLIC),
        did_of(PUBLIC) + "#" + did_of(PUBLIC).removeprefix("did:key:"),
        kind_did_of(PUBLIC),
        f"kind:did:{b64}#ed25519",
        f"kind:did:{b64.rstrip('=')}#ed25519",
        f"kind:did:{base64.urlsafe_b64encode(PUBLIC).decode()}#ed25519",
        f"kind:did:{base64.urlsafe_b64encode(PUBLIC).decode().rstrip('=')}#ed25519",
    ]
    assert {parse_did(form) for form in forms} == {PUBLIC}
    assert (KEY.did, KEY.kind_did) == (forms[0], forms[2])


def test_base64url_differs_where_it_may() -> None:
    public = b"\xfb\xef\xbe" * 10 + b"\xff\xff"
    assert "+" in kind_did_of(public)
    assert parse_did(kind_did_of(public).replace("+", "-").replace("/", "_")) == public


@pytest.mark.parametrize(
    "text",
    [
        "",
        "did:web:example.org",
        "did:key:",
        "did:key:z",
        "did:key:z6Mk",
        "did:key:6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp",
        ZERO_DID + "1",
        ZERO_DID[:-1],
        ZERO_DID.replace("z6", "z16"),
        ZERO_DID.replace("z6", "z06"),
        ZERO_DID[:-1] + "l",
        ZERO_DID + "#",
        ZERO_DID + "#key-1",
        ZERO_DID.upper(),
        " " + ZERO_DID,
        ZERO_DID + "\n",
        "did:key:z6LSbysY2xFMRpGMhb7tFTLMpeuPRaqaWM1yECx2AtzE3KCc",  # X25519
        "did:key:zQ3shokFTS3brHcDQrn82RUDfCZESWL1ZdCEJwekUDPQiYBme",  # secp256k1
        "did:key:z" + "6" * 10_000,
        "kind:did:",
        "kind:did:#ed25519",
        "kind:did:AAAA#ed25519",
        kind_did_of(PUBLIC).removesuffix("#ed25519"),
        kind_did_of(PUBLIC).replace("#ed25519", "#x25519"),
        kind_did_of(PUBLIC).replace("=", "=="),
        kind_did_of(PUBLIC).replace("=", "!"),
        kind_did_of(bytes(32)).replace("A=", "B="),  # bits that say nothing must be zero
        kind_did_of(PUBLIC + b"x"),
        kind_did_of(PUBLIC[:-1]),
        "kind:did:" + "é" * 43 + "#ed25519",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(DidError):
        parse_did(text)


def test_derived_secrets_differ_by_purpose_and_key() -> None:
    derived = {KEY.derive("store"), KEY.derive("other"), NodeKey(bytes(32)).derive("store")}
    assert len(derived) == 3
    assert KEY.seed not in derived
    assert all(len(secret) == 32 for secret in derived)
    assert KEY.derive("store") == NodeKey(SEED).derive("store")


def test_a_key_shows_its_secret_nowhere_by_accident() -> None:
    assert KEY.did in repr(KEY)
    for shown in (repr(KEY), str(KEY), f"{KEY}"):
        assert SEED.hex() not in shown
        assert base64.b64encode(SEED).decode()[:20] not in shown
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(KEY)
    assert not hasattr(KEY, "__dict__")


def test_files_are_made_once(tmp_path: Path) -> None:
    key, next_key = load_or_create(tmp_path)
    again, next_again = load_or_create(tmp_path)
    assert (again.did, next_again.did) == (key.did, next_key.did)
    assert key.did != next_key.did
    assert sorted(os.listdir(tmp_path)) == ["next.key", "node.key"]
    for name in ("node.key", "next.key"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    text = (tmp_path / "node.key").read_text()
    assert "SECRET" in text
    assert key.did in text


def test_files_are_secret_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        load_or_create(tmp_path)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "node.key").stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o601])
@pytest.mark.parametrize("name", ["node.key", "next.key"])
def test_a_file_that_others_may_read_is_refused(tmp_path: Path, name: str, mode: int) -> None:
    load_or_create(tmp_path)
    (tmp_path / name).chmod(mode)
    with pytest.raises(KeyFileError) as caught:
        load_or_create(tmp_path)
    assert f"chmod 600 {tmp_path / name}" in caught.value.advice
    assert f"{mode:04o}" in caught.value.detail
    (tmp_path / name).chmod(0o600)
    load_or_create(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda text: "", id="empty"),
        pytest.param(lambda text: text[:60], id="cut short"),
        pytest.param(lambda text: text.replace("ed25519-seed:", "ed25519-seed:AA"), id="seed too long"),
        pytest.param(lambda text: text[:-3] + "\n", id="seed too short"),
        pytest.param(lambda text: text.replace("ed25519-seed:", "ed25519-seed:!"), id="seed not base64"),
        pytest.param(lambda text: text + text, id="twice"),
        pytest.param(lambda text: "\n".join(reversed(text.splitlines()[:1] + text.splitlines()[2:])), id="no DID"),
        pytest.param(lambda text: text.replace(text.splitlines()[1], ZERO_DID), id="seed of another key"),
        pytest.param(lambda text: "\x00" * len(text), id="zeros, as after a power cut"),
        pytest.param(lambda text: text + "#" * 5000, id="too long"),
    ],
)
def test_a_damaged_file_is_refused_and_kept(tmp_path: Path, damage: object) -> None:
    load_or_create(tmp_path)
    path = tmp_path / "node.key"
    damaged = damage(path.read_text())  # type: ignore[operator]
    path.write_text(damaged)
    with pytest.raises(KeyFileError) as caught:
        load_or_create(tmp_path)
    assert "damaged" in caught.value.detail
    assert "backup" in caught.value.advice
    assert path.read_text() == damaged


def test_a_changed_letter_of_the_seed_is_noticed(tmp_path: Path) -> None:
    load_or_create(tmp_path)
    path = tmp_path / "node.key"
    text = path.read_text()
    start = text.index("ed25519-seed:") + 13
    for place in range(start, start + 43):
        for letter in "AB":  # the last letter of the seed has bits that do not count: even those are looked at
            if letter != text[place]:
                path.write_text(text[:place] + letter + text[place + 1 :])
                with pytest.raises(KeyFileError):
                    load_or_create(tmp_path)


def test_a_lost_next_key_is_not_replaced(tmp_path: Path) -> None:
    load_or_create(tmp_path)
    (tmp_path / "next.key").unlink()
    with pytest.raises(KeyFileError, match=r"next\.key is missing"):
        load_or_create(tmp_path)
    assert not (tmp_path / "next.key").exists()


def test_a_start_that_was_interrupted_goes_on(tmp_path: Path) -> None:
    _, next_key = load_or_create(tmp_path)
    (tmp_path / "node.key").unlink()  # next.key is made first
    key, kept = load_or_create(tmp_path)
    assert kept.did == next_key.did
    assert key.did != next_key.did


def test_a_directory_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError) as caught:
        load_or_create(tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in str(caught.value)
    assert caught.value.advice


def test_processes_that_start_at_once_agree_on_one_key(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from federation.identity import load_or_create; "
        "print(*(key.did for key in load_or_create(Path(sys.argv[1]))))"
    )
    runs = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE) for _ in range(4)]
    answers = {run.communicate(timeout=30)[0] for run in runs}
    assert [run.returncode for run in runs] == [0] * 4
    assert len(answers) == 1
    assert sorted(os.listdir(tmp_path)) == ["next.key", "node.key"]
