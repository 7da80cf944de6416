"""What every command shares: the options that may stand anywhere, the way out, and the exit codes.

A command is a plain function whose first parameter is a `Cli`. `@command` (and `@group`) add the options of `SHARED`
to it, so that `kosreg --json services list`, `kosreg services --json list` and `kosreg services list --json` are the
same; where one is given twice, the later wins. It also insists on an example for `--help`, and turns errors into one
clear text on stderr and an exit code.

stdout holds the answer alone; whatever else is said goes to stderr. Nothing slow is imported before it is needed.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import sys
import unicodedata
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer

from kosreg.client.address import Address, Target, find_node, read_token
from kosreg.client.errors import ApiError, ClientError, Unreachable

if TYPE_CHECKING:
    from kosreg.client.http import Client

T = TypeVar("T")


class Exit(IntEnum):
    """What a command's end means to a script."""

    DONE = 0
    REFUSED = 1
    USAGE = 2
    UNREACHABLE = 3
    NOT_FOUND = 4
    PARTLY = 5


class Refusal(Exception):
    """A command cannot go on, for a reason that no node gave: a file that is not there, an answer of "no"."""

    def __init__(self, text: str, code: Exit = Exit.REFUSED) -> None:
        super().__init__(text)
        self.code = code


def usage(text: str) -> NoReturn:
    """Ends the command as a mistake in how it was called."""
    raise Refusal(text, Exit.USAGE)


@dataclass(frozen=True, slots=True)
class Shared:
    """The options that may stand at every level, as given so far; None: not given."""

    data_dir: Path | None = None
    as_json: bool | None = None
    api: str | None = None
    token_file: Path | None = None

    def over(self, other: Shared) -> Shared:
        """Mine where given, else the other's."""
        return Shared(
            *(mine if mine is not None else theirs for mine, theirs in zip(_values(self), _values(other), strict=True))
        )


def _values(shared: Shared) -> tuple[Any, ...]:
    return shared.data_dir, shared.as_json, shared.api, shared.token_file


_PANEL = "Options of every command"
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        metavar="DIR",
        rich_help_panel=_PANEL,
        show_default=False,
        help="The node's data directory [env: KOSREG_DATA_DIR; else $STATE_DIRECTORY, else the user's own].",
    ),
]
AsJson = Annotated[
    bool | None, typer.Option("--json", rich_help_panel=_PANEL, show_default=False, help="JSON for programs.")
]
Api = Annotated[
    str | None,
    typer.Option(
        "--api",
        metavar="ADDRESS",
        rich_help_panel=_PANEL,
        show_default=False,
        help="The node's API, if not the data directory's: URL, HOST:PORT or unix:PATH [env: KOSREG_API].",
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        metavar="FILE",
        rich_help_panel=_PANEL,
        show_default=False,
        help="Use the token in this file instead of the admin's [env: KOSREG_TOKEN holds the token itself].",
    ),
]
SHARED = {"data_dir": DataDir, "as_json": AsJson, "api": Api, "token_file": TokenFile}
LOCAL = ("data_dir", "as_json")
"""Those of a command that does not talk to a node."""


@dataclass(frozen=True, slots=True)
class Cli:
    """One call of the command: its shared options, and the ways to answer."""

    shared: Shared

    @property
    def json(self) -> bool:
        return bool(self.shared.as_json)

    @property
    def data_dir(self) -> Path:
        from kosreg.paths import data_dir

        return data_dir(self.shared.data_dir)

    def target(self) -> Target:
        """The node to talk to. Raises NotRunning, CannotRead, or Refusal for an address that is none."""
        token = os.environ.get("KOSREG_TOKEN", "").strip() or None
        if self.shared.token_file is not None:
            token = read_token(self.shared.token_file)
        url = self.shared.api or (os.environ.get("KOSREG_API") if self.shared.data_dir is None else None)
        if url:
            try:
                address = Address.parse(url)
            except ValueError as error:
                usage(f"the API address is not one: {error}")
            ca = os.environ.get("KOSREG_TLS_CA")
            return Target(address, token, ca=Path(ca) if ca else None)
        return find_node(self.data_dir, token)

    def client(self, connections: int = 8) -> Client:
        from kosreg.client.http import Client

        return Client(self.target(), connections=connections)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        import asyncio

        return asyncio.run(work)

    # Ways to say something.

    def answer(self, text: str | bytes) -> None:
        """The answer, on stdout, with a line's end."""
        raw = text if isinstance(text, bytes) else text.encode("utf-8", "replace")
        sys.stdout.flush()
        sys.stdout.buffer.write(raw if raw.endswith(b"\n") else raw + b"\n")
        sys.stdout.buffer.flush()

    def answer_json(self, value: object) -> None:
        """An answer that the command makes itself, as one line of JSON."""
        self.answer(json.dumps(value, ensure_ascii=False, separators=(",", ":")))

    def note(self, text: str) -> None:
        """For the person beside it, on stderr; a script that asked for JSON is spared it."""
        if not self.json:
            print(text, file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        """On stderr, always: something is not as it should be."""
        print(f"kosreg: {text}", file=sys.stderr, flush=True)

    def sure(self, question: str, yes: bool) -> None:
        """Asks, if there is anybody to ask; ends the command where the answer is no."""
        if yes or not sys.stdin.isatty():
            return
        print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise Refusal("nothing was done")


def exit_code(error: ClientError) -> Exit:
    """What an error of the node, or of the way to it, means to a script."""
    if isinstance(error, Unreachable):
        return Exit.UNREACHABLE
    if isinstance(error, ApiError) and error.status == 404:
        return Exit.NOT_FOUND
    return Exit.REFUSED


def explain(error: ClientError, as_json: bool) -> str:
    """The text for stderr. As JSON: the problem as the node sent it, or one of the same form."""
    if as_json:
        if isinstance(error, ApiError) and error.body:
            return error.body.decode("utf-8", "replace").rstrip("\n")
        return json.dumps({"title": error.title, "detail": error.detail, "hint": error.hint}, ensure_ascii=False)
    lines = [f"kosreg: {error}"]
    if isinstance(error, ApiError):
        lines += [
            f"  {fault.pointer or '(all of it)'}: {fault.detail}"
            for fault in error.faults
            if fault.detail not in error.detail  # one fault alone is the detail already
        ]
        if error.status == 401:
            lines += [
                "  your token goes into KOSREG_TOKEN, or into a file named by --token-file",
                "  (the admin's is only taken where neither --api nor KOSREG_API names the node)",
            ]
    return clean("\n".join(lines), keep="\n")


def clean(text: str, keep: str = "") -> str:
    """The text without control characters: a record's name must not move the cursor or recolour a terminal."""
    keep += "\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}"  # emoji and Persian are written with them
    return "".join(
        c if c in keep or unicodedata.category(c) not in _CONTROL else "\N{REPLACEMENT CHARACTER}" for c in text
    )


_CONTROL = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
"""Unicode categories that draw nothing and may do something: controls, bidirectional marks, line separators."""


def command(
    app: typer.Typer, name: str, *, example: str | Iterable[str], talks: bool = True
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Adds a command whose function takes a `Cli` first.

    `example`: one line or more for the end of `--help`. `talks`: whether it talks to a node (else no --api, no token).
    """

    def add(function: Callable[..., None]) -> Callable[..., None]:
        app.command(name, epilog=examples(example))(_with_shared(function, _call, tuple(SHARED) if talks else LOCAL))
        return function

    return add


def group(app: typer.Typer, *, example: str | Iterable[str], **settings: Any) -> Callable[[Callable[..., None]], None]:
    """Makes a function with a `Cli` first the callback of a group of commands."""

    def add(function: Callable[..., None]) -> None:
        app.callback(epilog=examples(example), **settings)(_with_shared(function, _remember))

    return add


def examples(lines: str | Iterable[str]) -> str:
    """The end of a help text; \\b keeps the layout from folding lines that one wants to copy."""
    rows = [lines] if isinstance(lines, str) else list(lines)
    return "\n".join(["\b", "Example:" if len(rows) == 1 else "Examples:", *(f"  {row}" for row in rows)])


def _with_shared(
    function: Callable[..., None],
    then: Callable[[typer.Context, Shared, Callable[[Cli], None]], None],
    names: tuple[str, ...] = tuple(SHARED),
) -> Callable[..., None]:
    """The function as typer sees it: its own parameters without the `Cli`, and the shared options."""
    own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
    wants_context = any(parameter.annotation is typer.Context for parameter in own)
    own = [parameter for parameter in own if parameter.annotation is not typer.Context]

    @functools.wraps(function)
    def outer(ctx: typer.Context, **values: Any) -> None:
        if wants_context:
            values["ctx"] = ctx
        given = Shared(**{name: values.pop(name) for name in names})
        before = ctx.parent.obj if ctx.parent is not None and isinstance(ctx.parent.obj, Shared) else Shared()
        then(ctx, given.over(before), lambda cli: function(cli, **values))

    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter("ctx", kind, annotation=typer.Context),
        *(parameter.replace(kind=kind) for parameter in own),
        *(inspect.Parameter(name, kind, default=None, annotation=SHARED[name]) for name in names),
    ]
    outer.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    outer.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return outer


def _remember(ctx: typer.Context, shared: Shared, function: Callable[[Cli], None]) -> None:
    ctx.obj = shared
    function(Cli(shared))


def _call(ctx: typer.Context, shared: Shared, function: Callable[[Cli], None]) -> None:
    """Runs a command; the one place where errors become words and exit codes."""
    try:
        function(Cli(shared))
    except ClientError as error:
        print(explain(error, bool(shared.as_json)), file=sys.stderr)
        raise typer.Exit(exit_code(error)) from None
    except Refusal as error:
        text = json.dumps({"title": str(error)}, ensure_ascii=False) if shared.as_json else f"kosreg: {error}"
        print(text, file=sys.stderr)
        raise typer.Exit(error.code) from None
    except BrokenPipeError:
        # Whoever read stdout has gone (`| head`): an ordinary end. Python would complain once more when it flushes
        # stdout at exit, so that goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(Exit.DONE) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
