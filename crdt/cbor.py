"""Deterministic CBOR (RFC 8949 §4.2.1): the one place where values become bytes and foreign bytes become values.

It knows nothing of entries, COSE or keys. What may stand in a value is less than CBOR offers: null, booleans, integers
from -2^63 to 2^64-1, finite floats, text, byte strings, lists, and maps with text keys (the outermost map may have
unsigned integers as keys instead). No tags, no other simple values, no indefinite lengths, at most `MAX_DEPTH`
containers inside each other.

How: one walk over the value (`_map`, `_list`) finds whatever is not allowed, and notes whether there are floats and
whether keys are out of order. `encode` sorts only if it must. `decode` lets cbor2 parse with its limits set and every
tag refused before it is looked into, walks, and then encodes again: only if that gives the same bytes were lengths,
integers and floats in their shortest form and nothing came after the value. A value whose keys were put in order
beforehand costs one walk and one call of cbor2 (its canonical mode costs four times that).
"""

import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Final, NoReturn

import cbor2

MAX_DEPTH: Final = 16
INT_MIN: Final = -(1 << 63)
INT_MAX: Final = (1 << 64) - 1

_FLOAT: Final = 1  # the value holds a float: cbor2 must be told to find its shortest form
_UNSORTED: Final = 2

# Keys of maps that were found to be text and in order: records have few shapes, and asking here costs a tenth of a look
# at each key. A cache, nothing else: bounded to 1 MB, whatever comes in.
_MAX_SHAPES: Final = 512
_SHAPE_KEYS: Final = 32
_SHAPE_BYTES: Final = 512
_SHAPES: Final[set[tuple[object, ...]]] = set()


class CborError(ValueError):
    """The value or the bytes are not what we allow. `reason`: which rule; `path`: keys and indexes that lead to the
    place, outermost first."""

    def __init__(self, reason: str, path: tuple[str | int, ...] = ()) -> None:
        super().__init__(reason)
        self.reason = reason
        self.path = path

    @property
    def pointer(self) -> str:
        """The place as JSON pointer (RFC 6901); "" is the whole value."""
        return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in self.path)

    def __str__(self) -> str:
        return f"{self.reason} (at {self.pointer})" if self.path else self.reason


def encode(value: object, *, uint_keys: bool = False, max_depth: int = MAX_DEPTH) -> bytes:
    """The one encoding of `value`. With `uint_keys` the outermost map has unsigned integers as keys, else text.

    Raises CborError, with the path to the fault, for what `decode` would not take.
    """
    if uint_keys:
        if type(value) is not dict:
            raise CborError("not a map")
        found = _uint_map(value, max_depth)
    else:
        found = _other(value, max_depth)
    if found & _UNSORTED:
        value = _in_order(value)
    try:
        return _dumps(value, found)
    except UnicodeEncodeError:
        raise CborError("text that is not valid Unicode (a lone surrogate)", _surrogate(value)) from None


def decode(data: bytes, *, uint_keys: bool = False, max_depth: int = MAX_DEPTH) -> object:
    """The value that `data` is the one encoding of. Raises CborError for anything else, never another error.

    Work and memory are bounded by the length of `data`, whatever it claims or holds.
    """
    if uint_keys:
        data = _as_list(data)
    try:
        value = cbor2.loads(
            data,
            max_depth=max_depth,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
            semantic_decoders=_NO_TAGS,
        )
    except (cbor2.CBORError, CborError, ValueError, TypeError, OverflowError, RecursionError, MemoryError) as error:
        raise _unreadable(error) from None
    decoded = _from_list(value) if uint_keys else value
    found = _uint_map(decoded, max_depth) if uint_keys else _other(decoded, max_depth)
    if found & _UNSORTED:
        raise CborError("map keys out of order")
    if _dumps(value, found) != data:
        raise CborError("not the deterministic encoding: a longer form than needed, or bytes after the end")
    return decoded


def _as_list(data: bytes) -> bytes:
    """The outermost map, read as the list key, value, key, value, …

    So its integers are never keys of a dict, and cbor2 can be told to refuse all keys but text and byte strings
    everywhere. Of lists and integers one can choose thousands that share a hash: 64 KiB of them cost 0.2 s. The hash
    of text cannot be foreseen.
    """
    first = data[0] if data else 0
    if 0xA0 <= first < 0xAC:
        return bytes((2 * first - 0xC0,)) + data[1:]
    size = 1 if 0xA0 <= first <= 0xB7 else {0xB8: 2, 0xB9: 3}.get(first, 0)
    count = first - 0xA0 if size == 1 else int.from_bytes(data[1:size], "big")
    if not size or len(data) < size:
        raise CborError("not a map of a size that fits")
    if data[:size] != _head(0xA0, count):
        raise CborError("not the deterministic encoding: a longer form than needed")
    return _head(0x80, 2 * count) + data[size:]


def _from_list(members: list[object]) -> dict[object, object]:
    pairs = iter(members)
    try:
        value = dict(zip(pairs, pairs, strict=True))
    except TypeError:  # a list or a map
        raise CborError("a key of the outermost map that is not an unsigned integer") from None
    if 2 * len(value) != len(members):
        raise CborError("Duplicate map key in the outermost map")
    return value


def _head(major: int, count: int) -> bytes:
    """The shortest head of a list or map with `count` members."""
    if count < 24:
        return bytes((major | count,))
    if count < 0x100:
        return bytes((major | 24, count))
    if count < 0x10000:
        return bytes((major | 25,)) + count.to_bytes(2, "big")
    return bytes((major | 26,)) + count.to_bytes(4, "big")


def decode_checked(data: bytes) -> object:
    """The value of bytes that `decode` has accepted before, at a third of its cost: nothing but what cbor2 itself
    notices is checked.

    Only for what was kept together with a hash, or is held. Raises CborError.
    """
    try:
        return cbor2.loads(data, semantic_decoders=_NO_TAGS)
    except (cbor2.CBORError, CborError, ValueError, TypeError, OverflowError, RecursionError, MemoryError) as error:
        raise _unreadable(error) from None


class _NoTags(dict[int, Callable[[object, bool], object]]):
    """Stands where cbor2 looks up a tag's decoder: for whatever number, it refuses, before the tag's content is read.

    A table of the known tags would let through what a later cbor2 adds. (A dict: any other mapping costs each call a
    tenth more.)
    """

    def __missing__(self, tag: int) -> NoReturn:
        raise CborError(f"tag {tag}: no tags are allowed here")


_NO_TAGS: Final = _NoTags()


def _unreadable(error: BaseException) -> CborError:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, CborError):
            return cause
        cause = cause.__cause__
    return CborError(f"not readable as CBOR: {error}")


def _map(value: dict[object, object], depth: int) -> int:
    """Hot. What stands in a map with text keys: _FLOAT, _UNSORTED, both or 0."""
    if depth <= 0:
        raise CborError("nested too deeply")
    shape = tuple(value)
    found = 0 if shape in _SHAPES else _shape(shape)
    item: object = None
    try:
        for item in value.values():
            kind = type(item)
            if kind is str or item is None or kind is bool:
                continue
            if kind is int:
                if not INT_MIN <= item <= INT_MAX:  # type: ignore[operator]
                    raise CborError("an integer outside 64 bits")
            elif kind is dict:
                found |= _map(item, depth - 1)  # type: ignore[arg-type]
            else:
                found |= _other(item, depth - 1)
    except CborError as error:
        key = next(key for key, other in value.items() if other is item)
        raise CborError(error.reason, (str(key), *error.path)) from None
    return found


def _shape(keys: tuple[object, ...]) -> int:
    """_UNSORTED or 0 for the keys of a map: they are in order when shorter ones come first, then by bytes. Raises
    CborError where one is not text."""
    size, weight, before = -1, 0, ""
    found = 0
    for key in keys:
        if type(key) is not str:
            raise CborError("a map key that is not text", (repr(key)[:80],))
        length = len(key) if key.isascii() else len(key.encode("utf-8", "surrogatepass"))
        if length <= size and (length < size or key <= before):
            found = _UNSORTED
        size, before = length, key
        weight += length
    if not found and len(keys) <= _SHAPE_KEYS and weight <= _SHAPE_BYTES:
        if len(_SHAPES) >= _MAX_SHAPES:
            _SHAPES.clear()
        _SHAPES.add(keys)
    return found


def _uint_map(value: dict[object, object], depth: int) -> int:
    """`_map` for an outermost map whose keys are unsigned integers."""
    if depth <= 0:
        raise CborError("nested too deeply")
    found = 0
    before = -1
    for key, item in value.items():
        if type(key) is not int or not 0 <= key <= INT_MAX:
            raise CborError("a key of the outermost map that is not an unsigned integer", (repr(key)[:80],))
        if key <= before:
            found |= _UNSORTED
        before = key
        kind = type(item)
        if kind is str or (kind is int and 0 <= item <= INT_MAX):  # type: ignore[operator]
            continue
        try:
            found |= _other(item, depth - 1)
        except CborError as error:
            raise CborError(error.reason, (key, *error.path)) from None
    return found


def _other(item: object, depth: int) -> int:
    kind = type(item)
    if kind is dict:
        return _map(item, depth)  # type: ignore[arg-type]
    if kind is list or kind is tuple:
        return _list(item, depth)  # type: ignore[arg-type]
    if kind is int:
        if not INT_MIN <= item <= INT_MAX:  # type: ignore[operator]
            raise CborError("an integer outside 64 bits")
        return 0
    if kind is float:
        if item - item != 0.0:  # type: ignore[operator]  # NaN and both infinities
            raise CborError("a float that is not finite")
        return _FLOAT
    if kind is str or kind is bytes or kind is bool or item is None:
        return 0
    raise CborError(f"a value of type {kind.__name__}, which has no place in CBOR here")


def _list(value: list[object] | tuple[object, ...], depth: int) -> int:
    if depth <= 0:
        raise CborError("nested too deeply")
    found = 0
    index = -1
    try:
        for item in value:
            index += 1
            if type(item) is not str:
                found |= _other(item, depth - 1)
    except CborError as error:
        raise CborError(error.reason, (index, *error.path)) from None
    return found


def _in_order(value: object) -> object:
    """A copy with the keys of every map in the order of their encodings. The value has passed `_check`."""
    if type(value) is dict:
        keys = sorted(value, key=_rank)
        return {key: _in_order(value[key]) for key in keys}
    if type(value) is list or type(value) is tuple:
        return [_in_order(item) for item in value]
    return value


def _rank(key: str | int) -> tuple[int, str | int]:
    """Sorts like the bytes of the encoded key: integers by value, texts by length in UTF-8, then bytes (which sort as
    code points do)."""
    return (0, key) if isinstance(key, int) else (len(key.encode("utf-8", "surrogatepass")), key)


def _dumps(value: object, found: int) -> bytes:
    return cbor2.dumps(value, encoders=_SHORTEST) if found & _FLOAT else cbor2.dumps(value)


def _shortest_float(encoder: cbor2.CBOREncoder, value: float) -> None:
    """RFC 8949 §4.2.2: the shortest of 2, 4 and 8 bytes that gives the value back. (cbor2 does that in canonical mode
    alone, whose key order is another.)"""
    for head, form in ((b"\xf9", ">e"), (b"\xfa", ">f")):
        try:
            packed = struct.pack(form, value)
        except OverflowError:
            continue
        if struct.unpack(form, packed)[0] == value:
            encoder.write(head + packed)
            return
    encoder.write(b"\xfb" + struct.pack(">d", value))


_SHORTEST: Final[Mapping[type, Callable[[cbor2.CBOREncoder, float], None]]] = {float: _shortest_float}


def _surrogate(value: object) -> tuple[str | int, ...]:
    """Where the text is that has no UTF-8 form."""
    items: Iterator[tuple[str | int, object]]
    if isinstance(value, dict):
        for key in value:
            if isinstance(key, str) and not _is_unicode(key):
                return (repr(key)[:80],)
        items = iter(value.items())
    elif isinstance(value, list | tuple):
        items = iter(enumerate(value))
    else:
        return ()
    for step, item in items:
        if isinstance(item, str):
            if not _is_unicode(item):
                return (step,)
        elif found := _surrogate(item):
            return (step, *found)
    return ()


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
