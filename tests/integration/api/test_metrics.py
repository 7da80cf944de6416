"""Every number in the table is scraped, every number that is scraped is in the table, and they are right."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from kosreg.api.metrics import BUCKETS, TABLE, Metrics
from kosreg.node import Node
from tests.harness import Client, running_node


async def scraped(client: Client) -> dict[str, Metric]:
    status, raw, headers = await client.get("/metrics")
    assert status == 200
    assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    return {family.name: family for family in text_string_to_metric_families(raw.decode())}


def value(families: dict[str, Metric], name: str, **labels: str) -> float:
    (found,) = [
        sample.value
        for family in families.values()
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    return float(found)


async def test_the_table_and_the_scrape_agree(admin: Client) -> None:
    await admin.get("/nowhere")
    families = await scraped(admin)
    ours = {name: family for name, family in families.items() if name.startswith("kosreg_")}
    assert set(ours) == {doc.name for doc in TABLE}
    for doc in TABLE:
        assert (ours[doc.name].type, ours[doc.name].documentation) == (doc.kind, doc.help)
        for sample in ours[doc.name].samples:
            assert set(sample.labels) - {"le"} == set(doc.labels), sample
    assert families["process_resident_memory_bytes"].samples[0].value > 0


async def test_it_needs_its_scope(bob: Client, node: Node) -> None:
    assert (await bob.get("/metrics"))[0] == 403
    bob.token = (await node.auth.issue("prometheus", ["read:metrics:*"])).token
    assert (await bob.get("/metrics"))[0] == 200
    bob.token = None
    assert (await bob.get("/metrics"))[0] == 401


async def test_calls_are_counted_by_route_and_status(admin: Client) -> None:
    for uid in ("a", "b", "a"):
        await admin.get(f"/api/services/{uid}")
    await admin.call("HEAD", "/api/services/a")
    await admin.get("/nowhere/x")
    await admin.call("PUT", "/api/services/a")
    families = await scraped(admin)
    route = {"method": "GET", "route": "/api/services/{id}"}
    assert value(families, "kosreg_requests_total", **route, status="404") == 4
    assert value(families, "kosreg_requests_total", route="(none)", status="404") == 1
    assert value(families, "kosreg_requests_total", route="(none)", status="405") == 1
    assert value(families, "kosreg_refusals_total", problem="not-found") == 5
    assert value(families, "kosreg_request_seconds_count", **route) == 4
    assert value(families, "kosreg_request_seconds_bucket", **route, le="+Inf") == 4
    assert 0 < value(families, "kosreg_request_seconds_sum", **route) < 4
    assert value(families, "kosreg_requests_in_flight") == 1, "the scrape itself"
    assert value(families, "kosreg_connections") == 1


async def test_services_beats_and_the_store_are_counted(admin: Client) -> None:
    before = await scraped(admin)
    record = {"id": "a", "name": "A", "type": "tool"}
    await admin.post("/api/services/register", record)
    await admin.post("/api/services/register", record)
    await admin.post("/api/services/a/heartbeat")
    async with admin.ws():
        families = await scraped(admin)
    assert value(families, "kosreg_services", status="active") == 2
    assert value(families, "kosreg_beats_total") == value(before, "kosreg_beats_total") + 1
    assert value(families, "kosreg_unchanged_registrations_total") == 1
    assert value(families, "kosreg_store_rows_total") > value(before, "kosreg_store_rows_total")
    assert value(families, "kosreg_websockets") == 1
    assert value(families, "kosreg_ready") == 1


async def test_two_nodes_in_one_process_share_no_numbers(admin: Client, tmp_path: Path) -> None:
    await admin.get("/nowhere")
    async with running_node(tmp_path / "other") as other:
        client = Client(other.server.url, (other.data_dir / "admin.token").read_text().strip())
        assert "kosreg_refusals_total" not in [s.name for s in samples((await scraped(client)).values())]
        await client.close()


def samples(families: Iterable[Metric]) -> list[Sample]:
    return [sample for family in families for sample in family.samples]


@pytest.mark.parametrize(
    ("seconds", "bucket"), [(0.0, 0), (0.0001, 0), (0.00011, 1), (9.9, 15), (10.0, 15), (60.0, 16)]
)
def test_a_duration_falls_into_its_bucket(seconds: float, bucket: int) -> None:
    meter = Metrics().route("GET", "/")
    meter.count(200, seconds)
    assert meter.buckets.index(1) == bucket
    assert len(meter.buckets) == len(BUCKETS) + 1
