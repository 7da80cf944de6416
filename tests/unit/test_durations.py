"""Spans of time as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kosreg.durations import MAX_TTL, parse_duration, parse_ttl, show_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("15m", 900), ("12h", 43_200), ("30d", 2_592_000), ("2w", 1_209_600), ("1y", 31_536_000), ("7", 7)],
)
def test_the_forms(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds
    assert parse_duration(f" {text} ") == seconds


@pytest.mark.parametrize("text", ["", "s", "-1s", "+1s", "1.5h", "1 h", "1H", "one", "1d12h", "٣d", "9" * 13, "1s\n1s"])
def test_anything_else_is_refused_with_the_forms(text: str) -> None:
    with pytest.raises(ValueError, match="30s, 15m, 12h, 30d or 1y"):
        parse_duration(text)


@pytest.mark.parametrize("ttl", ["0s", 0, -1, "11y", MAX_TTL + 1])
def test_a_token_lives_a_second_to_ten_years(ttl: str | int) -> None:
    with pytest.raises(ValueError, match="at least 1s and at most 10y"):
        parse_ttl(ttl)


def test_the_bounds_themselves_are_fine() -> None:
    assert parse_ttl("1s") == 1
    assert parse_ttl("10y") == MAX_TTL
    assert parse_ttl(60) == 60


@given(st.integers(min_value=0, max_value=10**11))
def test_what_is_shown_reads_back(seconds: int) -> None:
    assert parse_duration(show_duration(seconds)) == seconds
