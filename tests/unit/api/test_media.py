"""Choosing a form by `Accept`."""

from __future__ import annotations

import pytest

from kosreg.api.media import JSON, MSGPACK, Negotiator, best

OFFERS = (JSON, MSGPACK)


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("", JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        ("application/json", JSON),
        ("Application/JSON; charset=utf-8", JSON),
        ("application/problem+json", JSON),
        ("application/vnd.msgpack", MSGPACK),
        ("application/msgpack", MSGPACK),
        ("application/x-msgpack", MSGPACK),
        ("application/vnd.msgpack, application/json", JSON),
        ("application/vnd.msgpack, application/json;q=0.9", MSGPACK),
        ("application/vnd.msgpack;q=0.5, application/json;q=0.9", JSON),
        ("application/vnd.msgpack, */*;q=0.1", MSGPACK),
        ("application/json;q=0, */*", MSGPACK),
        ("application/json;q=0, application/*;q=0.2", MSGPACK),
        ("text/html, application/xhtml+xml, application/xml;q=0.9, */*;q=0.8", JSON),
        ("text/html", None),
        ("text/html, image/*", None),
        ("application/json;q=0", None),
        ("*/*;q=0", None),
        ("application/json;q=none", None),
        (",, ,", JSON),
        ("application/json;q=7", JSON),
    ],
)
def test_the_best_offer_is_chosen(accept: str, chosen: str | None) -> None:
    assert best(accept, OFFERS) == chosen
    negotiator = Negotiator(OFFERS)
    assert negotiator.choose(accept) == chosen
    assert negotiator.choose(accept) == chosen


def test_no_header_admits_everything() -> None:
    assert Negotiator(OFFERS).choose(None) == JSON


def test_what_is_kept_is_bounded() -> None:
    negotiator = Negotiator(OFFERS)
    for n in range(3_000):
        assert negotiator.choose(f"application/json;v={n}") == JSON
    assert len(negotiator._kept) <= 512
