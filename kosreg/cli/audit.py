"""`kosreg audit`: the decisions about trust that this node wrote down, and whether the log is whole.

Both work with the node running (through its API) and stopped (on its data directory).
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import typer

from kosreg.cli.shared import Cli, Exit, Refusal, command, group
from kosreg.client.errors import NotRunning

PAGE = 1000  # records a call
SHOWN = 20

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The log of decisions about trust.")


@group(app, example=["kosreg audit list", "kosreg audit verify"])
def audit(cli: Cli) -> None:
    pass


@command(app, "list", example=["kosreg audit list", "kosreg audit list --all --json | jq -r '.records[].action'"])
def list_records(
    cli: Cli,
    all_: Annotated[bool, typer.Option("--all", help=f"All of them, not the last {SHOWN}.")] = False,
) -> None:
    """Lists who decided what about whom, the newest last."""
    log = cli.run(_read(cli))
    if not all_:
        log["records"] = log["records"][-SHOWN:]
    if cli.json:
        cli.answer_json(log)
        return
    from kosreg.cli.show import as_text, local_time, table

    if not log["records"]:
        cli.note("nothing was decided yet")
        return
    table(
        ["SEQ", "WHEN", "WHO", "WHAT", "ABOUT", "DETAIL"],
        (
            [
                record["seq"],
                local_time(record.get("at")),
                record.get("actor"),
                record.get("action", "(damaged)"),
                record.get("subject"),
                ", ".join(f"{name}: {as_text(value)}" for name, value in record.get("detail", {}).items()),
            ]
            for record in log["records"]
        ),
        optional=("DETAIL",),
    )


@command(app, "verify", example="kosreg audit verify")
def verify(cli: Cli) -> None:
    """Checks that no record of the log was changed, removed or moved. Exit code 1 if one was."""
    from federation.identity import parse_did
    from kosreg.audit import Chain
    from kosreg.store import AuditLink

    log = cli.run(_read(cli))
    chain = Chain(parse_did(log["node"]))
    found = []
    for record in log["records"]:
        link = AuditLink(record["seq"], bytes.fromhex(record["record"]), bytes.fromhex(record["hash"]))
        found += chain.take(link)
    head = log["head"]
    found += chain.end(None if head is None else (head["seq"], bytes.fromhex(head["hash"])))
    if cli.json:
        faults = [{"first": fault.seq, "last": fault.last, "what": fault.what} for fault in found]
        cli.answer_json({"ok": not found, "records": chain.count, "head": head, "faults": faults})
    else:
        for fault in found:
            cli.answer(str(fault))
        if not found:
            cli.answer(f"whole: {chain.count} records" + (f", the newest is {head['hash']}" if head else ""))
    if found:
        raise typer.Exit(Exit.REFUSED)


async def _read(cli: Cli) -> dict[str, Any]:
    """The whole log, as the API shows it."""
    async with _source(cli) as page:
        log: dict[str, Any] = await page(0)
        while len(got := log["records"]) and (more := await page(got[-1]["seq"]))["records"]:
            log = {**more, "records": got + more["records"]}
        return log


@asynccontextmanager
async def _source(cli: Cli) -> AsyncIterator[Any]:
    """A function that gives the records above a number: of the running node, else of the data directory."""
    try:
        client = cli.client()
    except NotRunning:
        async with _directory(cli) as page:
            yield page
        return
    async with client:

        async def ask(after: int) -> dict[str, Any]:
            query = [("after", str(after)), ("limit", str(PAGE))]
            return json.loads((await client.call("GET", "/api/audit", query=query)).body)  # type: ignore[no-any-return]

        yield ask


@asynccontextmanager
async def _directory(cli: Cli) -> AsyncIterator[Any]:
    from federation.identity import NODE_KEY_FILE, KeyFileError, load
    from kosreg import audit
    from kosreg.config import ConfigError
    from kosreg.config import load as load_settings
    from kosreg.store import Store, StoreError

    try:
        key = load(cli.data_dir / NODE_KEY_FILE)
        settings = load_settings(cli.data_dir)
        store = await Store.open(settings.store_url, key.public, key.derive("store"), readonly=True)
    except (KeyFileError, StoreError, ConfigError) as error:
        raise Refusal(f"no node runs here, and its log cannot be read: {error}") from None
    try:
        head = await store.audit_head()

        async def read(after: int) -> dict[str, Any]:
            links = await store.audit(after=after, most=PAGE)
            return {
                "node": key.did,
                "records": [audit.shown(link) for link in links],
                "head": None if head is None else {"seq": head[0], "hash": head[1].hex()},
            }

        yield read
    except StoreError as error:
        raise Refusal(f"its log cannot be read: {error}") from None
    finally:
        await store.close()
