"""The name by which the API knows the node. For type checkers alone: `kosreg.node` imports the API, not the reverse."""

from kosreg.node import Node

__all__ = ["Node"]
