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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
PROGRAMS: Final = {"federation": ("tests.sim", 25, 400), "alive": ("tests.sim.alive", 2, 12)}
"""Module, seeds in one process, and seeds before a mutant counts as not caught."""
TESTS: Final = {
    "quotas": ("tests/unit/test_quotas.py", "tests/property/test_quota_properties.py"),
    "keys": ("tests/unit/test_succession.py",),
}
"""What is seen by tests, where the simulator has no such nodes."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """`old` stands exactly once in `file`, and becomes `new`. `seen_by`: the program whose seeds are run, or tests."""

    name: str
    file: str
    old: str
    new: str
    seen_by: str = "federation"


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
        "        if entry.origin == self.origin or entry.origin in self._former:",
        "        if False:",
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
    Mutant(
        "certificates: depth does not count",
        "federation/chain.py",
        "        if not self.depth or subject in self.keys:",
        "        if subject in self.keys:",
    ),
    Mutant(
        "certificates: a delegate gives more depth than it has",
        "federation/chain.py",
        "            min(self.depth - 1, cert.depth),",
        "            cert.depth,",
    ),
    Mutant(
        "certificates: a delegate lets through more classes than it has",
        "federation/chain.py",
        "            self.classes & scope.classes,",
        "            scope.classes,",
    ),
    Mutant(
        "certificates: the types and tags of those above do not count",
        "federation/chain.py",
        "            self.scopes | {Scope(frozenset(), scope.types, scope.tags)} if hides else self.scopes,",
        "            frozenset({Scope(frozenset(), scope.types, scope.tags)}) if hides else frozenset(),",
    ),
    Mutant(
        "certificates: they do not end",
        "federation/chain.py",
        "        return self.begin <= now_ms < self.end",
        "        return self.begin <= now_ms",
    ),
    Mutant(
        "certificates: they hold before they begin",
        "federation/chain.py",
        "        return self.begin <= now_ms < self.end",
        "        return now_ms < self.end",
    ),
    Mutant(
        "certificates: nobody looks at the clock",
        "federation/trust.py",
        "        self.version += changed",
        "        changed = False",
    ),
    Mutant(
        "certificates: what one above has revoked is out only where that one had certified it",
        "federation/chain.py",
        "            begin = max(begin, *(revoked.get(key, 0) for key in self.keys))",
        "            begin = max(begin, revoked.get(self.keys[-1], 0))",
    ),
    Mutant(
        "certificates: the last to come counts, not the newest",
        "federation/chain.py",
        "        if known is not None and known.order >= cert.order:",
        "        if known is not None and known.order == cert.order:",
    ),
    Mutant(
        "certificates: one counts in whichever federation",
        "federation/chain.py",
        "            if cert.granted and cert.federation == root:",
        "            if cert.granted:",
    ),
    Mutant(
        "certificates: who is certified for public facts alone may say internal ones",
        "federation/trust.py",
        "                    if cls in chain.classes:\n                        yield self._anchors[root].scope, chain",
        "                    yield self._anchors[root].scope, chain",
    ),
    Mutant(
        "certificates: who is in no federation takes its internal facts",
        "federation/trust.py",
        "            if root is not None and self.chain(root, self.own, now_ms) is not None:",
        "            if root is not None:",
    ),
    Mutant(
        "certificates: those of a delegate are not passed on",
        "federation/trust.py",
        "            if (anchor is not None and anchor.role is Role.ROOT) or self.roots_of(origin, now_ms):",
        "            if anchor is not None and anchor.role is Role.ROOT:",
    ),
    Mutant(
        "an admin's revoke: chains still lead to whom it names, and through it",
        "federation/trust.py",
        "        self._chains.set_barred(key, barred=self.is_revoked(key))",
        "        pass",
    ),
    Mutant(
        "an admin's revoke: its facts are still believed",
        "federation/trust.py",
        "        if cls is Class.PRIVATE or self.is_revoked(origin):",
        "        if cls is Class.PRIVATE:",
    ),
    Mutant(
        "an admin's revoke: the links stay open for its facts",
        "federation/mesh.py",
        "        if (seen := (self.trust.version, self.quotas.version)) == self._seen:",
        "        if (seen := (0, self.quotas.version)) == self._seen:",
    ),
    Mutant(
        "a bad peer: signatures are not checked",
        "federation/replica.py",
        "        if not verified:",
        "        if False:",
    ),
    Mutant(
        "a bad peer: what lives until 2100 is taken",
        "federation/replica.py",
        "        if is_far_ahead(entry, now_ms):",
        "        if False:",
    ),
    Mutant(
        "a bad peer: old words are taken again",
        "federation/replica.py",
        "        if held is None or held.order < entry.order:\n            return None",
        "        if held is None or held.id != entry.id:\n            return None",
    ),
    Mutant(
        "a bad peer: who asks by id is given what it may not see",
        "federation/pair.py",
        "            if entry is not None and entry.valid_until > now_ms and self.may_hold(entry):",
        "            if entry is not None and entry.valid_until > now_ms:",
    ),
    Mutant(
        "a bad peer: it may ask as much as it likes",
        "federation/pair.py",
        "        if len(self.wanted) >= MAX_WANTS:",
        "        if False:",
    ),
    Mutant(
        "a bad peer: it may announce as much as it likes",
        "federation/broadcast.py",
        "                if self._counts[peer] >= MAX_MISSING:",
        "                if False:",
    ),
    Mutant(
        "a bad peer: what it announced and never gave is waited for",
        "federation/broadcast.py",
        "        for identity in done:\n            self.came(identity)",
        "        pass",
    ),
    Mutant(
        "a bad peer: a comparison that is none ends the node",
        "federation/turns.py",
        "            except ReconcileError as error:",
        "            except ZeroDivisionError as error:",
    ),
    Mutant(
        "a bad peer: a message that is none ends the node",
        "federation/messages.py",
        "    if any(type(raw) is not bytes or not 0 < len(raw) <= MAX_ENTRY for raw in some):\n        return None",
        "    pass",
    ),
    Mutant(
        "a bad peer: a spoilt entry costs it nothing, and the rest of the message is taken",
        "federation/judge.py",
        "                if effect.fault is Fault.RELAY:",
        "                if False:",
    ),
    Mutant(
        "a bad origin: who passes on what is not believed here loses its link",
        "federation/replica.py",
        "            return self._refuse(Fault.ORIGIN, reason, entry)",
        "            return self._refuse(Fault.RELAY, reason, entry)",
    ),
    Mutant(
        "who is alive: a node to which no way leads is doubted for ever",
        "federation/reachability.py",
        "< (RETURN_MS if back else DOUBT_MS):",
        "< 1 << 60:",
        "alive",
    ),
    Mutant(
        "who is alive: nobody is ever cut off",
        "federation/reachability.py",
        "self.isolated = len(recent) >= 2 and",
        "self.isolated = False and",
        "alive",
    ),
    Mutant(
        "who is alive: half of the nodes are too few",
        "federation/reachability.py",
        "(len(up) + 1) * 2 < len(recent) + 1",
        "(len(up) + 1) * 2 <= len(recent) + 1",
        "alive",
    ),
    Mutant(
        "who is alive: a refused redial proves nothing to others",
        "federation/reachability.py",
        "self._gone |= self._said_gone(reached)",
        "pass",
        "alive",
    ),
    Mutant(
        "who is alive: an older beacon counts",
        "federation/membership.py",
        "if known is not None and known.beacon.order >= beacon.order:",
        "if known is not None and known.beacon.order == beacon.order:",
        "alive",
    ),
    Mutant(
        "who is alive: what is not signed is believed",
        "federation/membership.py",
        "            if not is_signed(beacon):  # before it counts as said by that node",
        "            if False:",
        "alive",
    ),
    Mutant(
        "who is alive: a clock that jumps is a silence",
        "federation/membership.py",
        "            self._shift(gone_by)",
        "            pass",
        "alive",
    ),
    Mutant(
        "who is alive: nobody is asked whether it is there",
        "federation/membership.py",
        "if quiet >= QUIET_MS and now_ms - near.probed_ms >= PROBE_MS:",
        "if False:",
        "alive",
    ),
    Mutant(
        "who is alive: a link that is silent still counts",
        "federation/membership.py",
        "if near.silent != (quiet >= SILENT_MS):",
        "if False:",
        "alive",
    ),
    Mutant(
        "who is alive: a node that stops is dead at once",
        "federation/reachability.py",
        "if lease.beacon.stops and now_ms - lease.came_ms < STOPS_MS:",
        "if False:",
        "alive",
    ),
    Mutant(
        "quotas: a frozen origin is still admitted",
        "federation/quotas.py",
        "return frozenset(part.origin for part in self.frozen if part.trust == tree.trust)",
        "return frozenset()",
        "quotas",
    ),
    Mutant(
        "quotas: what is frozen stays so, though it fits",
        "federation/quotas.py",
        "if self._fits(part, used, used.plus(elsewhere), now_ms):",
        "if False:",
        "quotas",
    ),
    Mutant(
        "quotas: nothing counts against those above",
        "federation/budget.py",
        "known.edges = tuple({edge: None for chain in chains for edge in _edges(chain)})",
        "known.edges = ()",
        "quotas",
    ),
    Mutant(
        "quotas: keys are made without end",
        "federation/quotas.py",
        "if said.records > times * self.bounds.keys:",
        "if False:",
        "quotas",
    ),
    Mutant(
        "keys: whoever has a key names its heir",
        "federation/succession.py",
        "        if sha256(said.new).digest() != known.pin:\n            self._refuse(key",
        "        if False:\n            self._refuse(key",
        "keys",
    ),
    Mutant(
        "keys: the heir need not agree",
        "federation/succession.py",
        "if not verify(new, _PROOF + entry.origin + new, proof):",
        "if False:",
        "keys",
    ),
    Mutant(
        "keys: two successions of one key are no fork",
        "federation/succession.py",
        "if said.then and known.then and said.then != known.then:",
        "if False:",
        "keys",
    ),
    Mutant(
        "keys: a later hash of the next key takes the place of the first",
        "federation/succession.py",
        "        if not known.pin:\n            self._set(key, replace(known, pin=digest))",
        "        if known.pin != digest:\n            self._set(key, replace(known, pin=digest))",
        "keys",
    ),
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.mutants", description=__doc__)
    parser.add_argument("--only", default="", help="those whose name contains this")
    given = parser.parse_args()
    escaped = 0
    for mutant in MUTANTS:
        if given.only in mutant.name:
            escaped += not _caught(mutant)
    print(f"{escaped} not caught" if escaped else "all caught")
    return 1 if escaped else 0


def _caught(mutant: Mutant) -> bool:
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="kosreg-mutant-") as place:
        copy = Path(place)
        for package in ("crdt", "federation", *(("kosreg", "tests") if mutant.seen_by in TESTS else ("tests/sim",))):
            shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
        for file in ("tests/__init__.py", "pyproject.toml"):
            shutil.copy(ROOT / file, copy / file)
        source = copy / mutant.file
        text = source.read_text()
        if text.count(mutant.old) != 1:
            print(f"STALE   {mutant.name}: its text stands {text.count(mutant.old)} times in {mutant.file}")
            return False
        source.write_text(text.replace(mutant.old, mutant.new))
        for command in _commands(mutant.seen_by):
            done = subprocess.run(
                [sys.executable, "-m", *command],
                cwd=copy, env={**os.environ, "PYTHONPATH": place}, capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                why = (done.stdout or done.stderr).strip().splitlines()
                told = [line for line in why if line.startswith(("seed ", "FAILED "))]
                if not told:
                    print(f"BROKEN  {mutant.name}: nothing runs\n        {why[-1][:160]}", flush=True)
                    return False
                print(
                    f"caught  {mutant.name} ({time.perf_counter() - began:.0f} s)\n        {told[0][:160]}", flush=True
                )
                return True
    print(f"ESCAPED {mutant.name}: nothing saw it", flush=True)
    return False


def _commands(seen_by: str) -> Iterator[tuple[str, ...]]:
    """What `python -m` is to run, one after the other, until one of them sees the mutant."""
    if seen_by in TESTS:
        yield ("pytest", "-q", "-x", "-p", "no:cacheprovider", *TESTS[seen_by])
        return
    program, chunk, runs = PROGRAMS[seen_by]
    for first in range(0, runs, chunk):
        yield (program, "--first", str(first), "--runs", str(chunk))


if __name__ == "__main__":
    sys.exit(main())
