"""The `node` entry: what each node says about itself to those who hold its facts, and what others say of themselves.

Its own is written once this node trusts anybody (before that nobody could hold it), and again when what it says has
changed; that the audit log has grown is told at a start, and then once an hour. `next` is the hash of the key that this
node changes to one day (`federation.succession`).

A body that cannot be read is held and passed on like any other, and says nothing here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Any, Final, NotRequired, cast

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict  # pydantic reads typing's own only from Python 3.12

from crdt.entry import Class, Entry
from federation.cose import fact_of
from federation.replica import Statement
from federation.trust import MAX_ADDRESSES
from kosreg import __version__
from kosreg.audit import Audit
from kosreg.klp_registry_sync import RegistrySync
from kosreg.peers import MAX_NAME, is_like_a_key
from kosreg.schemas.service_schema import Printable

AUDIT_EVERY: Final = 3600.0  # s between two entries that differ in nothing but the audit log

_HASH = Annotated[bytes, Field(min_length=32, max_length=32)]


@with_config(ConfigDict(extra="ignore"))
class _Audit(TypedDict):
    seq: Annotated[int, Field(ge=1)]
    hash: _HASH


@with_config(ConfigDict(extra="ignore"))  # what a later release adds
class _NodeBody(TypedDict, total=False):
    """The body of a `node` entry (PROTOCOL, "Bodies")."""

    name: Printable
    addresses: Annotated[list[Annotated[str, Field(max_length=256)]], Field(max_length=MAX_ADDRESSES)]
    version: Printable
    region: Printable
    next: _HASH
    audit: NotRequired[_Audit]


_BODY: Final = TypeAdapter(_NodeBody)


@dataclass(frozen=True, slots=True)
class Said:
    """What a node says of itself; "" and () where it does not. `addresses`: as it tells them, checked by nobody."""

    name: str = ""
    addresses: tuple[str, ...] = ()
    version: str = ""
    next: bytes = b""


NOTHING: Final = Said()


def read_node(entry: Entry) -> Said:
    """What `entry` says; nothing where it cannot be read. A name that could be taken for a key is none."""
    try:
        body = cast("dict[str, Any]", _BODY.validate_python(fact_of(entry).body, strict=True))
    except ValidationError:
        return NOTHING
    name = body.get("name", "")[:MAX_NAME]
    return Said(
        "" if is_like_a_key(name) else name,
        tuple(body.get("addresses", ())),
        body.get("version", ""),
        body.get("next", b""),
    )


def _but_audit(body: Mapping[str, object]) -> dict[str, object]:
    return {field: value for field, value in body.items() if field != "audit"}


class NodeEntries:
    """Made with the node. `next_key`: the public half of the committed next key; `addresses`: where others reach this
    node now; `dialable`: those of another node's addresses that may be dialled from here."""

    def __init__(
        self,
        name: str,
        next_key: bytes,
        sync: RegistrySync,
        audit: Audit,
        addresses: Callable[[], Sequence[str]],
        dialable: Callable[[Sequence[str]], tuple[str, ...]],
    ) -> None:
        self._fixed: dict[str, object] = {"name": name, "version": __version__, "next": sha256(next_key).digest()}
        self._sync = sync
        self._audit = audit
        self._addresses = addresses
        self._dialable = dialable
        self._told_at: float | None = None  # monotonic: when the audit log was last looked at
        self._turn = asyncio.Lock()

    async def write(self) -> bool:
        """Say what has changed about this node, if anything has; whether it did. Raises StoreError."""
        async with self._turn:
            await self._sync.turn("")
            now = self._sync.wall_ms()
            held = self._sync.replica.view("node", "", now)
            before = {} if held is None else dict(fact_of(held).body or {})
            body = self._body()
            if self._told_at is not None and time.monotonic() - self._told_at < AUDIT_EVERY:
                if _but_audit(before) == _but_audit(body):
                    return False
            elif before == body:
                self._told_at = time.monotonic()
                return False
            await self._sync.commit("", self._sync.sign([Statement("node", "", Class.PUBLIC, body)]))
            self._told_at = time.monotonic()
            return True

    def _body(self) -> dict[str, object]:
        body = dict(self._fixed)
        if addresses := list(self._addresses()):
            body["addresses"] = addresses
        seq, digest = self._audit.head
        if seq:
            body["audit"] = {"seq": seq, "hash": digest}
        return body

    def said_by(self, origin: bytes) -> Said:
        """What the node with this key says of itself, as far as is held here and has not lapsed."""
        held = self._sync.replica.map.view(origin, "node", "", self._sync.wall_ms())
        return NOTHING if held is None else read_node(held)

    def addresses_of(self, origin: bytes) -> tuple[str, ...]:
        """Where `origin` says that it is reached, as far as that may be dialled from here. Only for a key that this
        node wants a link to anyway: anybody may name any address."""
        return self._dialable(self.said_by(origin).addresses)
