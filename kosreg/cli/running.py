"""`kosreg run`: the node itself, in the foreground until SIGINT or SIGTERM.

stdout gets one thing, when the node is ready: where its API is, who it is, and what to try next (with --json one line
of JSON). Everything else that a node says is its log, on stderr.
"""

from __future__ import annotations

import contextlib
import gc
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kosreg.cli.shared import Cli, Exit, Refusal, command

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from kosreg.config import Settings


def add_to(app: typer.Typer) -> None:
    command(
        app,
        "run",
        example=[
            "kosreg run",
            "kosreg run --data-dir /srv/kosreg --name berlin-1 --federation off",
            "kosreg run --api unix:/run/kosreg/api.sock",
        ],
        talks=False,
    )(run)


def run(
    cli: Cli,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", show_default=False, help="Settings (TOML); else kosreg.toml in the data directory."
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", show_default=False, help="What people call this node (the host's name)."),
    ] = None,
    api: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT|unix:PATH", show_default=False, help="Where agents reach it (127.0.0.1:7480)."),
    ] = None,
    federation: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT|off",
            show_default=False,
            help="Where other nodes will reach it (0.0.0.0:7481).",
        ),
    ] = None,
) -> None:
    """Runs a node until Ctrl-C. Makes its keys and its store at the first start."""
    gc.disable()  # until the daemon is ready: what a start makes stays
    from kosreg.config import ConfigError, load
    from kosreg.paths import DataDirError, make_data_dir

    directory = cli.data_dir
    options = {"node.name": name, "api.listen": api or cli.shared.api, "federation.listen": federation}
    try:
        make_data_dir(directory)
        settings = load(directory, config, options)
    except ConfigError as error:
        raise Refusal("\n  ".join(["the settings cannot be used:", *error.lines]), Exit.USAGE) from None
    except DataDirError as error:
        raise Refusal(f"{error.title}: {error}") from None
    code = serve(settings, directory, cli)
    if code:
        raise typer.Exit(code)


def serve(settings: Settings, directory: Path, cli: Cli) -> int:
    """Runs the daemon until it ends; its exit code. What keeps it from starting ends the command with the reason."""
    import asyncio

    from federation.identity import KeyFileError
    from federation.replica import Damaged
    from kosreg import daemon, log
    from kosreg.store import StoreError

    def ready(running: Mapping[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):  # a node does not end because nobody reads its banner
            if cli.json:
                cli.answer_json({**running, "data_dir": str(directory)})
            else:
                cli.answer(banner(running, directory))

    log.configure(settings.log.level, settings.log.format)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(daemon.main(settings, directory, ready))
    except (KeyFileError, StoreError, Damaged, OSError) as error:
        raise Refusal(f"the node cannot start: {error}") from None


def _loop_factory() -> Callable[[], AbstractEventLoop] | None:
    """uvloop's where it is installed (not on Windows): twice the requests a second."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def banner(running: Mapping[str, Any], directory: Path) -> str:
    """What a person wants to know who has just started a node: commands that work as they stand in any terminal."""
    kosreg, where = called(), "" if _is_usual(directory) else f" --data-dir {shlex.quote(str(directory))}"
    return "\n".join(
        (
            f"kosreg {running['version']} is running: {running['name']}",
            f"  node  {running['did']}",
            f"  API   {running['api']}",
            f"  data  {directory}",
            "Try next, in another terminal:",
            f"  {kosreg} status{where}",
            f"  {kosreg} services register{where} --name Echo --type agent --url http://127.0.0.1:9000",
            f"  {kosreg} services watch{where}",
        )
    )


def _is_usual(directory: Path) -> bool:
    """Whether a command finds this directory without being told, in whatever terminal."""
    from kosreg.paths import data_dir

    return "XDG_DATA_HOME" not in os.environ and directory == data_dir(environ={})


def called() -> str:
    """How this command is called from another terminal: by its path where PATH does not lead to it, as after
    `make run`, which starts the one of the virtual environment."""
    own = Path(sys.argv[0])
    found = shutil.which("kosreg")
    if own.name != "kosreg" or not own.exists() or (found is not None and own.samefile(found)):
        return "kosreg"
    return shlex.quote(str(own.absolute()))
