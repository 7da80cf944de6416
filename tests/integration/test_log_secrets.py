"""The log of a whole run, at its most talkative, holds none of the secrets that were used in it."""

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from federation.identity import load
from tests.harness import Client, Daemon, running_daemon

SECRETS = {
    "registered": "sk-live-registered-4f9aQ",
    "patched": "sk-live-patched-81xkW",
    "misplaced": "sk-live-misplaced-77Rt",
    "broken": "sk-live-broken-zz31p",
    "query": "sk-live-query-p0q1r2",
    "socket": "sk-live-socket-u8v9w",
}


async def socket_with(client: Client, **options: Any) -> None:
    """Opens a WebSocket in some way and leaves it; refusals are part of the exercise."""
    try:
        async with client.session.ws_connect(f"{client.url}/ws/registry", **options) as ws:
            await ws.send_str(json.dumps({"op": "auth", "token": SECRETS["socket"]}))
            await ws.receive(timeout=5)
    except aiohttp.ClientError:
        return


async def use_everything(daemon: Daemon) -> list[str]:
    """Every way in which a secret can come in, and as many that go wrong. The tokens that were used."""
    admin = daemon.admin()
    _, issued, _ = await admin.post("/api/tokens", {"subject": "bob"})
    _, doomed, _ = await admin.post("/api/tokens", {"subject": "bob"})
    forged = issued["token"][:-6] + "AAAAAA"
    bob, thief, revoked = (Client(daemon.url, token) for token in (issued["token"], forged, doomed["token"]))
    try:
        record = {"name": "A", "type": "agent", "auth": {"type": "api_key", "token": SECRETS["registered"]}}
        assert (await bob.post("/api/services/register", record | {"id": "a"}))[0] == 201
        patch = {"auth": {"type": "api_key", "token": SECRETS["patched"]}}
        assert (await bob.call("PATCH", "/api/services/a", patch))[0] == 200
        wrong = record | {"url": f"http://user:{SECRETS['misplaced']}@host/", "token": SECRETS["misplaced"]}
        assert (await bob.post("/api/services/register", wrong))[0] == 422
        broken = f'{{"auth": {{"token": "{SECRETS["broken"]}"'.encode()
        assert (await bob.post("/api/services/register", broken))[0] == 400
        assert (await bob.get(f"/api/services?token={SECRETS['query']}"))[0] == 422
        assert (await bob.get(f"/api/nowhere?access_token={SECRETS['query']}"))[0] == 404
        assert (await thief.get("/api/services"))[0] == 401
        assert (await admin.call("DELETE", f"/api/tokens/{doomed['jti']}"))[0] == 204
        assert (await revoked.get("/api/services"))[0] == 401
        assert (await admin.get("/api/services", Authorization=f"Basic {SECRETS['query']}"))[0] == 401
        for token in (issued["token"], forged, doomed["token"]):
            await socket_with(bob, protocols=("kosreg.v1", f"bearer.{token}"))
            await socket_with(bob, headers={"Authorization": f"Bearer {token}"})
        await socket_with(bob)
    finally:
        await asyncio.gather(*(client.close() for client in (admin, bob, thief, revoked)))
    return [daemon.admin_token(), issued["token"], doomed["token"], forged]


def faces(secret: bytes) -> set[str]:
    """How a key may look in a text."""
    return {
        secret.hex(),
        secret.hex().upper(),
        base64.b64encode(secret).decode().rstrip("="),
        base64.urlsafe_b64encode(secret).decode().rstrip("="),
        repr(secret)[2:-1],
    }


@pytest.mark.timeout(120)
async def test_the_log_of_a_run_is_json_and_holds_no_secret(tmp_path: Path) -> None:
    async with running_daemon(tmp_path / "node", KOSREG_LOG__LEVEL="debug", KOSREG_LOG__FORMAT="json") as daemon:
        tokens = await use_everything(daemon)
        seeds = [load(daemon.data_dir / name).seed for name in ("node.key", "next.key")]
        assert daemon.stop() == 0
        text = await asyncio.to_thread(daemon.log.read_text)

    lines = [json.loads(line) for line in text.splitlines()]
    assert len(lines) > 10
    assert all({"time", "level", "logger", "event"} <= set(line) for line in lines)
    assert [line for line in lines if line["level"] in ("error", "critical")] == []
    assert {"bob", "admin"} <= {line.get("sub") for line in lines}
    for name, secret in SECRETS.items():
        assert secret not in text, name
    for token in tokens:
        _, claims, signature = token.split(".")
        assert claims not in text
        assert signature not in text
    for seed in seeds:
        assert not [face for face in faces(seed) if face in text]
