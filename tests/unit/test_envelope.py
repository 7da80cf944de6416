"""federation.envelope: what is sealed is what is opened, and nothing else is."""

from __future__ import annotations

import os
import zlib
from typing import Any

import pytest
from pycose.keys import OKPKey

from crdt import cbor
from federation import envelope
from federation.cose import sign1
from federation.envelope import Channel, EnvelopeError, decode_bare, encode_message, is_bare
from federation.identity import NodeKey
from tests import reference
from tests.referee import read_by_pycose

A, B, EVE = (NodeKey(bytes([n]) * 32) for n in (1, 2, 3))
SESSION = b"s" * 32
AAD = b"klp/1.0" + SESSION
ID = bytes(range(16))
OUT = Channel(A, B.public, SESSION, "klp/1.0")
IN = Channel(B, A.public, SESSION, "klp/1.0")
PING: dict[str, object] = {"t": "ping", "n": 1}


def sealed(*messages: dict[str, object]) -> bytes:
    return OUT.seal([encode_message(message) for message in messages], ID, 5)


def payload(**changed: Any) -> bytes:
    """An envelope by A whose payload differs from a good one; None leaves a field out."""
    fields = {
        "id": ID, "to": B.public, "from": A.public, "type": "event", "payload": [PING], "protocol": "klp/1.0",
        "timestamp": 5,
    } | changed  # fmt: skip
    return sign1(A, cbor.encode({name: value for name, value in fields.items() if value is not None}), AAD)


def refused(raw: bytes) -> tuple[str, str]:
    with pytest.raises(EnvelopeError) as caught:
        IN.open(raw)
    return caught.value.code, caught.value.reason


def test_what_is_sealed_is_opened() -> None:
    messages: list[dict[str, object]] = [PING, {"t": "entries", "entries": [b"x" * 5000], "b": 1.5, "a": None}]
    assert IN.open(sealed(*messages)) == messages


@pytest.mark.parametrize("count", [1, 23, 24, 255, 256, 3000])
def test_any_number_of_messages(count: int) -> None:
    messages: list[dict[str, object]] = [{"t": "x", "n": n} for n in range(count)]
    assert IN.open(sealed(*messages)) == messages


def test_the_bytes_are_those_of_any_cose_and_cbor_library() -> None:
    raw = sealed(PING)
    theirs = read_by_pycose(raw)
    theirs.external_aad = AAD
    theirs.key = OKPKey(crv="ED25519", x=A.public)
    assert theirs.verify_signature()
    fields = {
        "id": ID, "to": B.public, "from": A.public, "type": "event", "payload": [PING], "protocol": "klp/1.0",
        "timestamp": 5,
    }  # fmt: skip
    assert theirs.payload == reference.encode(fields)
    assert raw == payload()


def test_a_long_list_is_compressed_and_a_short_one_is_not() -> None:
    words: dict[str, object] = {"t": "entries", "entries": [b"the same words " * 8] * 100}
    raw = sealed(words)
    assert len(raw) < 2000
    assert IN.open(raw) == [words]
    assert len(sealed({"t": "x", "b": b"a" * 8000})) > 8000
    noise: dict[str, object] = {"t": "x", "b": os.urandom(20_000)}
    raw = sealed(noise)
    assert 20_000 < len(raw) < 20_400
    assert IN.open(raw) == [noise]


def test_an_envelope_of_another_session_or_direction_is_refused() -> None:
    other = Channel(A, B.public, b"t" * 32, "klp/1.0")
    assert refused(other.seal([encode_message(PING)], ID, 5))[0] == "signature"
    with pytest.raises(EnvelopeError, match="another key"):
        OUT.open(sealed(PING))  # sent back to where it came from


def test_an_envelope_by_another_key_is_refused() -> None:
    theirs = Channel(EVE, B.public, SESSION, "klp/1.0")
    assert refused(theirs.seal([encode_message(PING)], ID, 5)) == (
        "signature",
        "the envelope is signed by another key than the link's peer",
    )


def test_another_version_is_another_signature() -> None:
    assert refused(Channel(A, B.public, SESSION, "klp/1.1").seal([encode_message(PING)], ID, 5))[0] == "signature"


def test_every_changed_byte_is_noticed() -> None:
    raw = sealed(PING)
    for at in range(len(raw)):
        with pytest.raises(EnvelopeError):
            IN.open(raw[:at] + bytes((raw[at] ^ 1,)) + raw[at + 1 :])


@pytest.mark.parametrize(
    "changed",
    [
        {"from": B.public}, {"to": A.public}, {"to": None}, {"protocol": "klp/2.0"}, {"type": 1}, {"id": b"short"},
        {"id": None}, {"timestamp": -1}, {"timestamp": None}, {"payload": None}, {"payload": []}, {"payload": [1]},
        {"payload": [{"n": 1}]}, {"payload": [{"t": 1}]}, {"payload": "text"}, {"payload": b"no zlib"},
        {"payload": zlib.compress(cbor.encode([PING])) + b"more"}, {"payload": zlib.compress(cbor.encode([PING]))[:-1]},
        {"payload": zlib.compress(cbor.encode(PING))}, {"payload": zlib.compress(b"\xff")},
        {"payload": [PING] * (envelope.MAX_MESSAGES + 1)},
    ],
)  # fmt: skip
def test_a_payload_that_is_not_as_it_has_to_be_is_refused(changed: dict[str, object]) -> None:
    IN.open(payload())
    assert refused(payload(**changed))[0] == "malformed"


def test_fields_of_a_later_version_are_passed_by() -> None:
    assert IN.open(payload(route=["relay"], auth=b"x")) == [PING]


def test_a_bomb_is_not_inflated() -> None:
    bomb = zlib.compress(b"\x00" * (64 << 20), 9)
    assert len(bomb) < 70_000
    assert refused(payload(payload=bomb))[0] == "oversize"


def test_what_is_too_large_is_refused_before_it_is_looked_at() -> None:
    assert refused(b"\xd2" + b"x" * envelope.MAX_FRAME)[0] == "oversize"
    with pytest.raises(ValueError, match="an inner message of"):
        encode_message({"t": "x", "b": b"x" * envelope.MAX_MESSAGE})


def test_garbage_is_refused() -> None:
    for raw in (b"", b"\xd2", b"\x00" * 200, os.urandom(300), b"\xd2" + os.urandom(300)):
        assert refused(raw)[0] == "signature"


def test_bare_frames_are_told_apart_and_checked() -> None:
    raw = encode_message(PING)
    assert is_bare(raw)
    assert not is_bare(sealed(PING))
    assert not is_bare(b"")
    assert decode_bare(raw) == PING
    for bad, code in (
        (raw + b"x", "malformed"), (raw[:-1], "malformed"), (cbor.encode({"n": 1}), "malformed"),
        (b"\xbf\x61t\x61x\xff", "malformed"), (encode_message({"t": "x", "b": b"x" * 17_000}), "oversize"),
    ):  # fmt: skip
        with pytest.raises(EnvelopeError) as caught:
            decode_bare(bad)
        assert caught.value.code == code
