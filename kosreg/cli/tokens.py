"""`kosreg token`: who may call this node, with what rights, until when.

Tokens are made and revoked by the running node, so a revocation holds at once. The text of a token is shown once, when
it is made; the node keeps only who it is for.
"""

from __future__ import annotations

import json
from typing import Annotated, Any
from urllib.parse import quote

import typer

from kosreg.cli.shared import Cli, clean, command, group, usage
from kosreg.durations import parse_ttl

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Issue, list and revoke access tokens.")


@group(app, example=["TOKEN=$(kosreg token issue my-agent)", "kosreg token list"])
def token(cli: Cli) -> None:
    pass


@command(
    app,
    "issue",
    example=[
        "TOKEN=$(kosreg token issue my-agent --ttl 30d)",
        "kosreg token issue dashboard --scope 'read:service:*' --scope 'read:node:*'",
    ],
)
def issue(
    cli: Cli,
    subject: Annotated[str, typer.Argument(metavar="SUBJECT", show_default=False, help="The agent or user it is for.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SCOPE",
            show_default=False,
            help="action:resource:name, with * for any; repeat for more. "
            "Left out: read, write and execute on services.",
        ),
    ] = None,
    ttl: Annotated[
        str | None,
        typer.Option(metavar="SPAN", show_default=False, help="How long it is good: 12h, 30d, 1y (tokens.ttl: 30d)."),
    ] = None,
    label: Annotated[
        str | None, typer.Option(metavar="TEXT", show_default=False, help="A note for `token list`: what it is for.")
    ] = None,
) -> None:
    """Makes a token and prints it, alone."""
    wish: dict[str, Any] = {"subject": subject}
    if ttl is not None:
        try:
            wish["ttl"] = parse_ttl(ttl)
        except ValueError as error:
            usage(f"--ttl: {error}")
    if scope:
        wish["scopes"] = scope
    if label:
        wish["label"] = label
    body = cli.run(_call(cli, "POST", "/api/tokens", wish))
    if cli.json:
        cli.answer(body)
        return
    cli.answer(str(json.loads(body)["token"]))


@command(app, "list", example=["kosreg token list", "kosreg token list --json | jq -r '.tokens[].jti'"])
def list_tokens(cli: Cli) -> None:
    """Lists the tokens that were issued here and have not expired."""
    body = cli.run(_call(cli, "GET", "/api/tokens"))
    if cli.json:
        cli.answer(body)
        return
    from kosreg.cli.show import ago, table

    tokens = json.loads(body)["tokens"]
    if not tokens:
        cli.note("no tokens; make one with: kosreg token issue SUBJECT")
        return
    table(
        ["JTI", "SUBJECT", "STATE", "ISSUED", "EXPIRES", "SCOPES", "LABEL"],
        (
            [
                entry.get("jti"),
                entry.get("sub"),
                f"revoked {ago(entry['revoked_at'])}" if entry.get("revoked_at") else "good",
                ago(entry.get("iat")),
                ago(entry.get("exp")),
                entry.get("scopes"),
                entry.get("label"),
            ]
            for entry in tokens
        ),
        optional=("LABEL", "ISSUED", "SCOPES"),
    )


@command(app, "revoke", example=["kosreg token revoke 019b2f6c-3f7e-7c1e-9c55-2f0f5ad2a7aa"])
def revoke(
    cli: Cli,
    jti: Annotated[str, typer.Argument(metavar="JTI", show_default=False, help="Its id, from `kosreg token list`.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Revokes a token, at once and for ever. Prints its id."""
    cli.sure(f"Revoke {clean(jti)}?", yes)
    body = cli.run(_call(cli, "DELETE", f"/api/tokens/{quote(jti, safe='')}"))
    if cli.json:
        cli.answer(body) if body else cli.answer_json({"revoked": jti})
    else:
        cli.answer(clean(jti))
        cli.note("revoked")


async def _call(cli: Cli, method: str, path: str, body: object = None) -> bytes:
    async with cli.client() as client:
        return (await client.call(method, path, body=body)).body
