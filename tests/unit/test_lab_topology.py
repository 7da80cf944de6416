"""Shapes of a lab, and who reaches whom over them."""

from __future__ import annotations

from collections import Counter

import pytest

from kosreg.lab.convergence import groups
from kosreg.lab.topology import SHAPES, pairs


@pytest.mark.parametrize("count", [1, 2, 3, 8, 20])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_joins_all_nodes_and_no_node_with_itself(shape: str, count: int) -> None:
    links = pairs(shape, count)  # type: ignore[arg-type]
    assert all(0 <= one < other < count for one, other in links)
    assert len(set(links)) == len(links)
    names = [str(n) for n in range(count)]
    assert len(groups(names, [(str(one), str(other)) for one, other in links])) == 1


def test_the_shapes_are_what_they_are_called() -> None:
    assert pairs("mesh", 4) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert pairs("ring", 4) == [(0, 1), (0, 3), (1, 2), (2, 3)]
    assert pairs("ring", 2) == [(0, 1)]
    assert pairs("line", 4) == [(0, 1), (1, 2), (2, 3)]
    assert pairs("star", 4) == [(0, 1), (0, 2), (0, 3)]
    with pytest.raises(ValueError, match="mesh, ring, line, star, random"):
        pairs("cube", 8)  # type: ignore[arg-type]


def test_a_random_graph_has_its_degree_and_is_the_same_for_its_seed() -> None:
    links = pairs("random", 20, degree=4, seed=7)
    degrees = Counter(node for link in links for node in link)
    assert max(degrees.values()) == 4
    assert sum(degrees.values()) >= 20 * 4 - 4  # a few may find no partner that has room
    assert links == pairs("random", 20, degree=4, seed=7)
    assert links != pairs("random", 20, degree=4, seed=8)


def test_groups_are_who_reaches_whom() -> None:
    assert groups("abcd", [("a", "c"), ("c", "x"), ("d", "b")]) == [["a", "c"], ["b", "d"]]
    assert groups("", []) == []
