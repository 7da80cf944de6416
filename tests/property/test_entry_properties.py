"""Facts and entries: whatever can be said comes back as it was said, and whatever comes back could have been said."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdt.entry import EntryError, Fact, entry_of, entry_of_checked
from federation.cose import decode_entry, fact_of, restore_entry, sign_entry, verify_entry
from federation.identity import NodeKey, did_of, kind_did_of, parse_did
from tests.property.strategies import KEYS, facts
from tests.referee import read_by_pycose
from tests.unit.test_entry import fields_of


@given(facts())
def test_an_origin_can_read_what_it_signs(fact: Fact) -> None:
    payload = fact.encode()
    assert Fact.decode(payload).encode() == payload
    assert Fact.decode(payload) == Fact.decode(payload, checked=True) == fact
    entry = sign_entry(KEYS[0], fact)
    decoded = decode_entry(entry.raw)
    assert fields_of(decoded) == fields_of(entry) == fields_of(restore_entry(entry.raw, entry.id))
    assert verify_entry(decoded)
    assert fact_of(decoded) == fact


@given(facts())
def test_the_fast_way_gives_what_the_plain_way_gives(fact: Fact) -> None:
    payload = fact.encode()
    plain = entry_of(payload, b"o" * 32, b"i" * 32, b"raw")
    assert fields_of(entry_of_checked(payload, b"o" * 32, b"i" * 32, b"raw")) == fields_of(plain)


@given(facts())
def test_pycose_verifies_whatever_is_signed(fact: Fact) -> None:
    from pycose.keys import OKPKey

    theirs = read_by_pycose(sign_entry(KEYS[0], fact).raw)
    theirs.external_aad = b"kosreg entry 1"
    theirs.key = OKPKey(crv="ED25519", x=KEYS[0].public)
    assert theirs.verify_signature()


@given(facts(), st.integers(0, 2**64 - 1))
def test_the_id_covers_every_field_but_not_the_signature(fact: Fact, other: int) -> None:
    entry = sign_entry(KEYS[0], fact)
    assert sign_entry(KEYS[1], fact).id != entry.id
    if other != fact.valid_until:
        assert sign_entry(KEYS[0], replace(fact, valid_until=other)).id != entry.id
    spoilt = entry.raw[:-1] + bytes([entry.raw[-1] ^ 1])
    assert decode_entry(spoilt).id == entry.id
    assert not verify_entry(decode_entry(spoilt))


@given(facts(), st.data())
def test_a_changed_entry_is_refused_or_does_not_verify(fact: Fact, data: st.DataObject) -> None:
    raw = bytearray(sign_entry(KEYS[0], fact).raw)
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        entry = decode_entry(bytes(raw))
    except EntryError:
        return
    assert not verify_entry(entry)


@given(st.binary(max_size=300))
def test_any_bytes_are_no_entry(raw: bytes) -> None:
    with pytest.raises(EntryError):
        decode_entry(raw)


@given(st.binary(min_size=32, max_size=32))
def test_every_key_has_its_names(seed: bytes) -> None:
    public = NodeKey(seed).public
    assert parse_did(did_of(public)) == parse_did(kind_did_of(public)) == public
    assert did_of(public).startswith("did:key:z6Mk")
