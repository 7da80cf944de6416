"""`kosreg key`: which key this node has, and its change for the next one."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kosreg.cli.shared import Cli, Refusal, clean, command, group

if TYPE_CHECKING:
    from kosreg.client.http import Client

WITHIN = 120.0  # s for a node to end, to sign what it said, and to start again

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Show this node's key, or change it.")


@group(app, example=["kosreg key show", "kosreg key rotate"])
def key(cli: Cli) -> None:
    pass


@command(app, "show", example=["kosreg key show", "kosreg key show --json | jq -r .next"])
def show(cli: Cli) -> None:
    """Shows the node's DID, its fingerprint, the hash of the next key, and which keys were changed for which."""
    body = cli.run(_show(cli))
    if cli.json:
        cli.answer(body)
        return
    from kosreg.cli.show import pairs, table

    told = json.loads(body)
    pairs(
        [
            ("key", told["did"]),
            ("fingerprint", told["fingerprint"]),
            ("next key", f"sha256 {told['next']}"),
            ("former keys", told["former"]),
        ]
    )
    if told["successions"]:
        cli.answer("")
        table(
            ["OLD", "NEW", ""],
            (
                [one["old"], one["new"], "frozen" if one.get("frozen") else "this node" if one["own"] else ""]
                for one in told["successions"]
            ),
        )


async def _show(cli: Cli) -> bytes:
    async with cli.client() as client:
        return (await client.call("GET", "/api/key")).body


@command(app, "rotate", example=["kosreg key rotate", "kosreg key rotate --yes"])
def rotate(
    cli: Cli,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Changes the node's key for its next one, and prints the new DID. Peers follow by themselves.

    A running node starts again for it. The old key is removed, and a new next key made: keep a backup of node.key and
    next.key in the data directory, apart from each other."""
    from kosreg.client.errors import NotRunning

    cli.sure("Change the key of this node? The old one is removed.", yes)
    try:
        client = cli.client()
    except NotRunning:
        told = _offline(cli)
    else:
        told = cli.run(_online(cli, client))
    if cli.json:
        cli.answer_json(told)
        return
    cli.answer(clean(told["new"]))
    cli.note("the key is changed; keep a backup of node.key and next.key, apart from each other")


async def _online(cli: Cli, client: Client) -> dict[str, Any]:
    from kosreg.client.errors import ClientError

    async with client:
        told: dict[str, Any] = (await client.call("POST", "/api/key/rotate")).object()
    deadline = time.monotonic() + WITHIN
    while time.monotonic() < deadline:
        await asyncio.sleep(0.1)
        try:
            async with cli.client() as again:
                did = (await again.call("GET", "/api/key")).object()["did"]
        except ClientError:  # it ends, or starts
            continue
        if did == told["new"]:
            return told
    raise Refusal(f"the node has not come back as {told['new']} within {WITHIN:.0f} s; see its log")


def _offline(cli: Cli) -> dict[str, Any]:
    from federation.identity import NODE_KEY_FILE, KeyFileError
    from kosreg import log
    from kosreg.config import ConfigError
    from kosreg.config import load as load_settings
    from kosreg.key_change import change_key
    from kosreg.store import StoreError

    if not (cli.data_dir / NODE_KEY_FILE).exists():
        raise Refusal(f"there is no node in {cli.data_dir}")
    log.configure("warning", "auto")
    try:
        settings = load_settings(cli.data_dir)
        old, new = asyncio.run(change_key(settings.store_url, cli.data_dir, "admin"))
    except (KeyFileError, StoreError, ConfigError) as error:
        raise Refusal(f"no node runs here, and its key cannot be changed: {error}") from None
    return {"old": old, "new": new}
