"""The audit log of trust: who decided what about whom, in a chain of hashes.

A record is deterministic CBOR of {seq, at, actor, action, subject, detail, previous}. `previous` is the hash of the
record before it; of the first, SHA-256 of "kosreg audit 1" and the node's key, so that no chain passes for another
node's. A hash is SHA-256 of the record's bytes. The number and the hash of the newest record are noted beside the
chain, in the same commit, so that an end that was cut off is missed.

A record is written in one commit with what it tells of, and before anything follows from it. `faults` needs nothing but
the links: whoever got them through the API can check them, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Final

import structlog

from crdt import cbor
from kosreg.store import AuditLink, Store, TrustChange

PAGE: Final = 500  # links read at a time
_FIELDS: Final = {"seq": int, "at": int, "actor": str, "action": str, "subject": str, "detail": dict, "previous": bytes}

log = structlog.get_logger("kosreg.audit")


@dataclass(frozen=True, slots=True)
class Record:
    """One decision. `at`: ms since 1970; `actor`: a token's subject, or the did of a peer; `subject`: whom or what it
    is about, mostly a did; `detail`: what else is to be known, never a secret."""

    seq: int
    at: int
    actor: str
    action: str
    subject: str
    detail: Mapping[str, object]
    previous: bytes

    def encode(self) -> bytes:
        """The bytes that are hashed."""
        return cbor.encode({name: getattr(self, name) for name in _FIELDS})

    @classmethod
    def decode(cls, raw: bytes) -> Record:
        """Raises ValueError where `raw` is no record."""
        fields = cbor.decode(raw)
        if type(fields) is not dict or {name: type(value) for name, value in fields.items()} != _FIELDS:
            raise ValueError("not a record")
        return cls(**fields)


def beginning(node: bytes) -> bytes:
    """What the first record of the node with this key follows."""
    return sha256(b"kosreg audit 1" + node).digest()


class Audit:
    """Open it once. `head`: number and hash of the newest record."""

    def __init__(self, store: Store, head: tuple[int, bytes], wall_ms: Callable[[], int]) -> None:
        self.head = head
        self._store = store
        self._wall_ms = wall_ms
        self._turn = asyncio.Lock()

    @classmethod
    async def open(cls, store: Store, node: bytes, wall_ms: Callable[[], int]) -> Audit:
        """Raises StoreError. A chain that is damaged goes on from its end: `faults` tells of what is before."""
        head = await store.audit_head() or (0, beginning(node))
        for link in await store.audit(after=head[0]):  # its note was lost
            head = (link.seq, link.hash)
        return cls(store, head, wall_ms)

    async def write(
        self,
        actor: str,
        action: str,
        subject: str,
        detail: Mapping[str, object],
        change: TrustChange | None = None,
        commit: Callable[[TrustChange], Awaitable[None]] | None = None,
    ) -> Record:
        """Commits the record, and `change` with it. `commit`: what commits; by default the store alone. Raises
        StoreError, and then nothing of both is kept."""
        async with self._turn:
            seq, previous = self.head
            record = Record(seq + 1, self._wall_ms(), actor, action, subject, dict(detail), previous)
            raw = record.encode()
            link = AuditLink(record.seq, raw, sha256(raw).digest())
            await (commit or self._store.write_trust)(replace(change or TrustChange(), audit=[link]))
            self.head = (link.seq, link.hash)
        log.info("trust decision", actor=actor, action=action, subject=subject, detail=dict(detail))
        return record

    async def page(self, after: int, most: int) -> tuple[list[AuditLink], tuple[int, bytes] | None]:
        """Links with a number above `after`, and the note of the newest: both of one moment. Raises StoreError."""
        async with self._turn:
            return await self._store.audit(after=after, most=most), await self._store.audit_head()


@dataclass(frozen=True, slots=True)
class Fault:
    """Something is wrong with record `seq`, or with those from there to `last`."""

    seq: int
    what: str
    last: int

    def __str__(self) -> str:
        which = f"record {self.seq}" if self.last == self.seq else f"records {self.seq} to {self.last}"
        return f"{which}: {self.what}"


class Chain:
    """Checks one chain: `take` its links in the order of their numbers, then `end`. `count`: how many there were."""

    def __init__(self, node: bytes) -> None:
        self.count = 0
        self._seq = 0
        self._hashes: tuple[bytes, ...] = (beginning(node),)  # of the record before; () where it is missing

    def take(self, link: AuditLink) -> list[Fault]:
        """What is wrong with this link, and with what should stand before it."""
        found: list[Fault] = []
        if link.seq != self._seq + 1:
            found.append(Fault(self._seq + 1, "missing", link.seq - 1))
            self._hashes = ()
        digest = sha256(link.record).digest()
        record: Record | None = None
        try:
            record = Record.decode(link.record)
        except ValueError:
            pass
        if digest != link.hash or record is None:
            found.append(Fault(link.seq, "not as it was written", link.seq))
        elif record.seq != link.seq:
            found.append(Fault(link.seq, f"stands where it does not belong: it was record {record.seq}", link.seq))
        elif self._hashes and record.previous not in self._hashes:
            found.append(Fault(link.seq, "does not follow the record before it", link.seq))
        self._seq = link.seq
        self._hashes = (link.hash, digest)  # one of them is right where a byte of this link is wrong
        self.count += 1
        return found

    def end(self, head: tuple[int, bytes] | None) -> list[Fault]:
        """What is wrong with the end. `head`: as noted beside the chain."""
        seq, digest = head or (0, b"")
        if seq > self._seq:
            return [Fault(self._seq + 1, "missing at the end", seq)]
        if self._seq and head is None:
            return [Fault(self._seq, "the note of the newest record is missing", self._seq)]
        if seq < self._seq:
            return [Fault(seq + 1, "was added behind the newest record", self._seq)]
        if seq and digest not in self._hashes:
            return [Fault(seq, "not the one that was written last", seq)]
        return []


async def faults(store: Store, node: bytes) -> AsyncIterator[Fault]:
    """All that is wrong with the chain in `store`, in order. Raises StoreError where it cannot be read."""
    chain, after = Chain(node), -1
    head = await store.audit_head()
    while links := await store.audit(after=after, most=PAGE):
        for link in links:
            for fault in chain.take(link):
                yield fault
        after = links[-1].seq
    for fault in chain.end(head):
        yield fault


def shown(link: AuditLink) -> dict[str, Any]:
    """A link as the API shows it: what can be read of it, and the bytes to check it with, in hex."""
    from kosreg.times import rfc3339

    said: dict[str, Any] = {"seq": link.seq, "hash": link.hash.hex(), "record": link.record.hex()}
    try:
        record = Record.decode(link.record)
    except ValueError:
        return said
    detail = {name: value.hex() if isinstance(value, bytes) else value for name, value in record.detail.items()}
    return said | {
        "at": rfc3339(record.at),
        "actor": record.actor,
        "action": record.action,
        "subject": record.subject,
        "detail": detail,
    }
