"""A hundred seeds, all different, twenty that are new each time, and that a seed says all: `make sim` runs many more,
`make mutants` breaks rules."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys

import pytest

from tests.sim.run import run

SEEDS = 100
GROUP = 10  # in one test: so that two processes share them
FRESH = 20
TOLD = "6"  # with delegates, and with a bad node


@pytest.mark.timeout(120)
@pytest.mark.parametrize("first", range(0, SEEDS, GROUP))
def test_what_must_always_hold(first: int) -> None:
    for seed in range(first, first + GROUP):
        result = run(seed)
        assert result.failure is None, f"{result.failure}\n{result.command}"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("_group", range(FRESH // GROUP))
def test_what_must_always_hold_in_runs_that_nobody_has_seen(_group: int, capsys: pytest.CaptureFixture[str]) -> None:
    first = secrets.randbelow(1 << 40)
    with capsys.disabled():
        print(f"\nfresh seeds: python -m tests.sim --first {first} --runs {GROUP}", flush=True)
    for seed in range(first, first + GROUP):
        result = run(seed)
        assert result.failure is None, f"{result.failure}\n{result.command}"


def test_a_seed_says_all() -> None:
    """The same in another process, where sets have another order."""
    told = [
        subprocess.run(
            [sys.executable, "-m", "tests.sim", "--seed", TOLD, "--trace"],
            env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True,
        ).stdout.splitlines()[:-1]
        for seed in ("1", "2")
    ]  # fmt: skip
    assert told[0] == told[1]
    assert len(told[0]) > 100
