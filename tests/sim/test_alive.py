"""The table of who is alive, some seeds of it; `make sim` runs a thousand of each field."""

from __future__ import annotations

import pytest

from tests.sim.alive import SIZES, TABLE, loss, run, settled

SEEDS = 2


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("what", TABLE)
def test_what_each_says_of_a_node(what: str, size: int) -> None:
    for seed in range(SEEDS):
        run(what, size, seed)


@pytest.mark.parametrize("size", [2, 10])
def test_a_fifth_of_all_messages_lost_for_ten_minutes_changes_nothing(size: int) -> None:
    loss(settled(size, 7), size, 600)
