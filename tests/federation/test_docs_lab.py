"""What docs/lab.md shows is what happens: its Python, its fixture, its commands."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from tests.documents import ROOT, Shell, a_clone, blocks, fits, run_python, steps


@pytest.mark.timeout(240)
async def test_what_the_lab_document_shows_is_what_happens(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    clone.mkdir()
    a_clone(clone)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("KOSREG_")}
    with tempfile.TemporaryDirectory(prefix="kosreg-docs-") as temporary:  # short: sockets stand in it
        environ = kept | {"TMPDIR": temporary, "PATH": f"{clone / '.venv/bin'}:{kept['PATH']}", "HOME": str(tmp_path)}
        namespace: dict[str, object] = {"__name__": "__main__"}
        printed = before = ""
        async with Shell.start(clone, environ) as shell:
            for block in blocks((ROOT / "docs/lab.md").read_text()):
                if block.kind == "console":
                    for step in steps(block):
                        await shell.run(step, {})
                elif block.kind == "python" and block.name:
                    (clone / block.name).write_text(block.text)
                elif block.kind == "python":
                    printed = await run_python(block.text, namespace, f"lab.md, line {block.line}")
                elif block.kind == "text" and before == "python":
                    assert fits(block.text, printed), f"line {block.line}: printed\n{printed}"
                before = block.kind if not block.name else ""
        assert not list(Path(temporary).iterdir()), "a lab leaves nothing"
