"""Wall-clock times as the API shows them: RFC 3339, UTC, milliseconds.

Inside, a time is an int of milliseconds since 1970. Formatting is on the way of every write, so the part of
a second is kept: records of one burst share it.
"""

import time
from datetime import datetime
from functools import lru_cache


def now_ms() -> int:
    """The wall clock, ms since 1970."""
    return time.time_ns() // 1_000_000


@lru_cache(maxsize=4096)
def _second(seconds: int) -> str:
    t = time.gmtime(seconds)
    return f"{t.tm_year:04d}-{t.tm_mon:02d}-{t.tm_mday:02d}T{t.tm_hour:02d}:{t.tm_min:02d}:{t.tm_sec:02d}"


def rfc3339(ms: int) -> str:
    """`ms` since 1970 as `2026-11-24T10:00:00.000Z`."""
    return f"{_second(ms // 1000)}.{ms % 1000:03d}Z"


def parse_rfc3339(text: str) -> int:
    """The inverse of `rfc3339`; raises ValueError."""
    return round(datetime.fromisoformat(text).timestamp() * 1000)
