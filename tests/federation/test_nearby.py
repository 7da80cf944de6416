"""Neighbours on a network: found without being told, never believed. Real daemons, each in a network of its own."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kosreg.lab import Lab, LabNode
from kosreg.lab.namespaces import missing
from tests.harness import KOSREG, until

WHY = missing()
pytestmark = [
    pytest.mark.skipif(WHY is not None, reason=f"no network namespaces: {WHY}"),
    pytest.mark.timeout(120),
]
ON = {"federation.mdns": True}


async def nearby(node: LabNode) -> dict[str, Any]:
    return (await node.call("GET", "/api/peers/nearby")).object()


async def dids(node: LabNode) -> set[str]:
    return {one["did"] for one in (await nearby(node))["nearby"]}


async def is_linked(node: LabNode, peer: LabNode) -> str:
    """Where to, if it is."""
    for one in (await node.call("GET", "/api/peers")).object()["peers"]:
        if one["did"] == peer.did and one.get("link", {}).get("state") == "up":
            return str(one["link"]["address"])
    return ""


async def run_in(node: LabNode, *command: str, check: bool = True) -> str:
    """What a command prints on the node's network."""
    done = await asyncio.to_thread(
        subprocess.run, [*node.namespace.prefix, *command], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0 or not check, done.stderr
    return done.stdout


async def kosreg(node: LabNode, *words: str, check: bool = True) -> str:
    return await run_in(node, *KOSREG, *words, "--data-dir", str(node.directory), check=check)


async def move(node: LabNode, host: str) -> None:
    """Its machine has another address now."""
    await run_in(node, "ip", "addr", "flush", "dev", "eth0")
    await run_in(node, "ip", "addr", "add", f"{host}/24", "dev", "eth0")


@asynccontextmanager
async def helper(node: LabNode, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """`tests.federation.lan` on the node's network, ready."""
    process = await asyncio.create_subprocess_exec(
        *node.namespace.prefix, sys.executable, "-m", "tests.federation.lan", *arguments,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined]  # its pipes, now


async def test_strangers_see_each_other_and_the_printed_command_links_them(lab: Callable[..., Lab]) -> None:
    async with lab(2, "mesh", network="namespaces", federations={}, join=False, settings=ON) as two:
        a, b = two
        for node, other in ((a, b), (b, a)):
            await until(partial(_is_heard, node, other))
            printed = await kosreg(node, "peers", "nearby")
            assert (await nearby(other))["self"]["fingerprint"] in printed
            command = printed.splitlines()[-1].split()
            assert command == ["kosreg", "peers", "trust", other.did, "--address", other.peer_address]
            assert not await is_linked(node, other)  # found is not trusted
            await kosreg(node, *command[1:])
        await until(partial(is_linked, a, b))
        told = (await nearby(a))["nearby"]
        assert [(one["name"], one["trust"], "command" in one) for one in told] == [("n2", "peer", False)]

        await b.stop()
        await until(partial(_is_alone, a))  # it said goodbye
        async with helper(b, "flood", b.namespace.address, "1", "2"):
            assert len(await until(partial(dids, a))) == 1
        await until(partial(_is_alone, a))  # who was not heard for long is gone as well


async def _is_heard(node: LabNode, other: LabNode) -> bool:
    return other.did in await dids(node)


async def _is_alone(node: LabNode) -> bool:
    return not await dids(node)


async def test_known_peers_that_move_find_each_other_again(lab: Callable[..., Lab]) -> None:
    async with lab(2, "mesh", network="namespaces", federations={}, settings=ON) as two:
        await until(partial(is_linked, *two))
        for node in two:
            await node.stop()
        for node in two:  # each knows of the other only where it was
            await move(node, MOVED[node.name])
            node.namespace = replace(node.namespace, address="0.0.0.0")  # for its listener
            await node.start()
        a, b = two
        address = await until(partial(is_linked, a, b), 30)  # who of the two found the other is left to chance
        assert address.startswith(MOVED[b.name])

        await move(b, "10.77.0.52")  # while it runs

        async def is_there() -> bool:
            return [one["addresses"][0] for one in (await nearby(a))["nearby"]] == ["10.77.0.52:7481"]

        await until(is_there)


MOVED = {"n1": "10.77.0.50", "n2": "10.77.0.51"}


async def test_avahi_sees_the_node(lab: Callable[..., Lab], tmp_path: Path) -> None:
    for program in ("avahi-daemon", "avahi-browse", "dbus-daemon"):
        if shutil.which(program) is None:
            pytest.skip(f"there is no {program}: apt-get install avahi-daemon avahi-utils dbus")
    async with lab(1, "mesh", network="namespaces", federations={}, settings=ON) as one:
        (a,) = one
        printed = await run_in(a, "sh", "-ec", AVAHI, "sh", str(tmp_path))
        lines = [line.split(";") for line in printed.splitlines() if line.startswith("=")]
        assert lines, printed
        fields = lines[0]
        assert fields[3].startswith("n1\\032")
        assert fields[4] == "_kosreg._tcp"
        assert fields[7:9] == [a.namespace.address, "7481"]
        assert f'"did={a.did}"' in fields[9]


AVAHI = """
mount -t tmpfs tmpfs /run
mkdir -p /run/avahi-daemon
cat >"$1/bus.conf" <<END
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "">
<busconfig><type>system</type><listen>unix:path=/run/bus</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*"/><allow receive_sender="*"/><allow own="*"/></policy></busconfig>
END
printf '[server]\\nallow-interfaces=eth0\\nuse-ipv6=no\\n[publish]\\ndisable-publishing=yes\\n' >"$1/avahi.conf"
export DBUS_SYSTEM_BUS_ADDRESS=unix:path=/run/bus
dbus-daemon --config-file="$1/bus.conf" --nofork --nopidfile & bus=$!
trap 'kill $bus $avahi 2>/dev/null' EXIT
until [ -S /run/bus ]; do sleep 0.02; done
avahi-daemon --no-drop-root --no-chroot --no-rlimits -f "$1/avahi.conf" 2>"$1/avahi.log" & avahi=$!
until avahi-browse -rpt _kosreg._tcp 2>/dev/null | tee "$1/seen" | grep -q ^=; do sleep 0.1; done
cat "$1/seen"
"""
"""A bus and an avahi of their own: `ip netns exec` has given us our own mounts."""


async def test_a_flood_of_announcements_is_bounded(lab: Callable[..., Lab]) -> None:
    async with lab(2, "mesh", network="namespaces", federations={}, settings=ON) as two:
        a, b = two
        await until(partial(is_linked, a, b))
        await until(partial(_is_heard, a, b))
        before, lines = resident(a), a.log.read_bytes().count(b"\n")
        slowest = 0.0
        async with helper(b, "flood", b.namespace.address, "6000", "86400") as flood:
            while flood.returncode is None:
                began = time.monotonic()
                assert len(await dids(a)) <= 257
                slowest = max(slowest, time.monotonic() - began)
            assert flood.returncode == 0
        told = await nearby(a)
        assert len(told["nearby"]) == 257  # 256 strangers and the peer
        assert told["passed_by"] > 1000
        assert b.did in {one["did"] for one in told["nearby"]}
        assert await is_linked(a, b)
        assert slowest < 1.0
        grown = resident(a) - before
        assert grown < 4 << 20, f"{grown >> 10} KiB more"
        assert a.log.read_bytes().count(b"\n") - lines < 10


def resident(node: LabNode) -> int:
    """Its memory, bytes."""
    status = Path(f"/proc/{node.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) << 10  # type: ignore[index]


async def test_a_node_with_mdns_off_says_nothing_there(lab: Callable[..., Lab]) -> None:
    async with lab(1, "mesh", network="namespaces", federations={}) as one:  # off, as in any lab
        (a,) = one
        async with helper(a, "ask", a.namespace.address, "3") as asker:
            out, _ = await asker.communicate()
        assert int(out) == 0  # packets of others
        assert (await nearby(a))["mdns"] == "off"


async def test_a_node_starts_where_mdns_cannot_and_says_so_once(lab: Callable[..., Lab]) -> None:
    async with lab(1, "mesh", network="namespaces", federations={}, settings=ON) as one:
        (a,) = one
        await a.stop()
        async with helper(a, "hold"):
            await a.start()

            async def has_failed() -> bool:
                return (await nearby(a))["mdns"] == "failed"

            await until(has_failed)
            report = await kosreg(a, "doctor", check=False)
            assert "mDNS: it does not work: [Errno 98]" in report
        assert a.log.read_text().count("mDNS does not work") == 1

        async def works() -> bool:
            return (await nearby(a))["mdns"] == "on"

        await until(works)  # the port is free again
