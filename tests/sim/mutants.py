"""Shows that the simulator can fail: breaks one rule at a time, in a copy of the source tree, and runs seeds until one
of them sees it. `python -m tests.sim.mutants`."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
CHUNK: Final = 25  # seeds in one process


@dataclass(frozen=True, slots=True)
class Mutant:
    """`old` stands exactly once in `file`, and becomes `new`."""

    name: str
    file: str
    old: str
    new: str


MUTANTS: Final = (
    Mutant(
        "the tie-break: of two entries with one stamp, the first to come is kept",
        "crdt/lww_map.py",
        "    return (one.valid_until, one.id) > (other.valid_until, other.id)",
        "    return False",
    ),
    Mutant(
        "the tie-break: of two entries with one stamp and one end, the first to come is kept",
        "crdt/entry.py",
        "return Order(self.stamp, self.valid_until, self.id)",
        "return Order(self.stamp, self.valid_until, b'')",
    ),
    Mutant(
        "the tombstone: none is left in the class that an entry leaves",
        "federation/replica.py",
        "if held.live and (statement.body is None or held.cls != statement.cls or held.root != statement.root):",
        "if held.live and statement.body is None:",
    ),
    Mutant(
        "the tombstone: it does not leave its node",
        "federation/pair.py",
        "return opening is not None and entry.origin in opening.both",
        "return opening is not None and entry.origin in opening.both and entry.live",
    ),
    Mutant(
        "the tombstone: a renewal has a new stamp, and so beats a later deletion",
        "federation/replica.py",
        "stamp = self._clock.next(now_ms) if ahead else entry.stamp",
        "stamp = self._clock.next(now_ms) + (1 << 40)",
    ),
    Mutant(
        "the sender's visibility check: everything may leave",
        "federation/pair.py",
        "return opening is not None and entry.origin in opening.both",
        "return True",
    ),
    Mutant(
        "the sender's visibility check: private entries stand among what is compared",
        "federation/partitions.py",
        "    if entry.cls == Class.INTERNAL and entry.root is not None:",
        "    if entry.cls == Class.PRIVATE:\n        return PUBLIC_FACTS\n"
        "    if entry.cls == Class.INTERNAL and entry.root is not None:",
    ),
    Mutant(
        "the sender's visibility check: whoever links is of the federation",
        "federation/mesh.py",
        'shared = {root for root in roots if trust.admits(peer, Class.INTERNAL, root, "service", now_ms)}',
        "shared = roots",
    ),
    Mutant(
        "the known-id rule: an entry is known before its signature was checked",
        "federation/judge.py",
        "            some.append(found)",
        "            some.append(found)\n            self.landing[found.id] = found",
    ),
    Mutant(
        "the known-id rule: what failed to get onto the disk stays known",
        "federation/mesh.py",
        '        """`entries` did not get onto the disk: they are as unknown as before."""',
        "        return",
    ),
    Mutant(
        "a restart: stamps begin anew",
        "federation/replica.py",
        "        if entry.origin == self.origin:\n            self._clock.observe(entry.stamp)\n        return entry",
        "        return entry",
    ),
    Mutant(
        "a clock far ahead: what it signed is never said again",
        "federation/replica.py",
        "    return entry.valid_until > now_ms + max_life_ms(entry.kind) + CLOCK_TOLERANCE_MS",
        "    return entry.valid_until > now_ms + 1000 * max_life_ms(entry.kind)",
    ),
    Mutant(
        "a difference: nobody acts on it",
        "federation/mesh.py",
        "                if tree in differ and not pair.reconciler.is_asking(tree):",
        "                if False:",
    ),
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.mutants", description=__doc__)
    parser.add_argument("--runs", type=int, default=400, help="seeds before a mutant counts as not caught")
    parser.add_argument("--only", default="", help="those whose name contains this")
    given = parser.parse_args()
    escaped = 0
    for mutant in MUTANTS:
        if given.only in mutant.name:
            escaped += not _caught(mutant, given.runs)
    print(f"{escaped} not caught" if escaped else "all caught")
    return 1 if escaped else 0


def _caught(mutant: Mutant, runs: int) -> bool:
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="kosreg-mutant-") as place:
        copy = Path(place)
        for package in ("crdt", "federation", "tests/sim"):
            shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "tests/__init__.py", copy / "tests/__init__.py")
        source = copy / mutant.file
        text = source.read_text()
        if text.count(mutant.old) != 1:
            print(f"STALE   {mutant.name}: its text stands {text.count(mutant.old)} times in {mutant.file}")
            return False
        source.write_text(text.replace(mutant.old, mutant.new))
        for first in range(0, runs, CHUNK):
            done = subprocess.run(
                [sys.executable, "-m", "tests.sim", "--first", str(first), "--runs", str(CHUNK)],
                cwd=copy, env={**os.environ, "PYTHONPATH": place}, capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                why = (done.stdout or done.stderr).strip().splitlines()
                told = [line for line in why if line and not line.startswith(" ")]
                print(
                    f"caught  {mutant.name} ({time.perf_counter() - began:.0f} s)\n        {told[0][:160]}", flush=True
                )
                return True
    print(f"ESCAPED {mutant.name}: {runs} seeds saw nothing", flush=True)
    return False


if __name__ == "__main__":
    sys.exit(main())
