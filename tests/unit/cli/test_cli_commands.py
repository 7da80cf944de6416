"""The command line without a node: help, options anywhere, exit codes, what goes to which stream."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner, Result

from kosreg.cli import services, shared
from kosreg.cli.filters import criteria, pairs_of
from kosreg.cli.main import app
from kosreg.client.errors import ApiError, CannotRead, NotRunning


def call(*arguments: str, input: str | None = None, env: dict[str, str] | None = None) -> Result:
    clean = {"KOSREG_DATA_DIR": "", "KOSREG_API": "", "KOSREG_TOKEN": "", "STATE_DIRECTORY": ""}
    return CliRunner().invoke(app, list(arguments), input=input, env=clean | (env or {}), prog_name="kosreg")


def commands(group: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command and every group of them, as words."""
    group = group or typer.main.get_command(app)
    yield path
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name)) if hasattr(command, "commands") else [(*path, name)]


ALL = list(commands())


def test_the_commands_are_those_that_were_asked_for() -> None:
    asked = {"run", "status", "doctor", "token issue", "token list", "token revoke"} | {
        f"services {name}"
        for name in ("list", "get", "register", "update", "rm", "watch", "import", "export", "verify")
    }
    assert asked <= {" ".join(path) for path in ALL}


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_help_has_an_example_of_the_command_itself(path: tuple[str, ...]) -> None:
    shown = call(*path, "--help")
    assert shown.exit_code == 0
    _, _, examples = shown.output.partition("Example")
    assert " ".join(("kosreg", *path)) in examples
    for option in ("--data-dir", "--json"):
        assert option in shown.output


@pytest.mark.parametrize("path", [path for path in ALL if path], ids=" ".join)
def test_help_of_every_command_fits_a_narrow_terminal_but_for_its_examples(path: tuple[str, ...]) -> None:
    shown, _, _ = call(*path, "--help").output.partition("Example")
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize(
    "words",
    [
        ["--json", "--data-dir", "{dir}", "services", "list"],
        ["services", "--json", "--data-dir", "{dir}", "list"],
        ["services", "list", "--json", "--data-dir", "{dir}"],
        ["--json", "services", "--data-dir", "{dir}", "list"],
    ],
)
def test_shared_options_stand_anywhere(words: list[str], tmp_path: Path) -> None:
    shown = call(*(word.format(dir=tmp_path) for word in words))
    assert shown.exit_code == 3
    assert shown.stdout == ""
    assert str(tmp_path) in json.loads(shown.stderr)["detail"]


def test_the_later_of_two_data_directories_wins(tmp_path: Path) -> None:
    shown = call("--data-dir", "/nowhere", "services", "list", "--data-dir", str(tmp_path))
    assert str(tmp_path) in shown.stderr
    assert "/nowhere" not in shown.stderr


def test_the_data_directory_may_come_from_the_environment(tmp_path: Path) -> None:
    shown = call("services", "list", env={"KOSREG_DATA_DIR": str(tmp_path)})
    assert (shown.exit_code, str(tmp_path) in shown.stderr) == (3, True)


def test_a_node_that_does_not_run_is_one_line_that_says_how_to_start_it(tmp_path: Path) -> None:
    shown = call("services", "list", "--data-dir", str(tmp_path))
    assert shown.exit_code == 3
    assert len(shown.stderr.splitlines()) == 1
    assert f"kosreg run --data-dir {tmp_path}" in shown.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["services", "list", "--nonsense"],
        ["services", "nonsense"],
        ["services", "get"],
        ["services", "list", "--limit", "0"],
        ["services", "list", "--all", "--limit", "3"],
        ["services", "get", "a", "--signed", "xml"],
        ["services", "update", "a"],
        ["services", "update", "a", "--set", "nonsense"],
        ["services", "register"],
        ["services", "register", "--name", "x", "--meta", "x"],
        ["token", "issue", "x", "--ttl", "soon"],
        ["services", "list", "--api", "ftp://x"],
        ["--json"],
        [],
    ],
)
def test_a_mistake_in_the_call_is_exit_code_2_and_says_nothing_on_stdout(words: list[str]) -> None:
    shown = call(*words)
    assert (shown.exit_code, shown.stdout) == (2, "")
    assert shown.stderr


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for words in (["import"], ["verify"], ["register"]):
        shown = call("services", *words, str(tmp_path / "none.json"))
        assert shown.exit_code == 1
        assert "No such file" in shown.stderr


def test_a_list_is_no_record_and_the_text_names_the_command_that_takes_it(tmp_path: Path) -> None:
    shown = call("services", "register", "-", input="[]")
    assert shown.exit_code == 2
    assert "services import" in shown.stderr


def test_version_as_text_and_as_json() -> None:
    number = call("--version").stdout.split()[1]
    assert json.loads(call("--version", "--json").stdout) == {"version": number}
    assert json.loads(call("--json", "--version").stdout) == {"version": number}


def test_exit_codes_of_errors() -> None:
    assert shared.exit_code(ApiError(404, {}, b"")) == 4
    assert shared.exit_code(ApiError(403, {}, b"")) == 1
    assert shared.exit_code(NotRunning("x")) == 3
    assert shared.exit_code(CannotRead("x")) == 1


def test_a_problem_is_told_with_every_fault_and_as_json_as_it_came() -> None:
    body = (
        b'{"type":"urn:kosreg:problem:invalid","title":"Invalid","errors":[{"pointer":"/name","detail":"is required"}]}'
    )
    error = ApiError(422, json.loads(body), body)
    assert error.slug == "invalid"
    assert shared.explain(error, as_json=False).splitlines() == ["kosreg: Invalid", "  /name: is required"]
    assert shared.explain(error, as_json=True).encode() == body


def test_foreign_text_cannot_steer_a_terminal() -> None:
    assert "\x1b" not in shared.clean("\x1b[31mred\x1b[0m\u202e")
    assert shared.clean("Grüße 👩‍🔧") == "Grüße 👩‍🔧"


def test_filters_become_a_query_string_and_a_filter_object() -> None:
    wish = criteria(["a", "b"], None, ["agent"], None, None, None, None, None, "x y")
    assert wish == {"tag": ["a", "b"], "type": "agent", "q": "x y"}
    assert pairs_of(wish) == [("tag", "a"), ("tag", "b"), ("type", "agent"), ("q", "x y")]


def test_assignments_are_json_else_text_and_dots_go_within() -> None:
    changes: dict[str, Any] = {}
    for text in ("ttl=5", "name=x", "tags=[1]", "metadata.room=B12", "metadata.floor=2", "region=null"):
        services.place(changes, *services.assignment(text, "--set"))
    assert changes == {
        "ttl": 5, "name": "x", "tags": [1], "metadata": {"room": "B12", "floor": 2}, "region": None,
    }  # fmt: skip


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_the_command_line_starts_without_heavy_imports() -> None:
    loaded = run_python(
        "import sys, kosreg.cli.main;"
        "print([m for m in ('pydantic','sqlalchemy','aiohttp','rich','cryptography','orjson') if m in sys.modules])"
    )
    assert loaded.strip() == "[]"


def test_help_comes_at_once() -> None:
    """Counted in seconds of CPU, which a busy machine does not change much."""
    best = min(_cpu_seconds([sys.executable, "-c", "import kosreg.cli as c; c.main()", "--help"]) for _ in range(3))
    assert best < 0.4


def _cpu_seconds(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
