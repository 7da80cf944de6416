"""Reading what a user names: a file, stdin as `-`, or JSON written on the command line itself."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from kosreg.cli.shared import Refusal, usage

LONGEST_FILE = 1024 * 1024 * 1024
"""Bytes: ten times what 100,000 records need; a device file or an endless pipe is not read for ever."""


def read_bytes(name: str) -> bytes:
    """The whole of a file, or of stdin for `-`. Ends the command where it cannot be read."""
    try:
        if name == "-":
            raw = sys.stdin.buffer.read(LONGEST_FILE + 1)
        else:
            with Path(name).open("rb") as file:
                raw = file.read(LONGEST_FILE + 1)
    except OSError as error:
        raise Refusal(f"cannot read {name}: {error.strerror}") from None
    if len(raw) > LONGEST_FILE:
        raise Refusal(f"{name} is longer than {LONGEST_FILE} bytes")
    return raw


def read_record(name: str, *, inline: bool = False) -> dict[str, Any]:
    """A JSON object from a file, from stdin, or (`inline`) written out in place of a name."""
    where = "stdin" if name == "-" else name
    if inline and name.lstrip().startswith("{"):
        raw, where = name.encode("utf-8", "surrogateescape"), "the patch"
    else:
        raw = read_bytes(name)
    try:
        value = json.loads(raw)
    except ValueError as error:
        raise Refusal(f"{where} is not JSON: {error}") from None
    if isinstance(value, list):
        usage(f"{where} holds a list, and this takes one record: use `kosreg services import {name}`")
    if not isinstance(value, dict):
        usage(f"{where} is not a JSON object")
    return value
