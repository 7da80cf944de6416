"""One run: a scene, a story, then all is healed and must come to agree."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field

from crdt.entry import DAY_MS
from federation.membership import MESSAGES
from tests.sim import checks
from tests.sim.network import Weather
from tests.sim.node import Habits
from tests.sim.setting import Scene, make
from tests.sim.story import Story
from tests.sim.world import Violation

ROUND_MS = 30_000  # six pings: the later of two peers has begun to reconcile then
SLACK_MS = 40_000  # for links to come up, and for a session that hears nothing to be given up
STEP_MS = 2_500
WINDOWS = 8  # of half a minute, one of which has to be quiet
QUIET = {"ping", "pong", "admits", *MESSAGES}  # what is said though nothing is to be said


@dataclass(slots=True)
class Result:
    """`failure`: None, or what did not hold; `lines`: what happened, where it was asked for; `healing_ms`: how long the
    nodes took to agree; `bound_ms`: the most that they may take."""

    seed: int
    failure: str | None = None
    lines: list[str] = field(default_factory=list)
    healing_ms: int = 0
    bound_ms: int = 0
    events: int = 0
    signed: int = 0

    @property
    def command(self) -> str:
        """What repeats this run."""
        return f"python -m tests.sim --seed {self.seed} --trace"


def run(seed: int, *, trace: bool = False, echo: bool = False, steps: int | None = None) -> Result:
    """Never raises: whatever goes wrong is the result."""
    result = Result(seed)
    scene: Scene | None = None
    try:
        scene = make(seed, trace=trace, echo=echo)
        random = scene.world.random
        scene.world.run(random.choice((0, 500, 5_000)))
        Story(scene).tell(steps if steps is not None else random.choice((15, 40, 80)))
        _heal(scene, result)
        if "leaps" in scene.features and random.random() < 0.5:
            _live_on(scene, result)
    except Violation as violation:
        result.failure = str(violation)
    except Exception:
        result.failure = traceback.format_exc()
    if scene is not None:
        result.lines = scene.world.lines or []
        result.events = scene.world.events
        result.signed = len(scene.oracle.by_id)
    return result


def _heal(scene: Scene, result: Result) -> None:
    world, network = scene.world, scene.network
    world.tell("-- all is healed: clocks are right, nodes run, links are whole")
    network.weather = Weather()
    for node in scene.nodes:
        node.habits = Habits()
        node.set_clock(0)
        node.start()
    for edge in network.edges.values():
        edge.slow = 1
        network.heal(edge)
    before = checks.snapshot(scene)
    for left in reversed(range(WINDOWS)):
        _agree(scene, result)
        trust = _versions(scene)
        world.run(10_000)
        said = network.said.copy()
        world.run(20_000)
        more = {name for name in network.said if network.said[name] != said[name]} - QUIET
        why = checks.unequal(scene)
        if why is None and not more and trust == _versions(scene):
            break
        # A certificate may have begun or ended meanwhile, and a bad node may bring something new at any time.
        if left and (trust != _versions(scene) or any(node.bad for node in scene.nodes)):
            continue
        raise Violation(f"they agreed, and then no more: {why}" if why else f"all agree, and still say {sorted(more)}")
    checks.final(scene, before)


def _versions(scene: Scene) -> list[int]:
    return [node.process.trust.version for node in scene.nodes if node.process is not None]


def _agree(scene: Scene, result: Result) -> None:
    """Goes on until all agree. Raises Violation where that takes too long."""
    world = scene.world
    began = world.now
    while (why := checks.unequal(scene)) is not None or world.now - began < 4 * STEP_MS:
        result.bound_ms = SLACK_MS + ROUND_MS * checks.diameter(scene)
        result.healing_ms = world.now - began
        if result.healing_ms > result.bound_ms:
            raise Violation(f"after {result.healing_ms / 1000:.0f} s without any trouble: {why}")
        if result.healing_ms < 3 * STEP_MS or result.healing_ms % (4 * STEP_MS) == 0:
            _maintain(scene)
        world.run(STEP_MS)
    world.tell(f"-- after {result.healing_ms / 1000:.1f} s all agree")


def _live_on(scene: Scene, result: Result) -> None:
    """Thirty-one or forty-one days in which all runs well: what roots have said must last, all else be renewed."""
    days = scene.world.random.choice((31, 41))
    scene.world.tell(f"-- {days} days go by")
    for day in range(0, days, 4):
        scene.world.leap(min(4, days - day) * DAY_MS)
        for _ in range(2):
            _maintain(scene)
            scene.world.run(5_000)
    checks.lapsed(scene)
    _heal(scene, result)


def _maintain(scene: Scene) -> None:
    for node in scene.nodes:
        if node.process is not None:
            node.process.maintain()
