"""`kosreg` that dies of SIGKILL at a step of a change of its key:
`python -m tests.integration.federation.dying_key STEP run …`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from federation.replica import Replica
from kosreg import key_change
from kosreg.cli.main import app
from kosreg.store import Store
from tests.integration.federation.dying import after, before, die

UNDONE = ("the next but one key is made", "before the commit")
DONE = ("after the commit", "between the renames", "after the renames", "some is said again")


def at(step: str) -> None:
    """Make this process die at `step`."""
    match step:
        case "the next but one key is made":
            _dies_after("begin_change")
        case "before the commit":
            before(Store, "change_key")
        case "after the commit":
            after(Store, "change_key")
        case "between the renames":
            rename = Path.replace

            def dying(self: Path, target: Any) -> Any:
                done = rename(self, target)
                if Path(target).name == "node.key":
                    die()
                return done

            Path.replace = dying  # type: ignore[method-assign]
        case "after the renames":
            _dies_after("finish_change")
        case _:
            key_change.SLICE = 1  # type: ignore[misc]
            said = Replica.say_again
            calls = 0

            def third(self: Replica, *args: Any, **more: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls == 3:
                    die()
                return said(self, *args, **more)

            Replica.say_again = third  # type: ignore[method-assign]


def _dies_after(name: str) -> None:
    whole = getattr(key_change, name)

    def dying(*args: Any) -> None:
        whole(*args)
        die()

    setattr(key_change, name, dying)


if __name__ == "__main__":
    at(sys.argv.pop(1))
    app(prog_name="kosreg")
