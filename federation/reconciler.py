"""Reconciliation between two peers, tree by tree: Negentropy sessions, and what follows from what they find.

The side that begins a session learns what each lacks: it asks for what it needs and sends what the other needs. A
session compares what lives beyond its `cut`, a time that the beginner chose, so that what lapses meanwhile is no
difference. All work is in slices of about a millisecond (`crdt.reconcile`): a generator that yields what was found.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Final, TypeVar

from crdt.held_set import HeldSet
from crdt.ordered_set import OrderedSet
from crdt.reconcile import Found, Initiator, Limits, Responder
from federation.allowance import Allowance
from federation.messages import Round
from federation.partitions import Tree

LIMITS: Final = Limits(frame=65_536, message=65_536 + 64, ranges=4_096, rounds=64)
SILENCE_MS: Final = 30_000  # a session that hears nothing for so long is given up
SESSIONS: Final = 32  # that a peer may begin at once: each may cost some tenths of a second
REFILL_MS: Final = 2_000  # … and one more in so much time

Holding = Generator[None, None, HeldSet]  # a snapshot that is being made
Asked = Generator[Found, None, Round | None]
Answered = Generator[None, None, Round]
_Result = TypeVar("_Result")


@dataclass(slots=True)
class _Session:
    number: int
    initiator: Initiator
    cut: int
    heard_ms: int
    done: bool = False


class Reconciler:
    """The sessions of one pair of peers: at most one that this side asks and one that it answers in each tree."""

    def __init__(self) -> None:
        self._asking: dict[Tree, _Session] = {}
        self._answering: dict[Tree, tuple[int, Responder]] = {}
        self._allowance = Allowance(SESSIONS, REFILL_MS)

    def is_asking(self, tree: Tree) -> bool:
        """Whether a session of ours goes on in `tree`."""
        return tree in self._asking

    def begin(self, tree: Tree, number: int, holding: Holding, size: int, now_ms: int) -> Asked:
        """Begins session `number` over what `holding` gives; slices, then the first message."""
        session = self._asking[tree] = _Session(number, Initiator(OrderedSet(), now_ms, LIMITS), now_ms, now_ms)
        return self._first(tree, session, holding, size)

    def _first(self, tree: Tree, session: _Session, holding: Holding, size: int) -> Asked:
        held = yield from _quietly(holding)
        session.initiator = Initiator(held, session.cut, LIMITS)
        message = yield from _quietly(session.initiator.initiate())
        if self._asking.get(tree) is not session:  # forgotten meanwhile: less is open
            return None
        return Round(tree, session.number, True, session.cut, size, message)

    def hear(self, heard: Round, size: int, now_ms: int) -> Asked:
        """The answer to a message of ours: slices with what was found, then the next message, or None where there is
        none: then `end` tells whether all was found. Raises ReconcileError."""
        session = self._asking.get(heard.tree)
        if session is None or session.number != heard.session:
            return None  # of a session that was given up
        session.heard_ms = now_ms
        message = yield from session.initiator.receive(heard.message)
        if self._asking.get(heard.tree) is not session:  # forgotten meanwhile
            return None
        if message is None:
            session.done = True
            return None
        return Round(heard.tree, session.number, True, session.cut, size, message)

    def may_answer(self, heard: Round, now_ms: int) -> bool:
        """Whether a message of the peer is to be answered: one that begins a session too many is not. (Whoever gets no
        answer gives up, and begins again later.)"""
        known = self._answering.get(heard.tree)
        if known is not None and known[0] == heard.session:
            return True
        return self._allowance.take(now_ms)

    def answer(self, heard: Round, holding: Holding, size: int) -> Answered:
        """The answer to a message of the peer, over what `holding` gives where it begins a session: slices, then the
        message. Raises ReconcileError."""
        known = self._answering.get(heard.tree)
        if known is None or known[0] != heard.session:
            held = yield from holding
            known = self._answering[heard.tree] = (heard.session, Responder(held, heard.cut, LIMITS))
        message = yield from known[1].receive(heard.message)
        return Round(heard.tree, heard.session, False, heard.cut, size, message)

    def forget(self, tree: Tree) -> None:
        """End what goes on in `tree`: something of it may not be compared any more."""
        self._asking.pop(tree, None)
        self._answering.pop(tree, None)

    def finished(self) -> list[tuple[Tree, int, bool]]:
        """Sessions of ours that have asked all: (tree, number, whether all differences were found). Forgets them."""
        ended = [
            (tree, session.number, session.initiator.complete) for tree, session in self._asking.items() if session.done
        ]
        for tree, _, _ in ended:
            del self._asking[tree]
        return ended

    def give_up(self, now_ms: int) -> list[Tree]:
        """Trees whose session of ours heard nothing for too long, or the clock was set back. Forgets them. (One that
        has asked all waits for nothing but what it found to get there: another would find the same again.)"""
        silent = [
            tree
            for tree, session in self._asking.items()
            if not session.done and not 0 <= now_ms - session.heard_ms <= SILENCE_MS
        ]
        for tree in silent:
            del self._asking[tree]
        return silent

    def ended(self, tree: Tree, number: int) -> None:
        """The peer has ended the session that it asked."""
        if self._answering.get(tree, (None,))[0] == number:
            del self._answering[tree]


def _quietly(work: "Generator[None, None, _Result]") -> Generator[Found, None, _Result]:
    """`work`, whose slices find nothing."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: _Result = end.value
            return result
        yield Found([], [])
