"""`kosreg peers join`: redeem an invite of another node, and follow the first sync until all is here.

That the two trust each other is told as soon as it is so. What comes after is waited for and no more: it goes on by
itself when nobody looks.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kosreg.cli.peers import app, path_of
from kosreg.cli.shared import Cli, Exit, Refusal, clean, command, usage
from kosreg.durations import parse_duration

if TYPE_CHECKING:
    from rich.progress import Progress

    from kosreg.client.http import Client

POLL = 0.1  # s between two looks at a first sync
QUICK = 0.5  # s: a sync that takes less needs no bar
STILL = 1.0  # s: what came before a node was found in sync is on disk by then, though others go on sending
MAX_LINE = 8192  # bytes read from stdin


@command(
    app, "join", example=["kosreg peers join kosreg1:…", "ssh other-host kosreg peers invite | kosreg peers join -"]
)
def join(
    cli: Cli,
    line: Annotated[
        str,
        typer.Argument(
            metavar="LINE|-",
            show_default=False,
            help="What `kosreg peers invite` printed; - is stdin, which keeps it out of the shell's history.",
        ),
    ],
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not wait for the first sync.")] = False,
    timeout: Annotated[
        str, typer.Option(metavar="SPAN", help="How long to wait for the first sync; then exit code 5.")
    ] = "10m",
) -> None:
    """Joins the node that gave the invite. Ends when trust is mutual and all that this node may have is here.

    The same line may be given again, whatever went wrong."""
    try:
        patience = parse_duration(timeout)
    except ValueError as error:
        usage(f"--timeout: {error}")
    line = checked(_from_stdin() if line == "-" else line)
    cli.run(_join(cli, line, None if no_wait else patience))


def _from_stdin() -> str:
    """The line of a pipe; of a terminal, what is pasted up to the first line's end."""
    stdin = sys.stdin.buffer
    raw = stdin.readline(MAX_LINE) if sys.stdin.isatty() else stdin.read(MAX_LINE)
    return raw.decode("utf-8", "replace")


def checked(line: str) -> str:
    """The invite without blanks around it. Ends the command where it is none, before any node is asked."""
    from kosreg.invites import InviteError, parse_line

    try:
        parse_line(line)
    except InviteError as error:
        raise Refusal(clean(str(error))) from None
    return line.strip()


async def _join(cli: Cli, line: str, patience: float | None) -> None:
    async with cli.client() as client:
        body = (await client.call("POST", "/api/peers/join", body={"line": line})).body
        joined = json.loads(body)
        if cli.json:
            cli.answer(body)
        else:
            show(joined)
        if patience is None:
            cli.note("trust is mutual; how the first sync goes: kosreg peers list")
            return
        missing = await follow(cli, client, joined["peer"]["did"], patience)
        if missing is not None:
            raise Refusal(missing, Exit.PARTLY)


def show(joined: Mapping[str, Any]) -> None:
    """Both sides, for two people to compare."""
    from kosreg.cli.show import pairs

    other, own = joined["peer"], joined["self"]
    pairs(
        [
            ("joined", other["name"]),
            ("", other["did"]),
            ("fingerprint", other["fingerprint"]),
            ("this node", own["name"]),
            ("", own["did"]),
            ("fingerprint", own["fingerprint"]),
            ("federation", joined.get("federation")),
        ]
    )


async def follow(cli: Cli, client: Client, did: str, patience: float) -> str | None:
    """Looks until this node has what the peer has: None. What is missing where that takes more than `patience` s, or
    where the peer was revoked meanwhile."""
    until = time.monotonic() + patience
    settled: tuple[int, int] | None = None
    since = 0.0
    with bar(cli) as show:
        while True:
            peer: dict[str, Any] = (await client.call("GET", path_of(did))).object()
            now = time.monotonic()
            sync: dict[str, Any] = peer.get("sync") or {}
            show(sync.get("received", 0), sync.get("expected", 0))
            if not sync.get("synced"):
                settled = None
            else:
                # Two looks, not one: what came last may wait for the disk, or one tree of entries be done and the next
                # not begun.
                held = sync["received"], peer["held"]
                if held == settled or (settled is not None and held[0] == settled[0] and now - since > STILL):
                    return None
                if settled is None or held[0] != settled[0]:
                    since = now
                settled = held
            if peer.get("revoked") or now >= until:
                return missing_of(peer, patience)
            await asyncio.sleep(min(POLL, until - now))


def missing_of(peer: Mapping[str, Any], patience: float) -> str:
    """Why a first sync is not done, and what to do about it."""
    from kosreg.cli.show import span

    name = clean(str(peer["name"] or peer["did"]))
    if peer.get("revoked"):
        return f"{name} was revoked here before the first sync was done"
    link, sync = peer.get("link") or {}, peer.get("sync")
    look = f"it goes on by itself: see `kosreg peers show {clean(str(peer['did']))}`"
    if not sync:
        why = f" ({clean(link['error'])})" if link.get("error") else ""
        return f"trust is mutual, but after {span(patience)} there is no link to {name}{why}; {look}"
    done = f"{sync['received']} of {max(sync['expected'], sync['received'])} entries"
    return f"trust is mutual, but the first sync with {name} is not done: {done} after {span(patience)}; {look}"


@contextlib.contextmanager
def bar(cli: Cli) -> Iterator[Callable[[int, int], None]]:
    """A function that shows on stderr how far a sync is: for people at a terminal, and if it takes a while."""
    begun = time.monotonic()
    progress: Progress | None = None
    seen = not cli.json and sys.stderr.isatty()
    with contextlib.ExitStack() as stack:

        def show(done: int, total: int) -> None:
            nonlocal progress
            if not seen or time.monotonic() - begun < QUICK:
                return
            if progress is None:
                progress = stack.enter_context(_progress())
                progress.add_task("first sync", total=None)
            progress.update(progress.task_ids[0], completed=done, total=max(done, total) or None)

        yield show


def _progress() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("entries"),
        TimeRemainingColumn(),
    )  # fmt: skip
    return Progress(*columns, console=Console(stderr=True), transient=True)
