"""The model, and the watch while a run goes on.

The model is plain dicts with the merge rule of PROTOCOL.md, written down here a second time: what each node said that
reached its disk (`ledger`), and what its people wanted last (`wishes`). It knows more than any node does, such as who
was ever let into a federation, so it looks at each message that is sent and at each entry that is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from crdt.entry import Class, Entry, Key
from federation.identity import parse_did
from federation.messages import Message
from federation.replica import Statement
from tests.sim.beliefs import LONGEST, read
from tests.sim.node import Process, SimNode
from tests.sim.world import Violation, World

Ledger = dict[Key, Entry]


@dataclass(frozen=True, slots=True)
class Wish:
    """What the people at a node want it to say of (kind, name)."""

    cls: Class
    root: bytes | None
    body: Mapping[str, object]


def merge(ledger: Ledger, entry: Entry) -> None:
    """The merge rule: of two entries with one key the highest (stamp, valid_until, id)."""
    held = ledger.get(entry.key)
    if held is None or (held.stamp, held.valid_until, held.id) < (entry.stamp, entry.valid_until, entry.id):
        ledger[entry.key] = entry


class Oracle:
    """`ledger`: by origin, what reached the origin's own disk; `granted`: (root, member), ever: a root, or who was ever
    allowed to, has certified it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.by_raw: dict[bytes, Entry] = {}
        self.by_id: dict[bytes, Entry] = {}
        self.hidden: dict[bytes, Entry] = {}  # by id: what not everybody may have
        self.ledger: dict[bytes, Ledger] = {}
        self.wishes: dict[bytes, dict[tuple[str, str], Wish | None]] = {}
        self.granted: set[tuple[bytes, bytes]] = set()
        self._grants: set[tuple[bytes, bytes, bytes, int]] = set()  # root, issuer, subject, depth
        self.labels: dict[bytes, str] = {}

    def label(self, key: bytes | None) -> str:
        return "nobody" if key is None else self.labels.get(key, key.hex()[:6])

    # What is said

    def signed(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self.by_raw[entry.raw] = entry
            self.by_id[entry.id] = entry
            if entry.cls is not Class.PUBLIC:
                self.hidden[entry.id] = entry
            if entry.kind == "cert" and (said := read(entry)).granted:
                self._grants.add((said.root, entry.origin, parse_did(entry.name), said.depth))
                self._let_in(said.root)

    def _let_in(self, root: bytes) -> None:
        """Who was ever let into the federation of `root`, by whom that was ever let do so."""
        may = {(root, LONGEST)}
        for _ in range(LONGEST):
            may |= {
                (subject, min(depth, left - 1))
                for federation, issuer, subject, depth in self._grants
                for key, left in may
                if federation == root and key == issuer and left
            }
        self.granted |= {(root, key) for key, _ in may if key != root}

    def durable(self, node: SimNode, entries: Iterable[Entry]) -> None:
        for entry in entries:
            if entry.raw not in self.by_raw:
                # A node that gets its own entries back signs again what was said since.
                if entry.origin != node.key.public or not node.amnesiac:
                    raise Violation(f"{node} holds {entry}, which nobody signed")
                self.signed((entry,))
            if entry.origin == node.key.public:
                merge(self.ledger.setdefault(entry.origin, {}), entry)

    def acknowledged(self, node: SimNode, statements: Sequence[Statement], entries: Sequence[Entry]) -> None:
        """These were said and are synced as `entries`. An amnesiac takes back only what it knows of."""
        wishes = self.wishes.setdefault(node.key.public, {})
        made = {(entry.kind, entry.name) for entry in entries}
        for said in statements:
            subject = said.kind, said.name
            if said.body is not None:
                wishes[subject] = Wish(said.cls, said.root, said.body)
            elif subject in made or not node.amnesiac:
                wishes[subject] = None
            else:
                wishes.pop(subject, None)

    def started(self, node: SimNode) -> None:
        """What was on its way to the disk at a crash is there or not; what an amnesiac said in an earlier run may be
        beaten by what comes back."""
        if node.amnesiac:
            self.wishes.pop(node.key.public, None)

    def crashed(self, node: SimNode, names: Iterable[str]) -> None:
        """Writes of `names` were on their way: nobody knows."""
        wishes = self.wishes.get(node.key.public, {})
        for name in names:
            for kind in ("service", "status"):
                wishes.pop((kind, name), None)

    def lost_disk(self, node: SimNode) -> None:
        """What counts from now on is what is found anywhere."""
        node.amnesiac = True
        self.ledger.pop(node.key.public, None)
        self.wishes.pop(node.key.public, None)

    # What is sent and taken

    def sent(self, source: Process, target: SimNode, message: Message) -> None:
        name = message["t"]
        if source.node.bad:
            return
        if name == "entries":
            for raw in message["entries"]:  # type: ignore[attr-defined]
                self._may_leave(self.by_raw.get(raw), source, target)
        elif name == "ihave":
            for identity in message["ids"]:  # type: ignore[attr-defined]
                self._may_leave(self.by_id.get(identity), source, target)
        elif name == "sync.round":
            body = message["message"]
            for identity, entry in self.hidden.items():
                if identity in body:  # type: ignore[operator]
                    self._may_leave(entry, source, target)

    def _may_leave(self, entry: Entry | None, source: Process, target: SimNode) -> None:
        if entry is None:
            raise Violation(f"{source.node} sends {target} what nobody signed")
        if entry.cls is Class.PUBLIC:
            return
        why = None
        if entry.cls is Class.PRIVATE or entry.root is None:
            why = "which may not leave its node"
        elif (entry.root, target.key.public) not in self.granted:
            why = f"which was never a member of {self.label(entry.root)}"
        else:
            for key in (source.node.key.public, target.key.public):
                if not _is_in(source, key, entry.root):
                    why = f"while it does not believe that {self.label(key)} is a member of {self.label(entry.root)}"
        if why is not None:
            raise Violation(f"{source.node} sends {entry} to {target}, {why}")

    def taken(self, process: Process, entries: Iterable[Entry]) -> None:
        """`process` judged these to be good."""
        node = process.node
        for entry in entries:
            own = entry.origin == node.key.public
            if own and not node.amnesiac:
                raise Violation(f"{node} gets back {entry}, which it had sent before it was on its disk")
            if not own and (entry.cls is Class.PRIVATE or entry.raw not in self.by_raw):
                raise Violation(f"{node} takes {entry}, which is private, or which nobody signed")

    def describe(self, message: Message) -> str:
        """For the trace."""
        name = str(message["t"])
        match name:
            case "entries":
                some = [self.by_raw[raw] for raw in message["entries"] if raw in self.by_raw]  # type: ignore[attr-defined]
                shown = " ".join(f"{e.name}{'' if e.live else '†'}{'piP'[e.cls]}:{e.id.hex()[:6]}" for e in some[:6])
                how = "" if "answers" not in message else f" (block, answers {message['answers']})"
                return f"entries {shown}{f' … {len(some)}' if len(some) > 6 else ''}{how}"
            case "ihave" | "want":
                known = [(self.by_id.get(i), i.hex()[:6]) for i in message["ids"][:6]]  # type: ignore[index]
                ids = [f"{'?' if entry is None else entry.name}:{shown}" for entry, shown in known]
                return f"{name} {' '.join(ids)} ({len(message['ids'])})"  # type: ignore[arg-type]
            case "admits":
                add, drop = ([self.label(key) for key in message[what]] for what in ("add", "drop"))  # type: ignore[attr-defined]
                fresh = " fresh" if message["fresh"] else ""
                return f"admits {self.tree(message)} +{','.join(add)} -{','.join(drop)}{fresh}"
            case "sync.round":
                side = "asks" if message["asks"] else "answers"
                return f"sync.round {self.tree(message)} #{message['session']} {side} ({len(message['message'])} bytes)"  # type: ignore[arg-type]
            case "sync.end" | "prune":
                return f"{name} {self.tree(message)}"
        return name

    def tree(self, message: Message) -> str:
        _, root, trust = cast("list[Any]", message["tree"])
        return "trust" if trust else "facts" if root is None else f"internal({self.label(root)})"


def _is_in(source: Process, key: bytes, root: bytes) -> bool:
    """Whether `source` believes that `key` is in the federation of `root`, another's key for internal facts too."""
    believed, now = source.beliefs(), source.node.now
    return root in believed.roots_of(key, now) and believed.admits(key, Class.INTERNAL, root, "service", now)
