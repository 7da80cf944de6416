"""`kosreg federation`: make one, say who belongs to it, and take that back.

A root key stays in its file and in this process. What it signs here goes to the node, which judges it like what comes
from a peer; so the file may be kept on another machine, or in a drawer, and carried here when it is needed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import quote

import typer

from kosreg.cli.peers import did_named, frozen
from kosreg.cli.shared import Cli, Exit, Refusal, clean, command, group, usage

if TYPE_CHECKING:
    from federation.identity import NodeKey
    from kosreg.client.http import Client

COSE = "application/cose"
DAYS = 400  # that a certificate holds for, at most
DEPTHS = 3  # certificates that may follow one, at most
EARLIER_MS = 3_600_000  # certificates hold from an hour ago: a node whose clock is a little late believes them
DAY_MS = 86_400_000
MAX_BYTES = 2048  # of a certificate: a hello has room for four of them


@dataclass(frozen=True, slots=True)
class Terms:
    """What a certificate is to say. `scope`: classes, types, tags, records, as far as they are given."""

    state: Literal["granted", "revoked"] = "granted"
    depth: int = 0
    days: int = DAYS
    scope: Mapping[str, Any] = field(default_factory=dict)


app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Make a federation, and say who belongs to it.")


@group(
    app,
    example=[
        "kosreg federation create acme --key acme.key",
        "kosreg peers invite --federation acme | ssh other-host kosreg peers join -",
    ],
)
def federation(cli: Cli) -> None:
    pass


KeyFile = Annotated[
    Path,
    typer.Option(
        "--key", metavar="FILE", show_default=False, help="The root's key. It is used here, and sent nowhere."
    ),
]
Member = Annotated[
    str,
    typer.Argument(
        metavar="NODE", show_default=False, help="Its DID, or the name or the start of the fingerprint of a peer."
    ),
]


@command(app, "create", example="kosreg federation create acme --key /media/stick/acme.key")
def create(
    cli: Cli,
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False, help="What it is called.")],
    key: Annotated[
        Path,
        typer.Option(
            "--key",
            metavar="FILE",
            show_default=False,
            help="Where its root key is to be kept; made if it is not there. The node does not need it.",
        ),
    ],
) -> None:
    """Makes a federation: a root key, which this node trusts, and which lets this node invite others. Prints the root's
    DID, and nothing else.

    Whoever has the file can let anybody in and put anybody out. Keep a copy in a safe place. It may be given again, to
    end what was cut off."""
    did, node = cli.run(_create(cli, name, key))
    if cli.json:
        cli.answer_json({"did": did, "name": name, "node": node})
        return
    cli.answer(did)
    cli.note(f"keep {key} in a safe place, off this machine if you can; once in {DAYS} days it has to certify anew")


async def _create(cli: Cli, name: str, file: Path) -> tuple[str, str]:
    from federation.identity import KeyFileError
    from federation.identity import create as create_key

    async with cli.client() as client:
        node = str((await client.call("GET", "/api/peers")).object()["self"]["did"])
        known = await federations(client)
        if not name.strip():
            usage("a federation has a name")
        try:
            key = create_key(file, "the root key of a federation; who reads it says who belongs to it")
        except KeyFileError as error:
            raise Refusal(clean(str(error))) from None
        if key.did == node:
            raise Refusal(f"{file} is the key of this node; a federation has a key of its own: name another file")
        if any(one["name"] == name and one["did"] != key.did for one in known):
            raise Refusal(clean(f"another federation is called {name} here; choose another name"))
        await client.call("POST", "/api/peers", body={"did": key.did, "role": "root", "name": name})
        await certify(client, key, node, Terms(depth=1))
    return key.did, node


@command(
    app,
    "issue",
    example=[
        "kosreg federation issue did:key:z6Mk… --key acme.key",
        "kosreg federation issue did:key:z6Mk… --key acme.key --depth 1 --days 90 --class public --type agent",
    ],
)
def issue(
    cli: Cli,
    node: Member,
    key: KeyFile,
    depth: Annotated[
        int, typer.Option(metavar="N", min=0, max=DEPTHS, help="How many certificates may follow: 1 lets it invite.")
    ] = 0,
    days: Annotated[int, typer.Option(metavar="D", min=1, max=DAYS, help="How long it holds.")] = DAYS,
    cls: Annotated[
        list[str] | None,
        typer.Option(
            "--class", metavar="CLASS", show_default=False, help="public, internal: what it may bring (both)."
        ),
    ] = None,
    type_: Annotated[
        list[str] | None,
        typer.Option("--type", metavar="TYPE", show_default=False, help="Only records of this type are shown; repeat."),
    ] = None,
    tag: Annotated[
        list[str] | None,
        typer.Option(metavar="TAG", show_default=False, help="Only records with this tag are shown; repeat."),
    ] = None,
    records: Annotated[
        int | None, typer.Option(metavar="N", min=0, show_default=False, help="How many records it may bring.")
    ] = None,
) -> None:
    """Makes a node a member, or one that is certified already with other terms. Prints its DID.

    The node that this is told passes it on to all. It also undoes a `kosreg federation revoke`."""
    scope = {"classes": cls, "types": type_, "tags": tag, "records": records}
    said = cli.run(
        _say(cli, key, node, Terms("granted", depth, days, {k: v for k, v in scope.items() if v is not None}))
    )
    _told(cli, said, "certified")


@command(app, "revoke", example="kosreg federation revoke did:key:z6Mk… --key acme.key")
def revoke(
    cli: Cli,
    node: Member,
    key: KeyFile,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Puts a node out of the federation, whoever certified it, and all that it certified. Prints its DID.

    What it said is hidden on every node that hears of it. To put it out here alone: `kosreg peers revoke`."""
    cli.sure(f"Revoke {clean(node)} in the whole federation?", yes)
    _told(cli, cli.run(_say(cli, key, node, Terms("revoked"))), "revoked")


def _told(cli: Cli, said: bytes, word: str) -> None:
    if cli.json:
        cli.answer(said)
        return
    cli.answer(clean(json.loads(said)["subject"]))
    cli.note(word)


async def _say(cli: Cli, file: Path, node: str, terms: Terms) -> bytes:
    key = root_key(file)
    async with cli.client() as client:
        did = await did_named(client, node)
        return await certify(client, key, did, terms)


def root_key(file: Path) -> NodeKey:
    """The key in the file."""
    from federation.identity import KeyFileError, load

    try:
        return load(file)
    except KeyFileError as error:
        raise Refusal(clean(error.detail)) from None


async def certify(client: Client, key: NodeKey, did: str, terms: Terms) -> bytes:
    """Sign a certificate for `did` with the root `key`, and give it to the node; what the node says."""
    from federation.identity import DidError, parse_did
    from federation.trust import MEMBER_SCOPE, Scope, issue_cert
    from kosreg.peers import class_of
    from kosreg.times import now_ms

    try:
        subject = parse_did(did)
        wish = terms.scope
        limits = Scope(
            frozenset(class_of(word) for word in wish["classes"]) if "classes" in wish else MEMBER_SCOPE.classes,
            tuple(wish.get("types", ())),
            tuple(wish.get("tags", ())),
            wish.get("records"),
        )
    except DidError as error:
        usage(clean(f"{did} is no key: {error}"))
    except KeyError as error:
        usage(clean(f"--class: {error.args[0]} is neither public nor internal"))
    path = f"/api/federations/{quote(key.did, safe='')}/certificates"
    told = (await client.call("GET", path, query=[("subject", did)])).object()["certificates"]
    stamps = [one["stamp"] for one in told if one["issuer"] == key.did]
    now = now_ms()
    entry = issue_cert(
        key,
        subject,
        now_ms=now,
        not_before=now - EARLIER_MS,
        not_after=now - EARLIER_MS + terms.days * DAY_MS,
        state=terms.state,
        scope=limits,
        depth=terms.depth,
        stamp=max([now << 16, *(stamp + 1 for stamp in stamps)]),
    )
    if len(entry.raw) > MAX_BYTES:
        usage("--type and --tag: they are too many for a certificate that nodes can show each other")
    return (await client.call("POST", "/api/certs", body=entry.raw, content_type=COSE)).body


async def federations(client: Client) -> list[Mapping[str, Any]]:
    """Those that the node trusts."""
    found: list[Mapping[str, Any]] = (await client.call("GET", "/api/federations")).object()["federations"]
    return found


async def federation_named(client: Client, word: str) -> Mapping[str, Any]:
    """The one that a user names, by its name or its root's DID."""
    found = [one for one in await federations(client) if word in (one["name"], one["did"])]
    if len(found) > 1:
        which = ", ".join(str(one["did"]) for one in found)
        raise Refusal(clean(f"{word} means several federations: {which}; give the DID"))
    if not found:
        raise Refusal(clean(f"no federation is called {word} here; `kosreg federation list` shows all"), Exit.NOT_FOUND)
    return found[0]


@command(app, "list", example=["kosreg federation list", "kosreg federation list acme --json"])
def list_federations(
    cli: Cli,
    which: Annotated[
        str | None,
        typer.Argument(metavar="NAME|DID", show_default=False, help="Show who certified whom in this one."),
    ] = None,
) -> None:
    """Lists the federations whose roots this node trusts; or the certificates of one of them.

    ALIVE: what the beacons of all nodes say of it. FROZEN: it brings more than it may, and why. DEPTH: how many
    certificates may follow: below this node, or below the one that is certified."""
    body = cli.run(_list(cli, which))
    if cli.json:
        cli.answer(body)
        return
    from kosreg.cli.show import ALIVE_STYLES, ago, styled, table

    told = json.loads(body)
    if which is None:
        if not told["federations"]:
            cli.note("no federations; make one with: kosreg federation create NAME --key FILE")
            return
        table(
            ["NAME", "MEMBER", "DEPTH", "MEMBERS", "UNTIL", "DID"],
            (
                [
                    one["name"],
                    "revoked" if one.get("revoked") else "yes" if one["member"] else "no",
                    one["depth"],
                    one["members"],
                    ago(one.get("until")),
                    one["did"],
                ]
                for one in told["federations"]
            ),
            optional=("UNTIL",),
        )
        return
    table(
        ["NAME", "NODE", "STATE", "ALIVE", "FROZEN", "DEPTH", "CLASSES", "UNTIL", "ISSUER"],
        (
            [
                one["name"],
                one["subject"],
                styled("holds" if one["holds"] else "broken" if one["state"] == "granted" else "revoked", _STYLES),
                styled((one.get("node") or {}).get("state", ""), ALIVE_STYLES),
                frozen(one.get("frozen")),
                one["depth"],
                one["classes"],
                ago(one["until"]),
                one["issuer"],
            ]
            for one in told["certificates"]
        ),
        optional=("NAME", "CLASSES", "UNTIL", "FROZEN"),
    )
    if told["total"] > len(told["certificates"]):
        cli.note(f"{len(told['certificates'])} of {told['total']}")


_STYLES = {"holds": "green", "revoked": "red", "broken": "yellow"}


async def _list(cli: Cli, which: str | None) -> bytes:
    async with cli.client() as client:
        if which is None:
            return (await client.call("GET", "/api/federations")).body
        did = (await federation_named(client, which))["did"]
        return (await client.call("GET", f"/api/federations/{quote(did, safe='')}/certificates")).body
