"""The lab in network namespaces: packets are lost, nobody is told, and what was said comes once the link is healed."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from kosreg.lab import Lab, LabError
from kosreg.lab.namespaces import missing
from tests.federation.test_sync import names

WHY = missing()
pytestmark = pytest.mark.skipif(WHY is not None, reason=f"no network namespaces: {WHY}")


@pytest.mark.timeout(120)
async def test_nodes_in_namespaces_agree_and_a_cut_is_silent(lab: Callable[..., Lab]) -> None:
    async with lab(3, "line", network="namespaces") as three:
        first, middle, last = three
        await first.register(id="before", name="Before", visibility="public")
        await three.converged()
        assert "before" in await names(last)
        link = three.link(first, middle)
        with pytest.raises(LabError, match="use network='proxies'"):
            link.delay(1.0)

        link.cut()
        dial = await asyncio.create_subprocess_exec(
            *first.namespace.prefix, "bash", "-c", f"exec 3<>/dev/tcp/{link.address(middle.name).replace(':', '/')}",
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        with pytest.raises(TimeoutError):  # neither accepted nor refused
            async with asyncio.timeout(0.5):
                await dial.wait()
        dial.kill()
        await dial.wait()
        await first.register(id="meanwhile", name="Meanwhile", visibility="public")
        await last.register(id="beyond", name="Beyond", visibility="public")
        await three.converged()
        assert "meanwhile" not in await names(middle)
        assert "beyond" in await names(middle)

        three.heal()
        await three.converged(within=30)
        assert {"before", "meanwhile", "beyond"} <= await names(first)
    assert not Path(f"/run/netns/{first.namespace.name}").exists()
