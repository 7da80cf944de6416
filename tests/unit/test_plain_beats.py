"""The dense way through a batch of heartbeats against the schema: what it takes, the schema takes, and as the same."""

from __future__ import annotations

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kosreg.problems import Problem
from kosreg.schemas.service_schema import BEATS, parse
from kosreg.service_routes import plain_beats

values = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5), st.lists(st.integers(), max_size=2))
beat = st.one_of(
    st.fixed_dictionaries({"id": st.text(max_size=300)}),
    st.dictionaries(st.sampled_from(["id", "status", "load", "x"]), values, max_size=3),
    values,
)
bodies = st.one_of(
    st.fixed_dictionaries({"beats": st.lists(beat, max_size=4)}),
    st.dictionaries(st.sampled_from(["beats", "more"]), st.one_of(values, st.lists(beat, max_size=3)), max_size=2),
    values,
).map(lambda value: json.dumps(value).encode())


@given(st.one_of(bodies, st.binary(max_size=20)))
def test_what_the_dense_way_takes_the_schema_takes_as_the_same(raw: bytes) -> None:
    ids = plain_beats(raw)
    if ids is not None:
        assert [{"id": uid} for uid in ids] == parse(BEATS, raw)["beats"]


def test_the_usual_batch_goes_the_dense_way_and_others_do_not() -> None:
    usual = [{"id": f"s{n}"} for n in range(100)]
    assert plain_beats(orjson.dumps({"beats": usual})) == [f"s{n}" for n in range(100)]
    assert plain_beats(orjson.dumps({"beats": [*usual, {"id": "x", "load": 0.5}]})) is None
    too_long = orjson.dumps({"beats": [{"id": "x" * 257}]})
    assert plain_beats(too_long) is None
    with pytest.raises(Problem):
        parse(BEATS, too_long)
