"""How often somebody may do something: so many times at once, and once more each so often."""


class Allowance:
    """`most`: how often at once; `refill_ms`: once more after each of these. A clock that is set back gives nothing and
    takes nothing."""

    __slots__ = ("_counted_ms", "_left", "_most", "_refill_ms")

    def __init__(self, most: int, refill_ms: int) -> None:
        self._most = most
        self._refill_ms = refill_ms
        self._left = float(most)
        self._counted_ms = 0

    def take(self, now_ms: int) -> bool:
        """Once more; False where that is too often."""
        self._left = min(self._most, self._left + max(0, now_ms - self._counted_ms) / self._refill_ms)
        self._counted_ms = now_ms
        if self._left < 1:
            return False
        self._left -= 1
        return True
