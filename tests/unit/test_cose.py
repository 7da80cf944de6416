"""federation.cose: one shape of message, every other refused with its reason, an independent library on both ends."""

import hashlib
from dataclasses import replace

import pytest
from pycose.algorithms import EdDSA
from pycose.headers import KID, Algorithm
from pycose.keys import OKPKey
from pycose.messages import Sign1Message

from crdt.entry import MAX_ENTRY, Class, EntryError, Fact
from federation.cose import (
    ENTRY_AAD,
    CoseError,
    body_of,
    decode_entry,
    fact_of,
    restore_entry,
    sign1,
    sign_entry,
    verify1,
    verify_entry,
)
from federation.identity import NodeKey
from tests import reference
from tests.referee import read_by_pycose

KEY = NodeKey(b"\x01" * 32)
OTHER = NodeKey(b"\x02" * 32)
FACT = Fact("service", "a", 5, Class.PUBLIC, 9, {"name": "x", "weight": 0.5})
ENTRY = sign_entry(KEY, FACT)


DETACHED = b"\xd2" + reference.encode([reference.encode({1: -8, 4: KEY.public}), {}, None, b"s" * 64])


def message(
    protected: object = None,
    unprotected: object = None,
    payload: object = None,
    signature: object = b"s" * 64,
    before: bytes = b"\xd2",
    after: bytes = b"",
) -> bytes:
    """A COSE_Sign1 with parts that ours never has. None: as ours has it."""
    parts = [
        reference.encode({1: -8, 4: KEY.public}) if protected is None else protected,
        {} if unprotected is None else unprotected,
        FACT.encode() if payload is None else payload,
        signature,
    ]
    return before + reference.encode(parts) + after


def test_sign_decode_verify() -> None:
    entry = decode_entry(ENTRY.raw)
    assert verify_entry(entry)
    assert fact_of(entry) == FACT
    assert body_of(entry) == FACT.body
    assert body_of(sign_entry(KEY, replace(FACT, body=None))) is None
    assert entry.live
    assert (*entry.key, entry.stamp, entry.valid_until) == (KEY.public, Class.PUBLIC, None, "service", "a", 5, 9)
    assert entry.key == ENTRY.key
    assert entry.order == ENTRY.order


def test_tombstone_is_not_live() -> None:
    assert not decode_entry(sign_entry(KEY, replace(FACT, body=None)).raw).live


def test_id_is_the_hash_of_what_was_signed() -> None:
    signed = reference.sig_structure(KEY.public, b"kosreg entry 1", FACT.encode())
    assert ENTRY.id == decode_entry(ENTRY.raw).id == hashlib.sha256(signed).digest()


def test_pycose_verifies_ours() -> None:
    for fact in (FACT, replace(FACT, body=None), replace(FACT, body={"x": "y" * 40_000}), replace(FACT, name="")):
        entry = sign_entry(KEY, fact)
        theirs = read_by_pycose(entry.raw)
        theirs.external_aad = b"kosreg entry 1"
        theirs.key = OKPKey(crv="ED25519", x=KEY.public)
        assert theirs.verify_signature()
        assert theirs.phdr == {Algorithm: EdDSA, KID: KEY.public}
        assert theirs.uhdr == {}
        assert theirs.payload == fact.encode()
        theirs.external_aad = b"kosreg entry 2"
        assert not theirs.verify_signature()


def test_pycose_makes_the_same_bytes() -> None:
    theirs = Sign1Message(phdr={Algorithm: EdDSA, KID: KEY.public}, payload=FACT.encode(), external_aad=ENTRY_AAD)
    theirs.key = OKPKey(crv="ED25519", x=KEY.public, d=KEY.seed)
    assert theirs.encode() == ENTRY.raw


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        pytest.param(b"", "tag 18", id="nothing"),
        pytest.param(ENTRY.raw[1:], "tag 18", id="no tag"),
        pytest.param(b"\xd1" + ENTRY.raw[1:], "tag 18", id="COSE_Mac0's tag"),
        pytest.param(b"\xd8\x12" + ENTRY.raw[1:], "tag 18", id="tag 18 in a longer form"),
        pytest.param(b"\xd9\xd9\xf7" + ENTRY.raw, "tag 18", id="self-described CBOR"),
        pytest.param(b"\xd2" + ENTRY.raw, "no tags", id="tag 18 twice"),
        pytest.param(ENTRY.raw + b"\x00", "after the end", id="bytes after the end"),
        pytest.param(ENTRY.raw[:-1], "not readable", id="cut short"),
        pytest.param(ENTRY.raw[:43], "not readable", id="cut in the frame"),
        pytest.param(ENTRY.raw[:10], "not readable", id="cut in the header"),
        pytest.param(b"\xd2\x9f" + ENTRY.raw[2:] + b"\xff", "indefinite", id="list of indefinite length"),
        pytest.param(b"\xd2\x98\x04" + ENTRY.raw[2:], "longer form", id="long head of the list"),
        pytest.param(b"\xd2" + reference.encode([b"", {}, b"", b"", b""]), "list of four", id="five parts"),
        pytest.param(b"\xd2" + reference.encode([b"", {}, b""]), "list of four", id="three parts"),
        pytest.param(b"\xd2" + reference.encode({"a": 1}), "list of four", id="a map"),
        pytest.param(message(reference.encode({1: -7, 4: KEY.public})), "protected header", id="another algorithm"),
        pytest.param(
            message(reference.encode({1: -19, 4: KEY.public})),
            "protected header",
            id="Ed25519 by its new number",
        ),
        pytest.param(message(reference.encode({1: -8})), "protected header", id="no key"),
        pytest.param(message(reference.encode({4: KEY.public})), "protected header", id="no algorithm"),
        pytest.param(message(b""), "protected header", id="empty protected header"),
        pytest.param(message(reference.encode({1: -8, 4: b"k" * 31})), "protected header", id="key of 31 bytes"),
        pytest.param(
            message(reference.encode({1: -8, 3: 60, 4: KEY.public})),
            "protected header",
            id="another parameter",
        ),
        pytest.param(
            message(b"\xa2\x04\x58\x20" + KEY.public + b"\x01\x27"),
            "protected header",
            id="header keys unsorted",
        ),
        pytest.param(
            message(b"\xa2\x01\x38\x07\x04\x58\x20" + KEY.public),
            "protected header",
            id="header in a longer form",
        ),
        pytest.param(message({1: -8, 4: KEY.public}), "protected header", id="protected header not in a byte string"),
        pytest.param(message(unprotected={4: b"x"}), "unprotected header must be empty", id="unprotected header"),
        pytest.param(message(unprotected={"x": 1}), "unprotected header must be empty", id="unprotected text header"),
        pytest.param(message(unprotected=[]), "unprotected header must be empty", id="unprotected header is a list"),
        pytest.param(
            b"\xd2" + b"\x84\x40\xf6\x40\x40",
            "unprotected header must be empty",
            id="null as unprotected header",
        ),
        pytest.param(DETACHED, "attached", id="detached payload"),
        pytest.param(message(payload="text"), "attached", id="payload is text"),
        pytest.param(message(payload={"a": 1}), "attached", id="payload is not wrapped"),
        pytest.param(message(signature=b"s" * 63), "64 bytes", id="signature of 63 bytes"),
        pytest.param(message(signature=b"s" * 65), "64 bytes", id="signature of 65 bytes"),
        pytest.param(message(signature="s" * 64), "64 bytes", id="signature is text"),
        pytest.param(message(payload=b""), "not a map", id="empty payload"),
        pytest.param(message(payload=b"x" * 30), "not a map", id="payload is no map"),
        pytest.param(message(payload=FACT.encode() + b"\x00"), "after the end", id="bytes after the payload's end"),
        pytest.param(message(payload=b"\xd2" + FACT.encode()), "not a map", id="tag in the payload"),
        pytest.param(message(payload=reference.encode({1: "a", 2: "b"})), "stamp", id="fields missing"),
    ],
)
def test_decode_refuses(raw: bytes, reason: str) -> None:
    with pytest.raises(EntryError, match=reason):
        decode_entry(raw)


@pytest.mark.parametrize("size", [1, 23, 24, 255, 256, 60_000])
def test_payload_length_in_a_longer_form_is_refused(size: int) -> None:
    raw = sign1(KEY, b"x" * size, b"aad")
    short = reference.head(2, size)
    forms = [(first, width) for first, width in ((0x58, 1), (0x59, 2), (0x5A, 4), (0x5B, 8)) if size < 1 << 8 * width]
    longer = [bytes([first]) + size.to_bytes(width, "big") for first, width in forms]
    for head in longer:
        if head != short:
            with pytest.raises(CoseError, match="longer form"):
                verify1(raw[:43] + head + raw[43 + len(short) :], b"aad")


def test_nothing_over_64_kib_is_looked_at() -> None:
    with pytest.raises(EntryError, match="the most is 65,536") as caught:
        decode_entry(b"\xff" * (MAX_ENTRY + 1))
    assert caught.value.too_large


def test_entry_of_exactly_64_kib_is_made_and_one_byte_more_is_not() -> None:
    frame = len(sign_entry(KEY, replace(FACT, body={"x": "y" * 60_000})).raw) - 60_000
    largest = sign_entry(KEY, replace(FACT, body={"x": "y" * (MAX_ENTRY - frame)}))
    assert len(largest.raw) == MAX_ENTRY
    assert verify_entry(decode_entry(largest.raw))
    with pytest.raises(EntryError) as caught:
        sign_entry(KEY, replace(FACT, body={"x": "y" * (MAX_ENTRY - frame + 1)}))
    assert caught.value.too_large


def test_every_changed_byte_is_noticed() -> None:
    for place in range(len(ENTRY.raw)):
        for flip in (1, 0x80):
            raw = bytearray(ENTRY.raw)
            raw[place] ^= flip
            try:
                entry = decode_entry(bytes(raw))
            except EntryError:
                continue
            assert not verify_entry(entry), f"byte {place} changed"


def test_every_prefix_is_refused() -> None:
    for size in range(len(ENTRY.raw)):
        with pytest.raises(EntryError):
            decode_entry(ENTRY.raw[:size])


def test_signature_by_another_key_does_not_hold() -> None:
    forged = ENTRY.raw[:10] + OTHER.public + ENTRY.raw[42:]
    assert not verify_entry(decode_entry(forged))


def test_small_order_keys_sign_nothing() -> None:
    # The neutral element as key and R, S = 0, is a "signature" over every message where that is not checked for.
    neutral = b"\x01" + bytes(31)
    raw = ENTRY.raw[:10] + neutral + ENTRY.raw[42:-64] + neutral + bytes(32)
    assert not verify_entry(decode_entry(raw))


def test_a_second_s_for_the_same_signature_does_not_hold() -> None:
    order = 2**252 + 27742317777372353535851937790883648493
    s = int.from_bytes(ENTRY.raw[-32:], "little") + order
    assert not verify_entry(decode_entry(ENTRY.raw[:-32] + s.to_bytes(32, "little")))


def test_a_signature_for_one_use_does_not_pass_for_another() -> None:
    raw = sign1(KEY, FACT.encode(), b"klp hello client 1")
    assert verify1(raw, b"klp hello client 1") == (KEY.public, FACT.encode())
    with pytest.raises(CoseError, match="does not hold"):
        verify1(raw, b"klp hello server 1")
    assert not verify_entry(decode_entry(raw))
    with pytest.raises(CoseError, match="does not hold"):
        verify1(ENTRY.raw, b"")


def test_verify1_is_bounded() -> None:
    raw = sign1(KEY, b"x" * 70_000, b"aad")
    with pytest.raises(CoseError, match="the most is"):
        verify1(raw, b"aad")
    assert verify1(raw, b"aad", max_size=80_000)[1] == b"x" * 70_000


@pytest.mark.parametrize("size", [0, 1, 23, 24, 255, 256, 65_535, 65_536])
def test_any_length_of_payload_and_aad(size: int) -> None:
    aad, payload = b"a" * size, b"p" * size
    raw = sign1(KEY, payload, aad)
    assert verify1(raw, aad, max_size=1 << 20) == (KEY.public, payload)
    theirs = read_by_pycose(raw)
    theirs.external_aad = aad
    theirs.key = OKPKey(crv="ED25519", x=KEY.public)
    assert theirs.verify_signature()


def test_origins_are_shared() -> None:
    held = bytes(bytearray(KEY.public))
    assert decode_entry(ENTRY.raw, {held: held}).origin is held


def test_restore_compares_the_id_and_shares_it() -> None:
    kept = bytes(bytearray(ENTRY.id))
    restored = restore_entry(ENTRY.raw, kept)
    assert restored.key == ENTRY.key
    assert restored.order == ENTRY.order
    assert restored.id is kept
    with pytest.raises(EntryError, match="content has changed"):
        restore_entry(ENTRY.raw, OTHER.public)
    for place in range(len(ENTRY.raw) - 64):
        raw = bytearray(ENTRY.raw)
        raw[place] ^= 0x10
        with pytest.raises(EntryError):
            restore_entry(bytes(raw), ENTRY.id)


def test_what_an_origin_could_not_read_back_it_does_not_sign() -> None:
    for body in ({"x": float("inf")}, {"x": 2**64}, {"x": {1: 2}}, {"x": object()}):
        with pytest.raises(EntryError):
            sign_entry(KEY, replace(FACT, body=body))
    for fault in ({"name": "x" * 257}, {"stamp": -1}, {"stamp": 2**64}, {"valid_until": -1}, {"root": b"r" * 32}):
        with pytest.raises(EntryError):
            sign_entry(KEY, replace(FACT, **fault))  # type: ignore[arg-type]
