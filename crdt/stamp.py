"""An origin's own order numbers. They order one origin's facts and are nothing else: nobody compares a stamp with a
clock.

It knows no clock: the time comes in. Whatever time comes in, the next stamp is above all that this clock gave or was
told of, so an hour that is repeated, or a clock that was ten years ahead for a minute, puts nothing out of order.
"""

from typing import Final

COUNTER_BITS: Final = 16
STAMP_MAX: Final = (1 << 64) - 1


class StampClock:
    """Gives stamps: int, ms since 1970 << 16 | counter. `last` is the highest given or heard of; 0 before the first."""

    __slots__ = ("last",)

    def __init__(self, last: int = 0) -> None:
        self.last = last

    def next(self, now_ms: int) -> int:
        """The next stamp, above every earlier one. Raises OverflowError when the 64 bits are used up (no honest clock
        does that)."""
        stamp = max(now_ms << COUNTER_BITS, self.last + 1)
        if stamp > STAMP_MAX:
            raise OverflowError(
                "this key has no stamps left: something was signed far in the future; give the node a new key"
            )
        self.last = stamp
        return stamp

    def observe(self, stamp: int) -> None:
        """Never again give a stamp that is not above `stamp`, which this key once signed."""
        self.last = max(self.last, stamp)
