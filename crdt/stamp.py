"""An origin's own order numbers. They order one origin's facts and are nothing else: nobody compares a stamp with a
clock.

It knows no clock: the time comes in. Whatever time comes in, the next stamp is above all that this clock gave or was
told of, so an hour that is repeated, or a clock that was ten years ahead for a minute, puts nothing out of order.

Nor does it run out of numbers. A time counts up to `CLOCK_MAX` only, beyond which there is counting; and what is above
`OWN_MAX`, which no counting reaches, this clock never gave, so it is not told of that.
"""

from typing import Final

COUNTER_BITS: Final = 16
STAMP_MAX: Final = (1 << 64) - 1
CLOCK_MAX: Final = 1 << 63  # the highest that a time alone gives: the year 6429
OWN_MAX: Final = CLOCK_MAX + (1 << 62)  # the highest to be told of: so many are left for counting, below it and above


class StampClock:
    """Gives stamps: int, ms since 1970 << 16 | counter. `last` is the highest given or heard of; 0 before the first."""

    __slots__ = ("last",)

    def __init__(self, last: int = 0) -> None:
        self.last = last

    def next(self, now_ms: int) -> int:
        """The next stamp, above every earlier one, whatever the time."""
        self.last = max(min(now_ms << COUNTER_BITS, CLOCK_MAX), self.last + 1)
        return self.last

    def observe(self, stamp: int) -> bool:
        """Never again give a stamp that is not above `stamp`, which this key once signed; False, and nothing changes,
        where it is none that a clock like this gives."""
        if stamp > OWN_MAX:
            return False
        self.last = max(self.last, stamp)
        return True
