"""How a run begins: how many nodes, who is linked with whom, who trusts whom, what the network is like."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from federation.identity import NodeKey
from federation.trust import Anchor, Role
from tests.sim.granting import Grants
from tests.sim.network import Network, Weather
from tests.sim.node import SimNode
from tests.sim.oracle import Oracle
from tests.sim.world import World

FEATURES: Final = (
    "cuts", "crashes", "wipes", "backups", "clocks", "decades", "anchors", "certificates", "disks", "slow", "bursts",
    "leaps", "equivocation", "delegates", "byzantine",
)  # fmt: skip


@dataclass(slots=True)
class Scene:
    """Everything of one run. `roots`: the federations; `of`: the root of each member by name; `keys`: further ones that
    belong to no node, which may be certified; `issuers`: delegates by root; `rogue`: a key that signs two things with
    one stamp."""

    world: World
    network: Network
    oracle: Oracle
    nodes: list[SimNode] = field(default_factory=list)
    roots: list[NodeKey] = field(default_factory=list)
    of: dict[str, NodeKey] = field(default_factory=dict)
    keys: list[NodeKey] = field(default_factory=list)
    issuers: dict[bytes, list[NodeKey]] = field(default_factory=dict)
    features: frozenset[str] = frozenset()
    rogue: NodeKey | None = None
    kind: str = ""
    shape: str = ""

    def good(self) -> list[SimNode]:
        """The nodes that say what their engine says."""
        return [node for node in self.nodes if not node.bad]


def make(seed: int, *, trace: bool = False, echo: bool = False, count: int | None = None) -> Scene:
    """The scene of `seed`: all nodes run, and links are being made."""
    world = World(seed, trace=trace)
    world.echo = echo
    random = world.random
    network, oracle = Network(world), Oracle(world)
    network.oracle = oracle
    scene = Scene(world, network, oracle)
    drawn = random.choice((2, 3, 3, 3, 4, 4, 4, 5, 5, 6, 8)) if random.random() > 0.01 else 20
    names = [chr(ord("A") + n) for n in range(count or drawn)]
    scene.nodes = [SimNode(world, network, oracle, name) for name in names]
    scene.features = frozenset(each for each in FEATURES if random.random() < 0.45)
    oracle.labels.update({node.key.public: node.name for node in scene.nodes})
    scene.shape = random.choice(("full", "line", "ring", "star", "random"))
    if "byzantine" in scene.features and len(names) > 2:
        for node in random.sample(scene.nodes, 2 if len(names) > 4 and random.random() < 0.4 else 1):
            node.bad = node.amnesiac = True
    for one, other in _edges(scene):
        network.join(one, other)
    network.weather = _weather(scene)
    _trust(scene)
    bad = [node.name for node in scene.nodes if node.bad]
    world.tell(
        f"seed {seed}: {len(names)} nodes, bad {bad}, {scene.shape}, {scene.kind}; {' '.join(sorted(scene.features))}; "
        f"latency {network.weather.latency}, drops {network.weather.drops:.2f}, spoils {network.weather.spoils:.2f}"
    )
    for node in scene.nodes:
        node.start()
    Grants(scene).begin()
    return scene


def _edges(scene: Scene) -> list[tuple[SimNode, SimNode]]:
    nodes = scene.nodes
    random = scene.world.random
    match scene.shape:
        case "full":
            return [(one, other) for n, one in enumerate(nodes) for other in nodes[n + 1 :]]
        case "star":
            return [(nodes[0], other) for other in nodes[1:]]
        case "ring" if len(nodes) > 2:
            return [*pairwise(nodes), (nodes[-1], nodes[0])]
        case "random":
            edges = {(random.randrange(n), n) for n in range(1, len(nodes))}
            while random.random() < 0.75:
                one, other = sorted(random.sample(range(len(nodes)), 2))
                edges.add((one, other))
            return [(nodes[one], nodes[other]) for one, other in sorted(edges)]
    return list(pairwise(nodes))


def _weather(scene: Scene) -> Weather:
    random = scene.world.random
    return Weather(
        latency=random.choice(((1, 2), (1, 20), (5, 80), (1, 600))),
        bulk_ms=random.choice(((1, 5), (1, 200), (50, 3_000))),
        drops=random.choice((0.0, 0.0, 0.0, 0.02, 0.15)),
        spoils=random.choice((0.0, 0.0, 0.03)),
        queue=random.choice((1_000_000, 1_000_000, 12, 4)),
        half_open=random.choice((0.0, 0.5)),
        encodes=random.random() < 0.15,
    )


def _trust(scene: Scene) -> None:
    """Who trusts whom at first."""
    random = scene.world.random
    nodes = scene.nodes
    scene.kind = random.choice(("peers", "federation", "federation", "two federations", "mixed", "plain neighbours"))
    count = {"federation": 1, "mixed": 1, "two federations": 2}.get(scene.kind, 0)
    scene.roots = [NodeKey(random.randbytes(32)) for _ in range(count)]
    scene.oracle.labels.update({root.public: f"root{n + 1}" for n, root in enumerate(scene.roots)})
    for n, node in enumerate(nodes):
        if scene.kind == "federation" or (scene.kind == "mixed" and n % 3 != 2):
            scene.of[node.name] = scene.roots[0]
        elif scene.kind == "two federations":
            scene.of[node.name] = scene.roots[n % 2]
        for root in scene.roots:  # federations trust each other, and outsiders trust them
            if scene.of.get(node.name) is root or scene.kind != "federation":
                _anchor(node, root.public, Role.ROOT)
    for edge in scene.network.edges.values():
        if scene.kind != "federation":
            _anchor(edge.one, edge.other.key.public, Role.PEER)
            _anchor(edge.other, edge.one.key.public, Role.PEER)
    if scene.kind == "peers":
        for node in nodes:
            for other in nodes:
                if other is not node:
                    _anchor(node, other.key.public, Role.PEER)
    if "equivocation" in scene.features:
        scene.rogue = NodeKey(random.randbytes(32))
        scene.oracle.labels[scene.rogue.public] = "rogue"
        for node in nodes:
            _anchor(node, scene.rogue.public, Role.PEER)


def _anchor(node: SimNode, key: bytes, role: Role) -> None:
    node.anchors[key] = Anchor(key, role)
