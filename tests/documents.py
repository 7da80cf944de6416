"""Runs what a document shows: its commands in one shell, its Python in one namespace, and compares what they print.

In a Markdown file

- a `console` block holds commands (`$ `, continued by `> `) and what they print. All of a document's blocks share one
  bash, so that variables and background jobs go on. A line `…` stands for any lines, `…` in a line for any text.
- a `python` block is run with `await` allowed at the top, as `python -m asyncio` takes it; a `text` block right behind
  it is what it prints. One that is named (`python agent.py`) is a file, which commands can use.
- an `sh` block is for a machine's set-up: `tests/unit/test_docs.py` checks it, nobody runs it.

Times, keys, ids, ports and the like differ from run to run: both sides lose them before they are compared. What a
command prints may come late (a background job): it is waited for, with a deadline.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
WITHIN = 40.0  # s for one command
SHOWN_API = "127.0.0.1:7480"
SHOWN_HOME = "/home/ada"

_FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<body>.*?)^```$", re.DOTALL | re.MULTILINE)
_CHANGING = tuple(
    (re.compile(pattern), word)
    for pattern, word in (
        (r"kind:did:[\w+/=-]+#ed25519", "KIND-DID"),
        (r"did:key:z6Mk\w+", "DID"),
        (r"\b[a-z2-7]{4}(-[a-z2-7]{4}){5}\b", "FINGERPRINT"),
        (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?Z?", "TIME"),
        (r"\b\d\d:\d\d:\d\d\b", "CLOCK"),
        (r"\b(\d+ (s|min|h|d) ago|now)\b", "AGO"),
        (r"\b[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}\b", "UUID"),
        (r'"(version|cursor|next_cursor)": ?"[\w-]+"', r'"\1":"OPAQUE"'),
        (r"\b[0-9a-f]{64}\b", "HASH"),
        (r'"(request_id)": ?"[\w-]+"', r'"\1":"ID"'),
        (r"\b127\.0\.0\.1:[3-6]\d{4}\b", "127.0.0.1:PORT"),
        (r'"pid": \d+', '"pid": PID'),
        (r"\d+ rows written in \d+ commits", "rows written"),
        (r"\beyJ[\w-]+\.[\w-]+\.[\w-]+", "TOKEN"),
        (r"(?m)^(\[\d+\].*|.*: line \d+: +\d+ Killed.*)\n?", ""),  # what a shell says of its jobs
        (r"[ \t]+", " "),
    )
)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: the words behind its fence, its text, its line in the file."""

    kind: str
    name: str
    text: str
    line: int


def blocks(text: str) -> Iterator[Block]:
    """The fenced blocks of a document, in order."""
    for match in _FENCE.finditer(text):
        kind, _, name = match["info"].strip().partition(" ")
        yield Block(kind, name, match["body"], text.count("\n", 0, match.start()) + 2)


@dataclass(slots=True)
class Step:
    """A command and what it prints."""

    command: str
    printed: str
    line: int


def steps(block: Block) -> list[Step]:
    """The commands of a `console` block."""
    found: list[Step] = []
    for number, line in enumerate(block.text.splitlines(), block.line):
        if line.startswith("$ "):
            found.append(Step(line[2:], "", number))
        elif line.startswith("> ") and found and not found[-1].printed:
            found[-1].command += "\n" + line[2:]
        else:
            assert found, f"line {number}: a console block begins with a command"
            found[-1].printed += line + "\n"
    return found


def plain(text: str) -> str:
    """`text` without what differs from run to run."""
    for pattern, word in _CHANGING:
        text = pattern.sub(word, text)
    return "\n".join(line.rstrip() for line in text.splitlines()).strip()


def fits(shown: str, printed: str) -> bool:
    """Whether `printed` is what a document shows."""
    lines = plain(shown).splitlines()
    pattern = "".join(
        "(?:[^\n]*\n)*" if line == "…" else "[^\n]*?".join(map(re.escape, line.split("…"))) + "\n" for line in lines
    )
    return re.fullmatch(pattern, plain(printed) + "\n" if printed.strip() else "") is not None


class Shell:
    """One bash in a directory, whose prints are read as they come."""

    def __init__(self, process: asyncio.subprocess.Process, directory: Path) -> None:
        self._process = process
        self._directory = directory
        self._number = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def start(cls, directory: Path, environ: dict[str, str]) -> AsyncIterator[Shell]:
        """A shell, ended at the end with all that it started."""
        process = await asyncio.create_subprocess_exec(
            "bash", "--noprofile", "--norc",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            cwd=directory, env=environ, start_new_session=True,
        )  # fmt: skip
        try:
            yield cls(process, directory)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            assert process.stdout is not None
            await process.stdout.read()
            transport: Any = process._transport  # type: ignore[attr-defined]
            transport.close()

    async def run(self, step: Step, real: dict[str, str]) -> None:
        """Run one command; AssertionError where it does not print what is shown. `real`: shown → real places."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        command = step.command
        for shown, place in real.items():
            command = command.replace(shown, place)
        self._number += 1
        script = self._directory / f".step{self._number}.sh"
        script.write_text(command + "\n")
        done = f"--- done {self._number} ---"
        self._process.stdin.write(f". {script} < /dev/null\necho '{done}'\n".encode())
        printed, ended = "", False
        try:
            async with asyncio.timeout(WITHIN):
                while not (ended and fits(step.printed, printed)):
                    line = (await self._process.stdout.readline()).decode()
                    assert line, "the shell has ended"
                    if line.endswith(done + "\n"):
                        line, ended = line.removesuffix(done + "\n"), True
                    printed += line
                    for shown, place in real.items():
                        printed = printed.replace(place, shown)
        except TimeoutError:
            raise AssertionError(
                f"line {step.line}: $ {step.command}\n--- printed:\n{printed}\n--- shown:\n{step.printed}"
                f"\n--- compared:\n{plain(printed)}\n--- with:\n{plain(step.printed)}"
            ) from None


async def run_python(text: str, namespace: dict[str, Any], place: str) -> str:
    """Run a block; what it prints."""
    code = compile(text, place, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        result = eval(code, namespace)  # the documents are our own
        if inspect.isawaitable(result):
            async with asyncio.timeout(WITHIN):
                await result
    return out.getvalue()


def a_clone(directory: Path) -> None:
    """What a reader has after `make run`: the files, and a virtual environment with `kosreg` and `python`."""
    for path in ROOT.iterdir():
        if not path.name.startswith("."):
            (directory / path.name).symlink_to(path)
    programs = directory / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, arguments in {"python": "", "kosreg": "-c 'from kosreg.cli import main; main()' "}.items():
        program = programs / name
        program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} {arguments}"$@"\n')
        program.chmod(0o755)
    (programs / "activate").write_text(f"export PATH={programs}:$PATH\n")
