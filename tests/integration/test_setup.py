"""What we ship besides code works as it is: the example settings, the unit for systemd, the demo's entry."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.harness import running_daemon

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("config", sorted(ROOT.glob("configs/*.toml")), ids=lambda path: path.name)
async def test_an_example_of_settings_starts_a_node_as_it_is(tmp_path: Path, config: Path) -> None:
    """The file is read unchanged; only the port is another (by variable), since 7480 may be taken here."""
    async with running_daemon(tmp_path / "node", "--config", str(config)) as daemon:
        client = daemon.admin()
        assert (await client.get("/healthz"))[0] == 200
        assert (await client.get("/api/services"))[1]["total"] == 1
        await client.close()
        assert daemon.stop() == 0


def test_the_unit_starts_what_the_distribution_installs() -> None:
    unit = (ROOT / "systemd/kosreg.service").read_text()
    assert "Type=notify" in unit
    assert "kosreg run" in unit
    if shutil.which("systemd-analyze"):  # on machines without systemd the text is all there is to check
        probe = subprocess.run(
            ["systemd-analyze", "security", "--offline=true", "--no-pager", str(ROOT / "systemd/kosreg.service")],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert probe.returncode == 0, probe.stderr
        level = float(probe.stdout.rsplit("kosreg.service:", 1)[1].split()[0])
        assert level < 2.0, "the unit is less hardened than it was"
