"""`kosreg` that dies of SIGKILL at a step of a join: `python -m tests.integration.federation.dying STEP run …`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

from federation.connections import Connections
from federation.peer_node import PeerNode
from kosreg.cli.main import app
from kosreg.peers import Peers
from kosreg.store import Store, TrustChange

INVITER = ("redeem asked", "redeem before the commit", "redeem after the commit", "redeem answered")
JOINER = ("join asked", "join before the commit", "join after the commit", "join answered")


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("SIGKILL comes back to nobody")


def at(step: str) -> None:
    """Make this process die at `step`."""
    match step:
        case "redeem asked":
            before(Peers, "redeem")
        case "redeem answered":  # the joiner has its welcome
            before(Connections, "_after_join")
        case "join asked":
            before(PeerNode, "join")
        case "join answered":  # and nobody has told the client
            after(Peers, "join")
        case _:
            word = "invites" if step.startswith("redeem") else "anchors"
            (before if "before" in step else after)(Store, "write_trust", lambda change: binds(change, word))


def binds(change: TrustChange, word: str) -> bool:
    """Whether `change` is the one that makes the other node trusted."""
    return any(invite.joiner for invite in change.invites) if word == "invites" else bool(change.anchors)


def _any(*_: Any) -> bool:
    return True


def before(owner: type, name: str, when: Callable[..., bool] = _any) -> None:
    whole: Callable[..., Awaitable[Any]] = getattr(owner, name)

    async def dying(self: Any, *args: Any, **more: Any) -> Any:
        if when(*args):
            die()
        return await whole(self, *args, **more)

    setattr(owner, name, dying)


def after(owner: type, name: str, when: Callable[..., bool] = _any) -> None:
    whole: Callable[..., Awaitable[Any]] = getattr(owner, name)

    async def dying(self: Any, *args: Any, **more: Any) -> Any:
        result = await whole(self, *args, **more)
        if when(*args):
            die()
        return result

    setattr(owner, name, dying)


if __name__ == "__main__":
    at(sys.argv.pop(1))
    app(prog_name="kosreg")
