"""What every test gets: no task and no socket may be left behind."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from kosreg.node import Node
from tests.harness import Client, client_of, running_node

pytest_plugins = ["kosreg.lab.pytest_plugin"]  # `lab`, for tests/federation


def pytest_collection_finish() -> None:
    """What was imported stays: `no_socket_is_left` then looks only at what tests made, not at all modules each time."""
    gc.collect()
    gc.freeze()


@pytest_asyncio.fixture(autouse=True)
async def no_task_is_left(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """Fails an async test that leaves tasks behind. (Unclosed sockets are ResourceWarnings, which are errors.)"""
    before = asyncio.all_tasks()
    yield
    for _ in range(3):
        await asyncio.sleep(0)
    left = {task for task in asyncio.all_tasks() - before if not task.done()} - {asyncio.current_task()}
    if left:
        await asyncio.wait(left, timeout=1)
    left = {task for task in left if not task.done()}
    assert not left, f"tasks left behind: {left}"


@pytest.fixture(autouse=True)
def no_socket_is_left() -> Iterator[None]:
    """Collects what the test dropped while its warnings still belong to it."""
    yield
    gc.collect()


@pytest_asyncio.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    """A node in this loop."""
    async with running_node(tmp_path / "node") as node:
        yield node


@pytest_asyncio.fixture
async def admin(node: Node) -> AsyncIterator[Client]:
    """A client of `node` with the admin token."""
    client = await client_of(node)
    yield client
    await client.close()


@pytest_asyncio.fixture
async def bob(node: Node) -> AsyncIterator[Client]:
    """A client of `node` with an agent's token."""
    client = await client_of(node, "bob")
    yield client
    await client.close()


@pytest_asyncio.fixture
async def eve(node: Node) -> AsyncIterator[Client]:
    """Another agent."""
    client = await client_of(node, "eve")
    yield client
    await client.close()
