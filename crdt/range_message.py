"""The messages of Negentropy Protocol V1 (github.com/hoytech/negentropy, docs/negentropy-protocol-v1.md).

A message is a version byte and ranges: upper bound, mode, payload. A range begins where the one before it ended, so
that a message covers the order of all items; a bound is the timestamp's distance from the one before it and as much of
an id as it takes (see `ordered_set.py`, where it is bytes that compare). What follows the last range is skipped.

`Reader` takes apart what a peer sent and refuses all that is not as the protocol says, and more than the limits allow,
before anything is done about it. `Writer` puts together, and knows when a message is full. They know no items.
"""

from dataclasses import dataclass
from typing import Final

from crdt.ordered_set import ID_SIZE, KEY_SIZE, MAX_TIMESTAMP, START, TIME_SIZE, varint

VERSION: Final = 0x61
_VERSIONS: Final = range(0x60, 0x70)

SKIP: Final = 0  # modes
FINGERPRINT: Final = 1
IDS: Final = 2

FINGERPRINT_SIZE: Final = 16
_MIN_FRAME: Final = 4096
_MIN_RANGES: Final = 32
_SLACK: Final = 200  # bytes of a frame that are left for what ends a message cut short (as in the reference)
_RANGE_SLACK: Final = 3  # ranges likewise: a skip, a list and the rest


class ReconcileError(ValueError):
    """The peer's message breaks the protocol or a limit; the text says how. The session is over."""


@dataclass(frozen=True, slots=True)
class Limits:
    """`frame`: bytes of a message that is sent, 4,096 or more; `message`: bytes of one that is taken; `ranges`: of
    both, 32 or more; `rounds`: messages that one side answers in a session. 0 is without limit, for peers that are
    trusted not to ask for more than there is memory. Raises ValueError for less."""

    frame: int = 65_536
    message: int = 65_536
    ranges: int = 4_096
    rounds: int = 64

    def __post_init__(self) -> None:
        if self.frame and self.frame < _MIN_FRAME:
            raise ValueError(f"a frame has {_MIN_FRAME} bytes or more (0: without limit), not {self.frame}")
        if self.ranges and self.ranges < _MIN_RANGES:
            raise ValueError(f"a message may have {_MIN_RANGES} ranges or more (0: without limit), not {self.ranges}")


DEFAULT: Final = Limits()


class Reader:
    """Takes a message apart, and refuses what is not as the protocol says."""

    __slots__ = ("_at", "_data", "_left", "_time", "_upper")

    def __init__(self, data: bytes, limits: Limits) -> None:
        if limits.message and len(data) > limits.message:
            raise ReconcileError(f"a message has at most {limits.message} bytes, this has {len(data)}")
        self._data = data
        self._at = 0
        self._left = limits.ranges or len(data)
        self._time = 0
        self._upper = bytes(KEY_SIZE)

    def more(self) -> bool:
        return self._at < len(self._data)

    def version(self) -> int:
        version = self.take(1)[0]
        if version not in _VERSIONS:
            raise ReconcileError(f"a message begins with byte {version:#04x}, which is no version of the protocol")
        return version

    def take(self, size: int) -> bytes:
        start = self._at
        self._at = start + size
        if self._at > len(self._data):
            raise ReconcileError("a message ends in the middle of a range")
        return self._data[start : self._at]

    def varint(self) -> int:
        number = 0
        while True:
            digit = self.take(1)[0]
            number = number << 7 | digit & 0x7F
            if number == 0 and digit:
                raise ReconcileError("a number has a zero as its first digit")
            if number >> 64:
                raise ReconcileError("a number has more than 64 bits")
            if digit < 0x80:
                return number

    def bound(self) -> bytes:
        """The upper bound of the next range."""
        if not self._left:
            raise ReconcileError("a message has too many ranges")
        self._left -= 1
        offset = self.varint()
        if offset and self._time <= MAX_TIMESTAMP:
            self._time += offset - 1
            if self._time > MAX_TIMESTAMP:
                raise ReconcileError("a bound has a timestamp of more than 64 bits")
        else:
            self._time = MAX_TIMESTAMP + 1
        size = self.varint()
        if size > ID_SIZE or (size and self._time > MAX_TIMESTAMP):
            raise ReconcileError(f"a bound has {size} bytes of an id, more than it may have")
        bound = self._time.to_bytes(TIME_SIZE, "big") + self.take(size)
        upper = bound.ljust(KEY_SIZE, b"\0")
        if upper < self._upper:
            raise ReconcileError("a bound is below the one before it")
        self._upper = upper
        return bound

    def ids(self) -> list[bytes]:
        """A list of ids."""
        packed = self.take(self.varint() * ID_SIZE)
        return [packed[start : start + ID_SIZE] for start in range(0, len(packed), ID_SIZE)]


class Writer:
    """Puts a message together. Skips that follow each other are one, and one at the end is left out."""

    __slots__ = ("_frame", "_ranges", "_skipped", "_time", "data", "upper")

    def __init__(self, limits: Limits) -> None:
        self.data = bytearray((VERSION,))
        self.upper = START  # where the last range ends
        self._frame = limits.frame
        self._ranges = limits.ranges or 1 << 64
        self._skipped: bytes | None = None
        self._time = 0

    def skip(self, upper: bytes) -> None:
        self._skipped = upper

    def print(self, upper: bytes, value: bytes) -> None:
        self._range(upper, FINGERPRINT)
        self.data += value

    def ids(self, upper: bytes, keys: list[bytes]) -> None:
        self._range(upper, IDS)
        self.data += varint(len(keys))
        self.data += b"".join([key[TIME_SIZE:] for key in keys])

    def full(self) -> bool:
        return (self._frame > 0 and len(self.data) > self._frame - _SLACK) or self._ranges < _RANGE_SLACK

    def room(self) -> int | None:
        """How many ids may be put into the next range: at least one; None: any number."""
        return (self._frame - _SLACK - len(self.data)) // ID_SIZE + 1 if self._frame else None

    def state(self) -> tuple[int, int, bytes]:
        return len(self.data), self._ranges, self.upper

    def restore(self, state: tuple[int, int, bytes]) -> None:
        """Forgets what was written since, one range at least, and the skip before it. Only the last range, up to
        infinity, may follow."""
        size, self._ranges, self.upper = state
        del self.data[size:]

    def _range(self, upper: bytes, mode: int) -> None:
        if self._skipped is not None:
            skipped, self._skipped = self._skipped, None
            self._range(skipped, SKIP)
        time = int.from_bytes(upper[:TIME_SIZE], "big")
        self.data += varint(0 if time > MAX_TIMESTAMP else time - self._time + 1)
        self.data.append(len(upper) - TIME_SIZE)
        self.data += upper[TIME_SIZE:]
        self.data.append(mode)
        self._time = time
        self.upper = upper
        self._ranges -= 1
