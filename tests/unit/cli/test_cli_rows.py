"""What a file of services is read as."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kosreg.cli.rows import NoRows, from_mcp, read_rows

SEED = Path(__file__).parents[3] / "examples/data/mcp-servers-2025-05-16.json"


def rows_of(value: object) -> Any:
    return read_rows(json.dumps(value).encode())


def test_the_seed_list_has_464_servers_and_7_blank_rows() -> None:
    rows = read_rows(SEED.read_bytes())
    assert (rows.count, len(rows.good), len(rows.bad)) == (471, 464, 7)
    assert [bad.number for bad in rows.bad] == [16, 26, 109, 133, 189, 208, 407]
    assert all("blank" in bad.detail for bad in rows.bad)


def test_an_mcp_server_becomes_a_tool_that_nobody_beats_for() -> None:
    rows = read_rows(SEED.read_bytes())
    first = rows.good[0].record
    assert first["id"] == "4e9cf4cf-71f6-4aca-bae8-2d10a29ca2e0"
    assert first["name"] == "io.github.21st-dev/magic-mcp"
    assert (first["type"], first["ttl"], first["version"]) == ("tool", 0, "0.0.1-seed")
    assert first["tags"] == ["mcp", "npm"]
    assert first["metadata"]["packages"][0]["name"] == "@21st-dev/magic"
    assert first["metadata"]["repository"]["url"] == "https://github.com/21st-dev/magic-mcp"
    assert "url" not in first


def test_an_mcp_server_with_a_remote_has_its_first_url() -> None:
    record = from_mcp({"id": "a", "name": "b", "remotes": [{"transport_type": "sse", "url": "https://x.example/sse"}]})
    assert record["url"] == "https://x.example/sse"
    assert record["metadata"] == {"remotes": [{"transport_type": "sse", "url": "https://x.example/sse"}]}


def test_an_mcp_server_without_id_or_name_is_a_bad_row() -> None:
    rows = rows_of([{"id": "", "name": "x", "packages": []}, {"id": "x", "name": "", "packages": []}])
    assert [(bad.number, bad.id, bad.detail) for bad in rows.bad] == [(1, None, "has no id"), (2, "x", "has no name")]


def test_records_are_taken_as_they_are() -> None:
    record = {"id": "a", "name": "A", "type": "agent", "updated": "2026-01-01T00:00:00.000Z", "metadata": {"x": 1}}
    assert rows_of([record]).good[0].record == record
    assert rows_of({"kosreg_export": 1, "services": [record]}).good[0].record == record
    assert rows_of(record).good[0].record == record


def test_lines_of_records_are_taken_and_a_spoilt_one_costs_itself_alone() -> None:
    rows = read_rows(b'{"id":"a","name":"A","type":"api"}\n\n{"id":\n{"id":"b","name":"B","type":"api"}\n')
    assert [row.record["id"] for row in rows.good] == ["a", "b"]
    assert [bad.number for bad in rows.bad] == [2]


def test_the_same_id_twice_is_a_bad_row_since_the_order_would_decide() -> None:
    rows = rows_of([{"id": "a", "name": "A", "type": "api"}, {"id": "a", "name": "B", "type": "api"}])
    assert [row.number for row in rows.good] == [1]
    assert "row 1" in rows.bad[0].detail


def test_a_record_without_id_gets_the_same_one_each_time() -> None:
    once, again = (rows_of([{"name": "A", "type": "api"}]).good[0].record["id"] for _ in range(2))
    other = rows_of([{"name": "B", "type": "api"}]).good[0].record["id"]
    assert once == again != other


def test_what_a_node_says_about_itself_is_not_copied() -> None:
    rows = rows_of([{"id": "did:key:z6Mk", "name": "n", "type": "node"}, {"id": "n1", "name": "n", "type": "node"}])
    assert rows.skipped == 1
    assert [row.record["id"] for row in rows.good] == ["n1"]


def test_rows_that_are_no_objects_are_bad() -> None:
    rows = rows_of([None, 3, "x", [], {}])
    assert [bad.number for bad in rows.bad] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "raw",
    [b"", b"  \n", b"nonsense", b"3", b'"text"', b'{"a": 1}', b"\xff\xfe", b"[" * 100_000, b'{"id": "a"'],
)
def test_a_file_of_another_kind_is_refused_with_a_reason(raw: bytes) -> None:
    with pytest.raises(NoRows, match="the file"):
        read_rows(raw)


def test_a_byte_order_mark_is_no_fault() -> None:
    assert read_rows(b'\xef\xbb\xbf[{"id":"a","name":"A","type":"api"}]').good[0].record["id"] == "a"
