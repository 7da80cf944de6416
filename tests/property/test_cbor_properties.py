"""crdt.cbor against the plain reference encoder, cbor2's canonical mode, and bytes that mean harm."""

import struct

import cbor2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from crdt import cbor
from crdt.cbor import INT_MAX, CborError
from tests import reference
from tests.property.strategies import bodies, values


@given(values)
@example({"aa": 1, "b": {"ü": 0.1, "": -0.0}})
def test_encoding_is_the_reference_encoding_and_comes_back(value: object) -> None:
    data = cbor.encode(value)
    assert data == reference.encode(value)
    assert cbor.encode(cbor.decode(data)) == data
    assert cbor.decode_checked(data) == cbor.decode(data)


@given(values)
def test_for_text_keys_cbor2s_canonical_mode_agrees(value: object) -> None:
    assert cbor.encode(value) == cbor2.dumps(value, canonical=True)


@given(st.dictionaries(st.integers(0, INT_MAX), values, max_size=30))
def test_integer_keys_outside_come_back(value: dict[int, object]) -> None:
    data = cbor.encode(value, uint_keys=True)
    assert data == reference.encode(value)
    again = cbor.decode(data, uint_keys=True)
    assert cbor.encode(again, uint_keys=True) == data
    assert list(again) == sorted(value)  # type: ignore[call-overload]


@given(st.sampled_from([0, 1, 23, 24, 25, 127, 128, 255, 256, 300, 32_767, 32_768]))
def test_any_number_of_members(count: int) -> None:
    value = dict.fromkeys(range(count), 0)
    data = cbor.encode(value, uint_keys=True)
    assert data == reference.encode(value)
    assert cbor.decode(data, uint_keys=True) == value


@given(bodies, st.randoms())
def test_order_of_insertion_does_not_matter(body: dict[str, object], random: object) -> None:
    members = list(body.items())
    random.shuffle(members)  # type: ignore[attr-defined]
    assert cbor.encode(dict(members)) == cbor.encode(body)


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_refused_or_are_the_one_encoding(data: bytes, uint_keys: bool) -> None:
    try:
        value = cbor.decode(data, uint_keys=uint_keys)
    except CborError:
        return
    assert reference.encode(value) == data


@given(values, st.data())
def test_a_changed_encoding_is_refused_or_is_the_encoding_of_another_value(value: object, data: st.DataObject) -> None:
    good = bytearray(cbor.encode(value))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(good) - 1))
        match data.draw(st.sampled_from(("change", "insert", "remove"))):
            case "change":
                good[place] = data.draw(st.integers(0, 255))
            case "insert":
                good.insert(place, data.draw(st.integers(0, 255)))
            case "remove" if len(good) > 1:
                del good[place]
    try:
        other = cbor.decode(bytes(good))
    except CborError:
        return
    assert reference.encode(other) == good


@pytest.mark.parametrize("width", [2, 4, 8])
@given(data=st.data())
def test_every_float_of_every_width(width: int, data: st.DataObject) -> None:
    """Of the encodings of a float exactly one is taken: the shortest."""
    number = data.draw(st.floats(width=width * 8, allow_nan=False, allow_infinity=False))  # type: ignore[arg-type]
    shortest = reference.shortest_float(number)
    assert cbor.encode(number) == shortest
    for first, form in ((0xF9, ">e"), (0xFA, ">f"), (0xFB, ">d")):
        try:
            longer = bytes([first]) + struct.pack(form, number)
        except OverflowError:
            continue
        if struct.unpack(form, longer[1:])[0] == number and longer != shortest:
            with pytest.raises(CborError, match="longer form"):
                cbor.decode(longer)
