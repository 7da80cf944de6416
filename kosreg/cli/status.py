"""`kosreg status`: one screen about the node that runs here."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import typer

from kosreg.cli.shared import Cli, command

STATUSES = ("active", "degraded", "offline")


def add_to(app: typer.Typer) -> None:
    command(app, "status", example=["kosreg status", "kosreg status --json | jq -r .node.did"])(status)


def status(cli: Cli) -> None:
    """Shows who the node is, where it listens, since when, and how its services are."""
    body = cli.run(_status(cli))
    if cli.json:
        cli.answer_json(body)
    else:
        show(body, str(cli.target().address))


async def _status(cli: Cli) -> dict[str, Any]:
    """`node`: the body of GET /api/node. `services`: how many this caller may see, in all and by status."""
    async with cli.client() as client:

        async def count(query: list[tuple[str, str]]) -> int:
            page = await client.call("GET", "/api/services", query=[*query, ("limit", "1"), ("fields", "id")])
            return int(page.object().get("total", 0))

        whole = asyncio.gather(count([]), *(count([("status", name)]) for name in STATUSES))
        node, (total, *numbers) = await asyncio.gather(client.call("GET", "/api/node"), whole)
        return {"node": node.object(), "services": {"total": total, **dict(zip(STATUSES, numbers, strict=True))}}


def show(body: Mapping[str, Any], api: str) -> None:
    """The screen for people."""
    from rich.text import Text

    from kosreg.cli.show import STATUS_STYLES, ago, local_time, pairs

    node, services = body["node"], body["services"]
    counts = Text(f"{services['total']}")
    for name in STATUSES:
        if services[name]:
            counts.append("   ").append(f"{services[name]} {name}", style=STATUS_STYLES[name])
    started = node.get("started") or node.get("up_since")
    rows: list[tuple[str, object]] = [
        ("node", node.get("did")),
        ("name", node.get("name")),
        ("version", node.get("version")),
        ("API", api),
        ("federation", node.get("federation")),
        ("up since", f"{local_time(started)} ({ago(started)})" if started else None),
        ("services", counts),
        ("store", node.get("store")),
    ]
    pairs(rows)
