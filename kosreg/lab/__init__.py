"""The lab: federations of real daemons on one machine, to be cut, killed, frozen, healed and compared.

`Lab` is all that a test needs; `kosreg.lab.pytest_plugin` has the fixture; `kosreg lab` is the same from a shell. The
rest: `node` (a daemon), `link` and `proxy` (what is between two), `hook` (what is inside a daemon), `convergence` (who
differs in what), `federations` (who trusts whom), `control` and `asking` (commands from outside).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from kosreg.lab.convergence import Difference
    from kosreg.lab.errors import LabError, NotConverged
    from kosreg.lab.federations import Federation
    from kosreg.lab.lab import Lab
    from kosreg.lab.link import Link
    from kosreg.lab.node import LabNode, Traced

__all__ = ["Difference", "Federation", "Lab", "LabError", "LabNode", "Link", "NotConverged", "Traced"]

_PLACES: Final = {
    "Difference": "convergence",
    "Federation": "federations",
    "Lab": "lab",
    "LabError": "errors",
    "LabNode": "node",
    "Link": "link",
    "NotConverged": "errors",
    "Traced": "node",
}


def __getattr__(name: str) -> object:
    """Imported when it is asked for: the command line needs none of it to talk to a lab."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
