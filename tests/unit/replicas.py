"""What the tests of the engine share: replicas that started, statements persisted, entries of another node."""

from collections.abc import Iterable
from dataclasses import replace

from crdt.entry import MAX_LIFE_MS, Class, Entry, Fact
from federation.cose import sign_entry
from federation.identity import NodeKey
from federation.replica import Alert, Changed, Persist, Replica, Statement

KEY, PEER = NodeKey(b"\x01" * 32), NodeKey(b"\x02" * 32)
NOW = 1_764_000_000_000
ROOT = b"r" * 32
BODY = {"name": "x"}


def started(key: NodeKey = KEY, entries: Iterable[Entry] = (), admits: bool = True) -> Replica:
    """A replica that read `entries` from its store, and holds whatever foreign origin comes (or none)."""
    replica = Replica(key, admits=lambda entry: admits)
    for entry in entries:
        replica.load(entry.raw, entry.id)
    replica.loaded()
    return replica


def say(
    replica: Replica, name: str = "a", cls: Class = Class.PUBLIC, body: dict[str, object] | None = BODY, now: int = NOW,
    kind: str = "service", root: bytes | None = None,
) -> tuple[tuple[Entry, ...], list[Changed | Alert]]:  # fmt: skip
    """Put one statement and persist it: (entries, effects)."""
    persist = replica.put([Statement(kind, name, cls, body, root)], now)
    return persist.entries, replica.persisted(persist)


def foreign(key: NodeKey = PEER, **changes: object) -> Entry:
    fact = Fact("service", "f", NOW << 16, Class.PUBLIC, NOW + MAX_LIFE_MS, BODY)
    return sign_entry(key, replace(fact, **changes))  # type: ignore[arg-type]


def spoilt(entry: Entry) -> bytes:
    return entry.raw[:-1] + bytes([entry.raw[-1] ^ 1])


def received(replica: Replica, entry: Entry, now: int) -> list[object]:
    """All effects of an entry, those of its being persisted included."""
    effects: list[object] = []
    for effect in replica.receive(entry.raw, now):
        effects += replica.persisted(effect) if isinstance(effect, Persist) else [effect]
    return effects
