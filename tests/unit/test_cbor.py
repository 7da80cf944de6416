"""crdt.cbor: what is refused, and that it is refused for its own reason. Each hostile input that PROTOCOL.md names."""

import math
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from time import process_time

import cbor2
import pytest

from crdt import cbor
from crdt.cbor import CborError
from tests import reference


def nested_lists(depth: int) -> bytes:
    return b"\x81" * depth + b"\x00"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param("", "premature end", id="nothing"),
        pytest.param("0102", "after the end", id="bytes after the end"),
        pytest.param("a161610200", "after the end", id="bytes after a map"),
        pytest.param("61", "premature end", id="text cut short"),
        pytest.param("9f01ff", "indefinite", id="list of indefinite length"),
        pytest.param("bf616101ff", "indefinite", id="map of indefinite length"),
        pytest.param("7f6161ff", "indefinite", id="text of indefinite length"),
        pytest.param("5f4161ff", "indefinite", id="bytes of indefinite length"),
        pytest.param("ff", "break", id="break alone"),
        pytest.param("a2616101616102", "Duplicate", id="key twice"),
        pytest.param("82a2616101616101f6", "Duplicate", id="key twice, deeper, same value"),
        pytest.param("a2616201616102", "out of order", id="keys unsorted"),
        pytest.param("a262616101616202", "out of order", id="longer key first"),
        pytest.param("a262c3bc0162626200", "out of order", id="order is by bytes of UTF-8, not by characters"),
        pytest.param("a2636262620062c3bc01", "out of order", id="three bytes before two"),
        pytest.param("a10102", "map key must be a text", id="integer key"),
        pytest.param("a1f600", "map key must be a text", id="null key"),
        pytest.param("a1f9000000", "map key must be a text", id="float key"),
        pytest.param("a1810100", "map key must be a text", id="list key"),
        pytest.param("a1a000", "map key must be a text", id="map key"),
        pytest.param("a1416101", "a map key that is not text", id="byte string key"),
        pytest.param("a16161a1416101", "a map key that is not text", id="byte string key, deeper"),
        pytest.param("1817", "longer form", id="integer in two bytes that fits one"),
        pytest.param("190017", "longer form", id="integer in three bytes"),
        pytest.param("1b00000000ffffffff", "longer form", id="integer in nine bytes that fits five"),
        pytest.param("3800", "longer form", id="negative integer too long"),
        pytest.param("780161", "longer form", id="text with a long head"),
        pytest.param("580161", "longer form", id="bytes with a long head"),
        pytest.param("980100", "longer form", id="list with a long head"),
        pytest.param("b801616100", "longer form", id="map with a long head"),
        pytest.param("fb3ff8000000000000", "longer form", id="float in eight bytes that fits two"),
        pytest.param("fa3fc00000", "longer form", id="float in four bytes that fits two"),
        pytest.param("fb40f86a0000000000", "longer form", id="float in eight bytes that fits four"),
        pytest.param("f97e00", "not finite", id="NaN"),
        pytest.param("f97e01", "not finite", id="another NaN"),
        pytest.param("fb7ff8000000000000", "not finite", id="long NaN"),
        pytest.param("f97c00", "not finite", id="infinity"),
        pytest.param("fbfff0000000000000", "not finite", id="minus infinity"),
        pytest.param("3b8000000000000000", "outside 64 bits", id="-2^63 - 1"),
        pytest.param("a161613bffffffffffffffff", "outside 64 bits", id="-2^64, in a map"),
        pytest.param("813bffffffffffffffff", "outside 64 bits", id="-2^64, in a list"),
        pytest.param("f7", "no place", id="undefined"),
        pytest.param("e0", "no place", id="simple value 0"),
        pytest.param("f8ff", "no place", id="simple value 255"),
        pytest.param("f814", "simple value", id="simple value in a longer form"),
        pytest.param("fc", "not readable", id="reserved"),
        pytest.param("1c", "not readable", id="reserved length"),
        pytest.param("61ff", "not readable", id="text that is not UTF-8"),
        pytest.param("63eda080", "not readable", id="a surrogate in UTF-8"),
        pytest.param("62c080", "not readable", id="overlong UTF-8"),
    ],
)
def test_decode_refuses(data: str, reason: str) -> None:
    with pytest.raises(CborError, match=reason):
        cbor.decode(bytes.fromhex(data))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param("a1616100", "unsigned integer", id="text key"),
        pytest.param("a12000", "unsigned integer", id="negative key"),
        pytest.param("a1f500", "unsigned integer", id="true as key: it equals 1 in Python"),
        pytest.param("a1f93c0000", "unsigned integer", id="1.0 as key: it equals 1 in Python"),
        pytest.param("a201000100", "Duplicate", id="key twice"),
        pytest.param("a20100f500", "Duplicate", id="1 and true: one key in Python"),
        pytest.param("a1810100", "unsigned integer", id="list key"),
        pytest.param("a1a000", "unsigned integer", id="map key"),
        pytest.param("a202000100", "out of order", id="keys unsorted"),
        pytest.param("a101a10200", "map key must be a text", id="integer key, deeper"),
        pytest.param("b8010100", "longer form", id="long head"),
        pytest.param("b900010100", "longer form", id="longer head"),
        pytest.param("ba000000010100", "not a map", id="head of five bytes"),
        pytest.param("bf0100ff", "not a map", id="indefinite length"),
        pytest.param("a20100", "premature end", id="one member missing"),
        pytest.param("a1010000", "after the end", id="bytes after the end"),
        pytest.param("820100", "not a map", id="a list"),
        pytest.param("b8", "not a map", id="head cut short"),
        pytest.param("", "not a map", id="nothing"),
        pytest.param("00", "not a map", id="an integer"),
    ],
)
def test_decode_refuses_outermost_map(data: str, reason: str) -> None:
    with pytest.raises(CborError, match=reason):
        cbor.decode(bytes.fromhex(data), uint_keys=True)


def test_decode_refuses_what_nests_deeper_than_16() -> None:
    assert cbor.decode(nested_lists(16)) is not None
    for depth in (17, 100, 60_000):
        with pytest.raises(CborError, match="nest"):
            cbor.decode(nested_lists(depth))
    with pytest.raises(CborError, match="nest"):
        cbor.decode(b"\xa1\x61a" * 60_000 + b"\x00")
    outer = b"\xa1\x01"
    assert cbor.decode(outer + nested_lists(15), uint_keys=True) is not None
    with pytest.raises(CborError, match="nest"):
        cbor.decode(outer + nested_lists(16), uint_keys=True)


@pytest.mark.parametrize("tag", [*range(300), 1004, 43_000, 55_799, 55_800, 2**32, 2**64 - 1])
def test_decode_refuses_a_tag_before_its_content_is_read(tag: int) -> None:
    # The content is fit for no decoder: whoever looked at it would complain of something else.
    with pytest.raises(CborError, match=rf"tag {tag}: no tags"):
        cbor.decode(reference.head(6, tag) + b"\x1c")
    with pytest.raises(CborError, match=rf"tag {tag}: no tags"):
        cbor.decode(b"\xa1\x61a\x81" + reference.head(6, tag) + b"\x1c")


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(datetime(2026, 1, 1, tzinfo=UTC), id="date"),
        pytest.param(Decimal("1e1000000"), id="decimal"),
        pytest.param(2**64, id="bignum"),
        pytest.param(-(2**64) - 1, id="negative bignum"),
        pytest.param({1, 2}, id="set"),
        pytest.param(1j, id="complex"),
        pytest.param(cbor2.CBORTag(35, "(a+)+$"), id="regular expression"),
        pytest.param(cbor2.CBORTag(36, "MIME-Version: 1.0\n\nx"), id="MIME"),
        pytest.param(cbor2.CBORTag(260, b"\x7f\x00\x00\x01"), id="address"),
        pytest.param(cbor2.CBORTag(28, [cbor2.CBORTag(29, 0)]), id="a list that holds itself"),
        pytest.param(cbor2.CBORTag(256, ["abc", cbor2.CBORTag(25, 0)]), id="string references"),
        pytest.param(cbor2.CBORTag(55_799, 1), id="self-described CBOR"),
    ],
)
def test_decode_refuses_what_cbor2_has_a_decoder_for(value: object) -> None:
    data = cbor2.dumps(value)
    with pytest.raises(CborError, match="no tags are allowed"):
        cbor.decode(data)


def test_nested_tags_do_not_recurse() -> None:
    with pytest.raises(CborError, match="tag 0: no tags"):
        cbor.decode(b"\xc0" * 65_000 + b"\x00")


@pytest.mark.parametrize("first", [0x40, 0x60, 0x80, 0xA0])
@pytest.mark.parametrize("count", [2**16, 2**31 - 1, 2**32, 2**63, 2**64 - 1])
def test_a_claimed_length_costs_no_memory(first: int, count: int) -> None:
    data = reference.head(first >> 5, count) + b"\x00\x00"
    tracemalloc.start()
    try:
        with pytest.raises(CborError, match="not readable"):
            cbor.decode(data)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_a_claimed_size_of_the_outermost_map_costs_little_memory() -> None:
    tracemalloc.start()
    try:
        with pytest.raises(CborError, match="not readable"):
            cbor.decode(b"\xb9\xff\xff\x01\x00", uint_keys=True)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def pairs_that_share_a_hash(count: int) -> list[tuple[int, int]]:
    """Lists as map keys are tuples to Python, and the hash of a tuple of integers can be solved for the last one."""
    mask, prime_1, prime_2, start = (1 << 64) - 1, 11400714785074694791, 14029467366897019727, 2870177450012600261

    def round_(acc: int, lane: int) -> int:
        acc = (acc + lane * prime_2) & mask
        acc = ((acc << 31) | (acc >> 33)) & mask
        return acc * prime_1 & mask

    wanted = round_(round_(start, 1), 2) * pow(prime_1, -1, 1 << 64) & mask
    wanted = ((wanted >> 31) | (wanted << 33)) & mask
    found: list[tuple[int, int]] = []
    first = 1
    while len(found) < count:
        first += 1
        last = (wanted - round_(start, first)) * pow(prime_2, -1, 1 << 64) & mask
        if last < (1 << 61) - 1:
            found.append((first, last))
    return found


@pytest.mark.parametrize("outermost", [True, False])
def test_keys_that_share_a_hash_cost_no_more_than_others(outermost: bool) -> None:
    keys = pairs_that_share_a_hash(3000)
    assert len({hash(key) for key in keys}) == 1, "the premise: this Python's hash of a tuple"
    colliding = reference.head(5, len(keys)) + b"".join(reference.encode(key) + b"\x00" for key in keys)
    if outermost:
        colliding = b"\xa1\x01" + colliding
    started = process_time()
    with pytest.raises(CborError, match="text"):
        cbor.decode(colliding, uint_keys=outermost)
    assert process_time() - started < 0.02, (
        "so large a message is refused in well under 1 ms; with collisions it took 100"
    )


def test_the_cache_of_shapes_is_bounded() -> None:
    for number in range(3 * cbor._MAX_SHAPES):
        cbor.encode({f"key {number}": 1, "x" * 600: 2})
        cbor.encode({f"key {number}": 1})
        cbor.encode({f"{number:02} {place:02}": 1 for place in range(40)})
    assert len(cbor._SHAPES) <= cbor._MAX_SHAPES
    assert all(len(shape) <= 32 and sum(map(len, shape)) <= 512 for shape in cbor._SHAPES)


@pytest.mark.parametrize(
    ("value", "reason", "pointer"),
    [
        ({"a": {"b/c": [0, {"~": math.nan}]}}, "not finite", "/a/b~1c/1/~0"),
        ({"a": [math.inf]}, "not finite", "/a/0"),
        ({"a": 2**64}, "outside 64 bits", "/a"),
        ([-(2**63) - 1], "outside 64 bits", "/0"),
        ({"a": {1: 2}}, "not text", "/a/1"),
        ({"a": {"x": {b"b": 2}}}, "not text", "/a/x/b'b'"),
        ({"a": object()}, "type object", "/a"),
        ({"a": {1, 2}}, "type set", "/a"),
        ({"a": datetime(2026, 1, 1, tzinfo=UTC)}, "type datetime", "/a"),
        ({"a": ["x", "\ud800"]}, "surrogate", "/a/1"),
        ({"a": {"\udfff": 1}}, "surrogate", "/a/'\\udfff'"),
        ("\ud800", "surrogate", ""),
    ],
)
def test_encode_says_where_the_fault_is(value: object, reason: str, pointer: str) -> None:
    with pytest.raises(CborError, match=reason) as caught:
        cbor.encode(value)
    assert caught.value.pointer == pointer


def test_encode_refuses_what_nests_deeper_than_16_and_what_holds_itself() -> None:
    value: object = 0
    for _ in range(16):
        value = [value]
    assert cbor.decode(cbor.encode(value)) == value
    with pytest.raises(CborError, match="nested too deeply"):
        cbor.encode([value])
    endless: dict[str, object] = {}
    endless["x"] = endless
    with pytest.raises(CborError, match="nested too deeply"):
        cbor.encode(endless)


@pytest.mark.parametrize(
    ("value", "data"),
    [
        # RFC 8949, appendix A
        (0, "00"),
        (23, "17"),
        (24, "1818"),
        (1000000000000, "1b000000e8d4a51000"),
        (2**64 - 1, "1bffffffffffffffff"),
        (-1, "20"),
        (-1000, "3903e7"),
        (-(2**63), "3b7fffffffffffffff"),
        (0.0, "f90000"),
        (-0.0, "f98000"),
        (1.1, "fb3ff199999999999a"),
        (1.5, "f93e00"),
        (65504.0, "f97bff"),
        (100000.0, "fa47c35000"),
        (3.4028234663852886e38, "fa7f7fffff"),
        (1.0e300, "fb7e37e43c8800759c"),
        (5.960464477539063e-8, "f90001"),
        (0.00006103515625, "f90400"),
        (-4.0, "f9c400"),
        (False, "f4"),
        (None, "f6"),
        ("ü", "62c3bc"),
        ("𐅑", "64f0908591"),
        (b"\x01\x02", "420102"),
        ([1, [2, 3]], "8201820203"),
        ({"a": 1, "b": [2, 3]}, "a26161016162820203"),
        # keys in the order of their bytes: shorter first, then by UTF-8
        ({"aa": 1, "b": 2, "ü": 3, "": 4, "a": 5}, "a560046161056162026261610162c3bc03"),
    ],
)
def test_both_ways(value: object, data: str) -> None:
    assert cbor.encode(value).hex() == data
    assert cbor.decode(bytes.fromhex(data)) == value
    assert reference.encode(value).hex() == data


def test_negative_zero_stays_negative() -> None:
    assert math.copysign(1, cbor.decode(bytes.fromhex("f98000"))) == -1  # type: ignore[arg-type]


def test_encode_with_integer_keys_sorts_them_and_refuses_others() -> None:
    assert cbor.encode({300: 0, 8: {"b": 1, "a": 2}, 24: 0}, uint_keys=True).hex() == "a308a261610261620118180019012c00"
    for value in ({"a": 1}, {-1: 1}, {True: 1}, {2**64: 1}, [1], None):
        with pytest.raises(CborError):
            cbor.encode(value, uint_keys=True)


@pytest.mark.parametrize("make", [lambda: 1.5, lambda: [1.5], lambda: {"a": {"b": 1.5}}])
def test_floats_are_shortest_wherever_they_stand(make: Callable[[], object]) -> None:
    assert cbor.encode(make()) == reference.encode(make())
