"""MessagePack becomes JSON, or is refused with a reason."""

from __future__ import annotations

import json
import math
import struct
import time

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kosreg.api.body import json_of_msgpack, too_large
from kosreg.problems import Problem

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXT, inner, max_size=5),
    max_leaves=20,
)


@given(VALUES)
def test_what_json_can_say_survives(value: object) -> None:
    assert json.loads(json_of_msgpack(msgpack.packb(value))) == value


def refused(body: bytes) -> str:
    with pytest.raises(Problem) as caught:
        json_of_msgpack(body)
    assert caught.value.slug == "malformed"
    return caught.value.detail


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (msgpack.packb({"a": b"x"}), "base64url"),
        (msgpack.packb({1: "x"}), "MessagePack"),
        (msgpack.packb({b"a": 1}), "base64url"),
        (msgpack.packb(msgpack.ExtType(5, b"x")), "extension"),
        (msgpack.packb(msgpack.Timestamp(1, 2)), "RFC 3339"),
        (msgpack.packb({"a": [1, {"b": math.nan}]}), "/a/1/b: nan"),
        (msgpack.packb([math.inf]), "/0: inf"),
        (msgpack.packb(-math.inf), "The body: -inf"),
        (b"\xca" + struct.pack(">f", math.inf), "inf"),
        (b"\xca" + struct.pack(">f", math.nan), "nan"),
        (b"\xa2\xff\xfe", "MessagePack"),
        (b"\xa3\xed\xa0\x80", "MessagePack"),
        (b"\x92\x01", "MessagePack"),
        (b"\x01\x02", "MessagePack"),
        (b"\xc1", "MessagePack"),
        (b"\xdd\xff\xff\xff\xff", "MessagePack"),
        (b"\xdf\xff\xff\xff\xff", "MessagePack"),
        (b"\xdb\xff\xff\xff\xff", "MessagePack"),
        (b"\x91" * 5_000 + b"\x01", "MessagePack"),
        (b"\x91" * 300 + b"\x01", "nested"),
    ],
)
def test_what_json_cannot_say_is_refused(body: bytes, says: str) -> None:
    assert says in refused(body)


def test_a_text_that_looks_like_infinity_is_a_text() -> None:
    text = "\x7f" + "\xcb" + "\u07ff"
    assert json.loads(json_of_msgpack(msgpack.packb({"a": text, "b": [1.5, {"c": text}]})))["a"] == text
    # the bytes of a float64 infinity, inside the two bytes of a text's length and a text
    packed = b"\x82\xa1a\xcb\x3f\xf8\x00\x00\x00\x00\x00\x00\xa1b\xda\x00\xcb" + b"\x7f" * 0xCB
    assert json.loads(json_of_msgpack(packed))["a"] == 1.5


def test_headers_that_claim_much_cost_little() -> None:
    """Each of 1,000 nested arrays claims 130,000 elements; nothing of that is there."""
    body = (b"\xdc\xff\xff" * 1_000).ljust(4 * 1024 * 1024, b"\x01")
    began = time.process_time()
    refused(body)
    assert time.process_time() - began < 2


@pytest.mark.parametrize(("limit", "text"), [(262_144, "256 KiB"), (4_194_304, "4 MiB"), (1_000, "1000 bytes")])
def test_too_large_names_the_limit(limit: int, text: str) -> None:
    assert text in too_large(limit).detail
