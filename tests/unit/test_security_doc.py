"""The threat model names tests: each exists."""

from __future__ import annotations

import ast
import re

from tests.documents import ROOT

TEXT = (ROOT / "docs/security.md").read_text()
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)


def test_every_test_that_is_named_exists() -> None:
    assert len(NAMED) > 50
    for path, name in dict.fromkeys(NAMED):
        tree = ast.parse((ROOT / path).read_text())
        there = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        assert name in there, f"docs/security.md names {path}::{name}, which is not there"


def test_every_row_says_what_shows_it() -> None:
    rows = [line for line in TEXT.splitlines() if line.startswith("|") and not re.match(r"\|(-+\||\s*tries)", line)]
    for row in rows:
        assert row.count(" | ") == 2, f"three columns: {row}"
        assert "`tests/" in row or "not yet" in row, f"it names no test: {row}"
