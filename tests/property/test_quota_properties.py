"""Whatever nodes say and take back, over their quota or not: pairs agree at rest, who is within its quota is heard in
full, and what fits again is heard in full again."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from federation.budget import Bounds
from tests.unit.meshes import Net, full
from tests.unit.test_quotas import agree, of

MOST = 8
GREEDY = 2  # the first ones; whoever comes behind them keeps to its quota
NAMES = 16
LONG_MS = 1_300_000  # longer than the longest wait for an answer, twice

acts = st.one_of(
    st.tuples(st.just("put"), st.integers(0, 2), st.lists(st.integers(0, NAMES - 1), max_size=NAMES)),
    st.tuples(st.just("delete"), st.integers(0, 2), st.lists(st.integers(0, NAMES - 1), max_size=NAMES)),
    st.tuples(st.just("wait"), st.sampled_from((250, 2_000, 7_000, 70_000)), st.just([])),
    st.tuples(st.just("cut"), st.integers(0, 2), st.just([])),
)


STEP_MS = 4_000


def own(net: Net, n: int) -> set[str]:
    return of(net.nodes[n], net.nodes[n])


@settings(max_examples=25, deadline=None)
@given(st.lists(acts, min_size=4, max_size=15))
def test_pairs_agree_and_all_is_heard_that_fits(story: list[tuple[str, int, list[int]]]) -> None:
    net = full(3, bounds=Bounds(records=MOST, entries_per_s=1_000))
    pairs = [(one, other) for n, one in enumerate(net.nodes) for other in net.nodes[n + 1 :]]
    for act, n, names in story:
        if act == "wait":
            net.run(n)
        elif act == "cut":
            one, other = pairs[n]
            net.cut(one, other)
            net.run(1_000)
            net.link(one, other)
        else:
            for name in names:
                is_there = f"s{name}" in own(net, n)
                if is_there if act == "delete" else (is_there or n < GREEDY or len(own(net, n)) < MOST):
                    net.nodes[n].say(f"s{name}", body=None if act == "delete" else "x")
    net.run(30_000)
    assert not [close for node in net.nodes for close in node.closes]
    assert all(agree(net, one, other) for one, other in pairs)
    for node in net.nodes[:GREEDY]:
        assert of(node, net.nodes[2]) == own(net, 2), "who keeps to its quota is not slowed"

    for n in range(GREEDY):
        for name in sorted(own(net, n))[MOST:]:
            net.nodes[n].say(name, body=None)
    for _ in range(LONG_MS // STEP_MS):  # in larger steps than `run` takes
        net.now += STEP_MS - 250
        net.run(250)
    for node in net.nodes:
        assert not node.mesh.quotas.frozen
        for n in range(3):
            assert of(node, net.nodes[n]) == own(net, n)
    assert all(agree(net, one, other) for one, other in pairs)
