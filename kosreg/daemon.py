"""A node as a process: signals, `run.json`, systemd's readiness, and the words for what keeps it from starting.

`run.json` in the data directory tells the command line where the API is: written when the node is ready, removed when
it ends, with the process id so that a stale one is known.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from federation.identity import KeyFileError
from kosreg.config import Settings
from kosreg.key_change import change_key
from kosreg.node import Node
from kosreg.store import StoreError

if TYPE_CHECKING:
    from kosreg.lab.hook import Hook

log = structlog.get_logger("kosreg.daemon")


async def main(settings: Settings, data_dir: Path, on_ready: Callable[[dict[str, Any]], None]) -> int:
    """Run a node until SIGTERM or SIGINT; the exit code. `on_ready` gets what `run.json` says."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    hook = await _lab(data_dir)
    try:
        said = on_ready
        while actor := await _run(settings, data_dir, said, stop, hook):
            said = _said_before
            try:
                await change_key(settings.store_url, data_dir, actor)
            except (StoreError, KeyFileError) as error:  # nothing has changed, or the next start brings it to its end
                log.error("the key is not changed", error=str(error))
    finally:
        if hook is not None:
            hook.close()
    log.info("stopped")
    return 0


async def _run(
    settings: Settings,
    data_dir: Path,
    on_ready: Callable[[dict[str, Any]], None],
    stop: asyncio.Event,
    hook: Hook | None,
) -> str:
    """Run a node until `stop`, then "", or until an admin wants its key changed, then who."""
    node = await Node.start(settings, data_dir)
    if hook is not None:
        hook.attach(node)
    wanted: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def change(actor: str) -> None:
        if not wanted.done():
            wanted.set_result(actor)

    node.change_key = change
    # What was imported and loaded stays: the collector never walks it (a pass over 100,000 records takes 0.4 s).
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    gc.enable()
    running = {"pid": os.getpid(), "api": node.server.url, "did": node.did, "name": node.name, "version": node.version}
    if settings.api.tls_cert is not None:
        running["tls_cert"] = str(settings.api.tls_cert)  # so that the command line trusts this one and no other
    path = data_dir / "run.json"
    try:
        _write(path, json.dumps(running) + "\n")
        _notify("READY=1")
        on_ready(running)
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait((stopping, wanted), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        actor = wanted.result() if wanted.done() and not stop.is_set() else ""
        _notify("RELOADING=1" if actor else "STOPPING=1")
        log.info("stopping")
    finally:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        await node.stop()
    return actor


def _said_before(running: dict[str, Any]) -> None:
    """The banner is for the first start."""


async def _lab(data_dir: Path) -> Hook | None:
    """The lab's hand in this daemon, where a lab started it."""
    path = os.environ.get("KOSREG_LAB_SOCKET")
    if not path:
        return None
    from kosreg.lab.hook import Hook

    return await Hook.connect(path, data_dir)


def _write(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text)
    os.replace(draft, path)


def _notify(state: str) -> None:
    """sd_notify(3): tell systemd, where it started us."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    with channel, contextlib.suppress(OSError):
        channel.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)
