"""`kosreg audit`: the decisions about trust that this node wrote down, and whether the log is whole.

Both work with the node running (through its API) and stopped (on its data directory).
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kosreg.cli.shared import Cli, Exit, Refusal, command, group
from kosreg.client.errors import NotRunning

if TYPE_CHECKING:
    from kosreg.audit import Fault

PAGE = 1000  # records a call
SHOWN = 20

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The log of decisions about trust.")


@group(app, example=["kosreg audit list", "kosreg audit verify"])
def audit(cli: Cli) -> None:
    pass


@command(
    app,
    "list",
    example=[
        "kosreg audit list --limit 50",
        "kosreg audit list --after 120",
        "kosreg audit list --all --json | jq -r '.records[].action'",
    ],
)
def list_records(
    cli: Cli,
    after: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, show_default=False, help="Those behind record N, not the newest."),
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=PAGE, help="At most so many.")] = SHOWN,
    all_: Annotated[bool, typer.Option("--all", help="However many there are.")] = False,
) -> None:
    """Lists who decided what about whom, the newest last."""
    log = cli.run(_list(cli, after, None if all_ else limit))
    if cli.json:
        cli.answer_json(log)
        return
    from kosreg.cli.show import as_text, local_time, table

    if not log["records"]:
        cli.note("nothing was decided yet" if not after else f"nothing was decided after record {after}")
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
    newest, last = (log["head"] or {"seq": 0})["seq"], log["records"][-1]["seq"]
    if last < newest:
        cli.note(f"the newest is {newest}; the rest: --after {last}")


async def _list(cli: Cli, after: int | None, limit: int | None) -> dict[str, Any]:
    """Records as the API shows them: at most `limit` (None: all) behind `after` (None: the newest)."""
    async with _source(cli) as page:
        if after is None:
            head = (await page(0, 1))["head"]
            after = 0 if head is None or limit is None else max(0, head["seq"] - limit)
        log: dict[str, Any] = await page(after, limit or PAGE)
        while limit is None and log["records"]:
            more = await page(log["records"][-1]["seq"], PAGE)
            if not more["records"]:
                break
            log = {**more, "records": log["records"] + more["records"]}
        return log


@command(app, "verify", example="kosreg audit verify")
def verify(cli: Cli) -> None:
    """Checks that no record of the log was changed, removed or moved. Exit code 1 if one was.

    The records are checked here, one by one: what the node says of its own log is not believed."""
    count, head, found = cli.run(_verify(cli))
    if cli.json:
        faults = [{"first": fault.seq, "last": fault.last, "what": fault.what} for fault in found]
        cli.answer_json({"ok": not found, "records": count, "head": head, "faults": faults})
    else:
        for fault in found:
            cli.answer(str(fault))
        if not found:
            cli.answer(f"whole: {count} records" + (f", the newest is {head['hash']}" if head else ""))
    if found:
        raise typer.Exit(Exit.REFUSED)


async def _verify(cli: Cli) -> tuple[int, dict[str, Any] | None, list[Fault]]:
    """How many records there are, the note of the newest, and all that is wrong."""
    from federation.identity import parse_did
    from kosreg.audit import Chain
    from kosreg.store import AuditLink

    async with _source(cli) as page:
        log = await page(0, PAGE)
        chain = Chain(parse_did(log["node"]))
        found: list[Fault] = []
        head = log["head"]
        while log["records"]:
            for record in log["records"]:
                link = AuditLink(record["seq"], bytes.fromhex(record["record"]), bytes.fromhex(record["hash"]))
                found += chain.take(link)
            head = log["head"]  # of the same moment as the records: those that came since have their own page
            log = await page(link.seq, PAGE)
        found += chain.end(None if head is None else (head["seq"], bytes.fromhex(head["hash"])))
        return chain.count, head, found


@asynccontextmanager
async def _source(cli: Cli) -> AsyncIterator[Any]:
    """A function that gives so many records above a number: of the running node, else of the data directory."""
    try:
        client = cli.client()
    except NotRunning:
        async with _directory(cli) as page:
            yield page
        return
    async with client:

        async def ask(after: int, most: int) -> dict[str, Any]:
            query = [("after", str(after)), ("limit", str(most))]
            return json.loads((await client.call("GET", "/api/audit", query=query)).body)  # type: ignore[no-any-return]

        yield ask


@asynccontextmanager
async def _directory(cli: Cli) -> AsyncIterator[Any]:
    from federation.identity import NODE_KEY_FILE, KeyFileError, did_of, load
    from kosreg import audit
    from kosreg.config import ConfigError
    from kosreg.config import load as load_settings
    from kosreg.key_change import first_key
    from kosreg.store import Store, StoreError

    try:
        key = load(cli.data_dir / NODE_KEY_FILE)
        settings = load_settings(cli.data_dir)
        store = await Store.open(settings.store_url, key.public, key.derive("store"), readonly=True)
    except (KeyFileError, StoreError, ConfigError) as error:
        raise Refusal(f"no node runs here, and its log cannot be read: {error}") from None
    try:
        head = await store.audit_head()
        node = did_of(await first_key(store))

        async def read(after: int, most: int) -> dict[str, Any]:
            links = await store.audit(after=after, most=most)
            return {
                "node": node,
                "records": [audit.shown(link) for link in links],
                "head": None if head is None else {"seq": head[0], "hash": head[1].hex()},
            }

        yield read
    except StoreError as error:
        raise Refusal(f"its log cannot be read: {error}") from None
    finally:
        await store.close()
