"""`kosreg peers`: whom this node trusts, how two nodes come to trust each other, and how their links are."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from kosreg.cli.shared import Cli, clean, command, group, usage
from kosreg.durations import parse_duration

if TYPE_CHECKING:
    from kosreg.client.http import Client

POLL = 0.1  # s between two looks at a first sync
PATIENCE = 20.0  # s without news of it: it goes on by itself, and nobody has to watch
MAX_LINE = 8192  # characters read from stdin

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Join other nodes, and decide whom to trust.")


@group(app, example=["kosreg peers invite", "kosreg peers join kosreg1:…", "kosreg peers list"])
def peers(cli: Cli) -> None:
    pass


Did = Annotated[str, typer.Argument(metavar="DID", show_default=False, help="Its key, from `kosreg peers list`.")]


@command(
    app,
    "invite",
    example=["kosreg peers invite", "kosreg peers invite --ttl 10m | ssh other-host kosreg peers join -"],
)
def invite(
    cli: Cli,
    ttl: Annotated[
        str | None, typer.Option(metavar="SPAN", show_default=False, help="How long it is good: 10m, 1d (1h).")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", show_default=False, help="What its joiner is called here (its own name)."),
    ] = None,
) -> None:
    """Prints an invite for one other node: one line, and nothing else."""
    wish: dict[str, Any] = {}
    if ttl is not None:
        try:
            wish["ttl"] = parse_duration(ttl)
        except ValueError as error:
            usage(f"--ttl: {error}")
    if name is not None:
        wish["name"] = name
    body = cli.run(_call(cli, "POST", "/api/peers/invites", wish))
    cli.answer(body if cli.json else str(json.loads(body)["line"]))


@command(app, "invites", example="kosreg peers invites")
def invites(cli: Cli) -> None:
    """Lists the invites of this node, and who used them."""
    body = cli.run(_call(cli, "GET", "/api/peers/invites"))
    if cli.json:
        cli.answer(body)
        return
    from kosreg.cli.show import ago, table

    found = json.loads(body)["invites"]
    if not found:
        cli.note("no invites; make one with: kosreg peers invite")
        return
    table(
        ["ID", "STATE", "EXPIRES", "NAME", "JOINER"],
        ([one["id"], one["state"], ago(one["expires"]), one.get("name"), one.get("joiner")] for one in found),
        optional=("NAME",),
    )


@command(
    app, "join", example=["kosreg peers join kosreg1:…", "ssh other-host kosreg peers invite | kosreg peers join -"]
)
def join(
    cli: Cli,
    line: Annotated[
        str,
        typer.Argument(metavar="LINE|-", show_default=False, help="What `kosreg peers invite` printed; - is stdin."),
    ],
    wait: Annotated[bool, typer.Option(help="Wait until this node has all that it may have of the other.")] = True,
) -> None:
    """Joins the node that gave the invite. Ends when trust is mutual and the first sync is done."""
    if line == "-":
        line = sys.stdin.read(MAX_LINE)
    body = cli.run(_join(cli, line, wait))
    if cli.json:
        cli.answer_json(body)
        return
    from kosreg.cli.show import pairs

    other, own = body["peer"], body["self"]
    pairs(
        [
            ("joined", other["name"]),
            ("", other["did"]),
            ("fingerprint", other["fingerprint"]),
            ("this node", own["name"]),
            ("", own["did"]),
            ("fingerprint", own["fingerprint"]),
        ]
    )
    sync = body.get("sync")
    if sync is None:
        cli.note("trust is mutual; see how the link is with: kosreg peers list")
    elif not sync["synced"]:
        cli.note("trust is mutual; the first sync goes on: kosreg peers list")


async def _join(cli: Cli, line: str, wait: bool) -> dict[str, Any]:
    async with cli.client() as client:
        said: dict[str, Any] = (await client.call("POST", "/api/peers/join", body={"line": line.strip()})).object()
        if wait:
            said["sync"] = await _first_sync(cli, client, said["peer"]["did"])
        return said


async def _first_sync(cli: Cli, client: Client, did: str) -> dict[str, Any] | None:
    """Until this node has what the peer has, or nothing has come for some time. None where there is no link."""
    seen: tuple[int, int] | None = None
    news = time.monotonic()
    with _bar(cli) as show:
        while True:
            peer: dict[str, Any] = (await client.call("GET", _path(did))).object()
            sync: dict[str, Any] | None = peer.get("sync")
            if sync is not None:
                show(sync["received"], sync["expected"])
                held = (sync["received"], peer["held"])
                if sync["synced"] and held == seen:  # what came last is on disk, too
                    return sync
                if held != seen:
                    seen, news = held, time.monotonic()
            if time.monotonic() - news > PATIENCE:
                return sync
            await asyncio.sleep(POLL)


@contextlib.contextmanager
def _bar(cli: Cli) -> Iterator[Callable[[int, int], None]]:
    """Shows on stderr how far a sync is: a bar for people, a line every two seconds in a log."""
    if not cli.json and sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("first sync"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("", total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total or None)
        return
    said = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal said
        if time.monotonic() - said > 2:
            said = time.monotonic()
            cli.note(f"first sync: {done} of {total} entries")

    yield show


@command(
    app,
    "trust",
    example=[
        "kosreg peers trust did:key:z6Mk… --address berlin.example:7481",
        "kosreg peers trust did:key:z6Mk… --root --name acme --class public",
    ],
)
def trust(
    cli: Cli,
    did: Did,
    address: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST:PORT", show_default=False, help="Where to dial it; repeat for more, at most 4."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", show_default=False, help="What it is called here.")
    ] = None,
    root: Annotated[bool, typer.Option("--root", help="It is the root key of a federation, not a node.")] = False,
    cls: Annotated[
        list[str] | None,
        typer.Option("--class", metavar="CLASS", show_default=False, help="public, internal: what it may bring."),
    ] = None,
    type_: Annotated[
        list[str] | None,
        typer.Option("--type", metavar="TYPE", show_default=False, help="Show only records of this type; repeat."),
    ] = None,
    tag: Annotated[
        list[str] | None,
        typer.Option(metavar="TAG", show_default=False, help="Show only records with this tag; repeat."),
    ] = None,
    records: Annotated[
        int | None, typer.Option(metavar="N", min=0, show_default=False, help="How many records it may bring.")
    ] = None,
) -> None:
    """Trusts a key here, or changes what is trusted in it. The other side decides for itself."""
    wish: dict[str, Any] = {"did": did}
    if root:
        wish["role"] = "root"
    scope = {"classes": cls, "types": type_, "tags": tag, "records": records}
    scope = {field: value for field, value in scope.items() if value is not None}
    wish |= {field: value for field, value in (("addresses", address), ("name", name)) if value is not None}
    if scope:
        wish["scope"] = scope
    body = cli.run(_call(cli, "POST", "/api/peers", wish))
    if cli.json:
        cli.answer(body)
        return
    peer = json.loads(body)
    cli.answer(clean(peer["did"]))
    cli.note(f"trusted; compare its fingerprint: {clean(peer['fingerprint'])}")


@command(app, "list", example=["kosreg peers list", "kosreg peers list --json | jq -r '.peers[].did'"])
def list_peers(cli: Cli) -> None:
    """Lists the keys that are trusted, or revoked, here, and how the links are."""
    body = cli.run(_call(cli, "GET", "/api/peers"))
    if cli.json:
        cli.answer(body)
        return
    from kosreg.cli.show import styled, table

    found = json.loads(body)["peers"]
    if not found:
        cli.note("no peers; invite one with: kosreg peers invite")
        return
    table(
        ["NAME", "DID", "STATE", "ROLE", "RTT", "CLOCK", "LAG", "DIFFER", "HELD", "REFUSED", "ERROR"],
        (
            [
                peer["name"],
                peer["did"],
                styled(_state(peer), _STYLES),
                peer["role"],
                _milliseconds(_of(peer, "link").get("rtt_ms")),
                _clock(_of(peer, "link").get("offset_ms")),
                _milliseconds(_of(peer, "sync").get("lag_ms")),
                _of(peer, "sync").get("differing"),
                peer["held"],
                _reasons(_of(peer, "sync").get("refused")),
                _of(peer, "link").get("error") if _state(peer) != "up" else "",
            ]
            for peer in found
        ),
        optional=("ERROR", "REFUSED", "HELD", "ROLE", "LAG", "CLOCK", "RTT"),
    )


@command(app, "show", example="kosreg peers show did:key:z6Mk…")
def show(cli: Cli, did: Did) -> None:
    """Shows one of them: its fingerprint, scope, link, and what the two sides hold."""
    body = cli.run(_call(cli, "GET", _path(did)))
    if cli.json:
        cli.answer(body)
        return
    from kosreg.cli.show import ago, local_time, pairs, span

    peer = json.loads(body)
    scope, link, sync = peer["scope"], _of(peer, "link"), _of(peer, "sync")
    pairs(
        [
            ("name", peer["name"]),
            ("key", peer["did"]),
            ("fingerprint", peer["fingerprint"]),
            ("role", peer["role"]),
            ("state", _state(peer)),
            ("addresses", peer["addresses"]),
            ("trusted since", f"{local_time(peer['added'])} ({ago(peer['added'])})" if "added" in peer else None),
            ("certified by", peer["roots"]),
            ("may bring", ", ".join(scope["classes"]) or "nothing"),
            ("types", scope["types"]),
            ("tags", scope["tags"]),
            ("records", scope["records"]),
            ("link", f"{'to' if link['dialled'] else 'from'} {link['address']}" if link.get("address") else None),
            ("up for", span(link["up_ms"] / 1000) if link.get("state") == "up" else None),
            ("round trip", _milliseconds(link.get("rtt_ms"))),
            ("its clock", _clock(link.get("offset_ms"))),
            ("bytes", f"{link['bytes_in']} in, {link['bytes_out']} out, {link['queued']} waiting" if link else None),
            ("held", peer["held"]),
            (
                "first sync",
                ("done" if sync["synced"] else f"{sync['received']} of {sync['expected']}") if sync else None,
            ),
            ("differing", sync.get("differing")),
            ("lag", _milliseconds(sync.get("lag_ms"))),
            ("refused", _reasons(sync.get("refused"))),
            ("last error", link.get("error")),
        ]
    )


@command(
    app, "revoke", example=["kosreg peers revoke did:key:z6Mk…", "kosreg peers revoke did:key:z6Mk… --purge --yes"]
)
def revoke(
    cli: Cli,
    did: Did,
    purge: Annotated[bool, typer.Option("--purge", help="Also drop all that is held of it.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Believes a key in nothing any more, whatever others say of it, and hides what it said. Prints its DID."""
    cli.sure(f"Revoke {clean(did)}{' and drop all that is held of it' if purge else ''}?", yes)
    query = [("purge", "true")] if purge else []
    body = cli.run(_call(cli, "DELETE", _path(did), query=query))
    if cli.json:
        cli.answer(body)
        return
    said = json.loads(body)
    cli.answer(clean(said["did"]))
    cli.note(f"revoked; {said['purged']} entries were dropped" if purge else "revoked")


@command(app, "restore", example="kosreg peers restore did:key:z6Mk…")
def restore(cli: Cli, did: Did) -> None:
    """Undoes a revoke: what was trusted in the key before is trusted again. Prints its DID."""
    body = cli.run(_call(cli, "POST", f"{_path(did)}/restore"))
    if cli.json:
        cli.answer(body) if body else cli.answer_json({"did": did})
        return
    cli.answer(clean(json.loads(body)["did"] if body else did))
    cli.note("restored")


_STYLES = {"up": "green", "revoked": "red", "backoff": "yellow", "connecting": "yellow", "waiting": "yellow"}


def _state(peer: Mapping[str, Any]) -> str:
    if peer.get("revoked"):
        return "revoked"
    if peer["role"] == "root":
        return "trusted"
    return str(_of(peer, "link").get("state") or "no link")


def _of(peer: Mapping[str, Any], part: str) -> Mapping[str, Any]:
    value = peer.get(part)
    return value if isinstance(value, Mapping) else {}


def _milliseconds(value: Any) -> str | None:
    if value is None:
        return None
    return f"{value:.1f} ms" if value < 10 else f"{value:.0f} ms" if value < 10_000 else f"{value / 1000:.0f} s"


def _clock(offset: Any) -> str | None:
    """How far the peer's clock is ahead of ours, or behind."""
    if offset is None:
        return None
    from kosreg.cli.show import span

    if abs(offset) < 1000:
        return f"{offset:+d} ms"
    return f"{span(abs(offset) / 1000)} {'ahead' if offset > 0 else 'behind'}"


def _reasons(refused: Mapping[str, int] | None) -> str:
    return ", ".join(f"{count} {why}" for why, count in (refused or {}).items())


def _path(did: str) -> str:
    return f"/api/peers/{quote(did, safe='')}"


async def _call(cli: Cli, method: str, path: str, body: object = None, query: Any = ()) -> bytes:
    async with cli.client() as client:
        return (await client.call(method, path, body=body, query=query)).body
