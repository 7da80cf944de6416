"""The answer to a list as JSON bytes: joined from what is kept of each record, and kept itself until something moves.

Nobody has to say that a record moved: its head never changes, and its tail is dropped and made anew when it does. So a
kept answer is true as long as the same records stand in the page with the same tails.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import orjson

from kosreg.query import Query
from kosreg.service import Service

if TYPE_CHECKING:
    from kosreg.listing import Listing
    from kosreg.registry import Page

KEPT_PAGE: Final = 128 * 1024  # bytes of an answer that is kept, one for each list


@dataclass(frozen=True, slots=True)
class KeptPage:
    """The newest answer of one list, and all that it was made of."""

    services: Sequence[Service]
    tails: list[bytes]
    end: bytes
    text: bytes


def page_json(page: Page, query: Query, listing: Listing) -> bytes:
    """The answer that shows `page` of `listing`."""
    cursor = "null" if page.next_cursor is None else f'"{page.next_cursor}"'
    end = f'],"next_cursor":{cursor},"total":{page.total},"version":"{page.version}"}}'.encode()
    services = page.services
    if query.fields:
        return b'{"services":[' + b",".join([_project(service.json(), query.fields) for service in services]) + end
    tails = [service.tail or service.live() for service in services]
    kept = listing.kept
    if kept is not None and kept.tails == tails and kept.services == services and kept.end == end:
        return kept.text
    # head, tail, comma, head, tail …: joined once, not record by record
    pieces = [b","] * max(0, 3 * len(services) - 1)
    pieces[0::3] = [service.head for service in services]
    pieces[1::3] = tails
    text = b"".join([b'{"services":[', *pieces, end])
    if len(text) <= KEPT_PAGE:
        listing.kept = KeptPage(services, tails, end, text)
    return text


def _project(record: bytes, fields: tuple[str, ...]) -> bytes:
    whole = orjson.loads(record)
    return orjson.dumps({name: whole[name] for name in fields if name in whole})
