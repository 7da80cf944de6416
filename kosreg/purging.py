"""Drops all that is held of a key, once nobody trusts it here any more.

The key must have been revoked: then nothing of it comes in, and what is shown of it goes out of sight. When that is
done, its entries leave the disk, then memory. A crash in between leaves them on the disk, where a start finds them, and
shows them to nobody; the same call again drops them.
"""

from __future__ import annotations

import asyncio
import time

import structlog

from federation.identity import did_of
from federation.trust import Trust
from kosreg.klp_registry_sync import RegistrySync
from kosreg.problems import Problem
from kosreg.store import Batch

SLICE = 500  # entries in one commit
WITHIN = 20.0  # s for what is shown of it to go out of sight
LOOK = 0.02  # s between two looks

log = structlog.get_logger("kosreg.purging")


async def purge_origin(sync: RegistrySync, trust: Trust, origin: bytes) -> int:
    """How many entries of `origin` were dropped. Raises StoreError, or Problem where it takes too long."""
    deadline = time.monotonic() + WITHIN
    while _is_in_use(sync, origin):
        if time.monotonic() > deadline:
            raise Problem.of(
                "unavailable",
                "It is revoked, and not yet out of sight, so nothing was purged. Purge it again in a minute.",
            )
        await asyncio.sleep(LOOK)
    held = list(sync.replica.map.of(origin))
    for start in range(0, len(held), SLICE):
        await sync.store.commit(Batch(purge=[entry.key for entry in held[start : start + SLICE]]))
    for entry in sync.replica.map.forget(origin):
        sync.replica.holdings.drop(entry)
    trust.unlearn(origin)
    if held:
        await sync.reshowing.purged()
    log.info("purged", entries=len(held), peer=did_of(origin))
    return len(held)


def _is_in_use(sync: RegistrySync, origin: bytes) -> bool:
    """Whether anything of `origin` is shown still, or on its way to the disk."""
    did = did_of(origin)
    return any(
        sync.replica.is_in_flight(entry)
        or (entry.kind == "service" and sync.catalog.claim(entry.name, did) is not None)
        for entry in sync.replica.map.of(origin)
    )
