"""`kosreg run`, `token`, `status` and `doctor` with real nodes that come and go."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from federation.identity import load_or_create
from kosreg.audit import Audit
from kosreg.config import load
from kosreg.store import Store
from kosreg.times import now_ms
from tests.integration.cli.conftest import DEADLINE, KOSREG, Node, environment, start, stop


def test_run_says_where_the_api_is_and_who_the_node_is(node: Node) -> None:
    assert node.ready["did"].startswith("did:key:z6Mk")
    assert node.ready["pid"] == node.process.pid
    assert node.ready["data_dir"] == str(node.directory)
    assert node.ready["api"].startswith("http://127.0.0.1:")


def test_run_shows_people_what_to_try_next_and_ends_with_0_on_ctrl_c(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*KOSREG, "run", "--data-dir", str(tmp_path / "n"), "--api", "127.0.0.1:0", "--federation", "off"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment(),
    )
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(8)]
    text = "".join(lines)
    assert "did:key:z6Mk" in text
    assert "http://127.0.0.1:" in text
    assert f"kosreg status --data-dir {tmp_path / 'n'}" in text
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=DEADLINE)[0] == ""
    assert process.returncode == 0


COLLECTING = """
import gc, os, signal
from kosreg import daemon
from kosreg.cli import main

run = daemon.main

async def watched(settings, directory, on_ready):
    before = gc.isenabled()

    def ready(running):
        print(before, gc.isenabled(), gc.get_freeze_count() > 100_000)
        os.kill(os.getpid(), signal.SIGTERM)

    return await run(settings, directory, ready)

daemon.main = watched
main()
"""


def test_the_collector_rests_during_a_start_and_works_from_then_on(tmp_path: Path) -> None:
    arguments = ["run", "--data-dir", str(tmp_path / "n"), "--api", "127.0.0.1:0", "--federation", "off"]
    done = subprocess.run(
        [sys.executable, "-c", COLLECTING, *arguments],
        capture_output=True, text=True, env=environment(), timeout=DEADLINE, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["False", "True", "True"], done.stderr


def test_a_second_node_on_the_same_directory_is_refused_with_one_line(node: Node) -> None:
    done = node.run_process("run", "--api", "127.0.0.1:0", "--federation", "off", code=1)
    assert done.stdout == ""
    assert "in use" in done.stderr


def test_a_port_that_is_taken_is_told(node: Node, tmp_path: Path) -> None:
    taken = node.ready["api"].removeprefix("http://")
    done = node.run_process("run", "--data-dir", str(tmp_path / "n"), "--api", taken, "--federation", "off", code=1)
    assert "in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_settings_that_are_wrong_are_exit_code_2(node: Node, tmp_path: Path) -> None:
    (tmp_path / "kosreg.toml").write_text('[api]\nlisten_to = "127.0.0.1:0"\n')
    os.chmod(tmp_path, 0o700)
    done = node.run_process("run", "--data-dir", str(tmp_path), code=2)
    assert "api.listen" in done.stderr
    open_to_all = node.run_process("run", "--data-dir", str(tmp_path / "n"), "--api", "0.0.0.0:0", code=2)
    assert "tls_cert" in open_to_all.stderr


def test_a_node_on_a_unix_socket_is_found_and_asked(tmp_path: Path) -> None:
    running = start(tmp_path / "n", "--api", f"unix:{tmp_path}/api.sock")
    try:
        assert running.json("status")["did"] == running.ready["did"]
        token = (running.directory / "admin.token").read_text().strip()
        other = subprocess.run(
            [*KOSREG, "status", "--json", "--api", f"unix:{tmp_path}/api.sock", "--data-dir", "/nowhere"],
            capture_output=True,
            timeout=DEADLINE,
            env=environment(KOSREG_TOKEN=token),
        )
        assert json.loads(other.stdout)["did"] == running.ready["did"]
    finally:
        assert stop(running) == 0


def test_a_killed_node_is_unreachable_and_comes_back_with_everything(tmp_path: Path) -> None:
    running = start(tmp_path / "n", "--api", "127.0.0.1:0")
    running.run("services", "register", "--id", "a", "--name", "A", "--type", "tool", "--ttl", "0")
    running.process.kill()
    stop(running)
    gone = running.run("services", "list", code=3)
    assert gone.stdout == ""
    assert f"kosreg run --data-dir {running.directory}" in gone.stderr
    again = start(running.directory, "--api", "127.0.0.1:0")
    try:
        assert again.ready["did"] == running.ready["did"]
        assert again.json("services", "get", "a")["name"] == "A"
    finally:
        assert stop(again) == 0


def test_a_token_is_printed_alone_works_and_is_revoked_at_once(node: Node) -> None:
    token = node.run("token", "issue", "alice", "--ttl", "1h", "--label", "a test").stdout
    assert token.count("\n") == 1
    mine = {"KOSREG_TOKEN": token.strip()}
    node.run("services", "register", "--id", "alice-1", "--name", "A", "--type", "agent", "--ttl", "0", env=mine)
    assert node.json("services", "get", "alice-1")["owner"] == "alice"
    assert {entry["sub"] for entry in node.json("token", "list", env=mine)["tokens"]} == {"alice"}
    assert node.run("token", "issue", "bob", code=1, env=mine).stdout == ""
    row = next(entry for entry in node.json("token", "list")["tokens"] if entry["sub"] == "alice")
    assert "alice" in node.run("token", "list").stdout
    assert node.run("token", "revoke", row["jti"]).stdout == row["jti"] + "\n"
    refused = node.run("services", "list", code=1, env=mine)
    assert (refused.stdout, "revoked" in refused.stderr) == ("", True)


def test_the_scopes_of_a_token_are_those_that_were_asked_for(node: Node, tmp_path: Path) -> None:
    token = node.run("token", "issue", "reader", "--scope", "read:service:*").stdout.strip()
    file = tmp_path / "token"
    file.write_text(token)
    node.run("services", "list", "--token-file", str(file))
    node.run("services", "register", "--name", "x", "--type", "tool", "--token-file", str(file), code=1)
    assert node.run("token", "issue", "x", "--scope", "nonsense", code=1).stdout == ""


def test_revoking_what_is_not_there_is_exit_code_4(node: Node) -> None:
    node.run("token", "revoke", "no-such-token", code=4)


def test_status_is_one_screen(node: Node) -> None:
    node.run("services", "register", "--id", "st-1", "--name", "S", "--type", "tool", "--ttl", "0")
    body = node.json("status")
    assert body["did"] == node.ready["did"]
    assert body["services"]["active"] >= 1
    text = node.run("status").stdout
    assert node.ready["did"] in text
    assert len(text.splitlines()) <= 20


def test_the_doctor_finds_a_running_node_sound(node: Node) -> None:
    report = node.json("doctor")
    assert report["ok"] is True
    assert {"keys", "store", "API", "process", "clock"} <= {check["check"] for check in report["checks"]}
    assert "registry.db is sound" in next(check["detail"] for check in report["checks"] if check["check"] == "store")
    assert report["next"] == "kosreg status"
    assert "next: kosreg status" in node.run("doctor").stdout


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Node:
    """A node that ran, has a record, and ended in good order."""
    running = start(tmp_path_factory.mktemp("ended") / "n", "--api", "127.0.0.1:0")
    running.run("services", "register", "--id", "a", "--name", "A", "--type", "tool", "--ttl", "0")
    assert stop(running) == 0
    (running.directory / "kosreg.toml").write_text('[api]\nlisten = "127.0.0.1:0"\n[federation]\nlisten = "off"\n')
    return running


@pytest.fixture
def stopped(ended: Node, tmp_path: Path) -> Node:
    """A copy of it, to be damaged."""
    shutil.copytree(ended.directory, tmp_path / "n")
    return replace(ended, directory=tmp_path / "n")


def test_the_doctor_looks_at_a_node_that_is_down(stopped: Node) -> None:
    report = stopped.json("doctor")
    assert report["ok"] is True
    assert f"kosreg run --data-dir {stopped.directory}" in report["next"]


def test_the_doctor_of_an_empty_place_says_to_start_the_node(node: Node, tmp_path: Path) -> None:
    free = {"KOSREG_API__LISTEN": "127.0.0.1:0", "KOSREG_FEDERATION__LISTEN": "off"}  # the usual ports may be in use
    report = json.loads(node.run("doctor", "--data-dir", str(tmp_path / "none"), "--json", env=free).stdout)
    assert "kosreg run" in report["next"]
    assert not (tmp_path / "none").exists()


def bad(report: dict[str, object]) -> dict[str, str]:
    checks = report["checks"]
    assert isinstance(checks, list)
    return {check["check"]: check["todo"] for check in checks if check["state"] == "bad"}


def test_the_doctor_sees_a_key_that_others_may_read(stopped: Node) -> None:
    (stopped.directory / "node.key").chmod(0o644)
    found = bad(stopped.json("doctor", code=1))
    assert "chmod 600" in found["keys"]


def test_the_doctor_sees_an_open_directory(stopped: Node) -> None:
    stopped.directory.chmod(0o755)
    assert "chmod 700" in bad(stopped.json("doctor", code=1))["data directory"]


def test_the_doctor_sees_a_damaged_store(stopped: Node) -> None:
    file = stopped.directory / "registry.db"
    raw = bytearray(file.read_bytes())
    at = raw.find(b"\xd2\x84")  # an entry: the tag of COSE_Sign1
    assert at > 0
    raw[at + 60] ^= 0xFF
    file.write_bytes(raw)
    assert bad(stopped.json("doctor", code=1))["store"]
    refused = stopped.run_process("run", code=1).stderr.splitlines()[-1]
    assert "damaged" in refused
    assert "kosreg doctor" in refused


async def decide(directory: Path, times: int) -> None:
    """Have the audit log of a node that is down get some records."""
    key, _ = load_or_create(directory)
    store = await Store.open(load(directory, options={}, environ={}).store_url, key.public, key.derive("store"))
    try:
        audit = await Audit.open(store, key.public, now_ms)
        for number in range(times):
            await audit.write("admin", "trust", f"did:{number}", {})
    finally:
        await store.close()


def test_the_doctor_sees_an_audit_record_that_is_gone(stopped: Node) -> None:
    asyncio.run(decide(stopped.directory, 3))
    assert stopped.json("doctor")["ok"] is True
    with sqlite3.connect(stopped.directory / "registry.db") as database:
        database.execute("DELETE FROM audit WHERE seq = 2")
    database.close()
    report = stopped.json("doctor", code=1)
    assert "backup" in bad(report)["store"]
    assert "record 2: missing" in str(report["checks"])


def test_the_doctor_sees_files_from_the_future(stopped: Node) -> None:
    file = stopped.directory / "registry.db"
    later = file.stat().st_mtime + 86_400
    os.utime(file, (later, later))
    assert "clock" in bad(stopped.json("doctor", code=1))


def test_the_doctor_sees_settings_that_are_wrong(stopped: Node) -> None:
    (stopped.directory / "kosreg.toml").write_text("[nonsense]\n")
    assert bad(stopped.json("doctor", code=1))["settings"]
