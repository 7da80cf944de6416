"""Fixtures for tests of one's own. In `conftest.py`:

    pytest_plugins = ["kosreg.lab.pytest_plugin"]

and then, with pytest-asyncio,

    async def test_mine(lab):
        async with lab(3, "line") as three:
            ...

`lab` is `Lab` itself, but that every lab of the test is ended when the test ends, whatever happened, and that the end
of each daemon's log stands in the report of a test that fails. (Not a lab that is made already: tests differ in what
they need, and a fixture that is parametrised by marks says it worse than a call.)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator
from typing import Any, Final

import pytest
import pytest_asyncio

from kosreg.lab.lab import Lab

LINES: Final = 15  # of each log in a report

_LABS: pytest.StashKey[list[Lab]] = pytest.StashKey()


@pytest_asyncio.fixture
async def lab(request: pytest.FixtureRequest) -> AsyncIterator[Callable[..., Lab]]:
    """Makes labs: `async with lab(5, "ring") as five`. Takes what `Lab` takes."""
    labs: list[Lab] = []
    request.node.stash[_LABS] = labs

    class Kept(Lab):
        """Its logs are read before they are removed."""

        async def close(self) -> None:
            self.logs = {node.name: _tail(node) for node in self.nodes}
            await super().close()

    def make(*arguments: Any, **options: Any) -> Lab:
        labs.append(Kept(*arguments, **options))
        return labs[-1]

    yield make
    await asyncio.gather(*(one.close() for one in labs))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, None]:
    """Adds what the daemons said last to the report of a test that failed."""
    outcome = yield
    report = outcome.get_result()
    if report.when == "call" and report.failed:
        for number, one in enumerate(_labs(item), 1):
            logs: dict[str, str] = getattr(one, "logs", {})
            for name, text in logs.items():
                report.sections.append((f"lab {number}, log of {name}", text))


def _tail(node: Any) -> str:
    try:
        return "\n".join(node.log.read_text("utf-8", "replace").splitlines()[-LINES:])
    except OSError:
        return ""


def _labs(item: pytest.Item) -> list[Lab]:
    none: list[Lab] = []
    return item.stash.get(_LABS, none)
