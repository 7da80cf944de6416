"""`kosreg services`: what a node knows, one record at a time or as a list.

Each command is one call of the API (a list may take several pages). Watching is in `watching.py`, files of many
records in `transfer.py`, signed records in `verifying.py`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from kosreg.cli.files import read_record
from kosreg.cli.filters import (
    AnyTag,
    Capability,
    Origin,
    Owner,
    Query,
    Status,
    Tag,
    Type,
    Visibility,
    Words,
    criteria,
    pairs_of,
)
from kosreg.cli.shared import Cli, Exit, Refusal, clean, command, exit_code, explain, group, usage
from kosreg.client.errors import ApiError

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Find, register, change, remove and watch services."
)

PAGE = 1_000
"""Services a page with --all: the most that the API gives at once."""


@group(app, example=["kosreg services list --tag llm --status active", "kosreg services get echo-1 --json"])
def services(cli: Cli) -> None:
    pass


Id = Annotated[str, typer.Argument(metavar="ID", show_default=False, help="A service id.")]


@command(
    app,
    "list",
    example=[
        "kosreg services list --tag llm --tag vision --status active",
        "kosreg services list -q 'translate german' --fields id,name,url",
        "kosreg services list --all --json | jq '.services[].id'",
    ],
)
def list_services(
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
    limit: Annotated[
        int | None, typer.Option(min=1, max=PAGE, metavar="N", help="At most so many (100).", show_default=False)
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every page, not only the first.")] = False,
    cursor: Annotated[
        str | None, typer.Option(metavar="CURSOR", help="Go on where an earlier answer ended.", show_default=False)
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option(metavar="FIELDS", help="Fields in order, - for descending: -updated,name.", show_default=False),
    ] = None,
    fields: Annotated[
        str | None, typer.Option(metavar="FIELDS", help="Only these fields: id,name,url.", show_default=False)
    ] = None,
) -> None:
    """Lists the services that fit all the filters given."""
    if everything and (limit or cursor):
        usage("--all takes every page: leave --limit and --cursor out")
    query = pairs_of(criteria(tag, any_tag, type_, owner, status, visibility, origin, capability, words))
    query += [(name, value) for name, value in (("sort", sort), ("fields", fields)) if value]
    if everything:
        body = cli.run(list_all(cli, query))
        raw = None
    else:
        query += [(name, str(value)) for name, value in (("limit", limit), ("cursor", cursor)) if value is not None]
        raw, body = cli.run(_list_page(cli, query))
    if cli.json:
        cli.answer(raw) if raw is not None else cli.answer_json(body)
        return
    from kosreg.cli.records import show_list

    shown = body.get("services", [])
    show_list(shown, fields.split(",") if fields else None)
    total = body.get("total", len(shown))
    if body.get("next_cursor"):
        cli.note(f"\n{len(shown)} of {total}; the rest: --all, or --cursor {body['next_cursor']}")
    else:
        cli.note(f"\n{len(shown)} of {total}" if shown else "none fits")


async def _list_page(cli: Cli, query: Query) -> tuple[bytes, dict[str, Any]]:
    async with cli.client() as client:
        answer = await client.call("GET", "/api/services", query=query)
        return answer.body, answer.object()


async def list_all(cli: Cli, query: Query) -> dict[str, Any]:
    """Every page as one answer. `total` and `version` are those of the first page, when the walk began."""
    async with cli.client() as client:
        whole: dict[str, Any] | None = None
        cursor: str | None = None
        while True:
            page = [*query, ("limit", str(PAGE)), *([("cursor", cursor)] if cursor else [])]
            body = (await client.call("GET", "/api/services", query=page)).object()
            if whole is None:
                whole = body
            else:
                whole["services"].extend(body["services"])
            cursor = body.get("next_cursor")
            if not cursor:
                whole["next_cursor"] = None
                return whole


@command(
    app,
    "get",
    example=[
        "kosreg services get echo-1",
        "kosreg services get echo-1 --explain",
        "kosreg services get echo-1 --signed cose > echo-1.cose",
    ],
)
def get_service(
    cli: Cli,
    service_id: Id,
    explained: Annotated[
        bool, typer.Option("--explain", help="Why it is shown as it is: who signed it, when it came, who may see it.")
    ] = False,
    signed: Annotated[
        str | None,
        typer.Option(
            metavar="cose|json",
            show_default=False,
            help="The signed record as it is, to keep or to send: cose or json.",
        ),
    ] = None,
) -> None:
    """Shows one service."""
    if signed not in (None, "cose", "json"):
        usage("--signed takes cose or json")
    if signed and explained:
        usage("--signed and --explain are two different answers: ask for one")
    more = ["explain"] if explained else ["signed"] if signed else []
    accept = {None: "application/json", "cose": "application/cose", "json": "application/jose+json"}[signed]
    answer = cli.run(_call(cli, "GET", service_id, *more, accept=accept))
    if signed == "cose":
        if sys.stdout.isatty():
            raise Refusal("the signed record is binary: send it to a file (> FILE), or take --signed json")
        sys.stdout.buffer.write(answer)
        sys.stdout.buffer.flush()
    elif cli.json or signed:
        cli.answer(answer)
    else:
        from kosreg.cli.records import show_explanation, show_record

        (show_explanation if explained else show_record)(json.loads(answer))


def _field(name: str, metavar: str, help: str) -> Any:
    return typer.Option(name, metavar=metavar, help=help, show_default=False)


@command(
    app,
    "register",
    example=[
        "kosreg services register echo.json",
        "kosreg services register --id printer-2 --name 'Printer, 2nd floor' --type device --ttl 0 --tag print",
        'echo \'{"name":"Echo","type":"agent"}\' | kosreg services register -',
    ],
)
def register_service(
    cli: Cli,
    file: Annotated[
        str | None, typer.Argument(metavar="FILE|-", show_default=False, help="A record as JSON; - is stdin.")
    ] = None,
    service_id: Annotated[str | None, _field("--id", "ID", "Its id; made for it if left out.")] = None,
    name: Annotated[str | None, _field("--name", "NAME", "What people call it.")] = None,
    type_: Annotated[str | None, _field("--type", "TYPE", "agent, tool, service, api, device or node.")] = None,
    url: Annotated[str | None, _field("--url", "URL", "Where it is.")] = None,
    tag: Annotated[list[str] | None, _field("--tag", "TAG", "A tag; repeat for more.")] = None,
    capability: Annotated[
        list[str] | None, _field("--capability", "NAME", "Something it can do; repeat for more.")
    ] = None,
    description: Annotated[str | None, _field("--description", "TEXT", "A sentence or two.")] = None,
    version: Annotated[str | None, _field("--version", "VERSION", "Its own version.")] = None,
    owner: Annotated[str | None, _field("--owner", "OWNER", "Whose it is (admins; else yourself).")] = None,
    visibility: Annotated[str | None, _field("--visibility", "CLASS", "private, internal or public.")] = None,
    ttl: Annotated[
        int | None, _field("--ttl", "SECONDS", "Without a heartbeat for so long it is offline (30); 0: nobody beats.")
    ] = None,
    metadata: Annotated[
        list[str] | None, _field("--meta", "KEY=VALUE", "Data of your own, VALUE as JSON or text; repeat for more.")
    ] = None,
) -> None:
    """Registers a service, or replaces the one with its id. Prints the id. Options win over the file's fields."""
    record: dict[str, Any] = read_record(file) if file else {}
    given = {
        "id": service_id, "name": name, "type": type_, "url": url, "tags": tag, "capabilities": capability,
        "description": description, "version": version, "owner": owner, "visibility": visibility, "ttl": ttl,
    }  # fmt: skip
    record.update({key: value for key, value in given.items() if value not in (None, [])})
    for item in metadata or []:
        key, value = assignment(item, "--meta")
        record.setdefault("metadata", {})[key] = value
    if not record:
        usage("name a FILE (- for stdin), or describe the service with --name, --type, …")
    answer, new = cli.run(_register(cli, record))
    if cli.json:
        cli.answer(answer)
        return
    shown = json.loads(answer)
    cli.answer(clean(str(shown.get("id"))))
    cli.note("registered" if new else "replaced (the same record again changes nothing)")
    if shown.get("ttl"):
        cli.note(f"it is shown offline unless it sends a heartbeat every {shown['ttl']} s (--ttl 0: never)")


async def _register(cli: Cli, record: Mapping[str, Any]) -> tuple[bytes, bool]:
    async with cli.client() as client:
        answer = await client.call("POST", "/api/services/register", body=record)
        return answer.body, answer.status == 201


@command(
    app,
    "update",
    example=[
        "kosreg services update echo-1 --set status=degraded --set metadata.room=B12",
        'kosreg services update echo-1 \'{"tags": ["text"], "region": null}\'',
    ],
)
def update_service(
    cli: Cli,
    service_id: Id,
    patch: Annotated[
        str | None,
        typer.Argument(metavar="PATCH|FILE|-", show_default=False, help="A merge patch (RFC 7396), or where it is."),
    ] = None,
    put: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="FIELD=VALUE", show_default=False, help="Set a field; VALUE is JSON, else a text."
        ),
    ] = None,
    unset: Annotated[
        list[str] | None, typer.Option(metavar="FIELD", show_default=False, help="Remove a field. Repeat for more.")
    ] = None,
) -> None:
    """Changes fields of a service and leaves the rest. Prints the id."""
    changes: dict[str, Any] = {}
    if patch is not None:
        changes = read_record(patch, inline=True)
    for item in put or []:
        field, value = assignment(item, "--set")
        place(changes, field, value)
    for field in unset or []:
        place(changes, field, None)
    if not changes:
        usage("nothing to change: give a PATCH, --set FIELD=VALUE or --unset FIELD")
    answer = cli.run(_call(cli, "PATCH", service_id, body=changes, content_type="application/merge-patch+json"))
    if cli.json:
        cli.answer(answer)
    else:
        cli.answer(clean(service_id))
        cli.note("updated")


@command(app, "rm", example=["kosreg services rm echo-1", "kosreg services rm old-1 old-2 --yes"])
def remove_services(
    cli: Cli,
    ids: Annotated[list[str], typer.Argument(metavar="ID...", show_default=False, help="One service id or more.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Deregisters services. Prints the ids that are gone."""
    ids = list(dict.fromkeys(ids))
    cli.sure(f"Deregister {clean(', '.join(ids))}?", yes)
    removed, failed = cli.run(_remove(cli, ids))
    if cli.json:
        cli.answer_json({"removed": removed, "failed": [_failure(name, error) for name, error in failed]})
    else:
        for name in removed:
            cli.answer(name)
    for name, error in failed:
        if not cli.json:
            print(explain(error, False).replace("kosreg: ", f"kosreg: {clean(name)}: ", 1), file=sys.stderr)
    if failed:
        raise typer.Exit(Exit.PARTLY if removed else max(exit_code(error) for _, error in failed))


@command(
    app,
    "alias",
    example=[
        "kosreg services alias translator did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK",
        "kosreg services alias translator --remove",
    ],
)
def alias_service(
    cli: Cli,
    service_id: Id,
    origin: Annotated[
        str | None, typer.Argument(metavar="DID", show_default=False, help="The node whose service the id is to mean.")
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take back what was said.")] = False,
) -> None:
    """Says which node an id means here, where several nodes claim it. Prints the DID that it means now.

    A service of this node under the id goes before. What several nodes claim, and nobody has settled, is in no list."""
    if remove == (origin is not None):
        usage("give the DID of a node, or --remove")
    if remove:
        answer = cli.run(_call(cli, "DELETE", service_id, "alias"))
    else:
        answer = cli.run(_call(cli, "PUT", service_id, "alias", body={"origin": origin}))
    if cli.json:
        cli.answer(answer)
        return
    told = json.loads(answer)
    if told["origin"] is not None:
        cli.answer(clean(told["origin"]))
    else:
        cli.note("it means nobody's service now")
    for claim in told["claims"]:
        cli.note(f"claimed by {clean(claim['origin'])}: {claim['state']}")


async def _remove(cli: Cli, ids: list[str]) -> tuple[list[str], list[tuple[str, ApiError]]]:
    removed: list[str] = []
    failed: list[tuple[str, ApiError]] = []
    async with cli.client() as client:
        for service_id in ids:
            try:
                await client.deregister(service_id)
                removed.append(service_id)
            except ApiError as error:
                failed.append((service_id, error))
    return removed, failed


def _failure(service_id: str, error: ApiError) -> dict[str, Any]:
    return {"id": service_id, "status": error.status, "detail": error.detail or error.title}


async def _call(
    cli: Cli,
    method: str,
    service_id: str,
    *more: str,
    body: object = None,
    content_type: str = "application/json",
    accept: str = "application/json",
) -> bytes:
    from kosreg.client.http import service_path

    async with cli.client() as client:
        return (
            await client.call(
                method, service_path(service_id, *more), body=body, content_type=content_type, accept=accept
            )
        ).body


def assignment(text: str, option: str) -> tuple[str, Any]:
    """`FIELD=VALUE` in two; the value read as JSON where it is JSON, else as the text it is."""
    field, equals, value = text.partition("=")
    if not equals or not field:
        usage(f"{option} takes FIELD=VALUE, not {text!r}")
    try:
        return field, json.loads(value)
    except ValueError:
        return field, value


def place(changes: dict[str, Any], path: str, value: Any) -> None:
    """Puts a value at a dotted path: `metadata.room` is the field `room` within `metadata`."""
    *outer, last = path.split(".")
    for part in outer:
        inner = changes.setdefault(part, {})
        if not isinstance(inner, dict):
            usage(f"{path} would be inside {part}, which is being set to something else")
        changes = inner
    changes[last] = value
