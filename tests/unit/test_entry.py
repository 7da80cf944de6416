"""crdt.entry: the fields of a payload, each wrong type and each bound, and what is kept though it is not known."""

from dataclasses import replace

import pytest

from crdt.entry import (
    Class,
    Entry,
    EntryError,
    Fact,
    Key,
    Order,
    decode_fields,
    entry_of,
    entry_of_checked,
    max_life_ms,
)
from tests import reference

GOOD: dict[int, object] = {1: "service", 2: "a", 3: 5, 4: 2, 5: 9, 6: {"name": "x"}}
ROOT = b"r" * 32
MISSING = object()


def payload(**changes: object) -> bytes:
    """The good payload with fields changed: f3=… sets field 3, MISSING leaves it out."""
    fields = GOOD | {int(name[1:]): value for name, value in changes.items()}
    return reference.encode({key: value for key, value in fields.items() if value is not MISSING})


def test_good_payload() -> None:
    assert Fact.decode(payload()) == Fact("service", "a", 5, Class.PUBLIC, 9, {"name": "x"})
    assert Fact.decode(payload(f6=None)).body is None
    assert Fact.decode(payload(f4=1, f7=ROOT)) == Fact("service", "a", 5, Class.INTERNAL, 9, {"name": "x"}, ROOT)
    assert Fact.decode(payload(f4=1)).root is None


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"f1": MISSING}, "kind"),
        ({"f2": MISSING}, "name"),
        ({"f3": MISSING}, "stamp"),
        ({"f4": MISSING}, "class"),
        ({"f5": MISSING}, "valid_until"),
        ({"f6": MISSING}, "body"),
        ({"f1": 5}, "kind"),
        ({"f1": b"service"}, "kind"),
        ({"f1": None}, "kind"),
        ({"f2": 5}, "name"),
        ({"f2": ["a"]}, "name"),
        ({"f2": "x" * 257}, "name"),
        ({"f2": "ü" * 129}, "name"),
        ({"f3": -1}, "stamp"),
        ({"f3": "5"}, "stamp"),
        ({"f3": 5.0}, "stamp"),
        ({"f3": True}, "stamp"),
        ({"f3": None}, "stamp"),
        ({"f4": 3}, "class"),
        ({"f4": -1}, "class"),
        ({"f4": True}, "class"),
        ({"f4": 1.0}, "class"),
        ({"f4": "public"}, "class"),
        ({"f5": -1}, "valid_until"),
        ({"f5": False}, "valid_until"),
        ({"f5": "2026-01-01"}, "valid_until"),
        ({"f6": []}, "body"),
        ({"f6": "x"}, "body"),
        ({"f6": False}, "body"),
        ({"f6": 0}, "body"),
        ({"f7": ROOT}, "root"),
        ({"f4": 0, "f7": ROOT}, "root"),
        ({"f4": 2, "f7": None}, "root"),
        ({"f4": 1, "f7": None}, "root"),
        ({"f4": 1, "f7": b"r" * 31}, "root"),
        ({"f4": 1, "f7": b"r" * 33}, "root"),
        ({"f4": 1, "f7": "r" * 32}, "root"),
    ],
)
def test_wrong_field_is_named(changes: dict[str, object], field: str) -> None:
    with pytest.raises(EntryError) as caught:
        Fact.decode(payload(**changes))
    assert caught.value.field == field
    assert not caught.value.too_large


def test_name_of_256_bytes_is_taken() -> None:
    for name in ("x" * 256, "ü" * 128, "𐅑" * 64, ""):
        assert Fact.decode(payload(f2=name)).name == name


@pytest.mark.parametrize("key", [0, 8, 300, 2**64 - 1])
def test_unknown_fields_are_kept_and_signed(key: int) -> None:
    data = payload(**{f"f{key}": {"new": [1.5, b"x"]}})
    fact = Fact.decode(data)
    assert fact.extra == {key: {"new": [1.5, b"x"]}}
    assert fact.encode() == data
    assert replace(fact, extra={}).encode() != data


def test_known_numbers_are_no_extra_fields() -> None:
    with pytest.raises(EntryError, match="1 to 7"):
        replace(Fact.decode(payload()), extra={6: None}).encode()


def test_unknown_kinds_are_decoded() -> None:
    assert Fact.decode(payload(f1="root")).kind == "root"
    assert Fact.decode(payload(f1="")).kind == ""


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"metadata": {"a": [float("nan")]}}, "/metadata/a/0"),
        ({"metadata": {"a": 2**64}}, "/metadata/a"),
        ({"metadata": {1: 2}}, "/metadata/1"),
        ({"tags": ["\ud800"]}, "/tags/0"),
        ({"a/b": {"~": object()}}, "/a~1b/~0"),
    ],
)
def test_a_body_that_cannot_be_signed_says_where(body: dict[str, object], pointer: str) -> None:
    with pytest.raises(EntryError) as caught:
        Fact("service", "a", 1, Class.PUBLIC, 1, body).encode()
    assert (caught.value.field, caught.value.pointer) == ("body", pointer)


def test_depth_is_counted_from_the_payload() -> None:
    value: object = 0
    for _ in range(14):
        value = [value]  # in the body (2), in the payload (1)
    assert Fact.decode(payload(f6={"x": value})).body == {"x": value}
    deeper = payload(f6={"x": [value]})
    with pytest.raises(EntryError, match="nest"):
        Fact.decode(deeper)
    with pytest.raises(EntryError, match="nested too deeply") as caught:
        Fact("service", "a", 5, Class.PUBLIC, 9, {"x": [value]}).encode()
    assert caught.value.pointer.startswith("/x/0/0")


@pytest.mark.parametrize("fields", [{}, {1: "service"}, {8: 1}])
def test_a_payload_without_its_fields_is_refused(fields: dict[int, object]) -> None:
    with pytest.raises(EntryError):
        Fact.decode(reference.encode(fields))


def test_nested_keys_must_be_text_in_unknown_fields_too() -> None:
    with pytest.raises(EntryError, match="text"):
        Fact.decode(payload(f9={1: 2}))


def test_order_decides_by_stamp_then_life_then_id() -> None:
    assert Order(2, 0, b"a") > Order(1, 9, b"z")
    assert Order(2, 3, b"a") > Order(2, 2, b"z")
    assert Order(2, 2, b"b") > Order(2, 2, b"a")


def test_entry_is_small_and_equal_by_id() -> None:
    one = entry_of(payload(), b"o" * 32, b"i" * 32, b"raw")
    other = replace(one, raw=b"other bytes")
    assert one == other
    assert hash(one) == hash(other)
    assert one != replace(one, id=b"j" * 32)
    assert one != "x"
    assert not hasattr(one, "__dict__")
    assert one.key == Key(b"o" * 32, Class.PUBLIC, None, "service", "a")
    assert one.order == Order(5, 9, b"i" * 32)
    assert "tombstone" in repr(replace(one, live=False))


def test_kind_is_one_object_for_all_entries() -> None:
    entries = [entry_of(payload(), b"o" * 32, b"i" * 32, b"raw") for _ in range(2)]
    entries.append(entry_of_checked(payload(), b"o" * 32, b"i" * 32, b"raw"))
    assert len({id(entry.kind) for entry in entries}) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"f3": 2**63, "f5": 2**40},
        {"f3": 2**63, "f5": 2**40, "f6": None},
        {"f3": 2**63, "f5": 2**40, "f2": ""},
        {"f3": 2**63, "f5": 2**40, "f2": "x" * 23},
        {"f3": 2**63, "f5": 2**40, "f2": "x" * 24},
        {"f3": 2**63, "f5": 2**40, "f2": "x" * 255},
        {"f3": 2**63, "f5": 2**40, "f2": "x" * 256},
        {"f3": 2**63, "f5": 2**40, "f2": "ü"},
        {"f3": 2**63, "f5": 2**40, "f1": ""},
        {"f3": 2**63, "f5": 2**40, "f1": "k" * 24},
        {"f3": 2**63, "f5": 2**40, "f4": 0},
        {"f3": 2**63, "f5": 2**40, "f4": 1},
        {"f3": 2**63, "f5": 2**40, "f4": 1, "f7": ROOT},
        {"f3": 2**63, "f5": 2**40, "f4": 1, "f8": b"\x07\x58\x20" + ROOT},
        {"f3": 2**63, "f5": 2**31},
        {"f3": 2**31, "f5": 2**40},
        {"f0": 1, "f3": 2**63, "f5": 2**40},
        {"f0": {"a": 1}, "f3": 2**63, "f5": 2**40},
        {"f3": 2**63, "f5": 2**40, "f8": 1},
    ],
)
def test_the_fast_way_gives_what_the_plain_way_gives(changes: dict[str, object]) -> None:
    data = payload(**changes)
    plain = entry_of(data, b"o" * 32, b"i" * 32, b"raw")
    fast = entry_of_checked(data, b"o" * 32, b"i" * 32, b"raw")
    assert fields_of(fast) == fields_of(plain)


def fields_of(entry: Entry) -> tuple[object, ...]:
    return (*entry.key, *entry.order, entry.live, entry.raw)


def test_trust_lives_longer() -> None:
    day = 86_400_000
    assert [max_life_ms(kind) for kind in ("service", "status", "node", "cert", "succession", "what")] == [
        30 * day, 30 * day, 30 * day, 400 * day, 400 * day, 30 * day,
    ]  # fmt: skip


def test_decode_fields_never_raises_another_error() -> None:
    for data in (b"", b"\xff", b"\xa1", b"\xa6" + b"\xff" * 6, b"\xb9\xff\xff", b"\xd2\x84"):
        with pytest.raises(EntryError):
            decode_fields(data)
