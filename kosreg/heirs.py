"""What follows here from the successions of other keys: `Trust` has believed them already, from entries that are on
disk or proofs that need none. This keeps it: the anchor under its new key, what is pinned, neighbours, a record in the
audit log; and moves the link. What a crash takes of it is found again at the next start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final, Protocol

import structlog

from crdt import cbor
from federation.identity import did_of
from federation.succession import Known
from federation.trust import Role, Trust
from kosreg.audit import Audit
from kosreg.members import Members
from kosreg.store import Store, TrustChange

PREFIX: Final = "key "  # meta, and a key in hex: what is known of who succeeds it
SLICE: Final = 500  # keys in one commit

log = structlog.get_logger("kosreg.key")


class Links(Protocol):
    """The links of this node (`federation.peer_node.PeerNode`)."""

    def keep(self, peer: bytes, addresses: tuple[str, ...]) -> None: ...
    def forget(self, peer: bytes, code: str = "revoked", reason: str = "") -> None: ...


async def load(trust: Trust, store: Store) -> None:
    """Read what was kept. Raises StoreError."""
    for name, raw in (await store.metas(PREFIX)).items():
        pin, new, then, frozen = _read(raw)
        trust.successions.restore(bytes.fromhex(name.removeprefix(PREFIX)), Known(pin, new, then, frozen))


class Heirs:
    """Made with the node."""

    def __init__(self, trust: Trust, store: Store, audit: Audit, members: Members, links: Links) -> None:
        self._trust = trust
        self._store = store
        self._audit = audit
        self._members = members
        self._links = links
        self._turn = asyncio.Lock()

    @property
    def news(self) -> bool:
        """Whether there is something to keep or to tell."""
        known = self._trust.successions
        return bool(self._trust.inherited or known.unsaved or known.alerts)

    async def settle(self) -> None:
        """Keep and tell all that is new. Raises StoreError; a later call goes on."""
        async with self._turn:
            known = self._trust.successions
            while known.alerts:
                alert = known.alerts.popleft()
                log.error("alert", alert=alert.kind, peer=did_of(alert.key), text=alert.text)
            while self._trust.inherited:
                old, anchor = self._trust.inherited[0]
                await self._inherit(old, had_anchor=anchor is not None)
                del self._trust.inherited[0]
            while known.unsaved:
                keys = list(known.unsaved)[:SLICE]
                for key in keys:
                    del known.unsaved[key]
                try:
                    await self._store.write_trust(TrustChange(meta=self._rows(keys)))
                except BaseException:
                    known.unsaved |= dict.fromkeys(keys)
                    raise

    async def _inherit(self, old: bytes, *, had_anchor: bool) -> None:
        new = self._trust.successions.latest(old)
        if new == self._trust.own:
            return
        anchor = self._trust.anchors().get(new)
        addresses = self._members.neighbours.get(old)
        if had_anchor or addresses is not None:
            meta = self._rows([old, new])
            if addresses is not None:
                meta |= self._members.note(new, addresses, instead_of=old)
            change = TrustChange(() if anchor is None else (anchor,), (old,) if had_anchor else (), meta=meta)
            await self._audit.write(did_of(old), "key succeeded", did_of(new), {"old": did_of(old)}, change)
            if addresses is not None:
                self._members.met(new, addresses, instead_of=old)
        log.info("key succeeded", peer=did_of(new), old=did_of(old))
        self._links.forget(old, "succeeded", "this key has been changed for another")
        if anchor is not None and anchor.role is Role.PEER and anchor.revoked is None:
            self._links.keep(new, anchor.addresses)
        elif anchor is None and addresses is not None:
            self._links.keep(new, addresses)

    def _rows(self, keys: list[bytes]) -> dict[str, bytes]:
        return {PREFIX + key.hex(): _written(self._trust.successions.known(key)) for key in keys}


def told(trust: Trust, key: bytes) -> Mapping[str, object]:
    """What is known of who succeeded whom around `key`, as the API shows it; {} where nothing is."""
    known = trust.successions
    said: dict[str, object] = {}
    if former := known.former(key):
        said["former"] = [did_of(one) for one in former]
    if known.is_frozen(key):
        said["frozen"] = True
    return said


def _written(known: Known) -> bytes:
    return cbor.encode([known.pin, known.new, known.then, known.frozen])


def _read(raw: bytes) -> tuple[bytes, bytes, bytes, bool]:
    fields: list[Any] = cbor.decode(raw)  # type: ignore[assignment]  # as it was written
    return fields[0], fields[1], fields[2], fields[3]
