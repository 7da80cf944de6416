"""What must hold once all is healed (DESIGN.md §11), node by node and link by link.

Who holds what is worked out from what nodes should believe (`beliefs`), not from what they do: for each tree and
origin, the nodes that admit it, joined by the links over which both ends may have it. All nodes of such a *circle* hold
the same, byte for byte, and it is what the model says. Bad nodes are in no circle, and nothing is asked of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final

from crdt.entry import TRUST_KINDS, Class, Entry
from federation.broadcast import MAX_MISSING
from federation.cose import fact_of, verify_entry
from federation.effects import Word
from federation.pair import MAX_TREES, MAX_WANTS
from federation.partitions import PUBLIC_FACTS, PUBLIC_TRUST, Tree, internal, tree_of
from federation.trust import Trust
from tests.sim.node import Process, SimNode
from tests.sim.oracle import Ledger, merge
from tests.sim.setting import Scene
from tests.sim.world import Violation

REASONS: Final = 16  # for which entries are refused: a handful of texts, whatever a peer sends

Snapshot = dict[str, list[Entry]]


def links(scene: Scene) -> list[tuple[Process, Process]]:
    """Between whom there should be a link, bad nodes apart."""
    found = []
    for edge in scene.network.edges.values():
        one, other = edge.one.process, edge.other.process
        assert one is not None
        assert other is not None
        if edge.one.bad or edge.other.bad:
            continue
        if one.beliefs().may_link(edge.other.key.public, edge.one.now) and other.beliefs().may_link(
            edge.one.key.public, edge.other.now
        ):
            found.append((one, other))
    return found


def unequal(scene: Scene) -> str | None:
    """Why the nodes do not yet agree; None where they do: all links stand, nothing is under way, all digests agree."""
    for node in scene.good():
        assert node.process is not None
        if not node.process.at_rest():
            return f"{node} is not at rest: {_unrest(node.process)}"
    if not scene.network.is_quiet():
        return "messages are under way"
    for one, other in links(scene):
        a, b = one.node, other.node
        pair, rap = one.mesh.pairs.get(b.key.public), other.mesh.pairs.get(a.key.public)
        if pair is None or rap is None or one.links.get(b.key.public) is not other.links.get(a.key.public):
            return f"{a} and {b} have no link"
        for process, peer in ((one, b), (other, a)):
            state = process.mesh.membership.reach.states.get(peer.key.public)
            if state is None or state.word is not Word.UP:
                return f"{process.node} does not take {peer} to be up: {state}"
        ours, theirs = pair.digests(scene.world.now), rap.digests(scene.world.now)
        if ours != theirs:
            trees = [_name(scene, tree) for tree in {**ours, **theirs} if ours.get(tree) != theirs.get(tree)]
            return f"{a} and {b} differ in {', '.join(trees)}"
        expected = {tree: both for tree, both in _open(scene, one, other).items() if both}
        if {tree: opening.both for tree, opening in pair.trees.items() if opening.both} != expected:
            return f"{a} has not open for {b} what both admit"
    return None


def _name(scene: Scene, tree: Tree) -> str:
    return "trust" if tree.trust else "facts" if tree.root is None else f"internal({scene.oracle.label(tree.root)})"


def _unrest(process: Process) -> str:
    return (
        "; ".join(
            f"for {process.node.oracle.label(pair.peer)}: lacks {len(pair.needs)}, asked {pair.asked}, "
            f"has {len(pair.haves)}, wanted {len(pair.wanted)}, judging {pair.judging}, room {pair.room}"
            for pair in process.mesh.pairs.values()
            if pair.busy()
        )
        or "something waits for the disk or to be worked on"
    )


def _trees(scene: Scene) -> list[Tree]:
    return [PUBLIC_TRUST, PUBLIC_FACTS, *(internal(root.public) for root in scene.roots)]


def _admits(process: Process, origin: bytes, tree: Tree) -> bool:
    kind = "node" if tree.trust else "service"
    return process.beliefs().admits(origin, tree.cls, tree.root, kind, process.node.now)


def _shares(one: Process, other: Process, tree: Tree) -> bool:
    """Whether each of the two believes that it is in the tree's federation, and the other for internal facts too."""
    return tree.root is None or all(
        tree.root in process.beliefs().roots_of(process.node.key.public, process.node.now)
        and _admits(process, peer.node.key.public, tree)
        for process, peer in ((one, other), (other, one))
    )


def _origins(scene: Scene) -> list[bytes]:
    keys = [node.key for node in scene.nodes] + scene.roots + scene.keys
    return [key.public for key in ([*keys, scene.rogue] if scene.rogue is not None else keys)]


def _open(scene: Scene, one: Process, other: Process) -> dict[Tree, frozenset[bytes]]:
    return {
        tree: frozenset(o for o in _origins(scene) if _admits(one, o, tree) and _admits(other, o, tree))
        for tree in _trees(scene)
        if _shares(one, other, tree)
    }


def _circles(scene: Scene, origin: bytes, tree: Tree) -> Iterator[list[SimNode]]:
    near: dict[str, list[SimNode]] = {node.name: [] for node in scene.good()}
    for one, other in links(scene):
        if _shares(one, other, tree) and _admits(one, origin, tree) and _admits(other, origin, tree):
            near[one.node.name].append(other.node)
            near[other.node.name].append(one.node)
    left = scene.good()
    while left:
        circle, todo = [], deque([left[0]])
        while todo:
            node = todo.popleft()
            if node in left:
                left.remove(node)
                circle.append(node)
                todo.extend(near[node.name])
        yield circle


def diameter(scene: Scene) -> int:
    """The longest of the shortest ways between two nodes, in links."""
    near: dict[str, set[str]] = {node.name: set() for node in scene.good()}
    for one, other in links(scene):
        near[one.node.name].add(other.node.name)
        near[other.node.name].add(one.node.name)
    longest = 0
    for start in near:
        seen, edge, steps = {start}, {start}, 0
        while edge := {far for name in edge for far in near[name]} - seen:
            seen |= edge
            steps += 1
        longest = max(longest, steps)
    return longest


def snapshot(scene: Scene) -> Snapshot:
    """What is on the disks."""
    return {node.name: list(node.disk.rows.values()) for node in scene.nodes}


def final(scene: Scene, before: Snapshot) -> None:
    """Raises Violation. `before`: what was on the disks when all was healed."""
    for node in scene.good():
        _holds_what_it_may(scene, node)
        _says_what_was_wanted(scene, node)
        _is_bounded(node)
        believes(scene, node)
        _believes_in_any_order(scene, node)
    kept = {name: _by_partition(entries) for name, entries in before.items()}
    held = {node.name: _by_partition(node.disk.rows.values()) for node in scene.nodes}
    for tree in _trees(scene):
        for origin in _origins(scene):
            for circle in _circles(scene, origin, tree):
                _circle_agrees(scene, origin, tree, circle, held, kept)


def _by_partition(entries: object) -> dict[tuple[Tree, bytes], list[Entry]]:
    found: dict[tuple[Tree, bytes], list[Entry]] = {}
    for entry in entries:  # type: ignore[attr-defined]
        tree = tree_of(entry)
        if tree is not None:
            found.setdefault((tree, entry.origin), []).append(entry)
    return found


def _circle_agrees(
    scene: Scene, origin: bytes, tree: Tree, circle: list[SimNode],
    held: dict[str, dict[tuple[Tree, bytes], list[Entry]]], kept: dict[str, dict[tuple[Tree, bytes], list[Entry]]],
) -> None:  # fmt: skip
    label, now = scene.oracle.label, scene.world.now
    where = f"{label(origin)} in {_name(scene, tree)}"
    model: Ledger = {}
    author = next((node for node in circle if node.key.public == origin), None)  # never a bad one
    if author is not None and not author.amnesiac:
        said = [e for e in scene.oracle.ledger.get(origin, {}).values() if tree_of(e) == tree]
        for entry in said:
            merge(model, entry)
    else:
        for node in circle:
            for entry in kept[node.name].get((tree, origin), ()):
                merge(model, entry)
        for entry in scene.oracle.ledger.get(origin, {}).values() if author is not None else ():
            if tree_of(entry) == tree:
                merge(model, entry)
    expected = {entry.raw: entry for entry in model.values() if entry.valid_until > now}
    exact = author is not None and not author.amnesiac
    first: dict[bytes, Entry] | None = None
    for node in circle:
        holds = {entry.raw: entry for entry in held[node.name].get((tree, origin), ()) if entry.valid_until > now}
        if not exact:  # what came in while all was healed is not in the snapshot: it may only be higher
            newest = {entry.key: entry for entry in holds.values()}
            for entry in expected.values():
                if entry.key not in newest or newest[entry.key].order < entry.order:
                    raise Violation(f"{node} (circle {circle}) lost {entry} of {where}: it has {newest.get(entry.key)}")
            first = holds if first is None else first
        wanted = expected if exact else first
        assert wanted is not None
        if holds.keys() != wanted.keys():
            lacks = [entry for raw, entry in wanted.items() if raw not in holds]
            more = [entry for raw, entry in holds.items() if raw not in wanted]
            raise Violation(f"{node} is wrong about {where} (circle {circle}): it lacks {lacks}, it has {more}")


def _holds_what_it_may(scene: Scene, node: SimNode) -> None:
    process = node.process
    assert process is not None
    rows = node.disk.rows
    if {entry.raw for entry in process.replica.map} != {entry.raw for entry in rows.values()}:
        raise Violation(f"{node}: memory and disk differ")
    may_leave = {entry.id for entry in rows.values() if tree_of(entry) is not None}
    if set(process.replica.holdings.by_id) != may_leave:
        raise Violation(f"{node}: what it compares with its peers is not what it holds")
    for entry in rows.values():
        if entry.raw not in scene.oracle.by_raw or not verify_entry(entry):
            raise Violation(f"{node} holds {entry}, which nobody signed")
        if entry.origin == node.key.public:
            continue
        secret = entry.cls is Class.PRIVATE or (entry.cls is Class.INTERNAL and entry.root is None)
        if secret or (entry.root is not None and (entry.root, node.key.public) not in scene.oracle.granted):
            raise Violation(f"{node} holds {entry}, which it may not have")


def _says_what_was_wanted(scene: Scene, node: SimNode) -> None:
    process = node.process
    assert process is not None
    origin = node.key.public
    for (kind, name), wish in scene.oracle.wishes.get(origin, {}).items():
        group = process.replica.map.group(origin, kind, name)
        shown = process.replica.view(kind, name, node.now)
        if wish is None:
            if any(entry.live for entry in group):
                raise Violation(f"{node} deleted {kind} {name}, and it is back: {group}")
            continue
        if (
            name not in node.beating
            and shown is None
            and all(entry.valid_until <= node.now for entry in group if entry.live)
        ):
            continue  # nobody stood behind it
        said = None if shown is None else fact_of(shown)
        if said is None or (said.cls, said.root, dict(said.body or {})) != (wish.cls, wish.root, dict(wish.body)):
            raise Violation(f"{node} should say {kind} {name} = {wish}, and says {said}")
        if sum(entry.live for entry in group) != 1:
            raise Violation(f"{node} says {kind} {name} in several classes: {group}")


def believes(scene: Scene, node: SimNode) -> None:
    """What `node` answers about each key is what it should, now."""
    process, now = node.process, node.now
    if process is None:
        return
    trust, model, label = process.trust, process.beliefs(), scene.oracle.label
    for key in _origins(scene):
        roots = ({*map(label, some)} for some in (trust.roots_of(key, now), model.roots_of(key, now)))
        answers: list[tuple[object, object, str]] = [(*roots, "whose member it is")]
        if key != node.key.public:
            answers.append((trust.may_link(key, now), model.may_link(key, now), "whether it may have a link"))
        for tree in [*_trees(scene), Tree(Class.PRIVATE)]:
            for kind in ("cert", "service"):
                asked = key, tree.cls, tree.root, kind, now
                answers.append((trust.admits(*asked), model.admits(*asked), f"{kind} in {_name(scene, tree)}"))
            for type, tags in (("tool", frozenset[str]()), ("agent", frozenset({"red"}))):
                what = key, tree.cls, tree.root, type, tags, now
                answers.append((trust.shows(*what), model.shows(*what), f"{type} in {_name(scene, tree)}"))
        for says, should, of in answers:
            if says != should:
                raise Violation(f"{node} says {says} of {label(key)}, and should {should}: {of}")


def _believes_in_any_order(scene: Scene, node: SimNode) -> None:
    """The same certificates, in another order and under anchors that come last, lead to the same chains."""
    process = node.process
    assert process is not None
    held = [entry for entry in process.replica.map if entry.kind == "cert"]
    scene.world.random.shuffle(held)
    again = Trust(node.key.public)
    for entry in held:
        again.learn(entry)
    for anchor in node.anchors.values():
        again.put(anchor)
    for key in _origins(scene):
        if set(again.chains_to(key)) != set(process.trust.chains_to(key)):
            raise Violation(f"{node}: the order in which certificates came matters for {scene.oracle.label(key)}")


def stays_small(scene: Scene) -> None:
    """What peers made a node remember, at any moment."""
    for node in scene.good():
        if node.process is None:
            continue
        mesh = node.process.mesh
        missing = mesh._broadcast._counts
        for pair in mesh.pairs.values():
            kept = {
                "wanted": (len(pair.wanted), MAX_WANTS),
                "asked": (len(pair.asked), MAX_WANTS),
                "trees": (len(pair.trees), MAX_TREES),
                "announced": (missing[pair.peer], MAX_MISSING),
                "reasons": (len(pair.refused), REASONS),
            }
            for what, (count, most) in kept.items():
                if count > most:
                    raise Violation(f"{node} keeps {count} {what} for {scene.oracle.label(pair.peer)}")


def _is_bounded(node: SimNode) -> None:
    process = node.process
    assert process is not None
    waiting = {
        "landing": len(process.mesh._judge.landing),
        "flight": len(process.replica._flight),
        "work": sum(not node.network.nodes[peer].bad for peer in process.mesh._turns._tasks),
        "missing": len(process.mesh._broadcast._missing),
    }
    if any(waiting.values()):
        raise Violation(f"{node} is at rest and still keeps {waiting}")


def lapsed(scene: Scene) -> None:
    """After a long time: what lapsed is shown nowhere and, where it is others', held nowhere."""
    for node in scene.good():
        assert node.process is not None
        for entry in node.process.replica.map:
            if entry.origin != node.key.public and entry.valid_until < node.now - 2 * 24 * 3_600_000:
                raise Violation(f"{node} still holds {entry}, which lapsed long ago")
            if entry.live and entry.origin == node.key.public and entry.kind not in TRUST_KINDS:
                alive = entry.name in node.beating
                if alive != (entry.valid_until > node.now):
                    raise Violation(f"{node}: {entry} {'lapsed though it beats' if alive else 'lives without a beat'}")
