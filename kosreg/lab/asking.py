"""How to ask a lab that runs, from another process: for the command line, so nothing heavy is imported, and it blocks.

The lab answers in `kosreg.lab.control`.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any, Final

from kosreg.lab.errors import LabError

NAME: Final = "control.sock"
LINE: Final = 1024 * 1024  # bytes of a command or an answer
ANSWER: Final = 330.0  # s for the longest command, which waits for 300 until all agree


def ask(directory: Path, do: str, **arguments: object) -> Any:
    """Have the lab in `directory` do something; what it gives. Raises LabError."""
    try:
        if directory.stat().st_uid != os.geteuid():
            raise LabError(f"{directory} is not yours")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
            channel.settimeout(ANSWER)
            channel.connect(str(directory / NAME))
            channel.sendall(json.dumps({"do": do} | arguments).encode() + b"\n")
            with channel.makefile("rb") as answers:
                line = answers.readline(LINE)
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        raise LabError(f"no lab runs in {directory}; start one with: kosreg lab run") from None
    except OSError as error:
        raise LabError(f"the lab in {directory} does not answer: {error}") from None
    if not line:
        raise LabError("the lab has ended")
    answer = json.loads(line)
    if "error" in answer:
        raise LabError(answer["error"])
    return answer["done"]
