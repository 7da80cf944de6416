"""Negentropy Protocol V1 (github.com/hoytech/negentropy, docs/negentropy-protocol-v1.md): two sides find what each has
that the other lacks, for bytes in proportion to what differs.

A message cuts the whole order of items into ranges. Of each it says nothing (skip), a fingerprint of what its sender
holds there, or the ids themselves. Who gets a fingerprint that is not his own answers with 16 fingerprints of smaller
ranges, or, below 32 items, with his ids. The `Initiator` learns the result, the `Responder` keeps nothing between
messages. Bytes are those of the reference where sets split alike, with one exception (`_Side._cut_short`).

How it is driven: each side makes one object a session, with what the pair may see (`held_set.snapshot`) and the same
cut. `initiate` and `receive` are generators; a step is a slice of a millisecond or so of work, and the last one returns
the message to send:

    work = initiator.receive(answer)  # at first: initiator.initiate(); at the other side: responder.receive(message)
    try:
        found = next(work)            # found.have: ids to send; found.need: ids to ask for; None at the other side
    except StopIteration as end:
        message = end.value           # None: the session is over; initiator.complete says whether all was found

Between two steps the caller looks at its own clock, lets others run, goes on when it likes, or closes the generator
when it has enough. `finish` does all steps of a message at once. The set may change between steps and between messages,
as long as it stays one that both may see: a range is compared by the bounds in the message, never by positions
remembered from before. What changes meanwhile may be found or not, all else is exact.

What a peer can cost: its message is limited in bytes and ranges, a range costs a mark or two, an answer stops when the
frame is full, and the initiator reads each of its own items at most once a message. Bytes that break the protocol raise
`ReconcileError`, and nothing else is ever raised for them.

Pure: no I/O, no clock, no randomness.
"""

from collections.abc import Generator
from typing import Final, NamedTuple, TypeVar

from crdt.held_set import HeldSet
from crdt.ordered_set import INFINITY, MAX_TIMESTAMP, START, TIME_SIZE, Mark, after, fingerprint
from crdt.range_message import (
    DEFAULT,
    FINGERPRINT,
    FINGERPRINT_SIZE,
    IDS,
    SKIP,
    VERSION,
    Limits,
    Reader,
    ReconcileError,
    Writer,
)

__all__ = ["DEFAULT", "Found", "Initiator", "Limits", "ReconcileError", "Responder", "digest", "finish"]

_PARTS: Final = 16
_FEW: Final = 2 * _PARTS  # from here on a range is split; below, its ids are sent
_EMPTY: Final = fingerprint(0, 0)

_SLICE: Final = 64  # units of work between two yields: a mark in one set is one, some 10 µs
_PAGE: Final = 1024  # keys that are asked of one set at once
_KEYS_A_UNIT: Final = 32

_Result = TypeVar("_Result")


class Found(NamedTuple):
    """`have`: ids that only the initiator has; `need`: that only the responder has. An id may be found twice in one
    session where a frame limit cut a message short."""

    have: list[bytes]
    need: list[bytes]


def finish(work: Generator[Found | None, None, _Result]) -> tuple[Found, _Result]:
    """Runs what `receive` gives to its end in one go: all that was found, and the answer."""
    found = Found([], [])
    while True:
        try:
            some = next(work)
        except StopIteration as end:
            result: _Result = end.value
            return found, result
        if some is not None:
            found.have.extend(some.have)
            found.need.extend(some.need)


def digest(items: HeldSet, cut: int = -1) -> bytes:
    """16 bytes that two sides share exactly when they hold the same items with a timestamp above `cut`."""
    return _fingerprint(items.mark(_floor(cut)), items.mark(INFINITY))


def _floor(cut: int) -> bytes:
    """The bound before all items with a timestamp above `cut`."""
    return (min(max(cut, -1), MAX_TIMESTAMP) + 1).to_bytes(TIME_SIZE, "big")


def _fingerprint(lower: Mark, upper: Mark) -> bytes:
    return fingerprint(upper.size - lower.size, upper.total - lower.total)


class _Side:
    """What both sides do: go through the ranges of a message and answer them. Only items with a timestamp above `cut`
    are compared."""

    def __init__(self, items: HeldSet, cut: int = -1, limits: Limits = DEFAULT) -> None:
        self._items = items
        self._floor = _floor(cut)
        self._limits = limits
        self._rounds = 0
        self._work = 0
        self._last: tuple[bytes, Mark] | None = None  # the mark that was made last, while it is true

    def _ids(self, lower: bytes, upper: bytes, message: Reader, out: Writer) -> Generator[None, None, bytes]:
        """Deals with the peer's ids of a range; returns the bound up to which it is dealt with."""
        raise NotImplementedError

    def _answer(self, message: Reader, out: Writer) -> Generator[None, None, None]:
        self._pause()
        lower = START
        while message.more():
            upper = message.bound()
            mode = message.varint()
            self._work += 1
            if mode == SKIP:
                out.skip(upper)
            elif mode == FINGERPRINT:
                theirs = message.take(FINGERPRINT_SIZE)
                if theirs == self._print(lower, upper):
                    out.skip(upper)
                else:
                    before = out.state()
                    yield from self._split(lower, upper, out)
                    if out.full():
                        out.restore(before)
                        self._cut_short(out, out.upper if theirs == _EMPTY else upper)
                        return
            elif mode == IDS:
                end = yield from self._ids(lower, upper, message, out)
                if out.full():
                    self._cut_short(out, end)
                    return
            else:
                raise ReconcileError(f"a range has mode {mode}, only 0, 1 and 2 are known")
            lower = upper
            if self._work >= _SLICE:
                self._pause()
                yield

    def _split(self, lower: bytes, upper: bytes, out: Writer) -> Generator[None, None, None]:
        size = self._mark(upper).size - self._mark(lower).size
        if size < _FEW:
            out.ids(upper, self._keys(lower, upper, size) if size else [])
            return
        if self._work >= _SLICE:
            self._pause()
            yield
        self._work += _PARTS * self._items.weight
        for bound in (*self._items.split(max(lower, self._floor), upper, _PARTS), upper):
            out.print(bound, self._print(lower, bound))
            lower = bound
            if self._work >= _SLICE:
                self._pause()
                yield

    def _cut_short(self, out: Writer, lower: bytes) -> None:
        """Ends a message that is full: one fingerprint for all the rest. The rest begins where the message ends, yet
        the reference sends the fingerprint of what lies above the last range it looked at. As that range differs, the
        peer finds a difference and asks again, whichever is sent; we send the same, for the same bytes. But if the peer
        holds nothing up to there and the same above, it would find no difference and never hear of what we have. Then
        the true fingerprint is sent (`lower` is where the message ends)."""
        out.print(INFINITY, self._print(lower, INFINITY))

    def _print(self, lower: bytes, upper: bytes) -> bytes:
        return _fingerprint(self._mark(lower), self._mark(upper))

    def _mark(self, bound: bytes) -> Mark:
        if self._last is not None and self._last[0] == bound:
            return self._last[1]
        self._work += self._items.weight
        mark = self._items.mark(max(bound, self._floor))
        self._last = (bound, mark)
        return mark

    def _keys(self, lower: bytes, upper: bytes, limit: int) -> list[bytes]:
        self._work += self._items.weight * (1 + limit // _KEYS_A_UNIT)
        return self._items.keys(max(lower, self._floor), upper, limit)

    def _pages(self, lower: bytes, upper: bytes) -> Generator[list[bytes], None, None]:
        """All keys of a range in pages. The set may change after each."""
        size = max(_PAGE // self._items.weight, _FEW)
        while page := self._keys(lower, upper, size):
            yield page
            if len(page) < size:
                return
            lower = after(page[-1])

    def _pause(self) -> None:
        """To be called before each yield: afterwards the set may be another."""
        self._work = 0
        self._last = None


class Initiator(_Side):
    """The side that asks and learns the result: `initiate` once, then `receive` for each answer until it returns None.
    `items`, `cut`, `limits`: see `Responder`."""

    def __init__(self, items: HeldSet, cut: int = -1, limits: Limits = DEFAULT) -> None:
        super().__init__(items, cut, limits)
        self._found = Found([], [])
        self.complete = False  # all differences were found: not so when the rounds have run out

    def initiate(self) -> Generator[None, None, bytes]:
        """Slices; returns the first message."""
        self._pause()
        out = Writer(self._limits)
        yield from self._split(START, INFINITY, out)
        self._rounds = 1
        return bytes(out.data)

    def receive(self, message: bytes) -> Generator[Found, None, bytes | None]:
        """Slices, each with what was found in it; returns the next message, or None at the end (see `complete`).
        Raises ReconcileError. Found ids are the peer's word: that it has them is proven when it sends them."""
        reader, out = Reader(message, self._limits), Writer(self._limits)
        if (version := reader.version()) != VERSION:
            raise ReconcileError(f"the peer speaks version {version - 0x60} of the protocol, not 1")
        for _ in self._answer(reader, out):
            yield self._take()
        if self._found.have or self._found.need:
            yield self._take()
        if len(out.data) == 1:
            self.complete = True
            return None
        if self._limits.rounds and self._rounds >= self._limits.rounds:
            return None
        self._rounds += 1
        return bytes(out.data)

    def _take(self) -> Found:
        found, self._found = self._found, Found([], [])
        return found

    def _ids(self, lower: bytes, upper: bytes, message: Reader, out: Writer) -> Generator[None, None, bytes]:
        theirs = dict.fromkeys(message.ids())
        for page in self._pages(lower, upper):
            for key in page:
                identity = key[TIME_SIZE:]
                if identity in theirs:
                    del theirs[identity]
                else:
                    self._found.have.append(identity)
            if self._work >= _SLICE:
                self._pause()
                yield
        self._found.need.extend(theirs)
        out.skip(upper)
        return upper


class Responder(_Side):
    """The side that answers: `receive` for each message. `items`: what it holds; `cut`: only items with a higher
    timestamp are compared, on both sides the same (-1: all)."""

    def receive(self, message: bytes) -> Generator[None, None, bytes]:
        """Slices; returns the answer. To a later version of the protocol it is the one byte that says which we speak.
        Raises ReconcileError."""
        self._rounds += 1
        if self._limits.rounds and self._rounds > self._limits.rounds:
            raise ReconcileError(f"a session has at most {self._limits.rounds} rounds")
        reader, out = Reader(message, self._limits), Writer(self._limits)
        if reader.version() == VERSION:
            yield from self._answer(reader, out)
        return bytes(out.data)

    def _ids(self, lower: bytes, upper: bytes, message: Reader, out: Writer) -> Generator[None, None, bytes]:
        message.ids()  # only the initiator looks for differences; it needs all of ours
        room = out.room()
        keys: list[bytes] = []
        end = upper
        for page in self._pages(lower, upper):
            keys += page
            if room is not None and len(keys) > room:
                end = keys[room]
                del keys[room:]
                break
            if self._work >= _SLICE:
                self._pause()
                yield
        out.ids(end, keys)
        return end
