"""The routes of this node's own key: which one it is, who succeeded whom, and its change. For admins alone."""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from federation.identity import did_of
from kosreg.api.http import Answer, Call, Reply, Route
from kosreg.peers import fingerprint
from kosreg.problems import Problem
from kosreg.schemas.key_schema import ChangingOut, KeyOut

ADMINS: Final = ("admin", "*")
_NO_STORE: Final = {"Cache-Control": "no-store"}


async def show_key(call: Call) -> Reply:
    node = call.app
    known = node.trust.successions
    own = {node.key.public, *known.former(node.key.public)}
    successions = []
    for said in known.successions():
        told: dict[str, object] = {"old": did_of(said.old), "new": did_of(said.new), "own": said.new in own}
        if known.is_frozen(said.new):
            told["frozen"] = True
        successions.append(told)
    body = {
        "did": node.did,
        "fingerprint": fingerprint(node.key.public),
        "next": sha256(node.next_key).hexdigest(),
        "former": [did_of(key) for key in known.former(node.key.public)],
        "successions": successions,
    }
    return Reply(200, body, _NO_STORE)


async def change_key(call: Call) -> Reply:
    node = call.app
    if node.sync.yielded:
        raise Problem.of(
            "conflict",
            "Another node with this key runs, and this one is quiet. Change the key there; or, if this is the right "
            "one, stop the other and run `kosreg doctor --claim` here first.",
        )
    if node.change_key is None:
        raise Problem.of("conflict", "Nobody would start this node again. End it, then run `kosreg key rotate`.")
    node.change_key(call.who.sub)
    return Reply(202, {"old": node.did, "new": did_of(node.next_key)}, _NO_STORE)


def key_routes() -> list[Route]:
    """The table."""
    tag = "key"
    return [
        Route(
            "GET", "/api/key", show_key, tag=tag, scope=ADMINS,
            summary="This node's key, the hash of the next one, and the successions of keys that count here.",
            replies={200: KeyOut},
        ),
        Route(
            "POST", "/api/key/rotate", change_key, tag=tag, scope=ADMINS,
            summary="Change this node's key for the next one.",
            description="The node ends, changes its key and starts again, within seconds: ask until `did` is the new "
            "one. What it said it says again under the new key, and other nodes follow by themselves.",
            replies={202: Answer(ChangingOut, "It is about to.")}, problems=("conflict",),
        ),
    ]  # fmt: skip
