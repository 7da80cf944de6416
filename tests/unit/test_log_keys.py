"""Every key of the log is in one list, and every key of the list is used."""

import ast
from collections.abc import Iterator
from pathlib import Path

import kosreg
from kosreg.log_keys import LOG_KEYS

ROOT = Path(kosreg.__file__).parent.parent
METHODS = {"debug", "info", "warning", "error", "exception", "critical", "bind"}
LOGGERS = {"log", "_log", "logger", "_logger"}
BY_THE_CHAIN = {"time", "level", "logger", "event", "exception", "stack", "request_id", "sub"}


def calls() -> Iterator[tuple[str, str]]:
    """(`file:line`, key) of each keyword of each call of a logger."""
    for package in ("kosreg", "federation", "crdt"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
                    owner = node.func.value
                    name = owner.id if isinstance(owner, ast.Name) else getattr(owner, "attr", None)
                    if name in LOGGERS:
                        for keyword in node.keywords:
                            if keyword.arg not in (None, "exc_info", "stack_info"):
                                yield f"{path.relative_to(ROOT)}:{node.lineno}", str(keyword.arg)


def test_every_key_that_is_logged_is_in_the_list() -> None:
    unknown = [f"{place}: {key}" for place, key in calls() if key not in LOG_KEYS]

    assert not unknown, "use a key of kosreg/log_keys.py, or add it there with its meaning"


def test_every_key_of_the_list_is_logged_somewhere() -> None:
    assert set(LOG_KEYS) - {key for _, key in calls()} - BY_THE_CHAIN == set()
