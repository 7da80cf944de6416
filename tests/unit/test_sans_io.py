"""The engine and the session have no I/O, no clock and no randomness: neither they nor what they import."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path

import pytest

IO = {"asyncio", "socket", "ssl", "time", "random", "secrets", "datetime", "threading", "subprocess", "aiohttp"}
OURS = ("federation", "crdt", "kosreg")
SYSTEM = {"os", "pathlib", "tempfile"}
ALLOWED = {
    "federation.identity": {"os", "pathlib"},  # keys are made and kept in files there; the engine only signs with them
    "federation.certificate": {"datetime", "ssl", *SYSTEM},  # the session asks it for the key in a certificate
}
ENGINE = ("mesh", "pair", "broadcast", "reconciler", "messages", "partitions", "trust", "session")


def imports_of(module: str) -> set[str]:
    """What a module imports when it is loaded or run, by full name."""
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    found: set[str] = set()
    for node in ast.walk(ast.parse(Path(spec.origin).read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found.add(node.module)
            if node.module in OURS:
                found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def reached_from(module: str) -> dict[str, set[str]]:
    """Our modules below `module`, it included, and what each imports."""
    found: dict[str, set[str]] = {}
    todo = [module]
    while todo:
        name = todo.pop()
        if name not in found:
            found[name] = imports_of(name)
            todo += [below for below in found[name] if below.split(".")[0] in OURS]
    return found


@pytest.mark.parametrize("name", ["replica", *ENGINE])
def test_the_engine_imports_no_io_no_clock_no_randomness(name: str) -> None:
    reached = reached_from(f"federation.{name}")
    assert len(reached) > 1
    used = {module: some & (IO | SYSTEM) - ALLOWED.get(module, set()) for module, some in reached.items()}
    assert {module: some for module, some in used.items() if some} == {}
