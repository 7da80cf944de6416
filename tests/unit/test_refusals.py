"""What was refused of whom outlives links, and stays small."""

from __future__ import annotations

import pytest

from federation import refusals
from federation.refusals import Refusals


def test_counts_go_on_and_add_up() -> None:
    counted = Refusals()
    counted.of(b"a")["spoilt"] += 1
    counted.of(b"b")["spoilt"] += 2
    counted.of(b"a")["late"] += 1
    assert counted.told(b"a") == {"spoilt": 1, "late": 1}
    assert counted.told(b"nobody") == {}
    assert counted.total() == {"spoilt": 3, "late": 1}


def test_of_many_peers_the_sums_alone_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "MAX_PEERS", 2)
    counted = Refusals()
    for peer in (b"a", b"b", b"a", b"c"):  # a was asked for after b
        counted.of(peer)["spoilt"] += 1
    assert [counted.told(peer) for peer in (b"a", b"b", b"c")] == [{"spoilt": 2}, {}, {"spoilt": 1}]
    assert counted.total() == {"spoilt": 4}
    assert len(counted._of) == 2
