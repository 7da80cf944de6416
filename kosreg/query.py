"""What a caller asks for: the filter, and how the answer is cut (sort, fields, limit, cursor, since, wait).

The same names come as a query string on REST and as an object on the WebSocket. A name that is not known is a
fault and not ignored: `?tags=x` must not answer with everything.

`Filter` is a value: hashable, so that lists are kept per filter, and a pure test of one service, so that lists,
long polls and subscriptions agree. This file has no I/O.
"""

from __future__ import annotations

import base64
import difflib
import re
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, get_args
from urllib.parse import parse_qsl

import orjson

from kosreg.catalog import NO_SERVICES, Catalog
from kosreg.problems import Problem
from kosreg.record import NAME_OF
from kosreg.schemas import service_schema as schema
from kosreg.service import Service

MAX_LIMIT = 1000
DEFAULT_LIMIT = 100
MAX_WAIT = 60.0  # s
MAX_VALUES = 64  # of one name
MAX_FIELDS = 1000  # values in one query string
MAX_TEXT = 512  # characters of one value
MAX_FILTER = 8192  # characters of all values of a WebSocket's filter, as of a query string: it is kept while it lasts

FILTER_NAMES = (
    "tag", "any_tag", "type", "owner", "status", "visibility", "origin", "capability", "q",
)  # fmt: skip
PAGE_NAMES = ("limit", "cursor", "sort", "fields", "since", "wait")
SORTS = (
    "id", "name", "type", "owner", "status", "visibility", "origin", "created", "updated", "heartbeat", "ttl",
    "version", "region", "weight",
)  # fmt: skip
_CHOICES = {
    "type": get_args(schema.ServiceType),
    "status": get_args(schema.Status),
    "visibility": get_args(schema.Visibility),
}
_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """The words of `text`, case folded."""
    return _WORD.findall(text.casefold())


@dataclass(frozen=True, slots=True)
class Filter:
    """Which services. Empty fields ask for nothing; within `tags` and `capabilities` all must hold, within the
    others any."""

    tags: tuple[str, ...] = ()
    any_tags: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    owners: tuple[str, ...] = ()
    statuses: tuple[str, ...] = ()
    visibilities: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    words: tuple[str, ...] = ()  # each must begin a word of name, description or tags

    def matches(self, service: Service, status: str) -> bool:
        """Whether `service`, its effective status being `status` ("": not known), is asked for."""
        if self.tags and not all(tag in service.tags for tag in self.tags):
            return False
        if self.any_tags and not any(tag in service.tags for tag in self.any_tags):
            return False
        if self.types and service.type not in self.types:
            return False
        if self.owners and service.owner not in self.owners:
            return False
        if self.statuses and status and status not in self.statuses:
            return False
        if self.visibilities and NAME_OF[service.cls] not in self.visibilities:
            return False
        if self.origins and service.origin not in self.origins:
            return False
        if self.capabilities and not all(word in service.capabilities for word in self.capabilities):
            return False
        return not self.words or self._says(service)

    def _says(self, service: Service) -> bool:
        text = [service.name, *service.tags]
        if b'"description":' in service.head:
            text.append(orjson.loads(service.head + b"}").get("description", ""))
        found = set(words(" ".join(text)))
        return all(any(word.startswith(asked) for word in found) for asked in self.words)

    def candidates(self, catalog: Catalog) -> Collection[Service]:
        """A superset of what matches, as small as the indexes give it. (There are six types: an index of them would
        leave as much to look at as it costs.)"""
        sets: list[set[Service] | frozenset[Service]] = [catalog.by_tag.get(tag) for tag in self.tags]
        sets += [catalog.by_capability.get(word) for word in self.capabilities]
        if len(self.owners) == 1:
            sets.append(catalog.by_owner.get(self.owners[0]))
        if self.any_tags:
            sets.append(NO_SERVICES.union(*(catalog.by_tag.get(tag) for tag in self.any_tags)))
        if not sets:
            return catalog.services.values()
        sets.sort(key=len)
        return sets[0]


@dataclass(frozen=True, slots=True)
class Query:
    """A filter and how its answer is cut."""

    filter: Filter = Filter()
    limit: int = DEFAULT_LIMIT
    after: tuple[Any, ...] | None = None  # the sort key of the last service of the page before
    sort: tuple[tuple[str, bool], ...] = ()  # (name, descending); the id comes last by itself
    fields: tuple[str, ...] = ()
    since: str | None = None
    wait: float = 0.0  # s
    mark: int = 0  # tells one cut of an answer from another, for ETags


Values = Mapping[str, list[str]]


def _fault(name: str, detail: str) -> dict[str, str]:
    return {"pointer": f"/{name}", "detail": detail}


def _texts(name: str, values: list[str], faults: list[dict[str, str]]) -> tuple[str, ...]:
    if len(values) > MAX_VALUES:
        faults.append(_fault(name, f"may be repeated at most {MAX_VALUES} times"))
        return ()
    choices = _CHOICES.get(name)
    for value in values:
        if choices and value not in choices:
            faults.append(_fault(name, f"must be one of {', '.join(choices)}"))
        elif not value:
            faults.append(_fault(name, "must not be empty"))
        elif len(value) > MAX_TEXT:
            faults.append(_fault(name, f"is longer than {MAX_TEXT} characters"))
    return tuple(sorted(set(values)))


def _names(values: Values, known: Iterable[str]) -> Iterator[dict[str, str]]:
    known = tuple(known)
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            yield _fault(name, f"is not known: {hint}")


def _one(values: Values, name: str, faults: list[dict[str, str]]) -> str | None:
    given = values.get(name)
    if not given:
        return None
    if len(given) > 1:
        faults.append(_fault(name, "may be given once"))
    return given[0]


def _refuse(faults: list[dict[str, str]]) -> None:
    if faults:
        texts = "; ".join(f"{fault['pointer'][1:]} {fault['detail']}" for fault in faults[:3])
        raise Problem.of("invalid", detail=texts, errors=faults)


def parse_filter(values: Values, faults: list[dict[str, str]] | None = None) -> Filter:
    """The filter of `values`; raises Problem (422) unless `faults` collects what is wrong."""
    found: list[dict[str, str]] = [] if faults is None else faults
    if faults is None:
        found += _names(values, FILTER_NAMES)
    get = {name: _texts(name, values.get(name, []), found) for name in FILTER_NAMES}
    asked = [word for text in get["q"] for word in words(text)]
    if get["q"] and not asked:
        found.append(_fault("q", "holds no word"))
    if faults is None:
        _refuse(found)
    return Filter(
        tags=get["tag"],
        any_tags=get["any_tag"],
        types=get["type"],
        owners=get["owner"],
        statuses=get["status"],
        visibilities=get["visibility"],
        origins=get["origin"],
        capabilities=get["capability"],
        words=tuple(sorted(set(asked))),
    )


def filter_of(value: Any) -> Filter:
    """The filter of a WebSocket's `filter` object: names to a text or a list of texts. Raises Problem (422)."""
    if value is None:
        return Filter()
    if not isinstance(value, dict):
        raise Problem.of("invalid", detail="filter must be an object", errors=[_fault("filter", "must be an object")])
    values: dict[str, list[str]] = {}
    for name, given in value.items():
        items = given if isinstance(given, list) else [given]
        if not all(isinstance(item, str) for item in items):
            raise Problem.of(
                "invalid", detail=f"filter: {name} must be a text or a list of texts",
                errors=[_fault(f"filter/{name}", "must be a text or a list of texts")],
            )  # fmt: skip
        values[name] = items
    if sum(len(item) for items in values.values() for item in items) > MAX_FILTER:
        text = f"has more than {MAX_FILTER} characters in all"
        raise Problem.of("invalid", detail=f"the filter {text}", errors=[_fault("filter", text)])
    return parse_filter(values)


def parse_query(values: Values) -> Query:
    """The query of a decoded query string. Raises Problem (422) with every fault."""
    faults = list(_names(values, FILTER_NAMES + PAGE_NAMES))
    chosen = parse_filter(values, faults)
    limit = DEFAULT_LIMIT
    if (text := _one(values, "limit", faults)) is not None:
        if text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MAX_LIMIT and len(text) < 9:
            limit = int(text)
        else:
            faults.append(_fault("limit", f"must be a whole number from 1 to {MAX_LIMIT}"))
    wait = 0.0
    if (text := _one(values, "wait", faults)) is not None:
        if re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,9})?", text) and float(text) <= MAX_WAIT:
            wait = float(text)
        else:
            faults.append(_fault("wait", f"must be seconds from 0 to {MAX_WAIT:.0f}"))
    sort: list[tuple[str, bool]] = []
    for name in _commas(values, "sort"):
        bare = name.removeprefix("-")
        if bare in SORTS:
            sort.append((bare, name != bare))
        else:
            faults.append(_fault("sort", f"must be a comma list of {', '.join(SORTS)}, with - for descending"))
    fields = _commas(values, "fields")
    for name in fields:
        if name not in schema.FIELDS:
            faults.append(_fault("fields", f"must be a comma list of {', '.join(schema.FIELDS)}"))
    cursor = _one(values, "cursor", faults)
    after = None if cursor is None else _opened(cursor, tuple(sort), faults)
    since = _one(values, "since", faults)
    _refuse(faults)
    mark = zlib.crc32(repr((chosen, limit, cursor, sort, fields)).encode())
    return Query(chosen, limit, after, tuple(sort), tuple(fields), since, wait, mark)


@lru_cache(maxsize=4096)
def parse_text(text: str) -> Query:
    """The query of an encoded query string, kept: clients ask the same again and again. Raises Problem (422)."""
    values: dict[str, list[str]] = {}
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:
        raise Problem.of("invalid", f"the query has more than {MAX_FIELDS} values") from None
    for name, value in pairs:
        values.setdefault(name, []).append(value)
    return parse_query(values)


def _commas(values: Values, name: str) -> list[str]:
    return [part for text in values.get(name, []) for part in text.split(",") if part]


def make_cursor(key: tuple[Any, ...], sort: tuple[tuple[str, bool], ...]) -> str:
    """Where the next page begins: opaque to clients. `key` is the plain sort key of the last service shown."""
    return base64.urlsafe_b64encode(orjson.dumps([_names_of(sort), list(key)])).rstrip(b"=").decode()


def _names_of(sort: tuple[tuple[str, bool], ...]) -> str:
    return ",".join(("-" if down else "") + name for name, down in sort)


def _opened(cursor: str, sort: tuple[tuple[str, bool], ...], faults: list[dict[str, str]]) -> tuple[Any, ...] | None:
    try:
        names, key = orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        sound = names == _names_of(sort) and len(key) == len(sort) + 1 and isinstance(key[-1], str)
        if sound and all(part is None or isinstance(part, str | int | float) for part in key):
            return tuple(key)
    except (ValueError, TypeError, LookupError):
        pass
    faults.append(_fault("cursor", "is not from an answer to this query: start again without it"))
    return None
