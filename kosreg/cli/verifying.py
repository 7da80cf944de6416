"""`kosreg services verify`: is a signed record, from wherever it came, genuine and trusted here?"""

from __future__ import annotations

import json
from typing import Annotated

import typer

from kosreg.cli.files import read_bytes
from kosreg.cli.services import app
from kosreg.cli.shared import Cli, Exit, command


@command(
    app,
    "verify",
    example=[
        "kosreg services verify echo-1.cose",
        "kosreg services get echo-1 --signed json | kosreg services verify -",
    ],
)
def verify_record(
    cli: Cli,
    file: Annotated[
        str, typer.Argument(metavar="FILE|-", show_default=False, help="A signed record: COSE or signed JSON.")
    ],
) -> None:
    """Says whether a signed record is genuine, and whether this node trusts who signed it. Exit code 1 if not."""
    raw = read_bytes(file)
    answer = cli.run(_verify(cli, raw))
    verdict = json.loads(answer)
    if cli.json:
        cli.answer(answer)
    else:
        from kosreg.cli.records import show_verdict

        show_verdict(verdict)
    if not all(verdict.get(name) for name in ("signature", "trust", "scope", "age")):
        raise typer.Exit(Exit.REFUSED)


async def _verify(cli: Cli, raw: bytes) -> bytes:
    # A COSE_Sign1 of ours begins with the byte of CBOR tag 18; JSON begins with a brace, after blanks at most.
    is_json = raw.lstrip()[:1] == b"{"
    kind = "application/jose+json" if is_json else "application/cose"
    async with cli.client() as client:
        return (await client.call("POST", "/api/services/verify", body=raw, content_type=kind)).body
