"""The store's tables of trust: anchors, invites, the audit chain; and the aliases of service ids.

A part of `Store`, which gives it the writer and the reads. What belongs together (an anchor, the invite that it came
by, the record of both) goes into one commit: `write_trust`.
"""

import asyncio
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import select

from crdt import cbor
from crdt.entry import Class
from federation.trust import Anchor, Role, Scope
from kosreg.service_model import AliasRow, AnchorRow, AuditRow, Base, InviteRow, MetaRow
from kosreg.store.dialect import Op, Statements
from kosreg.store.rows import Alias, AuditLink, Batch, Invite, TrustChange
from kosreg.store.writer import meta_values, with_checksum

AUDIT_HEAD: Final = "audit_head"  # in `meta`: seq (8 bytes, big-endian) and hash of the newest record
_FEDERATION: Final = "invite_federation "  # in `meta`, and the invite's id in hex: the root key of that federation


class TrustTables(ABC):
    """What `Store` can do with these tables."""

    _statements: Statements

    @abstractmethod
    def _submit(self, batch: Batch | None, ops: list[Op], rows: int, weight: int) -> "asyncio.Future[None]": ...

    @abstractmethod
    async def _all(self, table: type[Base]) -> list[tuple[Any, ...]]: ...

    @abstractmethod
    async def _read(self, query: Any) -> Any: ...

    async def write_trust(self, change: TrustChange) -> None:
        """Commits all of `change`, or raises StoreError and keeps nothing of it. A link of the audit chain whose number
        is taken is refused (StoreRefused).
        """
        ops = self._trust_ops(change)
        rows = sum(len(op.rows) for op in ops)
        weight = 400 * rows + sum(len(link.record) for link in change.audit)
        await self._submit(None, ops, rows, weight)

    def _trust_ops(self, change: TrustChange) -> list[Op]:
        made = self._statements
        ops = [
            Op(made.put_anchor, [_anchor_values(anchor) for anchor in change.anchors]),
            Op(made.drop_anchor, [(key,) for key in change.dropped]),
            Op(made.put_invite, [_invite_values(invite) for invite in change.invites]),
            Op(made.drop_invite, [(id,) for id in change.expired]),
            Op(made.add_audit, [with_checksum(link.seq, link.record, link.hash) for link in change.audit]),
        ]
        into = {_FEDERATION + one.id.hex(): one.federation for one in change.invites if one.federation is not None}
        ops.append(Op(made.put_meta, [meta_values(key, root) for key, root in into.items()]))
        ops.append(Op(made.put_meta, [meta_values(key, value) for key, value in change.meta.items()]))
        ops.append(Op(made.drop_meta, [(_FEDERATION + id.hex(),) for id in change.expired]))
        if change.audit:
            last = change.audit[-1]
            ops.append(Op(made.put_meta, [meta_values(AUDIT_HEAD, last.seq.to_bytes(8, "big") + last.hash)]))
        return [op for op in ops if op.rows]

    async def anchors(self) -> list[Anchor]:
        """In the order in which they were added."""
        found = [_anchor(row) for row in await self._all(AnchorRow)]
        return sorted(found, key=lambda anchor: (anchor.added, anchor.key))

    async def invites(self) -> list[Invite]:
        """Oldest first."""
        meta = dict(await self._all(MetaRow))
        found = [
            replace(Invite(*row), federation=meta.get(_FEDERATION + row[0].hex())) for row in await self._all(InviteRow)
        ]
        return sorted(found, key=lambda invite: (invite.created, invite.id))

    async def audit(self, after: int = 0, most: int = 1_000) -> list[AuditLink]:
        """Links with a number above `after`, in order, at most `most`. Whether they are as they were written is not
        looked at: the chain itself tells, and names the record.
        """
        columns = (AuditRow.seq, AuditRow.record, AuditRow.hash)
        query = select(*columns).where(AuditRow.seq > after).order_by(AuditRow.seq).limit(most)
        return [AuditLink(*row) for row in await self._read(query)]

    async def audit_head(self) -> tuple[int, bytes] | None:
        """(number, hash) of the newest record, as noted beside the chain; None before the first."""
        noted = next((value for key, value in await self._all(MetaRow) if key == AUDIT_HEAD), None)
        return None if noted is None else (int.from_bytes(noted[:8], "big"), bytes(noted[8:]))

    async def aliases(self) -> dict[str, Alias]:
        """By service id."""
        return {row[0]: Alias(*row) for row in await self._all(AliasRow)}

    async def put_alias(self, uid: str, origin: bytes, how: str) -> None:
        """Says which origin `uid` means. `how`: `admin` or `first`."""
        await self._submit(None, [Op(self._statements.put_alias, [with_checksum(uid, origin, how)])], 1, 1000)

    async def drop_alias(self, uid: str) -> None:
        await self._submit(None, [Op(self._statements.drop_alias, [(uid,)])], 1, 400)


def _anchor_values(anchor: Anchor) -> tuple[object, ...]:
    scope = anchor.scope
    described = cbor.encode(
        {
            "classes": sorted(int(cls) for cls in scope.classes),
            "types": list(scope.types),
            "tags": list(scope.tags),
            "records": scope.records,
        }
    )
    addresses = " ".join(anchor.addresses)
    return with_checksum(
        anchor.key, anchor.role.value, anchor.name, addresses, anchor.depth, described, anchor.added, anchor.revoked
    )


def _anchor(row: tuple[Any, ...]) -> Anchor:
    key, role, name, addresses, depth, described, added, revoked = row
    says: Any = cbor.decode(described)
    classes = frozenset(Class(cls) for cls in says["classes"])
    scope = Scope(classes, tuple(says["types"]), tuple(says["tags"]), says["records"])
    return Anchor(key, Role(role), name, tuple(addresses.split()), depth, scope, added, revoked)


def _invite_values(invite: Invite) -> tuple[object, ...]:
    return with_checksum(
        invite.id, invite.public, invite.name, invite.created, invite.expires, invite.joiner, invite.bound
    )
