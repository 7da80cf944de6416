"""What becomes of the entries in a message: known ids are passed by, then each is examined (partition, lapse), then its
signature is checked, and what is good lands, all of a message or nothing of it. No I/O, no clock."""

from collections.abc import Generator, Iterable, Sequence
from typing import Final, cast

from crdt.entry import Entry
from federation.cose import entry_id, verify_entry
from federation.effects import Effect, Verify
from federation.messages import Entries
from federation.pair import Pair
from federation.partitions import Tree, tree_of
from federation.quotas import Quotas
from federation.replica import Alert, Fault, Persist, Refused, Replica
from federation.turns import Turns

SLICE: Final = 24  # entries looked at in one slice: about half a millisecond, the signatures apart
CHUNK: Final = 96  # entries whose signatures are checked at once: some 5 ms of another core


class Spoilt(Exception):
    """An entry of a message is the relay's fault: none of the message is taken."""


class Judge:
    """`landing`: what was verified and is not merged yet, by id."""

    def __init__(self, replica: Replica, turns: Turns, quotas: Quotas) -> None:
        self.replica = replica
        self._quotas = quotas
        self.landing: dict[bytes, Entry] = {}
        self._turns = turns

    def known(self, pair: Pair, identity: bytes) -> Entry | None:
        """What is known under an id, as far as `pair` may learn that it is: what lies outside is as good as unknown."""
        entry = self.replica.holdings.by_id.get(identity) or self.landing.get(identity)
        return entry if entry is not None and pair.may_hold(entry) else None

    def is_known(self, pair: Pair, identity: bytes) -> bool:
        """Whether `known` finds something."""
        return self.known(pair, identity) is not None

    def landed(self, entry: Entry) -> None:
        """`entry` is merged, or did not get onto the disk."""
        self.landing.pop(entry.id, None)

    def judge(
        self, pair: Pair, said: Entries, now_ms: int, *, here: bool
    ) -> Generator[list[Effect], None, tuple[list[Entry], set[Tree]]]:
        """Looks at the entries of one message, slice by slice: what is taken, and the trees of news that came twice.
        Raises Spoilt, and then nothing is taken.

        `here`: signatures are checked at once, else by who is told to (`Verify`).
        """
        taken: list[Entry] = []
        stale: set[Tree] = set()
        asked: list[Verify] = []  # what is being checked elsewhere
        left = len(said.raws)
        whole = False
        try:
            for start in range(0, len(said.raws), CHUNK):
                effects: list[Effect] = []
                some: list[Entry] = []
                for number, raw in enumerate(said.raws[start : start + CHUNK], 1):
                    if (held := self._examine(pair, raw, some, effects, now_ms)) is not None and said.news:
                        stale.add(cast(Tree, tree_of(held)))
                    if number % SLICE == 0:
                        yield effects
                        effects = []
                if here:
                    self._accept(pair, some, [verify_entry(entry) for entry in some], taken, effects, now_ms)
                elif some:  # these are verified while the next are looked at
                    asked.append(Verify(pair.peer, tuple(some)))
                    effects.append(asked[-1])
                done = min(CHUNK, len(said.raws) - start)
                pair.judging -= done
                left -= done
                yield effects
            for question in asked:
                verdicts = yield from self._turns.verdicts(question)
                effects = []
                self._accept(pair, question.entries, verdicts, taken, effects, now_ms)
                yield effects
            whole = True
        finally:  # also where the link closes in the middle
            pair.judging -= left
            if not whole:
                self.replica.failed(Persist(tuple(taken), now_ms))
                for entry in taken:
                    self.landed(entry)
        return taken, stale

    def _accept(
        self,
        pair: Pair,
        some: Sequence[Entry],
        verdicts: list[bool],
        taken: list[Entry],
        effects: list[Effect],
        now_ms: int,
    ) -> None:
        for entry, verdict in zip(some, verdicts, strict=True):
            if verdict and (reason := self._quotas.overdraws(entry, now_ms)):
                self._took(pair, [Refused(Fault.ORIGIN, reason, entry.origin)], taken, effects)
            else:
                self._took(pair, self.replica.accept(entry, verdict, now_ms), taken, effects)

    def _examine(self, pair: Pair, raw: bytes, some: list[Entry], effects: list[Effect], now_ms: int) -> Entry | None:
        """What is known already is returned; what must be verified goes into `some`. Raises Spoilt."""
        identity = entry_id(raw)
        if identity is not None and (held := self.known(pair, identity)) is not None:
            return held
        found = self.replica.examine(
            raw,
            now_ms,
            lambda entry: (
                self._quotas.refusal(entry) or ("" if pair.may_come(entry) else "not to be had from this peer")
            ),
        )
        if isinstance(found, Entry):
            some.append(found)
        else:
            self._took(pair, found, [], effects)
        return None

    def _took(self, pair: Pair, judged: Iterable[object], taken: list[Entry], effects: list[Effect]) -> None:
        for effect in judged:
            if isinstance(effect, Persist):
                taken += effect.entries
                self.landing.update((entry.id, entry) for entry in effect.entries)
            elif isinstance(effect, Refused):
                pair.refused[effect.reason if effect.origin is not None else "no entry at all"] += 1
                if effect.fault is Fault.RELAY:
                    raise Spoilt(effect.reason)
            elif isinstance(effect, Alert):
                effects.append(effect)
