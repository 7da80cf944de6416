"""What the API needs of a node: the seam to `daemon.py`, which makes the real one."""

from __future__ import annotations

from typing import Any, Protocol


class Node(Protocol):
    """The parts of a running node, made once and passed down."""

    settings: Any
    auth: Any
    limits: Any
    registry: Any
    store: Any
    metrics: Any
