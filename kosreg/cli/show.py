"""Answers for people: tables, times and colours. On a pipe the same, without colours and never cut off.

What a record says about itself is foreign text: it goes through `clean` and is never read as markup.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from kosreg.cli.shared import clean

ALIVE_STYLES = {"up": "green", "restarting": "yellow", "unreachable": "red", "isolated": "yellow"}
STATUS_STYLES = {"active": "green", "degraded": "yellow", "offline": "red"}
EVENT_STYLES = STATUS_STYLES | {"registered": "green", "deregistered": "magenta"}
WIDE = 10_000
"""Columns to lay a table out for where nobody looks at it: a program that reads it needs every word."""


class _Stdout(Console):
    """rich's console, which leaves it to `shared` what a closed pipe means."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def console() -> Console:
    width = None if sys.stdout.isatty() else WIDE
    return _Stdout(file=sys.stdout, width=width, markup=False, highlight=False, emoji=False)


def table(headings: Sequence[str], rows: Iterable[Sequence[object]], *, optional: Sequence[str] = ()) -> None:
    """A table on stdout. Cells: text, or what `styled` made. `optional`: what a narrow terminal goes without, first to
    last.

    Not rich's own layout, which squeezes every column: an id is there to be copied, so the long texts give way first,
    then whole columns.
    """
    to = console()
    cells = [[Text(heading, style="bold") for heading in headings]]
    cells += [[cell if isinstance(cell, Text) else Text(clean(as_text(cell))) for cell in row] for row in rows]
    widths = {index: max(row[index].cell_len for row in cells) for index in range(len(headings))}
    gone = [index for name in optional for index, heading in enumerate(headings) if heading == name]
    soft = [index for index, heading in enumerate(headings) if heading in _MAY_SHRINK]
    for index in gone:
        if not any(row[index].plain for row in cells[1:]):
            del widths[index]
    while gone and _least(widths, soft) > to.width:
        widths.pop(gone.pop(0), None)
    over = sum(widths.values()) + _GAP * (len(widths) - 1) - to.width
    for index in sorted((index for index in soft if index in widths), key=lambda index: -widths[index]):
        if over <= 0:
            break
        narrower = max(min(widths[index], _NARROWEST), widths[index] - over)
        over -= widths[index] - narrower
        widths[index] = narrower
    for row in cells:
        line = Text()
        for index, width in widths.items():
            row[index].truncate(width, overflow="ellipsis", pad=True)
            line.append(" " * _GAP if line else "").append_text(row[index])
        line.rstrip()
        to.print(line, soft_wrap=True)


_GAP = 2
_NARROWEST = 16
"""Columns that a long text keeps at least."""
_MAY_SHRINK = {"NAME", "DESCRIPTION", "TAGS", "URL", "SCOPES", "LABEL"}


def _least(widths: Mapping[int, int], soft: Sequence[int]) -> int:
    """How wide the table is with its long texts cut as short as may be."""
    kept = (min(width, _NARROWEST) if index in soft else width for index, width in widths.items())
    return sum(kept) + _GAP * (len(widths) - 1)


def pairs(rows: Iterable[tuple[str, object]]) -> None:
    """Names and their values on stdout, one pair a line; empty values are left out."""
    to = console()
    kept = [(clean(name), value) for name, value in rows if value not in (None, "", [], {})]
    indent = max((cell_len(name) for name, _ in kept), default=0) + _GAP
    for name, value in kept:
        text = value if isinstance(value, Text) else Text(clean(as_text(value), keep="\n"))
        lines = text.wrap(to, max(to.width - indent, _NARROWEST)) if to.is_terminal else text.split("\n")
        for number, line in enumerate(lines):
            line.rstrip()
            label = Text("" if number else name)
            label.truncate(indent, pad=True)
            to.print(Text().append(label.plain, style="bold").append_text(line), soft_wrap=True)


def styled(word: object, styles: Mapping[str, str] = STATUS_STYLES) -> Text:
    return Text().append(clean(as_text(word)), style=styles.get(str(word), ""))


def as_text(value: object) -> str:
    """A value of an answer in words: lists with commas, objects as JSON."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list) and all(isinstance(item, str | int | float) for item in value):
        return ", ".join(str(item) for item in value)
    if isinstance(value, dict | list):
        import json

        return json.dumps(value, ensure_ascii=False)
    return str(value)


def when(value: object) -> datetime | None:
    """A time of an answer: RFC 3339 text, or seconds since 1970."""
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC)
        return datetime.fromisoformat(value) if isinstance(value, str) else None
    except (ValueError, OverflowError, OSError):
        return None


def local_time(value: object) -> str:
    """A time of an answer as the clock on the wall shows it."""
    moment = when(value)
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S") if moment else as_text(value)


def ago(value: object, now: datetime | None = None) -> str:
    """How long ago, or until when: `3 min ago`, `in 29 d`."""
    moment = when(value)
    if moment is None:
        return as_text(value)
    seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
    if abs(seconds) < 1:
        return "now"
    return f"{span(seconds)} ago" if seconds > 0 else f"in {span(-seconds)}"


def span(seconds: float) -> str:
    """A length of time in its largest fitting unit."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


def get(record: Mapping[str, Any], path: str) -> object:
    """The value at a dotted path, or None."""
    value: object = record
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
