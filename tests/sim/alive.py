"""The table of who is alive, on a virtual clock: what befalls a node among 2, 3 or 10, and what the others must say.

`python -m tests.sim.alive --runs 1000` runs each field of the table so often, each time with other latencies, ticks and
moments. With real processes: `tests/federation/test_alive.py`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import Pool
from typing import Final

from federation.beacon import make_beacon
from tests.sim.beacons import Beacons
from tests.sim.world import Violation

NAMES: Final = "abcdefghij"
SIZES: Final = (2, 3, 10)


def settled(size: int, seed: int) -> Beacons:
    """All linked with all, and all up; some time goes by, so that each seed begins at another moment."""
    world = Beacons(NAMES[:size], seed)
    world.mesh()
    world.run(20 + world.random.random() * 10)
    for name in world.nodes:
        _all_say(world, name, "up")
    world.forget()
    return world


def kill(world: Beacons, size: int) -> None:
    world.kill("a")
    world.run(2)
    _all_say(world, "a", "unreachable")
    _told(world, size - 1)
    world.run(60)
    _told(world, size - 1)
    world.restart("a", NAMES[1:size])
    world.run(2)
    _everybody_is_up(world)


def freeze(world: Beacons, size: int) -> None:
    """For three seconds, and nothing is told; then for twelve."""
    world.freeze("a")
    world.run(3)
    world.thaw("a")
    world.run(30)
    _told(world, 0)
    world.freeze("a")
    world.run(12)
    _all_say(world, "a", "unreachable")
    world.thaw("a")
    world.run(2)
    _everybody_is_up(world)


def vanish(world: Beacons, size: int) -> None:
    """Its host loses power, or its cable: nobody is told. It may still run, and must know that the cut is its own."""
    world.cut("a")
    world.run(10)
    _all_say(world, "a", "unreachable")
    word = "unreachable" if size == 2 else "isolated"
    for name in NAMES[1:size]:
        _says(world, "a", name, word)
    world.run(60)
    for name in NAMES[1:size]:
        _says(world, "a", name, word)
        for other in NAMES[1:size]:
            if other != name:
                _says(world, name, other, "up")
    world.heal()
    world.run(5)
    _everybody_is_up(world)


def cut(world: Beacons, size: int) -> None:
    """In two, of which the smaller part, if there is one, knows that it is cut off."""
    small, large = NAMES[: size // 2], NAMES[size // 2 : size]
    if size == 10 and world.random.random() < 0.5:
        small, large = NAMES[:3], NAMES[3:size]
    world.cut(*small)
    world.run(12)
    for one in small:
        for other in large:
            _says(world, other, one, "unreachable")
            _says(world, one, other, "isolated" if len(small) < len(large) and size > 2 else "unreachable")
    for part in (small, large):
        for one in part:
            for other in part:
                if one != other:
                    _says(world, one, other, "up")
    world.heal()
    world.run(5)
    _everybody_is_up(world)


def restart(world: Beacons, size: int) -> None:
    """In good order: never unreachable."""
    node = world.nodes["a"]
    node.do(node.membership.farewell(node.now))
    world.run(0.1)
    world.kill("a")
    world.run(1 + world.random.random() * 20)
    _all_say(world, "a", "restarting")
    world.restart("a", NAMES[1:size])
    world.run(2)
    _everybody_is_up(world)
    if any(word == "unreachable" for _, _, _, word in world.changes()):
        raise Violation(f"somebody was called unreachable: {world.changes()}")


def loss(world: Beacons, size: int, seconds: int = 60) -> None:
    """A fifth of all messages is lost."""
    world.loss = 0.2
    world.run(seconds)
    _told(world, 0)


def many_die(world: Beacons, size: int) -> None:
    """All but two, at once: whoever is left knows that they are dead, and that it is not cut off."""
    left = NAMES[max(1, size - 2) : size]
    for name in NAMES[: size - len(left)]:
        world.kill(name)
    world.run(4)
    for one in left:
        for other in NAMES[: size - len(left)]:
            _says(world, one, other, "unreachable")


def clock(world: Beacons, size: int) -> None:
    """The clock of one is set forth, and back, by hours."""
    node = world.nodes["a"]
    for hours in (world.random.randint(1, 50), -world.random.randint(1, 50)):
        node.offset += hours * 3_600_000
        world.run(20)
    _told(world, 0)


def replay(world: Beacons, size: int) -> None:
    """One vanishes, and another brings its beacons of an earlier start, and its first one, with a stranger in them."""
    dead, liar = world.nodes["a"], world.nodes["b"]
    world.cut("a")
    world.run(10)
    world.forget()
    near = [node.key.public for node in world.nodes.values() if node is not dead]
    near.append(world.random.randbytes(32))
    for seq in range(10):
        old = make_beacon(dead.key, (dead.incarnation - 100, seq + 1_000), world.now - 86_400_000, 5, near)
        first = make_beacon(dead.key, (dead.incarnation, 1), world.now - 30_000, 5, near)
        for name in NAMES[2:size]:
            world.send(liar, world.nodes[name], {"t": "beacon", "beacons": [old.raw, first.raw]})
        world.run(1)
    _told(world, 0, but="a")


def forge(world: Beacons, size: int) -> None:
    """One brings beacons of another in which that one stops, not signed by it."""
    world.liars.add("b")
    liar = world.nodes["b"]
    for victim in NAMES[2:size]:
        node = world.nodes[victim]
        beacon = make_beacon(node.key, (node.incarnation, 10_000), world.now, 5, [], stops=True)
        raw = beacon.raw[:-1] + bytes([beacon.raw[-1] ^ 1])
        for name in NAMES[:size]:
            if name not in ("b", victim):
                world.send(liar, world.nodes[name], {"t": "beacon", "beacons": [raw]})
    world.run(10)
    if any(of != "b" and who != "b" for _, who, of, _ in world.changes()):
        raise Violation(f"what was forged was believed: {world.changes()}")


def lies(world: Beacons, size: int) -> None:
    """One of them says that it hears nobody, and that all others refuse it; it is heard, and nobody believes it."""
    liar = world.nodes["a"]
    peers = [world.nodes[name].key.public for name in NAMES[1:size]]
    for _ in range(20):
        said = liar.membership
        said._lost |= {key: _gone(world.now) for key in peers}
        for near in said._links.values():
            near.silent = True
        liar.do(said._say(world.now))
        world.run(1)
    _told(world, 0, but="a")


TABLE: Final[dict[str, Callable[[Beacons, int], None]]] = {
    "kill": kill, "freeze": freeze, "vanish": vanish, "cut": cut, "restart": restart, "lies": lies,
    "loss": loss, "many die": many_die, "clock": clock, "replay": replay, "forge": forge,
}  # fmt: skip


def run(what: str, size: int, seed: int) -> None:
    """One field. Raises Violation."""
    world = settled(size, seed)
    try:
        TABLE[what](world, size)
    except Violation as violation:
        place = f"tests.sim.alive.run({what!r}, {size}, {seed})"
        raise Violation(f"seed {seed}: {what} among {size}: {violation}\n  {place}") from None


def fields(first: int, runs: int) -> Iterator[tuple[str, int, int]]:
    """(what, size, seed) of all runs."""
    return ((what, size, seed) for seed in range(first, first + runs) for what in TABLE for size in SIZES)


def _gone(now_ms: int) -> object:
    from federation.membership import _Lost

    return _Lost(now_ms, out=True, refused=True)


def _says(world: Beacons, one: str, of: str, word: str) -> None:
    found = world.nodes[one].word(of)
    if found != word:
        raise Violation(f"{one} says that {of} is {found}, and not {word}")


def _all_say(world: Beacons, of: str, word: str) -> None:
    for name, node in world.nodes.items():
        if name != of and node.alive:
            _says(world, name, of, word)


def _everybody_is_up(world: Beacons) -> None:
    for name in world.nodes:
        _all_say(world, name, "up")


def _told(world: Beacons, count: int, but: str = "") -> None:
    changes = [change for change in world.changes() if change[1] != but]
    if len(changes) != count:
        raise Violation(f"{len(changes)} changes were told, and not {count}: {changes[:20]}")


def _failure(field: tuple[str, int, int]) -> str | None:
    try:
        run(*field)
    except Violation as violation:
        return str(violation)
    return None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.alive", description=__doc__)
    parser.add_argument("--runs", type=int, default=20, help="of each field (default 20)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default 0)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default 1)")
    given = parser.parse_args()
    began, count = time.perf_counter(), 0
    with Pool(given.jobs) as pool:
        for failure in pool.imap(_failure, fields(given.first, given.runs), 6):
            if failure is not None:
                print(failure)
                return 1
            count += 1
    print(f"{count} runs, none failed, {count / (time.perf_counter() - began):.1f} a second")
    return 0


if __name__ == "__main__":
    sys.exit(main())
