"""What the documents for people show is what happens: every command and every Python example, against a real node."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kosreg.lab.ports import Port
from tests.documents import ROOT, SHOWN_API, SHOWN_HOME, Shell, a_clone, blocks, fits, run_python, steps

DOCUMENTS = ("README.md", "docs/agents.md", "docs/protocol.md", "docs/operations.md")
STARTS_A_NODE = "make run"
SHOWN_PEERS = "0.0.0.0:7481"
SHOWN_ADDRESSES = (SHOWN_PEERS, "127.0.0.1:7490", "127.0.0.1:7491", "127.0.0.1:7492")
"""Where the nodes of the documents listen, besides the first one's API: each has a port of its own here."""


class Reader:
    """Somebody at a terminal, in a fresh clone."""

    def __init__(self, directory: Path) -> None:
        self.clone = directory / "clone"
        self.home = directory / "home"
        self.clone.mkdir()
        self.home.mkdir()
        a_clone(self.clone)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("KOSREG_", "XDG_", "STATE_"))}
        self.environ = kept | {"HOME": str(self.home), "KOSREG_FEDERATION__MDNS": "false"}  # whoever is around
        self.banner = ""
        self.ready: dict[str, str] = {}
        self.ports = {shown: Port() for shown in SHOWN_ADDRESSES}

    @contextlib.asynccontextmanager
    async def node(self) -> AsyncIterator[None]:
        """`make run`, but on free ports: the usual ones may be taken here."""
        process = await asyncio.create_subprocess_exec(
            self.clone / ".venv/bin/kosreg", "run", "--name", "debian", "--api", "127.0.0.1:0",
            "--federation", self.listening[SHOWN_PEERS], stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=self.environ | {"PATH": f"{self.clone / '.venv/bin'}:{self.environ['PATH']}"},
        )  # fmt: skip
        try:
            assert process.stdout is not None
            async with asyncio.timeout(20):
                while "watch" not in self.banner:
                    line = await process.stdout.readline()
                    assert line, "the node has ended"
                    self.banner += line.decode()
            self.ready = json.loads((self.home / ".local/share/kosreg/run.json").read_text())
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.communicate()
            for port in self.ports.values():
                port.close()

    @property
    def listening(self) -> dict[str, str]:
        """The shown addresses, and what they are here."""
        return {shown: f"{shown.rpartition(':')[0]}:{port.number}" for shown, port in self.ports.items()}

    @property
    def real(self) -> dict[str, str]:
        """What is shown, and what it is here."""
        return {SHOWN_API: self.ready["api"].removeprefix("http://"), SHOWN_HOME: str(self.home)} | self.listening


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", DOCUMENTS)
async def test_what_a_document_shows_is_what_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    reader = Reader(tmp_path)
    async with reader.node(), Shell.start(reader.clone, reader.environ) as shell:
        token = await _token(reader)
        monkeypatch.setenv("KOSREG_API", reader.ready["api"])
        monkeypatch.setenv("KOSREG_TOKEN", token)
        monkeypatch.chdir(reader.clone)
        namespace: dict[str, object] = {"__name__": "__main__"}
        printed = ""
        before = ""
        for block in blocks((ROOT / name).read_text()):
            place = f"{name}, line {block.line}"
            if block.kind == "console":
                for step in steps(block):
                    if step.command == STARTS_A_NODE:
                        banner = reader.banner.replace(reader.real[SHOWN_API], SHOWN_API)
                        assert fits(step.printed, banner.replace(str(reader.home), SHOWN_HOME)), f"{place}:\n{banner}"
                    else:
                        await shell.run(step, reader.real)
            elif block.kind == "python" and block.name:
                (reader.clone / block.name).write_text(block.text)
            elif block.kind == "python":
                printed = await run_python(block.text, namespace, place)
            elif block.kind == "text" and before == "python":
                assert fits(block.text, printed), f"{place}: printed\n{printed}"
            before = block.kind if not block.name else ""


async def _token(reader: Reader) -> str:
    """What the documents' `kosreg token issue my-agent` prints."""
    process = await asyncio.create_subprocess_exec(
        reader.clone / ".venv/bin/kosreg", "token", "issue", "my-agent", "--ttl", "1h",
        stdout=asyncio.subprocess.PIPE, env=reader.environ,
    )  # fmt: skip
    out, _ = await process.communicate()
    return out.decode().strip()


def test_making_a_node_run_is_what_the_documents_show() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert "run: install            ## start a node (Ctrl-C ends it)\n\t@$(BIN)/kosreg run\n" in makefile
