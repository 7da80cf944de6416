"""Spans of time as people write them: `30s`, `15m`, `12h`, `30d`, `1y`; a bare number is seconds."""

from __future__ import annotations

import re
from typing import Final

_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400, "y": 365 * 86_400}
_FORM: Final = re.compile(r"([0-9]{1,12})([smhdwy]?)", re.ASCII)

MIN_TTL: Final = 1
MAX_TTL: Final = 10 * 365 * 86_400
"""Bounds of a token's life, in seconds. Ten years: a device that nobody visits; longer is a mistake."""


def parse_duration(text: str) -> int:
    """Seconds. Raises ValueError with a text that names the forms."""
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text[:40]!r} is no span of time. Write a number and a unit: 30s, 15m, 12h, 30d or 1y")
    return int(match[1]) * _UNITS[match[2]]


def parse_ttl(text: str | int) -> int:
    """The life of a token in seconds, 1 s to 10 years. Raises ValueError."""
    seconds = text if isinstance(text, int) else parse_duration(text)
    if not MIN_TTL <= seconds <= MAX_TTL:
        raise ValueError("a token lives at least 1s and at most 10y; choose a ttl between them")
    return seconds


def show_duration(seconds: int) -> str:
    """The shortest of the forms above that is exact."""
    for unit in ("y", "d", "h", "m"):
        if seconds and seconds % _UNITS[unit] == 0:
            return f"{seconds // _UNITS[unit]}{unit}"
    return f"{seconds}s"
