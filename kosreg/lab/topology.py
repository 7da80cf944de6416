"""Which nodes of a lab are neighbours: the shapes that a federation can have."""

from __future__ import annotations

from itertools import combinations, pairwise
from random import Random
from typing import Final, Literal, get_args

Shape = Literal["mesh", "ring", "line", "star", "random"]
SHAPES: Final[tuple[str, ...]] = get_args(Shape)


def pairs(shape: Shape, count: int, *, degree: int = 4, seed: int = 0) -> list[tuple[int, int]]:
    """The links between nodes 0 to `count - 1`: pairs (low, high), in order.

    `degree`: the neighbours of each node in a random graph, as far as they can be had; that graph is connected, and
    the same for the same `seed`. Raises ValueError for a shape that is none.
    """
    if shape == "mesh":
        return list(combinations(range(count), 2))
    if shape == "line":
        return [(n, n + 1) for n in range(count - 1)]
    if shape == "ring":
        return sorted({_pair(n, (n + 1) % count) for n in range(count) if count > 1})
    if shape == "star":
        return [(0, n) for n in range(1, count)]
    if shape == "random":
        return _random(count, degree, Random(seed))  # noqa: S311  (a graph, not a secret)
    raise ValueError(f"{shape!r} is no shape of a lab; take one of {', '.join(SHAPES)}")


def _random(count: int, degree: int, rng: Random) -> list[tuple[int, int]]:
    """A ring in random order, so that all are joined, then random links for who has fewer neighbours than `degree`."""
    order = rng.sample(range(count), count)
    if degree < 2 or count < 3:
        return sorted({_pair(one, other) for one, other in pairwise(order)})
    links = {_pair(order[n], order[(n + 1) % count]) for n in range(count)}
    neighbours = dict.fromkeys(range(count), 2)
    free = [pair for pair in combinations(range(count), 2) if pair not in links]
    rng.shuffle(free)
    for one, other in free:
        if neighbours[one] < degree and neighbours[other] < degree:
            links.add((one, other))
            neighbours[one] += 1
            neighbours[other] += 1
    return sorted(links)


def _pair(one: int, other: int) -> tuple[int, int]:
    return min(one, other), max(one, other)
