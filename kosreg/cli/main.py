"""The command's tree, put together."""

from __future__ import annotations

from typing import Annotated

import typer

from kosreg.cli import (
    audit,
    doctor,
    federation,
    joining,
    key,
    lab,
    nearby,
    peers,
    running,
    services,
    status,
    tokens,
    transfer,
    verifying,
    watching,
)
from kosreg.cli.shared import Cli, group

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,  # boxes fold the examples, which are there to be copied
    help="A peer-to-peer federated registry for services and agents.",
    pretty_exceptions_enable=False,  # its tracebacks show local variables, and one of them may be a token
)
app.add_typer(services.app, name="services")
app.add_typer(tokens.app, name="token")
app.add_typer(peers.app, name="peers")
app.add_typer(federation.app, name="federation")
app.add_typer(key.app, name="key")
app.add_typer(audit.app, name="audit")
app.add_typer(lab.app, name="lab")
running.add_to(app)
status.add_to(app)
doctor.add_to(app)

# Importing them put their commands into `services.app` and `peers.app`.
PARTS = (joining, nearby, transfer, verifying, watching)


@group(
    app,
    example=["kosreg run", "kosreg services list --tag llm", "kosreg doctor"],
    invoke_without_command=True,
)
def kosreg(
    cli: Cli,
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed

        number = installed("kosreg")
        cli.answer_json({"version": number}) if cli.json else cli.answer(f"kosreg {number}")
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        ctx.fail("Missing command.")
