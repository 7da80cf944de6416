"""Records, lists of them, and what the API says about them, laid out for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from kosreg.cli.show import ago, get, local_time, pairs, styled, table

Record = Mapping[str, Any]

_TIMES = ("created", "updated", "heartbeat")
JUDGED = ("signature", "trust", "scope", "age", "valid")
"""What holds of a signed record or does not; the other answers are only yes or no."""


def show_list(services: Sequence[Record], fields: Sequence[str] | None = None) -> None:
    """A table of services; `fields`: the columns that were asked for."""
    if not services:
        return
    if fields:
        names = [field.strip() for field in fields if field.strip()]
        table([name.upper() for name in names], ([_cell(record, name) for name in names] for record in services))
        return
    table(
        ["ID", "NAME", "TYPE", "STATUS", "OWNER", "TAGS", "URL"],
        (
            [
                record.get("id"),
                record.get("name"),
                record.get("type"),
                styled(record.get("status")),
                record.get("owner"),
                record.get("tags"),
                record.get("url"),
            ]
            for record in services
        ),
        optional=("OWNER", "TAGS", "URL"),
    )


def _cell(record: Record, name: str) -> object:
    value = get(record, name)
    if name == "status":
        return styled(value)
    return local_time(value) if name in _TIMES and value else value


def show_record(record: Record) -> None:
    """One service, its fields in the order in which a person asks for them."""
    first = ["id", "name", "type", "status", "description", "version", "url", "klp", "owner", "visibility"]
    rest = [name for name in record if name not in {*first, "endpoints", "metadata", "liveness"}]
    rows: list[tuple[str, object]] = []
    for name in first:
        value = record.get(name)
        rows.append((name, _status(record) if name == "status" else value))
    for name in rest:
        value = record[name]
        if name in _TIMES and value:
            value = f"{local_time(value)} ({ago(value)})"
        elif name == "ttl":
            value = f"{value} s" if value else "0 (nobody beats)"
        elif name == "auth" and isinstance(value, Mapping):
            value = value.get("type")
        rows.append((name, value))
    for endpoint in record.get("endpoints") or ():
        if isinstance(endpoint, Mapping):
            words = (endpoint.get("method"), endpoint.get("path"), endpoint.get("description"))
            rows.append(("endpoint", " ".join(str(word) for word in words if word)))
    metadata = record.get("metadata")
    if isinstance(metadata, Mapping):
        rows += _flat(metadata, "metadata.")
    pairs(rows)


def _status(record: Record) -> Text:
    """The effective status, and why it is not the declared one."""
    text = styled(record.get("status"))
    live = record.get("liveness")
    reason = live.get("reason") if isinstance(live, Mapping) else None
    return text.append(f"  ({reason})", style="dim") if reason else text


def show_explanation(body: Record) -> None:
    """The story of a record: the answer's own names, nested ones with dots."""
    pairs(_flat(body, ""))


def show_verdict(verdict: Record) -> None:
    """What holds of a signed record and what does not."""
    rows: list[tuple[str, object]] = []
    for name, value in verdict.items():
        if name in JUDGED:
            rows.append((name, Text("holds", style="green") if value else Text("does not hold", style="bold red")))
        elif isinstance(value, Mapping):
            rows += _flat(value, f"{name}.")
        else:
            rows.append((name, value))
    pairs(rows)


def _flat(body: Record, prefix: str) -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = []
    for name, value in body.items():
        if isinstance(value, Mapping) and value:
            rows += _flat(value, f"{prefix}{name}.")
        else:
            rows.append((prefix + name, value))
    return rows
