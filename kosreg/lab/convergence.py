"""Do the nodes hold the same? And if not: who differs in what?

Compared is what DESIGN promises: of each partition (one origin's entries in one tree) all nodes that admit it, and that
are joined by links over such nodes, hold the same entries, byte for byte, lapsed ones left out. A node that is down or
frozen, and a link that is cut, join nobody. Asked is the hook inside each daemon, which reads the map itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from crdt.entry import Class
from kosreg.lab.errors import LabError

if TYPE_CHECKING:
    from kosreg.lab.node import LabNode

LINES: Final = 40  # of a text that says who differs
MOST: Final = 10_000  # differences looked for


class Part(NamedTuple):
    """A partition as the hook writes it: dids, and the class as a number."""

    origin: str
    cls: int
    root: str | None
    trust: bool


class Digest(NamedTuple):
    """What one node holds of a partition: how many, and the ids added up without carry."""

    size: int
    ids: str


NOTHING: Final = Digest(0, "0" * 64)


@dataclass(frozen=True, slots=True)
class Difference:
    """Nodes that should hold the same of (kind, name) of `origin`, and do not. Names of nodes each: `newest` hold the
    highest entry, `older` another, `lacking` none. `cls`: private, internal or public."""

    origin: str
    cls: str
    kind: str
    name: str
    newest: tuple[str, ...]
    older: tuple[str, ...]
    lacking: tuple[str, ...]

    def __str__(self) -> str:
        what = (
            f"{self.kind} {self.name!r} of {self.origin} ({self.cls})" if self.name else f"{self.kind} of {self.origin}"
        )
        faults = [f"{', '.join(names)} {fault}" for names, fault in
                  ((self.lacking, "without it"), (self.older, "with an older one")) if names]  # fmt: skip
        return f"{what}: {'; '.join(faults)}; {', '.join(self.newest)} with the newest"


@dataclass(frozen=True, slots=True)
class Report:
    """What one node holds and what it admits."""

    held: Mapping[Part, Digest]
    admits: frozenset[Part]


def groups(names: Iterable[str], links: Sequence[tuple[str, str]]) -> list[list[str]]:
    """The names that are joined by links, group by group."""
    left = dict.fromkeys(names)
    found: list[list[str]] = []
    while left:
        group = [next(iter(left))]
        del left[group[0]]
        for name in group:  # grows as it is walked
            for one, other in links:
                for near, far in ((one, other), (other, one)):
                    if near == name and far in left:
                        group.append(far)
                        del left[far]
        found.append(group)
    return found


def disagreements(
    reports: Mapping[str, Report], links: Sequence[tuple[str, str]]
) -> list[tuple[Part, dict[Digest, list[str]]]]:
    """Partitions of which joined nodes hold different things, and which nodes hold what."""
    found: list[tuple[Part, dict[Digest, list[str]]]] = []
    parts = sorted({part for report in reports.values() for part in (*report.held, *report.admits)}, key=str)
    for part in parts:
        for group in groups([name for name, report in reports.items() if part in report.admits], links):
            by_digest: dict[Digest, list[str]] = {}
            for name in group:
                by_digest.setdefault(reports[name].held.get(part, NOTHING), []).append(name)
            if len(by_digest) > 1:
                found.append((part, by_digest))
    return found


async def reports(nodes: Sequence[LabNode], cut_ms: int) -> dict[str, Report]:
    """What each of `nodes` holds beyond the cut. Raises LabError where one does not answer."""
    answers = await asyncio.gather(*(node.hook(held={"cut": cut_ms}) for node in nodes))
    held = {node.name: _held(answer["held"]) for node, answer in zip(nodes, answers, strict=True)}
    parts = sorted({part for some in held.values() for part in some}, key=str)
    ask = [list(part) for part in parts]
    answers = await asyncio.gather(*(node.hook(held={"cut": 1 << 62, "ask": ask}) for node in nodes))
    return {
        node.name: Report(
            held[node.name],
            frozenset(part for part, admits in zip(parts, answer["held"]["admits"], strict=True) if admits),
        )
        for node, answer in zip(nodes, answers, strict=True)
    }


async def differences(
    nodes: Sequence[LabNode], links: Sequence[tuple[str, str]], cut_ms: int, most: int = MOST
) -> list[Difference]:
    """Who differs in what, entry by entry, at most `most`; [] where all agree."""
    names = {node.did: node.name for node in nodes}
    by_name = {node.name: node for node in nodes}
    found: list[Difference] = []
    for part, by_digest in disagreements(await reports(nodes, cut_ms), links):
        holders = list(by_digest.values())
        wish = {"partition": list(part), "cut": cut_ms}
        lists = await asyncio.gather(*(by_name[group[0]].hook(entries=wish) for group in holders))
        entries = [{(e[0], e[1]): (e[3], e[4], e[2]) for e in answer["entries"]} for answer in lists]
        for key in sorted({key for some in entries for key in some}):
            found += _difference(part, key, holders, entries, names)
            if len(found) >= most:
                return found
    return found


def explain(found: Sequence[Difference]) -> str:
    """A text for people: a line for each that differs, where many differ in the same way one for all of them."""
    alike: dict[Difference, list[Difference]] = {}
    for difference in found:
        alike.setdefault(replace(difference, name=""), []).append(difference)
    lines = []
    for some in alike.values():
        lines.append(str(some[0]) + (f" (and {len(some) - 1} more alike)" if len(some) > 1 else ""))
    if len(lines) > LINES:
        lines[LINES:] = [f"… and {len(lines) - LINES} more"]
    return "\n".join(lines)


def leaks(reports: Mapping[str, Report], dids: Mapping[str, str]) -> list[tuple[str, Part]]:
    """Nodes (names) that hold what its origin shows to nobody. `dids`: a node's did by its name."""
    return [
        (name, part)
        for name, report in reports.items()
        for part in report.held
        if part.cls == Class.PRIVATE and part.origin != dids[name]
    ]


def _held(answer: Mapping[str, Any]) -> dict[Part, Digest]:
    return {Part(*part): Digest(count, ids) for part, count, ids in answer["held"]}


def _difference(
    part: Part,
    key: tuple[str, str],
    holders: Sequence[list[str]],
    entries: Sequence[Mapping[tuple[str, str], tuple[int, int, str]]],
    names: Mapping[str, str],
) -> list[Difference]:
    orders = [some.get(key) for some in entries]
    highest = max(order for order in orders if order is not None)
    sorts: dict[str, list[str]] = {"newest": [], "older": [], "lacking": []}
    for group, order in zip(holders, orders, strict=True):
        sorts["newest" if order == highest else "lacking" if order is None else "older"] += group
    if not sorts["older"] and not sorts["lacking"]:
        return []
    if part.cls not in tuple(Class):
        raise LabError(f"a daemon spoke of class {part.cls}")
    return [
        Difference(
            names.get(part.origin, part.origin), Class(part.cls).name.lower(), *key,
            tuple(sorts["newest"]), tuple(sorts["older"]), tuple(sorts["lacking"]),
        )
    ]  # fmt: skip
