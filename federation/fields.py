"""Fields of the first messages on a connection, read with their types and bounds. Each raises SessionError."""

from collections.abc import Mapping
from typing import Final, cast

from crdt.entry import MAX_ENTRY
from federation.closing import SessionError

MAX_ADDRESSES: Final = 4
_MAX_TEXTS: Final = 16  # versions, features
_MAX_TEXT: Final = 256  # characters of a version, a feature, a name, an address


def read_map(value: object, name: str) -> dict[str, object]:
    if type(value) is not dict:
        raise SessionError("malformed", f"{name} must be a map")
    return cast(dict[str, object], value)


def read_bytes(fields: Mapping[str, object], name: str, size: int) -> bytes:
    value = fields.get(name)
    if type(value) is not bytes or len(value) != size:
        raise SessionError("malformed", f"{name} must be {size} bytes")
    return value


def read_text(fields: Mapping[str, object], name: str) -> str:
    value = fields.get(name)
    if type(value) is not str or len(value) > _MAX_TEXT:
        raise SessionError("malformed", f"{name} must be text of at most {_MAX_TEXT} characters")
    return value


def read_texts(fields: Mapping[str, object], name: str, most: int = _MAX_TEXTS) -> list[str]:
    value = fields.get(name)
    if type(value) is not list or len(value) > most:
        raise SessionError("malformed", f"{name} must be a list of at most {most}")
    if any(type(item) is not str or len(item) > _MAX_TEXT for item in value):
        raise SessionError("malformed", f"{name} must hold texts of at most {_MAX_TEXT} characters")
    return cast(list[str], value)


def read_byte_list(fields: Mapping[str, object], name: str, most: int, size: int | None = None) -> list[bytes]:
    value = fields.get(name)
    if type(value) is not list or len(value) > most:
        raise SessionError("malformed", f"{name} must be a list of at most {most}")
    for item in value:
        if type(item) is not bytes or (len(item) > MAX_ENTRY if size is None else len(item) != size):
            raise SessionError("malformed", f"{name} must hold byte strings of the right size")
    return cast(list[bytes], value)
