"""The seed's testing plan, by its names. (Its fourth, federation sync, is in `tests/federation/test_sync.py`.)"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import aiohttp

from kosreg.node import Node
from tests.harness import Client, running_daemon, until

SERVICE = {"id": "dummy", "name": "Dummy", "type": "service", "tags": ["text"], "url": "http://127.0.0.1:9"}

AGENT = """
import asyncio, sys, aiohttp
async def main(url, token):
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer " + token}) as http:
        record = {"id": "mortal", "name": "Mortal", "type": "agent", "ttl": 1}
        async with http.post(url + "/api/services/register", json=record) as answer:
            assert answer.status == 201
        print("registered", flush=True)
        while True:
            async with http.post(url + "/api/services/mortal/heartbeat") as answer:
                assert answer.status == 200
            await asyncio.sleep(0.3)
asyncio.run(main(*sys.argv[1:]))
"""


async def test_registered_service_is_present(bob: Client) -> None:
    status, answer, _ = await bob.post("/api/services/register", SERVICE)
    assert status == 201
    assert (answer["id"], answer["status"], answer["owner"]) == ("dummy", "active", "bob")
    status, found, _ = await bob.get("/api/services/dummy")
    assert status == 200
    assert {name: found[name] for name in SERVICE} == SERVICE
    status, listed, _ = await bob.get("/api/services")
    assert "dummy" in [service["id"] for service in listed["services"]]


async def test_discovery_query_filters(bob: Client, eve: Client) -> None:
    records = [
        {
            "id": "a",
            "name": "Alpha translator",
            "type": "agent",
            "tags": ["text", "llm"],
            "capabilities": ["translate"],
        },
        {"id": "b", "name": "Beta camera", "type": "device", "tags": ["vision"], "ttl": 0, "status": "offline"},
        {"id": "c", "name": "Gamma", "type": "agent", "tags": ["text", "vision"], "visibility": "public"},
    ]
    for record in records:
        assert (await bob.post("/api/services/register", record))[0] == 201
    assert (await eve.post("/api/services/register", {"id": "d", "name": "Delta", "type": "tool", "tags": ["text"]}))[
        0
    ] == 201
    cases = {
        "tag=text": "acd",
        "tag=text&tag=vision": "c",
        "any_tag=llm&any_tag=vision": "abc",
        "type=agent": "ac",
        "owner=eve": "d",
        "status=offline": "b",
        "status=active&type=agent": "ac",
        "visibility=public": "c",
        "capability=translate": "a",
        "q=alph": "a",
        "q=beta%20vision": "b",
        "tag=nothing": "",
    }
    for query, expected in cases.items():
        status, answer, _ = await bob.get(f"/api/services?{query}")
        assert status == 200
        assert "".join(service["id"] for service in answer["services"]) == expected, query
        assert answer["total"] == len(expected)


async def test_killed_service_goes_offline_on_heartbeat_timeout(tmp_path: Path) -> None:
    """A real daemon, a real agent, really killed."""
    async with running_daemon(tmp_path / "node") as daemon:
        client = daemon.admin()
        token = daemon.cli("token", "issue", "mortal").stdout.decode().strip()
        agent = subprocess.Popen([sys.executable, "-c", AGENT, daemon.url, token], stdout=subprocess.PIPE)  # noqa: ASYNC220
        try:
            assert agent.stdout is not None
            assert await asyncio.to_thread(agent.stdout.readline) == b"registered\n"
            async with client.ws("?q=mortal") as ws:
                snapshot = await ws.receive_json(timeout=5)
                assert snapshot["services"][0]["status"] == "active"
                agent.kill()
                agent.wait(5)
                killed = asyncio.get_running_loop().time()
                event = await ws.receive_json(timeout=5)
                assert (event["event"], event["service"]["id"]) == ("offline", "mortal")
                assert asyncio.get_running_loop().time() - killed < 2.5
                await ws.close()

            async def offline() -> bool:
                _, answer, _ = await client.get("/api/services/mortal")
                return bool(answer["status"] == "offline" and answer["liveness"]["reason"])

            await until(offline)
        finally:
            agent.kill()
            agent.wait(5)
            if agent.stdout is not None:
                agent.stdout.close()
            await client.close()
        assert daemon.stop() == 0


async def test_unauthorized_registration_is_rejected(node: Node, bob: Client, eve: Client) -> None:
    nobody = Client(node.server.url, None)
    try:
        status, problem, headers = await nobody.post("/api/services/register", SERVICE)
        assert status == 401
        assert headers["Content-Type"] == "application/problem+json"
        assert headers["WWW-Authenticate"].startswith("Bearer")
        nobody.token = "not.a.token"
        assert (await nobody.post("/api/services/register", SERVICE))[0] == 401
        async with aiohttp.ClientSession() as session, session.get(f"{node.server.url}/api/services") as answer:
            assert answer.status == 401
    finally:
        await nobody.close()
    assert (await bob.post("/api/services/register", SERVICE))[0] == 201
    status, problem, _ = await eve.post("/api/services/register", SERVICE | {"name": "Stolen"})
    assert (status, problem["status"]) == (403, 403)
    assert (await bob.get("/api/services/dummy"))[1]["name"] == "Dummy"
