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

from kosreg.config import Settings
from kosreg.node import Node

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
    node = await Node.start(settings, data_dir)
    if hook is not None:
        hook.attach(node)
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
        await stop.wait()
        _notify("STOPPING=1")
        log.info("stopping")
    finally:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        await node.stop()
        if hook is not None:
            hook.close()
    log.info("stopped")
    return 0


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
