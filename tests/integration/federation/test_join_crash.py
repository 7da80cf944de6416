"""A join that is cut off by SIGKILL at any step, on either side, can be repeated: and then it is as if nothing was."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kosreg.lab.ports import Port
from tests.harness import KOSREG, Daemon, running_daemon, until
from tests.integration.federation.dying import INVITER, JOINER


@pytest.fixture
def port() -> Iterator[Callable[[], Port]]:
    """Makes ports that nobody else is given: an invite names its node's address, which a restart must not change."""
    ports: list[Port] = []

    def make() -> Port:
        ports.append(Port())
        return ports[-1]

    yield make
    for one in ports:
        one.close()


async def restart(daemon: Daemon, step: str | None) -> None:
    if daemon.process is not None and daemon.process.poll() is None:
        daemon.stop()
    daemon.program = KOSREG
    if step is not None:
        daemon.program = [sys.executable, "-m", "tests.integration.federation.dying", step]
    await daemon.start()


# All of them take two minutes: `make soak-kill` does them, CI a step on each side.
STEPS = [*INVITER, *JOINER] if os.environ.get("KOSREG_TEST_KILLS") else [INVITER[2], JOINER[2]]


def told(daemon: Daemon, *arguments: str) -> Any:
    done = daemon.cli(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def actions(daemon: Daemon) -> list[str]:
    assert told(daemon, "audit", "verify")["ok"]
    return [record["action"] for record in told(daemon, "audit", "list", "--all")["records"]]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("step", STEPS)
async def test_a_join_that_was_cut_off_is_repeated(tmp_path: Path, port: Callable[[], Port], step: str) -> None:
    async with (
        running_daemon(tmp_path / "a", "--federation", port().address, "--name", "a") as a,
        running_daemon(tmp_path / "b", "--federation", port().address, "--name", "b") as b,
    ):
        line = a.cli("peers", "invite").stdout.decode()
        dies = a if step in INVITER else b
        await restart(dies, step)
        cut_off = b.cli("peers", "join", "-", "--no-wait", stdin=line.encode())
        assert dies.process is not None
        assert dies.process.wait(20) == -signal.SIGKILL
        if step != "redeem answered":
            assert cut_off.returncode != 0
        await restart(dies, None)

        again = b.cli("peers", "join", "-", "--json", stdin=line.encode())
        assert again.returncode == 0, again.stderr
        assert json.loads(again.stdout)["peer"]["name"] == "a"
        names = []
        for one in (a, b):
            [peer] = told(one, "peers", "list")["peers"]
            await until(lambda one=one: told(one, "peers", "list")["peers"][0]["link"]["state"] == "up")  # type: ignore[misc]
            names.append(peer["name"])
        assert names == ["b", "a"]
        [invite] = told(a, "peers", "invites")["invites"]
        assert invite["state"] == "used"
        assert actions(a) == ["invite", "invite redeemed"]
        assert actions(b) == ["join"]
