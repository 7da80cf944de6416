"""From a file of many services to records that a node takes. Pure: bytes in, rows out, every bad row with its reason.

Three forms are told apart by what they hold, so nobody has to name one:
- a list of records, or one record a line (JSON Lines);
- an export, or any answer of `GET /api/services`: an object with `services`;
- the seed list of the Model Context Protocol's registry (a list of servers with `version_detail`), or an object with
  `servers`: each server becomes a tool of `ttl: 0`, since nobody sends heartbeats for it.

Rows are counted from 1, as people count them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Record = dict[str, Any]


class NoRows(Exception):
    """The file as a whole is of no use; the text says why."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row that can be sent. `number` counts from 1."""

    number: int
    record: Record


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot: `id` where it has one, and why."""

    number: int
    id: str | None
    detail: str

    def as_json(self) -> dict[str, object]:
        return {"row": self.number, "id": self.id, "detail": self.detail}


@dataclass(frozen=True, slots=True)
class Rows:
    """What a file holds. `skipped`: the records that nodes write about themselves, which are nobody's to copy."""

    good: tuple[Row, ...]
    bad: tuple[BadRow, ...]
    skipped: int = 0

    @property
    def count(self) -> int:
        return len(self.good) + len(self.bad) + self.skipped


def read_rows(raw: bytes) -> Rows:
    """The rows of a file. Raises NoRows where it is none of the forms above."""
    good: list[Row] = []
    bad: list[BadRow] = []
    first_with: dict[str, int] = {}
    skipped = 0
    for number, value in enumerate(_values(raw), start=1):
        if isinstance(value, _Broken):
            bad.append(BadRow(number, None, value.why))
            continue
        if not isinstance(value, dict):
            bad.append(BadRow(number, None, f"is {_kind(value)}, not an object"))
            continue
        own_id = value.get("id") if isinstance(value.get("id"), str) and value.get("id") else None
        if not any(_filled(field) for field in value.values()):
            bad.append(BadRow(number, own_id, "the row is blank: it has neither id nor name"))
            continue
        if is_node_record(value):
            skipped += 1
            continue
        try:
            record = from_mcp(value) if is_mcp(value) else dict(value)
        except ValueError as error:
            bad.append(BadRow(number, own_id, str(error)))
            continue
        if not record.get("id"):
            record["id"] = derived_id(record)
        name = str(record["id"])
        if name in first_with:
            detail = f"has the id of row {first_with[name]}: give each service an id of its own"
            bad.append(BadRow(number, name, detail))
            continue
        first_with[name] = number
        good.append(Row(number, record))
    return Rows(tuple(good), tuple(bad), skipped)


def is_node_record(value: Mapping[str, Any]) -> bool:
    """Whether this is what a node says about itself: every node writes its own, so a copy would be a false witness."""
    return value.get("type") == "node" and str(value.get("id", "")).startswith("did:key:")


def is_mcp(value: Mapping[str, Any]) -> bool:
    """Whether a row is a server of the MCP registry: it has what no record of ours has, and no type."""
    return "type" not in value and ("version_detail" in value or "packages" in value or "repository" in value)


def from_mcp(server: Mapping[str, Any]) -> Record:
    """A record for a server of the MCP registry. Raises ValueError with the reason where it is no server."""
    service_id, name = _text(server, "id"), _text(server, "name")
    if not service_id:
        raise ValueError("has no id")
    if not name:
        raise ValueError("has no name")
    packages = [entry for entry in server.get("packages") or () if isinstance(entry, dict)]
    remotes = [entry for entry in server.get("remotes") or () if isinstance(entry, dict)]
    release = server.get("version_detail")
    release = release if isinstance(release, dict) else {}
    sources = {str(package.get("registry_name") or "unknown") for package in packages} - {"unknown"}
    record: Record = {"id": service_id, "name": name, "type": "tool", "tags": ["mcp", *sorted(sources)], "ttl": 0}
    if description := _text(server, "description"):
        record["description"] = description
    if version := _text(release, "version"):
        record["version"] = version
    url = next((remote["url"] for remote in remotes if isinstance(remote.get("url"), str) and remote["url"]), None)
    if url:
        record["url"] = url
    extra = {
        "packages": packages,
        "repository": server.get("repository"),
        "remotes": remotes,
        "version_detail": release,
    }
    metadata = {key: value for key, value in extra.items() if _filled(value)}
    if metadata:
        record["metadata"] = metadata
    return record


def derived_id(record: Mapping[str, Any]) -> str:
    """An id for a record that names none: the same for the same name and type, so that importing the file again
    replaces the record instead of adding another."""
    seed = json.dumps([record.get("name"), record.get("type")], ensure_ascii=False).encode("utf-8", "replace")
    return f"import-{hashlib.sha256(seed).hexdigest()[:24]}"


@dataclass(frozen=True, slots=True)
class _Broken:
    """A line that is no JSON."""

    why: str


def _values(raw: bytes) -> list[Any]:
    """The rows as they stand."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise NoRows(f"the file is not UTF-8: {error.reason} at byte {error.start}") from None
    if not text.strip():
        raise NoRows("the file is empty")
    try:
        value = json.loads(text)
    except ValueError as error:
        return _lines(text, error)
    except RecursionError:
        raise NoRows("the file is nested too deeply") from None
    if isinstance(value, dict):
        for name in ("services", "servers"):
            if isinstance(value.get(name), list):
                return list(value[name])
        if "name" in value:
            return [value]  # a single record
        raise NoRows("the file is an object without a list of services")
    if not isinstance(value, list):
        raise NoRows(f"the file holds {_kind(value)}, not a list of services")
    return value


def _lines(text: str, error: ValueError) -> list[Any]:
    """One record a line, where the first line shows that this was meant; a spoilt line costs that line alone."""
    lines = [line for line in text.splitlines() if line.strip()]
    rows: list[Any] = []
    for line in lines:
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError) as fault:
            rows.append(_Broken(f"is not JSON: {fault}"))
    if len(rows) < 2 or not isinstance(rows[0], dict):
        raise NoRows(f"the file is not JSON: {error}")
    return rows


def _text(value: Mapping[str, Any], name: str) -> str:
    text = value.get(name)
    return text.strip() if isinstance(text, str) else ""


def _filled(value: object) -> bool:
    """Whether there is anything in a value, at any depth; False counts as nothing: it is what a blank row says."""
    if isinstance(value, dict):
        return any(_filled(item) for item in value.values())
    if isinstance(value, list):
        return any(_filled(item) for item in value)
    return value not in (None, "", False)


def _kind(value: object) -> str:
    kinds = {
        str: "a text",
        bool: "true or false",
        int: "a number",
        float: "a number",
        list: "a list",
        dict: "an object",
    }
    return kinds.get(type(value), "null")
