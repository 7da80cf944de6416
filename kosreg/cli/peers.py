"""`kosreg peers`: whom this node trusts, how two nodes come to trust each other, and how their links are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from kosreg.cli.shared import Cli, Exit, Refusal, clean, command, group, usage
from kosreg.durations import parse_duration

if TYPE_CHECKING:
    from rich.text import Text

    from kosreg.client.http import Client

CLOCK_MS = 10_000  # a clock that is off by more is marked: entries of such a node win, or lose, where they should not
LEAST_PREFIX = 4  # characters of a fingerprint that name a peer

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Join other nodes, and decide whom to trust.")


@group(app, example=["kosreg peers invite", "kosreg peers join kosreg1:…", "kosreg peers list"])
def peers(cli: Cli) -> None:
    pass


Did = Annotated[str, typer.Argument(metavar="DID", show_default=False, help="Its key, as did:key:z6Mk….")]
Peer = Annotated[
    str,
    typer.Argument(metavar="PEER", show_default=False, help="Its DID, or its name or the start of its fingerprint."),
]


@command(
    app,
    "invite",
    example=[
        "kosreg peers invite",
        "kosreg peers invite --ttl 10m | ssh other-host kosreg peers join -",
        "kosreg peers invite --federation acme",
    ],
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
    federation: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|DID",
            show_default=False,
            help="Make its joiner a member of this one, certified by this node; no node's key is trusted by itself.",
        ),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="The root's key: lets this node certify others there, if it may not yet. It is sent nowhere.",
        ),
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
    if federation is None and key is not None:
        usage("--key is the key of a federation's root: say which with --federation")
    body = cli.run(_invite(cli, wish, federation, key))
    cli.answer(body if cli.json else str(json.loads(body)["line"]))


async def _invite(cli: Cli, wish: dict[str, Any], federation: str | None, file: Path | None) -> bytes:
    from kosreg.cli.federation import Terms, certify, federation_named, root_key

    async with cli.client() as client:
        if federation is not None:
            root = await federation_named(client, federation)
            wish["federation"] = root["did"]
            if file is not None:
                key = root_key(file)
                if key.did != root["did"]:
                    usage(clean(f"--key: {file} has the key of {key.did}, not of {root['name'] or root['did']}"))
                if not root["depth"]:
                    node = (await client.call("GET", "/api/peers")).object()["self"]["did"]
                    await certify(client, key, node, Terms(depth=1))
        return (await client.call("POST", "/api/peers/invites", body=wish)).body


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
    app,
    "trust",
    example=[
        "kosreg peers trust did:key:z6Mk… --address berlin.example:7481",
        "kosreg peers trust did:key:z6Mk… --federation --name acme",
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
    root: Annotated[
        bool, typer.Option("--federation", "--root", help="It is the root key of a federation, not a node.")
    ] = False,
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
    """Lists the keys that are trusted, or revoked, here, and how the links are; above them this node itself.

    STATE: of the link. ALIVE: what the beacons of all nodes say of it. CLOCK: how far the peer's is ahead, or behind.
    LAG: since both last held the same. DIFFER: entries that one side lacked when they last compared. REFUSED: what was
    not taken from it, and why."""
    body = cli.run(_call(cli, "GET", "/api/peers"))
    if cli.json:
        cli.answer(body)
        return
    from kosreg.cli.show import ALIVE_STYLES, styled, table

    answer = json.loads(body)
    own, found = answer["self"], answer["peers"]
    cli.answer(clean(f"this node: {own['name']}  {own['fingerprint']}  {own['did']}"))
    if not found:
        cli.note("no peers; invite one with: kosreg peers invite")
        return
    cli.answer("")
    table(
        [
            "NAME",
            "FINGERPRINT",
            "STATE",
            "ALIVE",
            "ROLE",
            "RTT",
            "CLOCK",
            "LAG",
            "DIFFER",
            "HELD",
            "FROZEN",
            "REFUSED",
            "ERROR",
            "DID",
        ],
        (
            [
                peer["name"],
                _short(peer["fingerprint"]),
                styled(_state(peer), _STYLES),
                styled(str(_of(peer, "node").get("state", "")), ALIVE_STYLES),
                peer["role"],
                _milliseconds(_of(peer, "link").get("rtt_ms")),
                _clock(_of(peer, "link").get("offset_ms")),
                _milliseconds(_of(peer, "sync").get("lag_ms")),
                _of(peer, "sync").get("differing"),
                peer["held"],
                frozen(_of(peer, "quota").get("frozen")),
                _reasons(peer.get("refused")),
                _of(peer, "link").get("error") if _state(peer) != "up" else "",
                peer["did"],
            ]
            for peer in found
        ),
        optional=("DID", "HELD", "ROLE", "ERROR", "REFUSED", "LAG", "RTT", "FROZEN"),
    )


@command(app, "show", example=["kosreg peers show did:key:z6Mk…", "kosreg peers show berlin"])
def show(cli: Cli, peer: Peer) -> None:
    """Shows one of them: its fingerprint, scope, link, and what the two sides hold."""
    body = cli.run(_call(cli, "GET", path_of(cli.run(_did(cli, peer)))))
    if cli.json:
        cli.answer(body)
        return
    from kosreg.cli.show import pairs, span

    told = json.loads(body)
    scope, link, sync = told["scope"], _of(told, "link"), _of(told, "sync")
    pairs(
        [
            ("name", told["name"]),
            ("key", told["did"]),
            ("fingerprint", told["fingerprint"]),
            ("role", told["role"]),
            ("state", _state(told)),
            ("alive", _alive(_of(told, "node"))),
            ("addresses", told["addresses"]),
            ("tells", _of(told, "tells").get("addresses")),
            ("version", _of(told, "tells").get("version")),
            ("trusted since", _moment(told.get("added"))),
            ("revoked", _moment(told.get("revoked"))),
            ("former keys", told.get("former")),
            ("frozen", "its keys are in two hands; see the log" if told.get("frozen") else None),
            ("certified by", told["roots"]),
            ("may bring", ", ".join(scope["classes"]) or "nothing"),
            ("types", scope["types"]),
            ("tags", scope["tags"]),
            ("records", scope["records"]),
            ("link", f"{'to' if link['dialled'] else 'from'} {link['address']}" if link.get("address") else None),
            ("up for", span(link["up_ms"] / 1000) if link.get("state") == "up" else None),
            ("round trip", _milliseconds(link.get("rtt_ms"))),
            ("its clock", _clock(link.get("offset_ms"))),
            ("bytes", f"{link['bytes_in']} in, {link['bytes_out']} out, {link['queued']} waiting" if link else None),
            ("held", told["held"]),
            ("quota", _quota(_of(told, "quota"))),
            ("frozen", frozen(_of(told, "quota").get("frozen"))),
            (
                "first sync",
                ("done" if sync["synced"] else f"{sync['received']} of {sync['expected']}") if sync else None,
            ),
            ("differing", sync.get("differing")),
            ("lag", _milliseconds(sync.get("lag_ms"))),
            ("refused", _reasons(told.get("refused"))),
            ("last error", link.get("error")),
        ]
    )


@command(app, "revoke", example=["kosreg peers revoke did:key:z6Mk…", "kosreg peers revoke berlin --purge --yes"])
def revoke(
    cli: Cli,
    peer: Peer,
    purge: Annotated[bool, typer.Option("--purge", help="Also drop all that is held of it.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Believes a key in nothing any more, whatever others say of it, and hides what it said. Prints its DID."""
    did = cli.run(_did(cli, peer))
    who = clean(did if peer == did else f"{peer}, {did},")
    cli.sure(f"Revoke {who}{' and drop all that is held of it' if purge else ''}?", yes)
    query = [("purge", "true")] if purge else []
    body = cli.run(_call(cli, "DELETE", path_of(did), query=query))
    if cli.json:
        cli.answer(body)
        return
    said = json.loads(body)
    cli.answer(clean(said["did"]))
    cli.note(f"revoked; {said['purged']} entries were dropped" if purge else "revoked")


@command(app, "restore", example=["kosreg peers restore did:key:z6Mk…", "kosreg peers restore berlin"])
def restore(cli: Cli, peer: Peer) -> None:
    """Undoes a revoke: what was trusted in the key before is trusted again. Prints its DID."""
    did = cli.run(_did(cli, peer))
    body = cli.run(_call(cli, "POST", f"{path_of(did)}/restore"))
    if cli.json:
        cli.answer(body) if body else cli.answer_json({"did": did})
        return
    cli.answer(clean(json.loads(body)["did"] if body else did))
    cli.note("restored")


async def did_named(client: Client, word: str) -> str:
    """The DID of the peer that a user names. A DID is taken as it is, known here or not."""
    if word.startswith(("did:", "kind:")):
        return word
    peers: list[Mapping[str, Any]] = (await client.call("GET", "/api/peers")).object()["peers"]
    found = named(peers, word)
    if len(found) > 1:
        which = ", ".join(f"{peer['name']} ({peer['fingerprint']})" for peer in found[:10])
        raise Refusal(clean(f"{word} means several peers: {which}; give more of the fingerprint"))
    if not found:
        raise Refusal(
            clean(f"no peer is called {word}, or has a fingerprint that begins so; `kosreg peers list` shows all"),
            Exit.NOT_FOUND,
        )
    return str(found[0]["did"])


def named(peers: Sequence[Mapping[str, Any]], word: str) -> list[Mapping[str, Any]]:
    """Those of `peers` that `word` may mean: by their whole name, or by the start of their fingerprint."""
    digits = word.lower().replace("-", "")
    return [
        peer
        for peer in peers
        if peer["name"] == word
        or (len(digits) >= LEAST_PREFIX and peer["fingerprint"].replace("-", "").startswith(digits))
    ]


def _short(fingerprint: str) -> str:
    """Its first two groups: 40 bits tell one's peers apart, and name one for `kosreg peers show`."""
    return fingerprint[:9]


_STYLES = {
    "up": "green",
    "revoked": "red",
    "frozen": "red",
    "backoff": "yellow",
    "connecting": "yellow",
    "waiting": "yellow",
}


def _alive(node: Mapping[str, Any]) -> str | None:
    if not node:
        return None
    why = f": {node['reason']}" if node["reason"] else ""
    return f"{node['state']} since {_moment(node['since'])}{why}"


def _state(peer: Mapping[str, Any]) -> str:
    if peer.get("revoked"):
        return "revoked"
    if peer.get("frozen"):
        return "frozen"
    if peer["role"] == "root":
        return "trusted"
    return str(_of(peer, "link").get("state") or "no link")


def _of(peer: Mapping[str, Any], part: str) -> Mapping[str, Any]:
    value = peer.get(part)
    return value if isinstance(value, Mapping) else {}


def _moment(value: Any) -> str | None:
    from kosreg.cli.show import ago, local_time

    return f"{local_time(value)} ({ago(value)})" if value else None


def _milliseconds(value: Any) -> str | None:
    if value is None:
        return None
    return f"{value:.1f} ms" if value < 10 else f"{value:.0f} ms" if value < 10_000 else f"{value / 1000:.0f} s"


def _clock(offset: Any) -> str | Text | None:
    """How far the peer's clock is ahead of ours, or behind."""
    if offset is None:
        return None
    from rich.text import Text

    from kosreg.cli.show import span

    if abs(offset) < 1000:
        return f"{offset:+d} ms"
    words = f"{span(abs(offset) / 1000)} {'ahead' if offset > 0 else 'behind'}"
    return words if abs(offset) <= CLOCK_MS else Text(f"{words}: one of the two is wrong", style="red")


def frozen(parts: Sequence[Mapping[str, Any]] | None) -> str:
    """What of a node is frozen, and why."""
    return "; ".join(f"{part['part']}: {part['reason']}" for part in parts or ())


def _quota(quota: Mapping[str, Any]) -> str | None:
    if not quota:
        return None
    return ", ".join(f"{quota[what]:,} of {quota[f'most_{what}']:,} {what}" for what in ("records", "bytes"))


def _reasons(refused: Mapping[str, int] | None) -> str:
    return ", ".join(f"{count} {why}" for why, count in (refused or {}).items())


def path_of(did: str) -> str:
    return f"/api/peers/{quote(did, safe='')}"


async def _did(cli: Cli, word: str) -> str:
    async with cli.client() as client:
        return await did_named(client, word)


async def _call(cli: Cli, method: str, path: str, body: object = None, query: Any = ()) -> bytes:
    async with cli.client() as client:
        return (await client.call(method, path, body=body, query=query)).body
