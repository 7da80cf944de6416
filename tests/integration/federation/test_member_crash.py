"""Becoming a member of a federation, cut off by SIGKILL at any step, on either side, can be repeated."""

from __future__ import annotations

import json
import os
import signal
from contextlib import closing
from pathlib import Path

import pytest

from kosreg.lab.ports import Port
from tests.harness import running_daemon, until
from tests.integration.federation.dying import INVITER, JOINER
from tests.integration.federation.test_join_crash import actions, restart, told

STEPS = [*INVITER, *JOINER] if os.environ.get("KOSREG_TEST_KILLS") else [INVITER[2]]  # all: `make soak-kill`


@pytest.mark.timeout(120)
@pytest.mark.parametrize("step", STEPS)
async def test_a_member_that_was_cut_off_is_let_in_again(tmp_path: Path, step: str) -> None:
    with closing(Port()) as one_port, closing(Port()) as other_port:
        async with (
            running_daemon(tmp_path / "a", "--federation", one_port.address, "--name", "a") as a,
            running_daemon(tmp_path / "b", "--federation", other_port.address, "--name", "b") as b,
        ):
            assert a.cli("federation", "create", "acme", "--key", str(tmp_path / "root.key")).returncode == 0
            line = a.cli("peers", "invite", "--federation", "acme").stdout.decode()
            dies = a if step in INVITER else b
            await restart(dies, step)
            b.cli("peers", "join", "-", "--no-wait", stdin=line.encode())
            assert dies.process is not None
            assert dies.process.wait(20) == -signal.SIGKILL
            await restart(dies, None)

            again = b.cli("peers", "join", "-", "--json", stdin=line.encode())
            assert again.returncode == 0, again.stderr
            assert json.loads(again.stdout)["federation"].startswith("did:key:")
            for one in (a, b):

                def both_are_members(one=one) -> bool:  # type: ignore[no-untyped-def]
                    [acme] = told(one, "federation", "list")["federations"]
                    return (acme["name"], acme["member"], acme["members"]) == ("acme", True, 2)

                await until(both_are_members)
            assert actions(a) == ["trust", "certificate", "invite", "invite redeemed"]
            assert actions(b) == ["join"]
