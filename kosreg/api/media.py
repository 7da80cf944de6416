"""Which form an answer takes, and making it so: JSON unless MessagePack is asked for (RFC 9110 §12.5.1).

Decisions are kept by the text of the `Accept` header (bounded): clients send few different ones, always the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgpack
import orjson

JSON: Final = "application/json"
MSGPACK: Final = "application/vnd.msgpack"
PROBLEM: Final = "application/problem+json"
MERGE_PATCH: Final = "application/merge-patch+json"
MSGPACK_NAMES: Final = frozenset({MSGPACK, "application/msgpack", "application/x-msgpack"})
OFFERS: Final = (JSON, MSGPACK)

_ALIASES: Final = {"application/msgpack": MSGPACK, "application/x-msgpack": MSGPACK, PROBLEM: JSON}
_KEPT: Final = 512


class Negotiator:
    """Chooses among `offers`, the first of which wins a tie."""

    __slots__ = ("_kept", "offers")

    def __init__(self, offers: Sequence[str] = OFFERS) -> None:
        self.offers = tuple(offers)
        self._kept: dict[str, str | None] = {"*/*": self.offers[0], "": self.offers[0]}

    def choose(self, accept: str | None) -> str | None:
        """One of the offers, or None where `accept` admits none of them. No header admits everything."""
        if accept is None:
            return self.offers[0]
        try:
            return self._kept[accept]
        except KeyError:
            chosen = best(accept, self.offers)
            if len(self._kept) < _KEPT:
                self._kept[accept] = chosen
            return chosen


def best(accept: str, offers: Sequence[str]) -> str | None:
    """The offer with the highest quality; among equals the first. A more specific range overrides a wider one."""
    ranges: list[tuple[str, float]] = []
    for part in accept.split(","):
        name, *parameters = part.split(";")
        name = name.strip().lower()
        if not name:
            continue
        quality = 1.0
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key.strip().lower() == "q":
                try:
                    quality = min(1.0, max(0.0, float(value)))
                except ValueError:
                    quality = 0.0
        ranges.append((_ALIASES.get(name, name), quality))
    if not ranges:
        return offers[0]
    winner, winning = None, 0.0
    for offer in offers:
        quality = _quality(offer, ranges)
        if quality > winning:
            winner, winning = offer, quality
    return winner


def _quality(offer: str, ranges: list[tuple[str, float]]) -> float:
    family = offer.split("/", 1)[0] + "/*"
    for pattern in (offer, family, "*/*"):
        matching = [quality for name, quality in ranges if name == pattern]
        if matching:
            return max(matching)
    return 0.0


def msgpack_of_json(body: bytes) -> bytes:
    """The same value as MessagePack."""
    packed: bytes = msgpack.packb(orjson.loads(body))
    return packed
