"""One record as it is now, with what lives in it.

A `Service` holds the record's fields that queries ask for and its `head`: the JSON bytes of all that it says, made once
when the record changes, or for a record that came from the store when somebody first looks. Its live fields move in
place with each heartbeat, and the JSON tail that shows them is made when somebody looks. A changed record is a new
`Service`, so that what a change replaced can still be read from the journal.

A service of another node is a `ForeignService`: it is shown as its node says, and nothing here moves it.

100,000 of them are in memory, so every byte counts: slots, shared words, one object for equal numbers.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

import orjson

from crdt.entry import Class, Entry
from federation.cose import body_of
from kosreg.record import head_of
from kosreg.schemas.service_schema import DEFAULT_TTL
from kosreg.times import rfc3339

NOT_MONITORED = "not monitored"
BEATING = "heartbeats arrive"
FULL_TTL = "waiting for a first heartbeat"
CHANGED_SINCE = "it has changed again since"
AS_SAID = "as its node says"


@lru_cache(maxsize=65_536)
def _shared(words: tuple[str, ...]) -> tuple[str, ...]:
    """One object for equal words: many services have the same tags (a tuple of two costs 56 bytes, a word 60)."""
    return tuple(map(sys.intern, words))


class Service:
    """One record, shown. Slots only: 100,000 of them live in memory.

    `entry`: the own entry that holds `body`; where it is given, the head is made of it when somebody looks.
    """

    foreign: ClassVar[bool] = False  # whether another node says it

    __slots__ = (
        "beat_ms",
        "beat_s",
        "bucket",
        "capabilities",
        "cls",
        "created",
        "declared",
        "digest",
        "entry",
        "expired",
        "former",
        "head",
        "load",
        "name",
        "origin",
        "owner",
        "readers",
        "reason",
        "seq",
        "since",
        "tags",
        "tail",
        "ttl",
        "type",
        "uid",
        "updated",
    )

    def __init__(
        self,
        uid: str,
        origin: str,
        cls: Class,
        body: Mapping[str, Any],
        seq: int = 0,
        entry: Entry | None = None,
    ) -> None:
        get = body.get
        self.uid = uid
        self.origin = origin
        self.cls = cls
        self.seq = seq
        self.name: str = get("name", "")
        self.type: str = sys.intern(get("type", "service"))
        self.owner: str = sys.intern(get("owner", ""))
        self.tags = _shared(tuple(get("tags", ())))
        self.capabilities = _shared(tuple(get("capabilities", ())))
        self.ttl: int = get("ttl", DEFAULT_TTL)
        self.created: int = get("created", 0)
        updated: int = get("updated", 0)
        self.updated = self.created if updated == self.created else updated  # one object for both
        read = get("acl", {}).get("read")
        self.readers: tuple[str, ...] | None = None if read is None else _shared(tuple(read))
        self.former: tuple[bytes, ...] = ()  # keys that its node had before: an owner's proof may name one of them
        self.entry = entry  # what the head is still to be made of
        self.head: bytes  # the JSON bytes of all that it says, without the closing brace
        if entry is None:
            self.head = head_of(uid, cls, body)
        # live, moved in place
        self.declared = "active"
        self.expired = False
        self.reason: str | None = None  # as declared or found, while not simply active
        self.since = 0  # ms; since when it is not simply active
        self.beat_ms = 0  # wall clock of the last heartbeat, 0: none since the node started
        self.beat_s = 0.0  # the same by the monotonic clock, or when its ttl began
        self.load: float | None = None
        self.bucket = 0  # where the liveness wheel looks at it next, 0: nowhere
        self.tail: bytes | None = None  # made when shown, dropped when something moves
        self.digest: bytes | None = None  # of the request that wrote exactly this record

    def __getattr__(self, name: str) -> bytes:
        """The head, where it is not there yet: asked for by lists, a property would cost each of them 5 µs."""
        entry = self.entry if name == "head" else None
        if entry is None:
            raise AttributeError(f"a service has no {name}")
        self.head = head_of(self.uid, self.cls, body_of(entry) or {})
        self.entry = None
        return self.head

    def weight(self) -> int:
        """Bytes of what it says: of the head, or of the entry that the head is still to be made of."""
        return len(self.head if self.entry is None else self.entry.raw)

    @property
    def status(self) -> str:
        """The effective status."""
        return "offline" if self.expired else self.declared

    @property
    def why(self) -> str:
        """The reason for the effective status, in words."""
        if self.reason is not None:
            return self.reason
        if self.ttl == 0:
            return NOT_MONITORED
        return BEATING if self.beat_ms else FULL_TTL

    @property
    def not_active_since(self) -> int:
        """ms since 1970; 0 while it is simply active."""
        return self.since

    def live_from(self, other: Service) -> None:
        """Take over the live fields of the record that this one replaces."""
        self.declared = other.declared
        self.expired = other.expired
        self.reason = other.reason
        self.since = other.since
        self.beat_ms = other.beat_ms
        self.beat_s = other.beat_s
        self.load = other.load
        self.bucket = other.bucket

    def json(self) -> bytes:
        """The whole record as an answer shows it."""
        return self.head + (self.tail or self.live())

    def live(self) -> bytes:
        """What follows the head: where the record comes from and how it lives. Kept until something moves."""
        tail = self.tail = self._tail()
        return tail

    def json_while(self, status: str) -> bytes:
        """The record as it was shown while its effective status was `status`, which it is no longer."""
        record = orjson.loads(self.json())
        record["status"] = status
        liveness = {**record["liveness"], "effective": status, "reason": CHANGED_SINCE}
        liveness.pop("since", None)
        return orjson.dumps({**record, "liveness": liveness})

    def _tail(self) -> bytes:
        beat = f'"{rfc3339(self.beat_ms)}"' if self.beat_ms else "null"
        status = self.status
        why = orjson.dumps(self.why).decode() if self.reason is not None else f'"{self.why}"'
        more = "" if self.load is None else f',"load":{self.load}'
        if since := self.not_active_since:
            more += f',"since":"{rfc3339(since)}"'
        return (
            f',"origin":"{self.origin}","klp":"klp://{self.uid}","heartbeat":{beat},"status":"{status}",'
            f'"liveness":{{"declared":"{self.declared}","effective":"{status}","heartbeat":{beat},"reason":{why}{more}}}}}'
        ).encode()

    def value(self, name: str) -> Any:
        """A top-level field of the shown record by its name, None where absent."""
        return orjson.loads(self.json()).get(name)


class Away(NamedTuple):
    """What is shown of the services of a node that cannot be heard: a status, why, and since when (ms since 1970)."""

    status: str
    reason: str
    since: int


class ForeignService(Service):
    """A record that another node signed: its status is what that node says, or what follows from that node being gone
    (`away`), and nobody here judges, renews or changes it. `peer`: the key (32 bytes) of the node that sent it, None
    where it was held since before the start; `came`: ms since 1970, when it came."""

    foreign: ClassVar[bool] = True

    __slots__ = ("away", "came", "peer")

    def __init__(self, uid: str, origin: str, cls: Class, body: Mapping[str, Any], seq: int = 0) -> None:
        super().__init__(uid, origin, cls, body, seq)
        self.expired = True  # to whoever judges heartbeats: none that comes here counts
        self.came = 0
        self.peer: bytes | None = None
        self.away: Away | None = None

    def _over(self) -> Away | None:
        """What hides the word of its node: nothing is better than offline, so that stays."""
        return None if self.declared == "offline" else self.away

    @property
    def status(self) -> str:
        """The effective status: what its node says, while that can be heard."""
        away = self._over()
        return self.declared if away is None else away.status

    @property
    def why(self) -> str:
        """Its node's reason where it gives one."""
        away = self._over()
        return (self.reason or AS_SAID) if away is None else away.reason

    @property
    def not_active_since(self) -> int:
        away = self._over()
        return self.since if away is None else away.since
