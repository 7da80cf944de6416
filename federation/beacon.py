"""The beacon: a small signed lease by which a node says that it lives, and whom it hears.

COSE_Sign1 by the node, `external_aad = "kosreg beacon 1"`, payload map:

| key | field | type |
|---|---|---|
| 1, 2 | incarnation, seq | uint: the order of a node's beacons |
| 3 | at | uint, ms since 1970, by the clock of the node |
| 4 | interval | uint, s: when the next one comes at the latest |
| 5 | neighbours | bytes: the first 8 bytes of each key that it has a link to and hears |
| 6 | gone | bytes: the same of those that have just refused to be dialled again |
| 7 | state | uint: 0 up, 1 stops and means to come back |

What is empty or 0 is left out, but for `seq`. Unknown keys are covered by the signature and passed on. Beacons are soft
state: never stored, never reconciled. No I/O, no clock.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, cast

from crdt import cbor
from federation.cose import CoseError, read1, sign1, verify1
from federation.identity import NodeKey

AAD: Final = b"kosreg beacon 1"
MAX_BEACON: Final = 4096  # bytes
SHORT: Final = 8  # bytes of a key that stand for it
MAX_NEIGHBOURS: Final = 256
MAX_GONE: Final = 64
MAX_INTERVAL_S: Final = 600
LEVEL: Final = 1 << 40  # of incarnations: what a claim adds
MAX_LEVEL: Final = 1 << 20
_MAX: Final = 1 << 63

Order = tuple[int, int]  # incarnation, seq


@dataclass(frozen=True, slots=True)
class Beacon:
    """What one says. `neighbours`, `gone`: short keys; `raw`: as it travels."""

    origin: bytes
    incarnation: int
    seq: int
    at: int
    interval: int
    neighbours: frozenset[bytes]
    gone: frozenset[bytes]
    stops: bool
    raw: bytes

    @property
    def order(self) -> Order:
        return self.incarnation, self.seq

    def hears(self, key: bytes) -> bool:
        """Whether it names `key` (32 bytes) as a neighbour."""
        return key[:SHORT] in self.neighbours

    def has_news(self, before: "Beacon | None") -> bool:
        """Whether it says more than that the node still lives as it did `before`."""
        if before is None or before.incarnation != self.incarnation:
            return True
        return (before.neighbours, before.gone, before.stops) != (self.neighbours, self.gone, self.stops)


def make_beacon(
    key: NodeKey,
    order: Order,
    at: int,
    interval: int,
    neighbours: Iterable[bytes],
    gone: Iterable[bytes] = (),
    *,
    stops: bool = False,
) -> Beacon:
    """Signs one. `neighbours`, `gone`: keys; of more than may be named, the lowest."""
    near = sorted(neighbour[:SHORT] for neighbour in neighbours)[:MAX_NEIGHBOURS]
    lost = sorted(peer[:SHORT] for peer in gone)[:MAX_GONE]
    fields: dict[object, object] = {1: order[0], 2: order[1], 3: at, 4: interval}
    if near:
        fields[5] = b"".join(near)
    if lost:
        fields[6] = b"".join(lost)
    if stops:
        fields[7] = 1
    raw = sign1(key, cbor.encode(fields, uint_keys=True), AAD)
    return Beacon(key.public, *order, at, interval, frozenset(near), frozenset(lost), stops, raw)


def read_beacon(raw: object) -> Beacon | None:
    """What `raw` says, its signature not checked (`is_signed`); None where it is no beacon."""
    if type(raw) is not bytes:
        return None
    try:
        origin, payload = read1(raw, MAX_BEACON)
        fields = cast(dict[int, object], cbor.decode(payload, uint_keys=True))
    except (CoseError, cbor.CborError):
        return None
    numbers = [fields.get(key) for key in (1, 2, 3, 4)] + [fields.get(7, 0)]
    if any(type(number) is not int or not 0 <= number < _MAX for number in numbers):
        return None
    incarnation, seq, at, interval, state = cast(list[int], numbers)
    near, lost = _short_keys(fields.get(5, b""), MAX_NEIGHBOURS), _short_keys(fields.get(6, b""), MAX_GONE)
    if near is None or lost is None or not 0 < interval <= MAX_INTERVAL_S or incarnation // LEVEL > MAX_LEVEL:
        return None
    return Beacon(origin, incarnation, seq, at, interval, near, lost, state == 1, raw)


def is_signed(beacon: Beacon) -> bool:
    """Whether the node that it names signed it. 54 µs."""
    try:
        verify1(beacon.raw, AAD, MAX_BEACON)
    except CoseError:
        return False
    return True


def _short_keys(value: object, most: int) -> frozenset[bytes] | None:
    if type(value) is not bytes or len(value) % SHORT or len(value) > most * SHORT:
        return None
    return frozenset(value[at : at + SHORT] for at in range(0, len(value), SHORT))
