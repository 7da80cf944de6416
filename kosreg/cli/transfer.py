"""`kosreg services import` and `export`: many records at once, from and to a file.

An import sends each row as a registration of its own, 32 under way at a time: the node gathers what arrives together
into one commit, so this is as fast as a batch call would be, and a bad row costs nothing but itself. Doing it again
changes nothing: the node knows an unchanged record, and this tells it from a replaced one by the time of its last
change, asked for once beforehand.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kosreg.cli.files import read_bytes
from kosreg.cli.filters import (
    AnyTag,
    Capability,
    Origin,
    Owner,
    Status,
    Tag,
    Type,
    Visibility,
    Words,
    criteria,
    pairs_of,
)
from kosreg.cli.rows import BadRow, NoRows, Row, Rows, is_node_record, read_rows
from kosreg.cli.services import app, list_all
from kosreg.cli.shared import Cli, Exit, Refusal, clean, command
from kosreg.client.errors import ApiError, ClientError

if TYPE_CHECKING:
    from kosreg.client.http import Client

AT_ONCE = 32
LONGEST_WAIT = 60.0
"""Seconds: the longest `Retry-After` that an import sits out before it counts the row as bad."""


@dataclass(slots=True)
class Outcome:
    """What became of the rows so far."""

    new: int = 0
    replaced: int = 0
    unchanged: int = 0
    skipped: int = 0
    bad: list[BadRow] = field(default_factory=list)

    @property
    def good(self) -> int:
        return self.new + self.replaced + self.unchanged

    def as_json(self) -> dict[str, Any]:
        skipped = {"skipped": self.skipped} if self.skipped else {}
        counts = {"new": self.new, "replaced": self.replaced, "unchanged": self.unchanged}
        return counts | skipped | {"bad": [row.as_json() for row in sorted(self.bad, key=lambda row: row.number)]}

    def __str__(self) -> str:
        text = f"{self.new} new, {self.replaced} replaced, {self.unchanged} unchanged, {len(self.bad)} bad"
        return f"{text}, {self.skipped} skipped" if self.skipped else text


@command(
    app,
    "import",
    example=[
        "kosreg services import services.json",
        "kosreg services export - | kosreg services import - --data-dir /srv/b",
    ],
)
def import_services(
    cli: Cli,
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE|-",
            show_default=False,
            help="A list of records, an export, or a list of MCP servers, as JSON or one record a line.",
        ),
    ],
) -> None:
    """Registers every service of a file. Bad rows are reported and do not hold up the others (exit code 5)."""
    try:
        rows = read_rows(read_bytes(file))
    except NoRows as error:
        raise Refusal(f"cannot import {'stdin' if file == '-' else file}: {error}") from None
    outcome = Outcome(skipped=rows.skipped, bad=list(rows.bad))
    try:
        cli.run(_import(cli, rows, outcome))
    except ClientError:
        cli.warn(f"the import stopped early: {outcome}; {rows.count - outcome.good - len(outcome.bad)} rows not tried")
        raise
    if cli.json:
        cli.answer_json(outcome.as_json())
    else:
        for bad in sorted(outcome.bad, key=lambda row: row.number):
            print(f"row {bad.number}{f' ({clean(bad.id)})' if bad.id else ''}: {clean(bad.detail)}", file=sys.stderr)
        cli.answer(str(outcome))
        if outcome.skipped:
            cli.note("skipped: what nodes say about themselves, each node writes its own")
    if outcome.bad:
        raise typer.Exit(Exit.PARTLY if outcome.good else Exit.REFUSED)


async def _import(cli: Cli, rows: Rows, outcome: Outcome) -> None:
    """Sends the good rows and fills in the outcome. Raises ClientError where going on is of no use."""
    async with cli.client(connections=AT_ONCE) as client:
        known = await _known(client) if rows.good else {}
        waiting = iter(rows.good)
        with progress(cli, len(rows.good)) as step:

            async def work() -> None:
                for row in waiting:
                    await _send(client, row, known, outcome)
                    step()

            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(AT_ONCE, len(rows.good))):
                        group.create_task(work())
            except* ClientError as errors:
                raise _first(errors) from None


async def _known(client: Client) -> dict[str, str]:
    """When each service that the node shows us was last changed."""
    times: dict[str, str] = {}
    cursor: str | None = None
    while True:
        query = [("fields", "id,updated"), ("limit", "1000"), *([("cursor", cursor)] if cursor else [])]
        body = (await client.call("GET", "/api/services", query=query)).object()
        times.update((str(entry.get("id")), str(entry.get("updated"))) for entry in body.get("services", ()))
        cursor = body.get("next_cursor")
        if not cursor:
            return times


async def _send(client: Client, row: Row, known: dict[str, str], outcome: Outcome) -> None:
    """One row. What is wrong with the row goes into the outcome, what is wrong with the call is raised."""
    for _ in range(10):
        try:
            shown, new = await client.register(row.record)
        except ApiError as error:
            if error.status == 429 and error.retry_after is not None and error.retry_after <= LONGEST_WAIT:
                await asyncio.sleep(error.retry_after)
                continue
            if error.status == 401 or error.status >= 500:
                raise
            faults = "; ".join(f"{fault.pointer} {fault.detail}".strip() for fault in error.faults)
            outcome.bad.append(BadRow(row.number, str(row.record["id"]), faults or error.detail or error.title))
            return
        if new:
            outcome.new += 1
        elif known.get(str(shown.get("id"))) == str(shown.get("updated")):
            outcome.unchanged += 1
        else:
            outcome.replaced += 1
        return
    outcome.bad.append(
        BadRow(row.number, str(row.record["id"]), "the node asked to wait ten times: import it again later")
    )


def _first(errors: BaseExceptionGroup[ClientError]) -> ClientError:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, ClientError)
    return error


@contextlib.contextmanager
def progress(cli: Cli, total: int) -> Iterator[Callable[[], None]]:
    """Shows on stderr how far a long job is: a bar for people, a line every two seconds in a log."""
    if cli.json or not total:
        yield lambda: None
        return
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        with Progress(
            BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=Console(stderr=True), transient=True
        ) as bar:
            task = bar.add_task("", total=total)
            yield lambda: bar.advance(task)
        return
    done, said = 0, time.monotonic()

    def step() -> None:
        nonlocal done, said
        done += 1
        if time.monotonic() - said > 2:
            said = time.monotonic()
            cli.note(f"{done} of {total}")

    yield step


@command(
    app,
    "export",
    example=["kosreg services export backup.json", "kosreg services export - --tag llm | jq '.services | length'"],
)
def export_services(
    cli: Cli,
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="Where to; - is stdout.")] = "-",
    tag: Tag = None,
    any_tag: AnyTag = None,
    type_: Type = None,
    owner: Owner = None,
    status: Status = None,
    visibility: Visibility = None,
    origin: Origin = None,
    capability: Capability = None,
    words: Words = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Write over a file that is there, without asking.")] = False,
) -> None:
    """Writes services to a file that `import` takes. Secrets (auth.token) are not in it: the node never shows them."""
    if file != "-" and Path(file).exists():
        cli.sure(f"Write over {clean(file)}?", yes)
    query = pairs_of(criteria(tag, any_tag, type_, owner, status, visibility, origin, capability, words))
    body = cli.run(list_all(cli, query))
    services = [record for record in body["services"] if not is_node_record(record)]
    raw = _document(services)
    if file == "-":
        cli.answer(raw)
        return
    _write_whole(Path(file), raw)
    if cli.json:
        cli.answer_json({"file": file, "services": len(services)})
    else:
        cli.answer(f"{len(services)} services")


def _document(services: list[dict[str, Any]]) -> bytes:
    """The export: one record a line inside an object, so that it can be read, compared and merged as text."""
    import orjson

    at = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    head = b'{"kosreg_export":1,"at":' + orjson.dumps(at) + b',"services":['
    return head + b",".join(b"\n" + orjson.dumps(record) for record in services) + b"\n]}\n"


def _write_whole(path: Path, raw: bytes) -> None:
    """Writes the file all at once: a full disk or a Ctrl-C leaves what was there before."""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise Refusal(f"cannot write {path}: {error.strerror}") from None
