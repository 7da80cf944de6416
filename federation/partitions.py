"""What two peers may both hold: trees, and within a tree the origins that both sides admit.

A *tree* is what is compared as one: the public facts, the public trust (`node`, `cert`, `succession`, which go first),
and the internal facts of one federation root. Private entries are in none, and that is all that keeps them at home:
whatever leaves a node is looked up here.

A *partition* is one origin's part of a tree. Two honest nodes may admit different origins, so a pair of peers compares
only the partitions that both have open. No set is kept per pair: fingerprints add, so the pair's set is the tree
without some partitions, or some partitions together, whichever are fewer (`crdt.held_set`).
"""

from collections.abc import Generator, Iterable, Iterator
from typing import Final, NamedTuple

from crdt.entry import TRUST_KINDS, Class, Entry
from crdt.held_set import HeldSet, Together, Without, snapshot
from crdt.ordered_set import TIME_SIZE, OrderedSet, item_key


class Tree(NamedTuple):
    """Names a tree. `root`: 32 bytes where the class is internal; `trust`: the kinds that trust is made of."""

    cls: Class
    root: bytes | None = None
    trust: bool = False

    def to_wire(self) -> list[object]:
        """As it stands in a message: `[class, root or null, trust]`."""
        return [int(self.cls), self.root, self.trust]


class Usage(NamedTuple):
    """What is held of one origin. `records`: those that live, whatever their kind, but for the status of a service,
    which belongs to its record; `bytes`: of all frames, those of tombstones too."""

    records: int = 0
    bytes: int = 0

    def plus(self, other: "Usage") -> "Usage":
        return Usage(self.records + other.records, self.bytes + other.bytes)

    def less(self, other: "Usage") -> "Usage":
        return Usage(self.records - other.records, self.bytes - other.bytes)


def usage_of(entry: Entry) -> Usage:
    """What `entry` alone comes to."""
    return Usage(int(entry.live and entry.kind != "status"), len(entry.raw))


_NOTHING: Final = Usage()
PUBLIC_TRUST: Final = Tree(Class.PUBLIC, None, True)
PUBLIC_FACTS: Final = Tree(Class.PUBLIC)


def internal(root: bytes) -> Tree:
    """The tree of a federation's internal facts."""
    return Tree(Class.INTERNAL, root)


def tree_of(entry: Entry) -> Tree | None:
    """The tree that `entry` belongs to; None for what never leaves its node: private, or internal without a root."""
    if entry.cls == Class.PUBLIC:
        return PUBLIC_TRUST if entry.kind in TRUST_KINDS else PUBLIC_FACTS
    if entry.cls == Class.INTERNAL and entry.root is not None:
        return Tree(Class.INTERNAL, entry.root)
    return None


def tree_from_wire(value: object) -> Tree | None:
    """The inverse of `to_wire`; None for anything else."""
    match value:
        case [2, None, bool(trust)]:
            return PUBLIC_TRUST if trust else PUBLIC_FACTS
        case [1, bytes(root), False] if len(root) == 32:
            return Tree(Class.INTERNAL, root)
    return None


def is_later_tree(value: object) -> bool:
    """Whether it names a tree that this version does not know and a later one may: 3 to 8 items, a number first."""
    if not isinstance(value, list) or not 3 <= len(value) <= 8:
        return False
    return type(value[0]) is int and value[0] >= 0 and tree_from_wire(value) is None


class _Held:
    """The items of one tree: all of them, and by origin; and what those of an origin come to."""

    __slots__ = ("all", "of", "used")

    def __init__(self) -> None:
        self.all = OrderedSet()
        self.of: dict[bytes, OrderedSet] = {}
        self.used: dict[bytes, Usage] = {}

    def parts(self, origins: frozenset[bytes] | set[bytes]) -> tuple[list[OrderedSet], list[OrderedSet]]:
        """The sets of `origins`, and those of all others."""
        inside = [some for origin, some in self.of.items() if origin in origins]
        return inside, [some for origin, some in self.of.items() if origin not in origins]


class Holdings:
    """Every entry that may leave, found by id, and in order by tree and origin. Follows the map: `put` and `drop`.
    `touched`: origins of which more or less is held than when it was last emptied, by whoever counts them."""

    __slots__ = ("_trees", "by_id", "touched")

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self.by_id: dict[bytes, Entry] = {}
        self._trees: dict[Tree, _Held] = {}
        keys: dict[Tree, dict[bytes, list[bytes]]] = {}
        for entry in entries:
            tree = tree_of(entry)
            if tree is not None:
                self.by_id[entry.id] = entry
                keys.setdefault(tree, {}).setdefault(entry.origin, []).append(_key(entry))
                used = self._trees.setdefault(tree, _Held()).used
                used[entry.origin] = used.get(entry.origin, Usage()).plus(usage_of(entry))
        self.touched = {origin for origins in keys.values() for origin in origins}
        for tree, origins in keys.items():
            held = self._trees[tree]
            held.of = {origin: OrderedSet(some) for origin, some in origins.items()}
            held.all = OrderedSet(key for some in origins.values() for key in some)

    def put(self, entry: Entry, replaced: Entry | None) -> None:
        """`entry` is held now, in place of `replaced`, which has the same key."""
        if replaced is not None:
            self.drop(replaced)
        tree = tree_of(entry)
        if tree is None:
            return
        self.by_id[entry.id] = entry
        self.touched.add(entry.origin)
        held = self._trees.setdefault(tree, _Held())
        held.used[entry.origin] = held.used.get(entry.origin, Usage()).plus(usage_of(entry))
        key = _key(entry)
        held.all.insert(key)
        of = held.of.get(entry.origin)
        if of is None:
            held.of[entry.origin] = OrderedSet((key,))
        else:
            of.insert(key)

    def drop(self, entry: Entry) -> None:
        """`entry` is held no more."""
        tree = tree_of(entry)
        if tree is None or self.by_id.pop(entry.id, None) is None:
            return
        held = self._trees[tree]
        key = _key(entry)
        held.all.remove(key)
        of = held.of[entry.origin]
        of.remove(key)
        self.touched.add(entry.origin)
        held.used[entry.origin] = held.used[entry.origin].less(usage_of(entry))
        if not len(of):
            del held.of[entry.origin], held.used[entry.origin]

    def among(self, tree: Tree, origins: frozenset[bytes] | set[bytes]) -> HeldSet:
        """What is held of `tree` by `origins`, to be used at once: an origin that comes up later would be in it."""
        held = self._trees.get(tree)
        if held is None:
            return OrderedSet()
        inside, outside = held.parts(origins)
        if len(inside) < len(outside):
            return Together(inside)
        return Without(held.all, outside) if outside else held.all

    def snapshot(self, tree: Tree, origins: frozenset[bytes] | set[bytes]) -> Generator[None, None, HeldSet]:
        """The same for a whole session: what is held now. Slices, then the set."""
        held = self._trees.get(tree) or _Held()
        return snapshot(held.all, *held.parts(origins))

    def ended(self, since_ms: int, now_ms: int) -> Iterator[Entry]:
        """What lived at `since_ms` and has lapsed at `now_ms`. Nothing may be put or dropped meanwhile."""
        lower, upper = ((ms + 1).to_bytes(TIME_SIZE, "big") for ms in (since_ms, now_ms))
        for held in self._trees.values():
            for key in held.all.keys(lower, upper, len(held.all)):
                yield self.by_id[key[TIME_SIZE:]]

    def count(self, tree: Tree, origins: frozenset[bytes] | set[bytes]) -> int:
        """How many entries `among` has."""
        held = self._trees.get(tree)
        return 0 if held is None else sum(len(some) for origin, some in held.of.items() if origin in origins)

    def used(self, origin: bytes, trees: Iterable[Tree] | None = None) -> Usage:
        """What is held of `origin`, in all trees or in these."""
        found = Usage()
        for tree in self._trees if trees is None else trees:
            if tree in self._trees:
                found = found.plus(self._trees[tree].used.get(origin, _NOTHING))
        return found

    def origins(self) -> set[bytes]:
        """All of whom anything is held."""
        return {origin for held in self._trees.values() for origin in held.of}

    def statements(self, origin: bytes) -> int:
        """How much it has said about keys: entries of the trust kinds."""
        held = self._trees.get(PUBLIC_TRUST)
        return 0 if held is None or (some := held.of.get(origin)) is None else len(some)


def _key(entry: Entry) -> bytes:
    return item_key(entry.valid_until, entry.id)
