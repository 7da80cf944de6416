"""A node changes its key: from the committed next key to the one that it had hidden until then.

The node does not run meanwhile (`daemon` ends it, does this and starts it again). The steps, each of which may be the
last before a crash; what is left is done, or undone, by the next start (`open_store`):

1. after.key is made: the key that comes after the next one. Nobody knows of it yet.
2. One commit: the succession, signed by the old key and by the new one; whose store it is; its key, wrapped for the new
   one; the record in the audit log. From here on the node is the new key's.
3. next.key becomes node.key, after.key becomes next.key (`identity.finish_change`).
4. The node starts. What the old key said is said again by the new one (`say_again`), before anything is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import structlog

from crdt import cbor
from crdt.entry import TRUST_KINDS, Entry, Key
from federation.cose import decode_entry
from federation.identity import NodeKey, begin_change, did_of, drop_change, finish_change, load_or_create
from federation.succession import succeed
from kosreg.audit import Audit
from kosreg.klp_registry_sync import RegistrySync
from kosreg.paths import AFTER_KEY
from kosreg.reshowing import NOTE, THIS_RUN
from kosreg.store import Batch, ForeignStore, Row, Store, TrustChange
from kosreg.times import now_ms

LINEAGE: Final = "lineage"  # meta: CBOR of a list of this node's own successions as they travel, oldest first
SLICE: Final = 500  # entries said again in one commit

log = structlog.get_logger("kosreg.key")


async def open_store(url: str, data_dir: Path) -> tuple[NodeKey, NodeKey, Store]:
    """The node's key, its next key, and its store. A change of keys that was cut off is brought to its end, or, where
    nothing of it was committed, forgotten. Raises KeyFileError and StoreError."""
    key, following = load_or_create(data_dir)
    changing = (data_dir / AFTER_KEY).exists()
    try:
        store = await Store.open(url, key.public, key.derive("store"))
    except ForeignStore:
        if not changing:
            raise
        store = await Store.open(url, following.public, following.derive("store"))
        try:
            finish_change(data_dir)
            key, following = load_or_create(data_dir)
        except BaseException:
            await store.close()
            raise
        log.info("key changed", did=key.did)
        return key, following, store
    if changing:
        drop_change(data_dir)
    return key, following, store


async def lineage(store: Store) -> tuple[Entry, ...]:
    """The successions by which this node came to its key, oldest first. Raises StoreError."""
    kept = await store.get_meta(LINEAGE)
    raws: Sequence[bytes] = [] if kept is None else cbor.decode(kept)  # type: ignore[assignment]  # as it was written
    return tuple(decode_entry(raw) for raw in raws)


async def first_key(store: Store) -> bytes:
    """The key that this node began with: its audit log does, too. Raises StoreError."""
    rows = await lineage(store)
    return rows[0].origin if rows else store.origin


async def change_key(url: str, data_dir: Path, actor: str) -> tuple[str, str]:
    """Change the key of the node in `data_dir`, which does not run; the old and the new DID. `actor`: whoever wants it,
    for the audit log. Raises KeyFileError and StoreError; where nothing was committed, nothing has changed."""
    old, new, store = await open_store(url, data_dir)
    try:
        after = begin_change(data_dir)
        rows = await lineage(store)
        entry = succeed(old, new, after.public, now_ms())
        change = TrustChange(meta={LINEAGE: cbor.encode([row.raw for row in (*rows, entry)])})
        audit = await Audit.open(store, rows[0].origin if rows else old.public, now_ms)

        async def commit(whole: TrustChange) -> None:
            await store.change_key(new.public, new.derive("store"), Batch([Row(entry)]), whole)

        await audit.write(actor, "key changed", new.did, {"old": old.did}, change, commit)
    finally:
        await store.close()
    finish_change(data_dir)
    log.info("key changed", did=new.did, old=old.did)
    return old.did, new.did


async def say_again(sync: RegistrySync, former: Sequence[bytes]) -> int:
    """What former keys of this node said is signed by its present key, and their entries leave the disk; how many. Of
    those that speak of trust only the certificates are, and all stay: other nodes hold them too. To be called when all
    is read and nothing is shown. Raises StoreError; a later call goes on."""
    replica, said = sync.replica, 0
    for origin in former:
        held = sorted(replica.map.of(origin), key=lambda entry: entry.order)
        facts = [entry for entry in held if entry.kind not in TRUST_KINDS]
        certs = [entry for entry in held if entry.kind == "cert" and not _is_said(sync, entry)]
        if facts:
            await sync.store.set_meta(NOTE, THIS_RUN)  # each record's origin is another: no watcher goes on from before
        for start in range(0, len(facts) + len(certs), SLICE):
            some = [*facts, *certs][start : start + SLICE]
            made = [
                replica.say_again(entry, sync.wall_ms(), live=entry.live and entry.name != did_of(origin))
                for entry in some
                if not _is_said(sync, entry)
            ]
            batch = Batch(
                [Row(entry) for persist in made for entry in persist.entries],
                purge=[entry.key for entry in some if entry.kind not in TRUST_KINDS],
            )
            await sync.store.commit(batch)
            for persist in made:
                replica.persisted(persist)
            said += len(made)
        replica.map.forget(origin)
        for entry in held:
            if entry.kind in TRUST_KINDS:
                replica.map.merge(entry, 0)
    if said:
        log.info("said again", entries=said)
    return said


def _is_said(sync: RegistrySync, entry: Entry) -> bool:
    """Whether the present key has said something under the same name in the same class."""
    key = Key(sync.replica.origin, entry.cls, entry.root, entry.kind, entry.name)
    return sync.replica.map.get(key) is not None
