"""Run seeds: `python -m tests.sim --runs 1000`; repeat one: `python -m tests.sim --seed 1234 --trace`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable
from multiprocessing import Pool

from tests.sim.run import Result, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seed", type=int, help="run this one alone")
    parser.add_argument("--trace", action="store_true", help="write all that happens")
    parser.add_argument("--runs", type=int, default=100, help="how many seeds (default 100)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default 0)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default 1)")
    parser.add_argument("--steps", type=int, help="how much happens in a run (default: as the seed says)")
    parser.add_argument("--all", action="store_true", help="go on after a failure")
    given = parser.parse_args()
    if given.seed is not None:
        result = run(given.seed, trace=given.trace, echo=given.trace, steps=given.steps)
        return _report([result], time.perf_counter(), stop=True)
    seeds = range(given.first, given.first + given.runs)
    began = time.perf_counter()
    if given.jobs == 1:
        return _report(map(run, seeds), began, stop=not given.all)
    with Pool(given.jobs) as pool:
        return _report(pool.imap(run, seeds, 4), began, stop=not given.all)


def _report(results: Iterable[Result], began: float, *, stop: bool) -> int:
    count = failed = events = longest = 0
    for result in results:
        count += 1
        events += result.events
        longest = max(longest, result.healing_ms)
        if result.failure is not None:
            failed += 1
            print(f"seed {result.seed}: {result.failure}\n  {result.command}", flush=True)
            if stop:
                break
    took = time.perf_counter() - began
    print(
        f"{count} runs, {failed} failed, {count / took:.1f} a second, {events:,} events, "
        f"longest healing {longest / 1000:.0f} s (virtual)"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
