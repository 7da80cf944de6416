"""`kosreg status`: one screen about the node that runs here."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import typer

from kosreg.cli.shared import Cli, command

STATUSES = ("active", "degraded", "offline")


def add_to(app: typer.Typer) -> None:
    command(app, "status", example=["kosreg status", "kosreg status --json | jq -r .did"])(status)


def status(cli: Cli) -> None:
    """Shows who the node is, where it listens, since when, how its services are, and what its store did."""
    node, ready = cli.run(_ask(cli))
    if cli.json:
        cli.answer(node)
    else:
        show(json.loads(node), ready)


async def _ask(cli: Cli) -> tuple[bytes, Mapping[str, Any]]:
    """The bodies of /api/node, as it came, and of /readyz."""
    async with cli.client() as client:
        node, ready = await asyncio.gather(client.call("GET", "/api/node"), client.call("GET", "/readyz"))
        return node.body, ready.object()


def show(node: Mapping[str, Any], ready: Mapping[str, Any]) -> None:
    """The screen for people."""
    from rich.text import Text

    from kosreg.cli.show import STATUS_STYLES, ago, local_time, pairs

    counts = Text(str(sum(node["services"].values())))
    for name in STATUSES:
        if number := node["services"].get(name):
            counts.append("   ").append(f"{number} {name}", style=STATUS_STYLES[name])
    pairs(
        [
            ("name", node["name"]),
            ("node", node["did"]),
            ("", node["kind_did"]),
            ("version", node["version"]),
            ("API", node["api"]),
            ("federation", node["root"] or "none"),
            ("peers", f"{node['peers']} trusted, {node['links']} linked; listening on {node['federation']}"),
            ("other nodes", _nodes(node)),
            ("up since", f"{local_time(node['started'])} ({ago(node['started'])})"),
            ("services", counts),
            ("watched by", f"{node['websockets']} WebSockets" if node["websockets"] else None),
            ("store", _store(ready.get("store"))),
        ]
    )


def _nodes(node: Mapping[str, Any]) -> str | None:
    """None where there are none."""
    counts = ", ".join(f"{count} {word}" for word, count in node["nodes"].items() if count)
    return f"{counts}; THIS NODE IS CUT OFF FROM MOST OF THEM" if node["isolated"] else counts or None


def _store(stats: Mapping[str, Any] | None) -> str | None:
    """What the store did since the start; None where the caller may not know."""
    if stats is None:
        return None
    text = f"{stats['rows']} rows written in {stats['commits']} commits"
    if stats["waiting"]:
        text += f", {stats['waiting']} waiting"
    if stats["failed"]:
        text += f", {stats['failed']} failed: see the node's log"
    return text
