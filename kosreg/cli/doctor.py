"""`kosreg doctor`: looks for what keeps a node from running well, and says what to do about each thing it finds.

It works with the node up or down and changes nothing. Each check is a function that yields findings; one that finds
nothing wrong says so in one line, so that a report of a problem shows what was looked at.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kosreg.cli.finding import Finding
from kosreg.cli.peer_findings import findings_of
from kosreg.cli.shared import Cli, Exit, command
from kosreg.client.address import RunFile, alive, find_node, read_run_file, start_command
from kosreg.client.errors import ApiError, CannotRead, ClientError

if TYPE_CHECKING:
    from federation.identity import NodeKey
    from kosreg.audit import Fault
    from kosreg.config import Settings
    from kosreg.listen import Listen
    from kosreg.store import Store

LEAST_FREE = 256 * 1024 * 1024
"""Bytes. 100,000 records take some 100 MB, and SQLite's log as much again while a long read holds it."""
EARLIEST = 1_735_689_600
"""2025-01-01: a clock before this release was made is wrong, for certain."""
CLOCK_SLACK = 120.0
"""Seconds that a file may be newer than the clock: file systems of other machines, small corrections."""


@dataclass(slots=True)
class Examination:
    """What is known so far; later checks build on what earlier ones could read."""

    data_dir: Path
    config: Path | None = None
    run: RunFile | None = None
    running: bool = False
    key: NodeKey | None = None
    settings: Settings | None = None


Check = Callable[[Examination], AsyncIterator[Finding]]


def add_to(app: typer.Typer) -> None:
    command(app, "doctor", example=["kosreg doctor", "kosreg doctor --data-dir /srv/kosreg --json"], talks=False)(
        doctor
    )


def doctor(
    cli: Cli,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", show_default=False, help="The settings that the node runs with, as for `run`."),
    ] = None,
    claim: Annotated[
        bool,
        typer.Option("--claim", help="Another node runs with this node's key: say that this is the right one."),
    ] = False,
) -> None:
    """Checks keys, directory, clock, ports, store, the running node and its peers. Exit code 1 if anything is wrong."""
    if claim:
        cli.run(_claim(cli))
        cli.note("claimed: stop the other node, then restart this one")
        return
    examination = Examination(cli.data_dir, config)
    findings = cli.run(examine(examination))
    well = all(finding.state != "bad" for finding in findings)
    then = what_next(examination, findings)
    if cli.json:
        cli.answer_json({"ok": well, "checks": [finding.as_json() for finding in findings], "next": then})
    else:
        show(findings, then)
    if not well:
        raise typer.Exit(Exit.REFUSED)


async def _claim(cli: Cli) -> None:
    async with cli.client() as client:
        await client.call("POST", "/api/node/claim")


async def examine(examination: Examination) -> list[Finding]:
    """All checks, in an order in which each can use what those before it found."""
    checks: tuple[Check, ...] = (
        check_directory, check_settings, check_keys, check_clock, check_run_file, check_ports, check_store, check_api,
        check_peers,
    )  # fmt: skip
    return [finding for check in checks async for finding in check(examination)]


async def check_directory(known: Examination) -> AsyncIterator[Finding]:
    path = known.data_dir
    if not path.exists():
        yield Finding("data directory", "note", f"{path} is not there yet; the first start makes it")
        return
    if not path.is_dir():
        yield Finding("data directory", "bad", f"{path} is not a directory", "name another with --data-dir")
        return
    info = path.stat()
    mode = stat.S_IMODE(info.st_mode)
    if mode & 0o077:
        yield Finding("data directory", "bad", f"{path} is open to others (mode {mode:04o})", f"chmod 700 {path}")
    elif not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        yield Finding("data directory", "bad", f"{path} is not yours to use", "run this as the node's user")
        return
    else:
        yield Finding("data directory", "good", str(path))
    free = shutil.disk_usage(path).free
    if free < LEAST_FREE:
        yield Finding("disk", "bad", f"{free // 2**20} MiB are free in {path}", "make room: a full disk refuses writes")
    else:
        yield Finding("disk", "good", f"{free // 2**20} MiB are free")


async def check_settings(known: Examination) -> AsyncIterator[Finding]:
    from kosreg.config import ConfigError, load

    try:
        known.settings = load(known.data_dir, known.config)
    except ConfigError as error:
        for line in error.lines:
            yield Finding("settings", "bad", line, "correct it: the node does not start with it")
        return
    file = known.config or known.data_dir / "kosreg.toml"
    yield Finding("settings", "good", "the defaults (there is no kosreg.toml)" if _size(file) is None else str(file))


async def check_keys(known: Examination) -> AsyncIterator[Finding]:
    from federation.identity import NEXT_KEY_FILE, NODE_KEY_FILE, KeyFileError, load

    node, following = known.data_dir / NODE_KEY_FILE, known.data_dir / NEXT_KEY_FILE
    if not node.exists() and not following.exists():
        yield Finding("keys", "note", "there are none yet; the first start makes them")
        return
    for path in (node, following):
        try:
            key = load(path)
        except KeyFileError as error:
            yield Finding("keys", "bad", error.detail, error.advice)
            continue
        if path is node:
            known.key = key
            yield Finding("keys", "good", key.did)
    token = known.data_dir / "admin.token"
    if token.exists() and stat.S_IMODE(token.stat().st_mode) & 0o077:
        yield Finding("admin.token", "bad", f"others may read {token}", f"chmod 600 {token}, then restart the node")


async def check_clock(known: Examination) -> AsyncIterator[Finding]:
    now = time.time()
    if now < EARLIEST:
        yield Finding(
            "clock", "bad", f"it says {time.strftime('%Y-%m-%d', time.gmtime(now))}", "set the machine's clock"
        )
        return
    newest = max(
        (_changed(known.data_dir / name) for name in ("registry.db", "registry.db-wal", "node.key")), default=0
    )
    if newest > now + CLOCK_SLACK:
        yield Finding(
            "clock",
            "bad",
            f"files of the node are from {(newest - now) / 60:.0f} min in the future: the clock was set back",
            "set the machine's clock (timedatectl); tokens and leases are judged by it",
        )
    else:
        yield Finding("clock", "good", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now)))


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


async def check_run_file(known: Examination) -> AsyncIterator[Finding]:
    try:
        known.run = read_run_file(known.data_dir)
    except CannotRead as error:
        yield Finding("process", "bad", f"{error.title}: {error.detail}", error.hint)
        return
    if known.run is None:
        yield Finding("process", "note", "no node is running here")
    elif alive(known.run.pid):
        known.running = True
        yield Finding("process", "good", f"the node runs as process {known.run.pid}")
    else:
        yield Finding("process", "note", f"the node ended without saying so (process {known.run.pid} is gone)")


async def check_ports(known: Examination) -> AsyncIterator[Finding]:
    if known.settings is None or known.running:
        return  # a running node holds its own ports: check_api sees whether it answers
    for name, listen in (("api", known.settings.api.listen),):  # this release does not open the federation's
        if listen.kind != "tcp" or not listen.port:
            continue
        why = _in_the_way(listen)
        if why:
            other = f"kosreg run --{name} HOST:PORT, or {name}.listen in kosreg.toml"
            yield Finding(
                f"{name} port", "bad", f"{listen} cannot be used: {why}", f"end what holds it, or choose: {other}"
            )
        else:
            yield Finding(f"{name} port", "good", f"{listen} is free")


def _in_the_way(listen: Listen) -> str:
    """Why one cannot listen there; "" if one can."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            listen.host, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return error.strerror or str(error)
    return ""


async def check_store(known: Examination) -> AsyncIterator[Finding]:
    from kosreg.store import Store, StoreError
    from kosreg.store.sqlite import path_of

    if known.key is None or known.settings is None:
        yield Finding("store", "note", "not looked at: that takes the node's key and its settings")
        return
    url = known.settings.store_url
    try:
        file = path_of(url)
    except StoreError as error:
        yield Finding("store", "bad", f"{error.title}: {error.detail}", error.todo)
        return
    size = _size(file)
    if size is None:
        yield Finding("store", "note", "there is none yet; the first start makes it")
        return
    size += _size(file.with_name(file.name + "-wal")) or 0  # what was committed last stands in the log
    try:
        store = await Store.open(url, known.key.public, known.key.derive("store"), readonly=True)
        try:
            damages = await store.verify()
            broken = [] if damages else await _broken_chain(store)
        finally:
            await store.close()
    except StoreError as error:
        yield Finding("store", "bad", f"{error.title}: {error.detail}", error.todo)
        return
    for damage in damages[:20]:
        place = " ".join(word for word in (damage.table, damage.row) if word)
        yield Finding("store", "bad", f"damaged at {place}: {damage.what}", "stop the node and restore a backup")
    if len(damages) > 20:
        yield Finding("store", "bad", f"and {len(damages) - 20} more places", "stop the node and restore a backup")
    for fault in broken[:20]:
        what = f"the audit log is not what was written: {fault}"
        yield Finding("store", "bad", what, "compare it with a backup: somebody changed it, or the disk did")
    if not damages and not broken:
        yield Finding("store", "good", f"{file} is sound ({size // 1024} KiB)")


async def _broken_chain(store: Store) -> list[Fault]:
    """What is wrong with the chain of audit records. Looked at twice, since the node may write one meanwhile."""
    from kosreg.audit import faults
    from kosreg.key_change import first_key

    node = await first_key(store)
    for _ in range(2):
        if not (found := [fault async for fault in faults(store, node)]):
            return []
    return found


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


async def check_api(known: Examination) -> AsyncIterator[Finding]:
    if not known.running:
        return
    from kosreg.client.http import Client

    try:
        target = find_node(known.data_dir)
        async with Client(target) as client:
            await client.call("GET", "/healthz")
            node: dict[str, Any] = (await client.call("GET", "/api/node")).object()
    except ApiError as error:
        yield Finding("API", "bad", str(error), "restart the node: it writes run.json and admin.token anew")
        return
    except ClientError as error:
        yield Finding("API", "bad", f"{error.title}: {error.detail}", error.hint)
        return
    if known.key is not None and node.get("did") != known.key.did:
        yield Finding(
            "API",
            "bad",
            f"{target.address} is another node ({node.get('did')})",
            "a second node took this directory's place: end one, or give it a data directory of its own",
        )
    else:
        yield Finding("API", "good", f"{target.address} answers")


async def check_peers(known: Examination) -> AsyncIterator[Finding]:
    if not known.running:
        return
    from kosreg.client.http import Client

    try:
        async with Client(find_node(known.data_dir)) as client:
            node: dict[str, Any] = (await client.call("GET", "/api/node")).object()
            peers: list[dict[str, Any]] = (await client.call("GET", "/api/peers")).object()["peers"]
            federations: list[dict[str, Any]] = (await client.call("GET", "/api/federations")).object()["federations"]
            nearby: dict[str, Any] = (await client.call("GET", "/api/peers/nearby")).object()
    except ClientError:
        return  # check_api has said it
    for finding in findings_of(node, peers, federations, nearby):
        yield finding


def what_next(known: Examination, findings: list[Finding]) -> str:
    """The one command that comes next."""
    if any(finding.state == "bad" for finding in findings):
        return "do what stands beside each problem, then run kosreg doctor again"
    return "kosreg status" if known.running else start_command(known.data_dir)


def show(findings: list[Finding], then: str) -> None:
    from rich.text import Text

    from kosreg.cli.shared import clean
    from kosreg.cli.show import console

    to = console()
    words = {"good": ("ok", "green"), "note": ("note", "cyan"), "bad": ("BAD", "bold red")}
    for finding in findings:
        word, style = words[finding.state]
        line = Text().append(f"{word:<5}", style=style)
        line.append(f"{finding.check}: ", style="bold").append(clean(finding.detail))
        to.print(line, soft_wrap=True)
        if finding.todo:
            to.print(Text(f"       do: {clean(finding.todo)}", style="yellow"), soft_wrap=True)
    to.print(Text(f"\nnext: {then}"), soft_wrap=True)
