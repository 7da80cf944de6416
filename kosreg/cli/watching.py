"""`kosreg services watch`: what changes, as it changes, until Ctrl-C.

With --json every line is a frame of the node's WebSocket as it came: first the snapshot, then one event a line; an
event's `cursor` given back as --since goes on from there. A node that restarts is waited for, and nothing is missed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
import sys
from contextlib import aclosing
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kosreg.cli.filters import (
    AnyTag,
    Capability,
    Origin,
    Owner,
    Status,
    Tag,
    Type,
    Visibility,
    Words,
    criteria,
)
from kosreg.cli.services import app
from kosreg.cli.shared import Cli, clean, command

if TYPE_CHECKING:
    from rich.console import Console

    from kosreg.client.stream import Frame


@command(
    app,
    "watch",
    example=[
        "kosreg services watch --tag llm",
        "kosreg services watch --changes --count 1 --json --type agent",
        "kosreg services watch --json | jq -r 'select(.event == \"offline\") | .service.id'",
    ],
)
def watch_services(
    cli: Cli,
    tag: Tag = None,
    any_tag: AnyTag = None,
    type_: Type = None,
    owner: Owner = None,
    status: Status = None,
    visibility: Visibility = None,
    origin: Origin = None,
    capability: Capability = None,
    words: Words = None,
    changes: Annotated[bool, typer.Option("--changes", help="Only what changes, not what is there already.")] = False,
    since: Annotated[
        str | None, typer.Option(metavar="CURSOR", show_default=False, help="Go on after this cursor of an event.")
    ] = None,
    count: Annotated[
        int | None, typer.Option(min=1, metavar="N", show_default=False, help="End after so many events.")
    ] = None,
) -> None:
    """Shows services as they come, change and go. Ends on Ctrl-C, or when whoever reads the output has gone."""
    wish = criteria(tag, any_tag, type_, owner, status, visibility, origin, capability, words)
    cli.run(_until_told(_watch(cli, wish, changes, since, count)))


async def _watch(cli: Cli, wish: dict[str, Any], changes: bool, since: str | None, count: int | None) -> None:
    from kosreg.client.stream import follow

    show = _Printer(cli)
    left = count
    first = True
    stream = follow(cli.target, wish, since=since, lost=lambda why: cli.warn(f"{why}; waiting for it"))
    async with aclosing(stream) as frames:
        async for frame in frames:
            if frame.op == "snapshot" and (changes or not first) and not frame.value.get("reset"):
                continue
            if frame.op == "snapshot":
                first = bool(frame.value.get("more"))
            show.frame(frame)
            if frame.op == "event" and left is not None:
                left -= 1
                if not left:
                    return


class _Printer:
    """Frames on stdout, each at once."""

    def __init__(self, cli: Cli) -> None:
        self._cli = cli
        self._console: Console | None = None

    def frame(self, frame: Frame) -> None:
        if self._cli.json:
            self._cli.answer(frame.text)
        elif frame.op == "snapshot":
            for service in frame.services:
                self._line(None, str(service.get("status", "")), service)
        elif frame.op == "event":
            self._line(frame.value.get("at"), str(frame.value.get("event", "")), frame.value.get("service") or {})
        elif frame.op == "lagged":
            self._cli.note(f"this reader was slow: {frame.value.get('merged')} changes were merged into the newest")

    def _line(self, at: object, word: str, service: dict[str, Any]) -> None:
        from rich.text import Text

        from kosreg.cli.show import EVENT_STYLES, console, when

        if self._console is None:
            self._console = console()
        moment = when(at)
        clock = (moment or datetime.now().astimezone()).astimezone().strftime("%H:%M:%S") if at else "        "
        live = service.get("liveness")
        reason = live.get("reason") if isinstance(live, dict) and word in ("offline", "degraded") else None
        text = Text().append(f"{clock}  ", style="dim")  # not Text(…, style): that would be the style of all of it
        text.append(f"{clean(word):<12}", style=EVENT_STYLES.get(word, ""))
        text.append(f"  {clean(str(service.get('id', '')))}  {clean(str(service.get('name', '')))}")
        text.append(f"  {clean(str(service.get('url') or service.get('klp') or ''))}", style="dim")
        if reason:
            text.append(f"  {clean(str(reason))}", style="dim")
        self._console.print(text, soft_wrap=True)
        sys.stdout.flush()


async def _until_told(work: Any) -> None:
    """Runs it until it is done, until SIGINT or SIGTERM, or until nobody reads stdout any more.

    Both signals and a closed pipe are the ordinary ends of watching, so none of them is an error.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work)
    stop = task.cancel
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    piped = _is_pipe()
    if piped:
        # The system marks the writing end of a pipe readable (EPOLLERR) when its last reader has gone: without this a
        # watch behind `head -1` would stay until the next event.
        loop.add_reader(1, stop)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await task
    finally:
        if piped:
            loop.remove_reader(1)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def _is_pipe() -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(1).st_mode)
    except OSError:
        return False
