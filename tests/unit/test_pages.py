"""The kept answer of a list against the one that is joined anew."""

from __future__ import annotations

from collections.abc import Callable

import orjson
import pytest

from kosreg import pages
from kosreg.catalog import Catalog
from kosreg.listing import Listing
from kosreg.pages import page_json
from kosreg.query import Filter, Query
from kosreg.registry import Page
from kosreg.service import Away, ForeignService, Service

BODY = {"name": "n", "type": "agent", "owner": "o", "ttl": 30}


def shelf() -> tuple[Catalog, Listing]:
    catalog = Catalog()
    for uid in ("a", "b", "c"):
        catalog.load(Service(uid, "did:key:z6Mk", 1, BODY))
    catalog.load(ForeignService("d", "did:key:z6Mo", 2, BODY))
    return catalog, Listing(catalog, Filter(), (), lambda _: True)


def page_of(listing: Listing, limit: int = 100) -> Page:
    return Page(listing.rows[:limit], None, len(listing), str(listing.version), "")


def shown(listing: Listing, limit: int = 100) -> bytes:
    return page_json(page_of(listing, limit), Query(limit=limit), listing)


def beat(service: Service) -> None:
    service.beat_ms += 1
    service.tail = None


def loaded(service: Service) -> None:
    service.load = 0.5
    service.tail = None


def degraded(service: Service) -> None:
    service.declared = "degraded"
    service.tail = None


def away(service: Service) -> None:
    if isinstance(service, ForeignService):
        service.away = Away("offline", "node unreachable", 1)
    service.tail = None


def test_what_did_not_move_is_not_joined_again() -> None:
    _, listing = shelf()
    assert shown(listing) is shown(listing)


@pytest.mark.parametrize("move", [beat, loaded, degraded])
@pytest.mark.parametrize("uid", ["a", "c"])
def test_what_moves_shows_in_the_next_answer(move: Callable[[Service], None], uid: str) -> None:
    catalog, listing = shelf()
    before = shown(listing)
    move(catalog.services[uid])
    after = shown(listing)
    assert after != before
    assert orjson.loads(after)["services"] == [orjson.loads(service.json()) for service in listing.rows]
    assert after is shown(listing)


def test_a_node_that_goes_away_shows_in_the_next_answer() -> None:
    catalog, listing = shelf()
    assert orjson.loads(shown(listing))["services"][3]["status"] == "active"
    away(catalog.services["d"])
    assert orjson.loads(shown(listing))["services"][3]["status"] == "offline"


def test_a_record_that_says_something_else_shows_though_it_lives_as_before() -> None:
    catalog, listing = shelf()
    shown(listing)
    changed = Service("b", "did:key:z6Mk", 1, BODY | {"name": "other"})
    changed.seq = 0  # so that nothing but the record itself tells
    listing.rows[1] = changed
    assert orjson.loads(shown(listing))["services"][1]["name"] == "other"
    assert changed.tail == catalog.services["b"].tail


def test_another_cut_or_count_is_another_answer() -> None:
    _, listing = shelf()
    assert [len(orjson.loads(shown(listing, limit))["services"]) for limit in (1, 4, 2, 4)] == [1, 4, 2, 4]
    moved = Page(listing.rows, None, 9, "v", "")
    assert orjson.loads(page_json(moved, Query(), listing))["total"] == 9


def test_what_is_large_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "KEPT_PAGE", 100)
    _, listing = shelf()
    assert shown(listing) == shown(listing)
    assert listing.kept is None
