"""The documents are true: their tables are what the code says, their links lead somewhere, their names exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs import generate
from kosreg import paths, websocket
from kosreg.cli.shared import SHARED, Exit
from kosreg.client.errors import CLOSE_CODES
from kosreg.journal import Event
from tests.documents import ROOT, blocks, fits

DOCUMENTS = sorted(path for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")))
TEXTS = {path.name: path.read_text() for path in DOCUMENTS}
SET_UP = re.compile(
    r"(sudo apt-get install -y [a-z0-9 -]+|git clone REPOSITORY kosreg && cd kosreg|make (?P<target>[a-z-]+))"
)


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("name", generate.FILES)
def test_the_tables_are_what_the_code_says(name: str) -> None:
    text = (ROOT / name).read_text()
    assert text == generate.filled(text), f"{name} is not true any more: run `make docs` and commit what it writes"


def test_every_table_stands_in_one_document() -> None:
    standing = [name for file in generate.FILES for name in generate.places((ROOT / file).read_text())]
    assert sorted(standing) == sorted(generate.MAKERS)


def test_every_document_is_named_in_the_readme() -> None:
    for path in ROOT.glob("docs/*.md"):
        assert f"](docs/{path.name})" in TEXTS["README.md"]


def links() -> Iterator[tuple[str, str]]:
    for path in DOCUMENTS:
        prose = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
        for target in re.findall(r"\]\(([^)\s]+)\)", prose):
            if not target.startswith(("http://", "https://")):
                yield str(path.relative_to(ROOT)), target


@pytest.mark.parametrize(("document", "target"), sorted(set(links())))
def test_every_link_leads_somewhere(document: str, target: str) -> None:
    name, _, anchor = target.partition("#")
    path = (ROOT / document).parent / name if name else ROOT / document
    assert path.exists()
    if anchor:
        headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_the_commands_of_a_set_up_exist(path: Path) -> None:
    """`sh` blocks are run by nobody: they hold what makes a machine ready, and targets of the Makefile."""
    for block in blocks(path.read_text()):
        assert block.kind in ("sh", "console", "python", "text"), f"line {block.line}: a block of no known kind"
        if block.kind == "sh":
            for line in block.text.splitlines():
                match = SET_UP.fullmatch(line.partition("#")[0].strip())
                assert match, f"line {block.line}: {line}"
                assert match["target"] is None or match["target"] in targets()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_target_that_is_named_is_in_the_makefile(path: Path) -> None:
    named = set(re.findall(r"`make ([a-z-]+)`", path.read_text()))
    assert named <= targets()


def test_every_variable_that_is_read_is_documented() -> None:
    read = set()
    for path in [*(ROOT / "kosreg").rglob("*.py"), *(ROOT / "examples").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                read.update(re.findall(r"^(?:KOSREG_[A-Z_]*[A-Z]|[A-Z]+_DIRECTORY|NOTIFY_SOCKET)$", node.value))
    read = {name for name in read if "__" not in name}
    assert {"KOSREG_DATA_DIR", "KOSREG_TOKEN", "STATE_DIRECTORY", "NOTIFY_SOCKET"} <= read
    assert {name for name in read if f"| `{name}` |" not in TEXTS["configuration.md"]} == set()


def test_every_file_of_the_data_directory_is_documented() -> None:
    for name in (paths.NODE_KEY, paths.NEXT_KEY, paths.ADMIN_TOKEN, paths.DATABASE, paths.RUN_FILE, paths.CONFIG):
        assert f"| `{name}` |" in TEXTS["configuration.md"]


def test_every_operation_and_event_of_the_websocket_is_documented() -> None:
    for operation in websocket.OPS:
        assert f"| `{operation}` |" in TEXTS["agents.md"]
    for event in Event.__args__:  # type: ignore[attr-defined]
        assert f"`{event}`" in TEXTS["agents.md"]


def test_every_close_code_is_documented_and_has_words_in_the_client() -> None:
    codes = {value for name, value in vars(websocket).items() if name.startswith("CLOSE_") and isinstance(value, int)}
    for code in codes:
        assert f"| {code} |" in TEXTS["api.md"]
        assert code in CLOSE_CODES


def test_every_exit_code_and_shared_option_is_documented() -> None:
    for code in Exit:
        assert re.search(rf"^\| {code.value} \|", TEXTS["api.md"], re.MULTILINE)
    for annotation in SHARED.values():
        option = annotation.__metadata__[0].default
        assert f"| `{option}" in TEXTS["api.md"]


def test_every_command_has_a_heading_of_its_own() -> None:
    headings = re.findall(r"^### `(kosreg [^`]*)`$", TEXTS["api.md"], re.MULTILINE)
    assert len(headings) == len(set(headings)) >= 15


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("a\n", "a\n", True),
        ("a\n", "b\n", False),
        ("a\n", "a\nb\n", False),
        ("", "a\n", False),
        ("a … c\n", "a b c\n", True),
        ("…\nlast\n", "first\nlast\n", True),
        ("…\nlast\n", "first\n", False),
        ("up 2026-01-01T00:00:00.000Z\n", "up 2026-11-24T19:57:18.511Z\n", True),
        ("at http://127.0.0.1:40379\n", "at http://127.0.0.1:51234\n", True),
        ("at http://127.0.0.1:9000\n", "at http://127.0.0.1:9001\n", False),
        ("[1] 7\n", "", True),
    ],
)
def test_what_is_printed_is_compared_with_what_is_shown(shown: str, printed: str, same: bool) -> None:
    assert fits(shown, printed) is same
