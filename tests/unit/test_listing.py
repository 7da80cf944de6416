"""Kept lists against the plain way: after any history, mended and made anew are the same."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kosreg.catalog import Catalog
from kosreg.listing import Listing, Listings, plain_key
from kosreg.query import Filter, Query, make_cursor, parse_query, parse_text
from kosreg.service import Service

TAGS = ["a", "b", "c"]


class Shelf:
    """A catalog and the few things that happen to it."""

    def __init__(self) -> None:
        self.catalog = Catalog()

    def put(self, uid: str, **body: object) -> Service:
        service = Service(uid, "did:key:z6Mk", 1, {"name": uid, "type": "agent", "owner": "o", **body})
        held = self.catalog.get(uid)
        if held is not None:
            service.live_from(held)
        service.seq = self.catalog.journal.next_seq()
        self.catalog.put(service, 0)
        return service

    def remove(self, uid: str) -> None:
        self.catalog.remove(uid, "did:key:z6Mk", self.catalog.journal.next_seq(), 0)

    def turn(self, uid: str, status: str) -> None:
        service = self.catalog.get(uid)
        if service is not None and service.status != status:
            before = service.status
            service.declared = status
            self.catalog.moved(service, before, 0)


def everyone(service: Service) -> bool:
    return True


steps = st.lists(
    st.tuples(
        st.sampled_from(["put", "remove", "turn", "look"]),
        st.integers(0, 12),
        st.sampled_from(TAGS),
        st.sampled_from(["active", "degraded", "offline"]),
    ),
    max_size=60,
)
queries = st.sampled_from(
    [
        Query(),
        Query(Filter(tags=("a",))),
        Query(Filter(any_tags=("a", "b"))),
        Query(Filter(statuses=("degraded",))),
        Query(sort=(("status", True), ("name", False))),
        Query(Filter(owners=("o",)), sort=(("region", False),)),
    ]
)


@settings(max_examples=200, deadline=None)
@given(steps, queries)
def test_a_mended_list_is_what_a_new_one_would_be(history: list[tuple[str, int, str, str]], query: Query) -> None:
    shelf = Shelf()
    kept = Listings(shelf.catalog)
    for action, n, tag, status in [*history, ("look", 0, "a", "active")]:
        uid = f"s{n}"
        if action == "put":
            shelf.put(uid, tags=[tag], **({"region": tag} if n % 2 else {}))
        elif action == "remove":
            shelf.remove(uid)
        elif action == "turn":
            shelf.turn(uid, status)
        else:
            listing, _ = kept.get("x", everyone, query)
            fresh = Listing(shelf.catalog, query.filter, query.sort, everyone)
            assert [s.uid for s in listing.rows] == [s.uid for s in fresh.rows]
            assert all(mended is new for mended, new in zip(listing.rows, fresh.rows, strict=True))
            assert listing.version >= fresh.version


def test_a_version_moves_only_with_what_the_list_covers() -> None:
    shelf = Shelf()
    kept = Listings(shelf.catalog)
    shelf.put("open", tags=["a"])

    def sees(service: Service) -> bool:
        return not service.uid.startswith("hidden")

    query = Query()
    version = kept.get("x", sees, query)[0].version
    shelf.put("hidden-1", tags=["a"])
    shelf.turn("hidden-1", "degraded")
    shelf.remove("hidden-1")
    assert kept.get("x", sees, query)[0].version == version
    shelf.turn("open", "degraded")
    assert kept.get("x", sees, query)[0].version > version


def test_a_new_list_knows_what_left_it_since_a_version() -> None:
    shelf = Shelf()
    shelf.put("a", tags=["a"])
    shelf.put("b", tags=["a"])
    seen = shelf.catalog.journal.head
    shelf.put("other", tags=["b"])
    kept = Listings(shelf.catalog)
    query = Query(Filter(tags=("a",)))
    listing, _ = kept.get("x", everyone, query)
    assert kept.departed(listing, seen) == 0
    shelf.remove("a")
    listing, _ = Listings(shelf.catalog).get("x", everyone, query)
    assert kept.departed(listing, seen) == shelf.catalog.journal.head


def test_pages_follow_each_other_without_gap_or_repetition_while_others_write() -> None:
    shelf = Shelf()
    kept = Listings(shelf.catalog)
    numbers = list(range(250))
    random.Random(5).shuffle(numbers)
    for n in numbers:
        shelf.put(f"s{n:03}", tags=["a"], weight=n % 7)
    for sort in ((), (("weight", True),), (("weight", False), ("name", True))):
        found: list[str] = []
        cursor: str | None = None
        while True:
            values = {"limit": ["40"]} | ({"cursor": [cursor]} if cursor else {})
            if sort:
                values["sort"] = [",".join(("-" if down else "") + name for name, down in sort)]
            query = parse_query(values)
            rows = kept.get("x", everyone, query)[0].page(query)
            found += [service.uid for service in rows[:40]]
            shelf.put("zzz-late", tags=["b"])
            if len(rows) <= 40:
                break
            cursor = make_cursor(plain_key(rows[39], query.sort), query.sort)
        assert sorted(set(found) - {"zzz-late"}) == sorted(f"s{n:03}" for n in numbers)
        assert len(found) == len(set(found))


def test_a_list_says_how_many_it_looked_at_whatever_it_found() -> None:
    shelf = Shelf()
    for n in range(50):
        shelf.put(f"s{n}", tags=["few"] if n < 3 else [])
    kept = Listings(shelf.catalog)
    for asked, looked_at in (
        (Filter(words=("nothing",)), 50),
        (Filter(), 50),
        (Filter(tags=("few",), words=("x",)), 3),
    ):
        assert kept.get("x", everyone, Query(asked))[1] == looked_at
        assert kept.get("x", everyone, Query(asked))[1] == 0, "it was kept"


def test_descending_and_absent_values_have_their_place() -> None:
    shelf = Shelf()
    shelf.put("a", region="eu")
    shelf.put("b")
    shelf.put("c", region="us")
    kept = Listings(shelf.catalog)
    up = kept.get("x", everyone, Query(sort=(("region", False),)))[0]
    down = kept.get("x", everyone, Query(sort=(("region", True),)))[0]
    assert [s.uid for s in up.rows] == ["a", "c", "b"]
    assert [s.uid for s in down.rows] == ["c", "a", "b"]


@pytest.mark.parametrize(
    ("text", "pointer"),
    [
        ("tags=a", "/tags"),
        ("limit=0", "/limit"),
        ("limit=1001", "/limit"),
        ("limit=1&limit=2", "/limit"),
        ("limit=%D9%A3", "/limit"),
        ("wait=61", "/wait"),
        ("wait=nan", "/wait"),
        ("status=dead", "/status"),
        ("type=robot", "/type"),
        ("sort=colour", "/sort"),
        ("fields=token", "/fields"),
        ("cursor=AAAA", "/cursor"),
        ("q=%20!", "/q"),
        ("tag=", "/tag"),
    ],
)
def test_a_query_that_cannot_be_meant_is_refused_with_its_place(text: str, pointer: str) -> None:
    from kosreg.problems import Problem

    with pytest.raises(Problem) as refused:
        parse_text(text)
    assert refused.value.status == 422
    assert pointer in [fault["pointer"] for fault in refused.value.errors]


def test_words_match_the_beginning_of_words_in_name_description_and_tags() -> None:
    shelf = Shelf()
    service = shelf.put("a", name="Weather Station", description="Measures rain", tags=["outdoor"])
    for text, expected in [("weath", True), ("RAIN outdoor", True), ("ather", False), ("station snow", False)]:
        assert parse_query({"q": [text]}).filter.matches(service, "active") is expected


def test_mending_copes_with_more_changes_than_it_is_worth() -> None:
    shelf = Shelf()
    kept = Listings(shelf.catalog)
    for n in range(10):
        shelf.put(f"s{n}")
    first, _ = kept.get("x", everyone, Query())
    for n in range(5000):
        shelf.put(f"s{n % 20}")
    shelf.remove("s3")
    second, _ = kept.get("x", everyone, Query())
    assert second is not first
    assert len(second) == 19
    assert second.version == shelf.catalog.journal.head
