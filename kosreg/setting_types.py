"""How settings are written: the types of their values, read from TOML, a variable or an option alike.

Each raises ValueError with a text for the person who wrote it; `kosreg.config` adds the place.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, PlainSerializer

from kosreg.auth.caller import ScopeError, parse_scopes
from kosreg.durations import parse_duration
from kosreg.listen import Listen

_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::[0-9]{1,5})?", re.ASCII)


def _seconds(value: object) -> object:
    return parse_duration(value) if isinstance(value, str) else value


def _list(value: object) -> object:
    """A list as it is; from a text (an environment variable) JSON, or items with commas between them."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except ValueError as error:
            raise ValueError(f"is no JSON list: {error}") from None
    return [item for item in (part.strip() for part in value.split(",")) if item]


def _listen(value: object) -> object:
    return Listen.parse(value) if isinstance(value, str) else value


def _listen_or_off(value: object) -> object:
    return Listen.parse(value, off=True) if isinstance(value, str) else value


def _readable(path: Path) -> Path:
    path = path.expanduser().absolute()
    if not path.is_file() or not os.access(path, os.R_OK):
        raise ValueError(f"{path} is no file that this user may read")
    return path


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()


def _host(value: object) -> object:
    if isinstance(value, str) and _HOST.fullmatch(value) is None:
        raise ValueError(f"{value[:200]!r} is no host. Write NAME or NAME:PORT, without http://")
    return value


def _advertised(value: object) -> object:
    if isinstance(value, str) and (listen := Listen.parse(value)).kind == "tcp":
        return listen.authority
    raise ValueError("others can only dial HOST:PORT")


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _store_url(value: object) -> object:
    if isinstance(value, str) and value and not value.startswith(("sqlite:///", "sqlite+aiosqlite:///")):
        raise ValueError("is no URL of a store. Write sqlite:///PATH (with four slashes in all for an absolute path)")
    return value


def _cache_url(value: object) -> object:
    if isinstance(value, str) and value and urlsplit(value).scheme not in ("redis", "rediss", "unix"):
        raise ValueError("is no URL of a Redis. Write redis://HOST:PORT/0, rediss://… or unix://PATH")
    return value


def _issuer_scopes(value: object) -> object:
    value = _list(value)
    if isinstance(value, list) and all(isinstance(text, str) for text in value):
        try:
            parse_scopes(value)
        except ScopeError as error:
            raise ValueError(str(error)) from None
    return value


Seconds = Annotated[int, BeforeValidator(_seconds)]
Where = Annotated[Listen, BeforeValidator(_listen), PlainSerializer(str)]
WhereOrOff = Annotated[Listen, BeforeValidator(_listen_or_off), PlainSerializer(str)]
ReadableFile = Annotated[Path, AfterValidator(_readable)]
AnyFile = Annotated[Path, AfterValidator(_absolute)]
Hosts = Annotated[tuple[Annotated[str, BeforeValidator(_host)], ...], BeforeValidator(_list)]
Addresses = Annotated[tuple[Annotated[str, BeforeValidator(_advertised)], ...], BeforeValidator(_list)]
StoreUrl = Annotated[str, BeforeValidator(_store_url)]
CacheUrl = Annotated[str, BeforeValidator(_cache_url)]
ScopeTexts = Annotated[tuple[str, ...], BeforeValidator(_issuer_scopes)]
FromText = BeforeValidator(_list)
Lower = BeforeValidator(_lower)
